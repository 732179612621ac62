from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from pc_engine.fitted.cluster_likelihood import PeakSettings
from pc_engine.fitting.class_heat import ClassHeat
from pc_engine.fitting.cluster_likelihood import count_clusters, fit_cluster_likelihood
from pc_engine.fitting.folds import stratified_folds
from pc_engine.modes.p2c_settings import P2CSettings

LABELS = ("0", "1", "2", "3+")
PLACES = [(2, 2), (11, 2), (2, 11), (11, 11), (6, 6)]
SETTINGS = P2CSettings(min_density=0.5, min_distance=3)


def bumps(numbers: np.ndarray) -> ClassHeat:
    """Heatmaps with so many bumps."""
    y, x = np.mgrid[:14, :14]
    maps = np.zeros((len(numbers), 14, 14), np.float32)
    for heat, number in zip(maps, numbers, strict=True):
        for centre_x, centre_y in PLACES[:number]:
            heat += np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / 1.3)
    return ClassHeat(maps, SETTINGS, "evidence")


def unsure(truth: np.ndarray, noise: float = 1.0) -> np.ndarray:
    """Scores of an SVM that is often wrong."""
    return np.eye(4)[truth] + np.random.default_rng(0).normal(0, noise, (len(truth), 4))


def test_clusters_are_counted_batch_by_batch() -> None:
    numbers = np.arange(600) % 6
    found = count_clusters(bumps(numbers), PeakSettings(1.0, 0.5, 3.0))
    np.testing.assert_array_equal(found, np.minimum(numbers, 5))


def test_clusters_are_told_from_noise_by_the_settings_that_are_given_or_else_by_the_models_own() -> None:
    numbers = np.arange(6)
    # No two cells of the grid are so far apart: the densest is the only centre.
    far = PeakSettings(1.0, 0.5, 20.0)
    np.testing.assert_array_equal(count_clusters(bumps(numbers), far), np.minimum(numbers, 1))
    np.testing.assert_array_equal(count_clusters(bumps(numbers), None), numbers)
    heat = replace(bumps(numbers), settings=replace(SETTINGS, min_distance=20.0))
    np.testing.assert_array_equal(count_clusters(heat, None), np.minimum(numbers, 1))


def test_clusters_that_are_right_help_an_svm_that_is_unsure() -> None:
    truth = np.arange(200) % 4
    scores = unsure(truth)
    fitted = fit_cluster_likelihood(scores, truth, LABELS, bumps(truth), stratified_folds(truth, 5, 0))
    assert fitted is not None
    alone, together = (float((each.argmax(axis=1) == truth).mean()) for each in (scores, fitted.scores))
    assert alone < 0.7
    assert together > 0.95
    found = fitted.likelihood
    assert found.signatures == "evidence"
    assert found.log_likelihood.dtype == np.float32
    assert found.log_likelihood.shape == (5, 4)
    # Each label has 50 images, each number of clusters was seen once before: 51 of 55 and 1 of 55.
    expected = np.log(np.where(np.eye(5, 4), 51, 1) / 55)
    np.testing.assert_allclose(found.log_likelihood, fitted.weight * expected, rtol=1e-6)


def test_the_last_row_is_that_of_more_clusters_than_any_label_says() -> None:
    truth = np.arange(200) % 4
    numbers = np.where((truth == 3) & (np.arange(200) < 100), 5, truth)
    fitted = fit_cluster_likelihood(unsure(truth), truth, LABELS, bumps(numbers), stratified_folds(truth, 5, 0))
    assert fitted is not None
    # Of 50 images under the open-ended label 25 show three clusters and 25 five; each number was seen once before.
    seen = np.array([1, 1, 1, 26, 26])
    np.testing.assert_allclose(fitted.likelihood.log_likelihood[:, 3], fitted.weight * np.log(seen / 55), rtol=1e-6)


def log_probabilities(truth: np.ndarray) -> np.ndarray:
    """Scores of which a softmax gives the labels' probabilities."""
    return unsure(truth, 0.5) / 0.5**2


def random_clusters(seed: int) -> ClassHeat:
    return bumps(np.random.default_rng(seed).integers(0, 4, 200))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("coupled", [True, False])
