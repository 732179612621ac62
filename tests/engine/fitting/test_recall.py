from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import recall_score

from pc_engine.fitting.recall import LEAST_IMAGES, mean_recall, recall_gain

LABELS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


@given(LABELS)
def test_it_is_the_balanced_accuracy(rows: list[tuple[int, int, int]]) -> None:
    truth, predicted, other = np.array(rows).T
    for labels in (predicted, other):
        expected = recall_score(truth, labels, labels=np.unique(truth), average="macro", zero_division=0)
        assert mean_recall(truth, labels) == pytest.approx(expected)
    gain, error = recall_gain(truth, predicted, other)
    assert recall_gain(truth, other, predicted) == pytest.approx((-gain, error))
    # Labels of few images weigh as much as they have images; over all of them that is the share of right images.
    assert gain == pytest.approx((predicted == truth).mean() - (other == truth).mean()) or len(rows) > LEAST_IMAGES


@given(LABELS)
def test_among_labels_of_enough_images_the_gain_is_that_of_the_mean_recall(rows: list[tuple[int, int, int]]) -> None:
    truth, predicted, other = np.repeat(np.array(rows).T, LEAST_IMAGES, axis=1)
    gain, _ = recall_gain(truth, predicted, other)
    assert gain == pytest.approx(mean_recall(truth, predicted) - mean_recall(truth, other))


def test_a_label_of_few_images_takes_part_in_proportion() -> None:
    truth = np.repeat([0, 1], [5, 400])
    predicted, other = truth, np.where(truth == 0, 1, truth)
    gain, error = recall_gain(truth, predicted, other)
    assert gain == pytest.approx(5 / 25)
    assert mean_recall(truth, predicted) - mean_recall(truth, other) == 0.5
    assert type(gain) is type(error) is float


def test_the_error_of_many_images_is_that_of_paired_draws() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], [400, 900])
    predicted, other = (np.where(rng.random(len(truth)) < share, truth, 1 - truth) for share in (0.8, 0.6))
    _, error = recall_gain(truth, predicted, other)
    gains = []
    for _ in range(400):
        drawn = np.concatenate([rng.choice(np.flatnonzero(truth == label), (truth == label).sum()) for label in (0, 1)])
        gains.append(recall_gain(truth[drawn], predicted[drawn], other[drawn])[0])
    assert error == pytest.approx(np.std(gains), rel=0.15)


def test_a_label_of_two_images_is_never_sure() -> None:
    truth = np.array([0, 0] + [1] * 200)
    predicted, other = truth, np.array([0, 1] + [1] * 200)
    gain, error = recall_gain(truth, predicted, other)
    assert gain == pytest.approx(0.5 * 2 / 22)
    assert error > gain
