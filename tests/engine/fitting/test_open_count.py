from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from pc_engine.fitted.open_count import OpenCount
from pc_engine.fitted.tap_products import tap_products
from pc_engine.fitting import open_count
from pc_engine.fitting.folds import stratified_folds
from pc_engine.fitting.open_count import fit_open_count
from pc_engine.fitting.reduction import reduce_features
from pc_engine.hardware.device_arrays import DeviceConstants

FLOOR = 4


def crowds(n: int, size: int, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Features whose direction turns with the logarithm of the count, 0 to 30 or so."""
    rng = np.random.default_rng(seed)
    counts = np.concatenate([np.arange(n // 4) % FLOOR, rng.integers(FLOOR, 31, n - n // 4)])
    angle = np.log(counts + 1.0) / 3 + rng.normal(0, 0.01, n)
    rows = np.zeros((n, size), np.float32)
    rows[:, 0], rows[:, 1] = np.cos(angle), np.sin(angle)
    rows[:, 2:] = rng.normal(0, 0.01, (n, size - 2))
    return {"fc7": 5 * rows}, counts


def told_by(model: OpenCount, features: dict[str, np.ndarray]) -> np.ndarray:
    return model.counts(tap_products(features, model.weights, DeviceConstants())[:, 0])


@pytest.mark.parametrize("size", [6, 300], ids=["fewer features than images", "more"])
def test_crowds_are_counted_where_clusters_are_too_few(size: int) -> None:
    features, counts = crowds(200, size)
    before = np.minimum(np.maximum(counts, FLOOR), 6)
    splits = stratified_folds(np.minimum(counts, FLOOR), 5, 0)
    found = fit_open_count(reduce_features(features), counts, FLOOR, counts >= FLOOR, before, splits)
    assert found is not None
    crowd = counts >= FLOOR
    assert found.error_before == pytest.approx(np.abs(before - counts)[crowd].mean())
    assert found.error < 2.5 < found.error_before
    unseen, expected = crowds(200, size, seed=1)
    error = np.abs(told_by(found.model, unseen) - expected)[expected >= FLOOR].mean()
    assert error == pytest.approx(found.error, abs=0.7)
    assert (found.model.floor, found.model.most) == (FLOOR, 60)


@pytest.mark.parametrize("size", [6, 300])
def test_the_regression_is_that_of_scikit_learn(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_count, "_STRENGTHS", (0.3,))
    features, counts = crowds(120, size)
    splits = stratified_folds(np.minimum(counts, FLOOR), 3, 0)
    found = fit_open_count(reduce_features(features), counts, FLOOR, counts >= FLOOR, np.full(120, FLOOR), splits)
    assert found is not None
    rows = features["fc7"] / np.linalg.norm(features["fc7"], axis=1, keepdims=True)
    crowd = counts >= FLOOR
    ridge = Ridge(alpha=0.3).fit(rows[crowd].astype(float), np.log(counts[crowd] - FLOOR + 0.5))
    np.testing.assert_allclose(found.model.weights["fc7"][0], ridge.coef_, atol=1e-4)
    assert found.model.bias == pytest.approx(ridge.intercept_, abs=1e-4)


def test_what_helps_nobody_is_not_taken() -> None:
    features, counts = crowds(200, 6)
    splits = stratified_folds(np.minimum(counts, FLOOR), 5, 0)
    reduced = reduce_features(features)
    crowd, floors = counts >= FLOOR, np.full(200, FLOOR)
    assert fit_open_count(reduced, counts, FLOOR, crowd, counts, splits) is None  # nothing to gain
    noise = replace(reduced, rows=np.random.default_rng(0).normal(size=reduced.rows.shape))
    assert fit_open_count(noise, np.minimum(counts, FLOOR), FLOOR, crowd, floors, splits) is None
    few = np.where(np.arange(200) < 181, counts % FLOOR, counts)
    assert fit_open_count(reduced, few, FLOOR, crowd, floors, splits) is None
    assert fit_open_count(reduced, counts, FLOOR, np.arange(200) > 180, floors, splits) is None


def test_what_only_seems_to_be_a_crowd_is_learnt_to_be_none() -> None:
    features, counts = crowds(400, 6)
    splits = stratified_folds(np.minimum(counts, FLOOR), 5, 0)
    asked = (counts >= FLOOR) | (np.arange(400) % 2 == 0)  # half of those below are taken for a crowd
    found = fit_open_count(reduce_features(features), counts, FLOOR, asked, np.full(400, FLOOR), splits)
    assert found is not None
    told = told_by(found.model, features)
    assert (told[asked & (counts < FLOOR)] <= FLOOR + 1).mean() > 0.9
    assert found.error == pytest.approx(np.abs(told - counts)[asked].mean(), abs=0.2)
