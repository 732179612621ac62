from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from pc_engine.fitting.aim import Aim
from pc_engine.fitting.folds import stratified_folds
from pc_engine.fitting.linear_svm import fit_one_vs_rest
from pc_engine.fitting.recall import mean_recall
from pc_engine.fitting.recoupling import fit_recoupling, held_out_coupling


def on_a_line(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose label grows along one axis, so that no plane cuts off those in the middle."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % 5
    return np.column_stack([truth + rng.normal(0, 0.3, n), rng.normal(size=n)]), truth


def test_labels_between_others_are_found_that_one_against_the_rest_hides() -> None:
    rows, truth = on_a_line(400)
    weights, bias = fit_one_vs_rest(rows, truth, c=0.1, seed=0)
    unseen, expected = on_a_line(400, seed=1)
    scores = rows @ weights.T + bias
    coupling = fit_recoupling(scores, truth)
    before = mean_recall(expected, (unseen @ weights.T + bias).argmax(axis=1))
    after = mean_recall(expected, coupling(unseen @ weights.T + bias).argmax(axis=1))
    assert before < 0.8
    assert after > 0.9
    folded = unseen @ (coupling.matrix @ weights).T + coupling(bias)
    np.testing.assert_allclose(folded, coupling(unseen @ weights.T + bias), atol=1e-9)


def test_it_is_the_weighted_regression_on_scores_of_unit_variance() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [40, 25, 5])
    scores = rng.normal(size=(70, 3)) * [1, 5, 0.1] + np.eye(3)[truth] + [0, 10, 0]
    standard = (scores - scores.mean(axis=0)) / scores.std(axis=0)
    weights = np.array([1 / 40, 1 / 25, 1 / 20])[truth]  # five images are too few to weigh as much as the others
    weights /= weights.mean()

    def loss(values: np.ndarray) -> float:
        matrix, offset = values[:9].reshape(3, 3), values[9:]
        likelihood = log_softmax(standard @ matrix.T + offset, axis=1)[np.arange(70), truth]
        return -0.3 * (weights * likelihood).sum() + 0.5 * (matrix**2).sum()

    best = minimize(loss, np.zeros(12), method="BFGS").x
    expected = standard @ best[:9].reshape(3, 3).T + best[9:]
    found = fit_recoupling(scores, truth)(scores)
    np.testing.assert_allclose(log_softmax(found, axis=1), log_softmax(expected, axis=1), atol=2e-3)


def test_two_labels_give_opposed_scores() -> None:
    truth = np.arange(60) % 2
    one = truth + np.random.default_rng(0).normal(0, 0.5, 60)
    found = fit_recoupling(np.column_stack([-one, one]), truth)(np.column_stack([-one, one]))
    np.testing.assert_allclose(found[:, 0], -found[:, 1], atol=1e-6)
    assert mean_recall(truth, found.argmax(axis=1)) > 0.7


def test_between_two_labels_the_scores_differ_by_their_log_odds() -> None:
    truth = np.repeat([0, 1], [60, 20])
    scores = np.random.default_rng(0).normal(size=(80, 2)) + np.eye(2)[truth] + [3, 0]
    standard = (scores - scores.mean(axis=0)) / scores.std(axis=0)
    regression = LogisticRegression(C=0.3).fit(standard, truth, sample_weight=Aim.MEAN.weights(truth))
    assert abs(regression.intercept_[0]) > 0.1
    found = fit_recoupling(scores, truth)(scores)
    np.testing.assert_allclose(found[:, 1] - found[:, 0], regression.decision_function(standard), atol=1e-3)


def test_no_image_takes_part_in_its_own_coupling() -> None:
    rows, truth = on_a_line(60)
    scores = np.concatenate([rows, -rows, rows[:, :1]], axis=1)
    splits = stratified_folds(truth, 4, 0)
    before = held_out_coupling(scores, truth, splits)
    others, held_out = splits[2]
    changed = scores.copy()
    changed[held_out] *= -3
    after = held_out_coupling(changed, truth, splits)
    expected = fit_recoupling(scores[others], truth[others])
    np.testing.assert_allclose(after[held_out], expected(changed[held_out]))
    np.testing.assert_allclose(before[held_out], expected(scores[held_out]))