def test_clusters_at_random_do_little_harm(seed: int, coupled: bool) -> None:
    truth = np.arange(200) % 4
    scores = log_probabilities(truth) if coupled else unsure(truth, 0.5)
    splits = stratified_folds(truth, 5, 0)
    fitted = fit_cluster_likelihood(scores, truth, LABELS, random_clusters(seed), splits, coupled=coupled)
    together = scores if fitted is None else fitted.scores
    alone, told = (float((each.argmax(axis=1) == truth).mean()) for each in (scores, together))
    assert told == pytest.approx(alone, abs=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_clusters_that_do_harm_are_left_out(seed: int) -> None:
    """What they say of the other folds' images is the opposite of what they say of a fold's own."""
    truth = np.arange(200) % 2
    splits = stratified_folds(truth, 2, seed)
    numbers = truth.copy()
    numbers[splits[0][1]] = 1 - truth[splits[0][1]]
    scores = 0.4 * np.eye(2)[truth] + np.random.default_rng(seed).normal(0, 0.3, (200, 2))
    assert fit_cluster_likelihood(scores, truth, ("0", "1"), bumps(2 * numbers), splits) is None


def test_clusters_weigh_a_little_where_images_are_too_few_to_tell() -> None:
    truth = np.arange(40) % 4
    splits = stratified_folds(truth, 3, 0)
    numbers = np.where(np.random.default_rng(0).random(40) < 0.7, truth, 0)
    scores = log_probabilities(truth)
    fitted = fit_cluster_likelihood(scores, truth, LABELS, bumps(numbers), splits)
    assert fitted is not None
    assert fitted.weight == 0.5
    assert fitted.likelihood.peaks == PeakSettings(SETTINGS.cutoff, SETTINGS.min_density, SETTINGS.min_distance)
    beside = fit_cluster_likelihood(unsure(truth, 0.5), truth, LABELS, bumps(numbers), splits, coupled=False)
    assert beside is not None
    assert beside.weight == 0.2


@pytest.mark.parametrize("min_density", [0.11, 0.5, 1.0])
def test_what_counts_as_a_cluster_is_varied_beside_the_models_own_prominence(
    min_density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = np.arange(40) % 4
    settings = replace(SETTINGS, min_density=min_density, prominence=0.25)
    heat = replace(bumps(truth), settings=settings)
    tried: list[PeakSettings] = []

    def counted(heat: ClassHeat, peaks: PeakSettings | None) -> np.ndarray:
        assert peaks is not None
        tried.append(peaks)
        return count_clusters(heat, peaks)

    monkeypatch.setattr(sys.modules[fit_cluster_likelihood.__module__], "count_clusters", counted)
    fit_cluster_likelihood(unsure(truth), truth, LABELS, heat, stratified_folds(truth, 3, 0))
    assert [peaks.prominence for peaks in tried] == [0.25] * 4
    assert tried[0].min_density == pytest.approx(min_density)
    assert all(0.1 < peaks.min_density <= min_density + 1e-9 for peaks in tried)


def test_an_svm_that_is_always_right_is_left_alone() -> None:
    truth = np.arange(80) % 4
    assert (
        fit_cluster_likelihood(unsure(truth, 0.01), truth, LABELS, bumps(truth), stratified_folds(truth, 4, 0)) is None
    )


def test_no_image_is_believed_for_its_own_sake() -> None:
    """Each image has another number of clusters; by heart that would tell every label."""
    truth = np.array([0, 1, 2, 3] * 2)
    heat = bumps(np.array([0, 1, 2, 3, 4, 5, 4, 5]))
    fitted = fit_cluster_likelihood(np.zeros((8, 4)), truth, LABELS, heat, stratified_folds(truth, 2, 0))
    assert fitted is None or (fitted.scores.argmax(axis=1) == truth).mean() <= 0.25


def test_extreme_settings_of_a_model_stay_within_their_limits() -> None:
    truth = np.arange(200) % 4
    heat = bumps(truth)
    extreme = replace(heat, settings=replace(SETTINGS, cutoff=900.0))
    fitted = fit_cluster_likelihood(unsure(truth), truth, LABELS, extreme, stratified_folds(truth, 5, 0))
    assert fitted is not None  # one cluster or none is all that is told apart
    assert 900 <= fitted.likelihood.peaks.cutoff <= 1000
