"""Couple the scores of a one-vs-rest SVM: which label is it, all of them considered.

Each of the SVMs tells one label from the rest. The labels in the middle, 2 or 3 objects, lie between their neighbours,
where no plane cuts them off, so that their SVMs hardly ever win. Yet all the scores together say much about them: a
second linear model that reads these, fitted to images that the SVMs did not see, finds it (stacked generalisation:
Wolpert, Neural Networks 5:241, 1992, doi 10.1016/S0893-6080(05)80023-1). The product of two linear maps is one, so
that this costs a run nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pc_engine.fitting.aim import Aim
from pc_engine.fitting.folds import Split

# Inverse strength of the regularisation, on scores of unit variance.
_C = 0.3


@dataclass(frozen=True)
class Recoupling:
    """An affine map of scores to log-probabilities of labels, up to a constant an image.

    Attributes
    ----------
    matrix, offset
        (L, L) and (L,) float64: the coupled scores are ``scores @ matrix.T + offset``.
    """

    matrix: np.ndarray
    offset: np.ndarray

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Return the coupled scores (n, L) of scores (n, L)."""
        coupled: np.ndarray = scores @ self.matrix.T + self.offset
        return coupled


def fit_recoupling(scores: np.ndarray, truth: np.ndarray, aim: Aim = Aim.MEAN) -> Recoupling:
    """Fit a multinomial logistic regression from scores to labels.

    Parameters
    ----------
    scores
        (n, L) float64, of SVMs that did not see the image.
    truth
        Label index of each image, (n,); every index of 0..L-1 occurs.
    aim
        How much an image weighs.
    """
    scaler, regression = StandardScaler(), LogisticRegression(C=_C, max_iter=1000)
    make_pipeline(scaler, regression).fit(scores, truth, logisticregression__sample_weight=aim.weights(truth))
    coefficients, intercepts = np.asarray(regression.coef_), np.asarray(regression.intercept_)
    if len(coefficients) == 1:  # scikit-learn keeps the log-odds of two classes
        coefficients, intercepts = (
            np.concatenate([-coefficients, coefficients]) / 2,
            np.append(-intercepts, intercepts) / 2,
        )
    matrix = coefficients / scaler.scale_
    return Recoupling(matrix, intercepts - matrix @ scaler.mean_)


def held_out_coupling(
    scores: np.ndarray, truth: np.ndarray, splits: Sequence[Split], aim: Aim = Aim.MEAN
) -> np.ndarray:
    """Return coupled scores (n, L), those of each fold by a coupling that was fitted on the others'.

    Notes
    -----
    What a fold's coupling is fitted on are ``scores`` that each come from SVMs without the scored image, but which saw
    the fold itself, as it is among the others of every fold but its own. So coupled scores are not quite held out: what
    a fold shows can reach its own figures by way of those SVMs. SVMs for every pair of folds would part them.
    """
    coupled = np.empty_like(scores)
    for others, held_out in splits:
        coupled[held_out] = fit_recoupling(scores[others], truth[others], aim)(scores[held_out])
    return coupled
