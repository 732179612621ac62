from __future__ import annotations

import numpy as np
import pytest

from pc_engine.errors import UsageError
from pc_engine.fitting.aim import Aim
from pc_engine.fitting.recall import LEAST_IMAGES


def test_labels_weigh_alike_for_the_mean_and_images_overall() -> None:
    truth = np.repeat([0, 1, 2], [40, 160, 2])
    weights = Aim.MEAN.weights(truth)
    assert weights.mean() == pytest.approx(1)
    of_labels = [weights[truth == label].sum() for label in range(3)]
    assert of_labels[0] == pytest.approx(of_labels[1])
    assert of_labels[2] == pytest.approx(of_labels[0] * 2 / LEAST_IMAGES)  # two images are not the world
    np.testing.assert_array_equal(Aim.OVERALL.weights(truth), 1)


def test_gains_are_of_the_labels_or_of_all_images() -> None:
    truth = np.repeat([0, 1], [100, 300])
    nought, other = np.zeros(400, int), np.repeat([0, 1, 0], [50, 250, 100])
    assert Aim.OVERALL.gain(truth, other, nought)[0] == pytest.approx((50 - 100 + 200) / 400)
    assert Aim.MEAN.gain(truth, other, nought)[0] == pytest.approx((-0.5 + 200 / 300) / 2)
    for aim in Aim:
        gain, error = aim.gain(truth, other, nought)
        assert aim.gain(truth, nought, other) == pytest.approx((-gain, error))
        assert 0 < error < 0.1


def test_aims_go_by_their_names() -> None:
    assert [Aim.named(aim) for aim in ("mean", "overall")] == list(Aim)
    assert [aim.other for aim in Aim] == list(Aim)[::-1]
    with pytest.raises(UsageError, match="There is no aim 'best': choose one of mean, overall"):
        Aim.named("best")
