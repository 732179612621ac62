from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pc_engine.errors import ModelError
from pc_engine.fitted import tap_products
from pc_engine.fitted.counter import CountSVM, load_counter
from pc_engine.fitted.open_count import OpenCount, open_count
from pc_engine.kernels import unit_products

MODEL = OpenCount({"gap": np.float32([[0, math.log(4), math.log(400)]])}, 0.0, floor=4, most=60)
COUNTER = CountSVM(("gap",), ("0", "4+"), {"gap": np.ones((2, 3), np.float32)}, np.zeros(2, np.float32), beyond=MODEL)


def taps(*rows: list[float]) -> dict[str, np.ndarray]:
    return {"gap": np.array(rows, np.float32), "other": np.zeros((len(rows), 1), np.float32)}


def test_the_logarithm_of_the_count_is_linear_in_the_features() -> None:
    _, found = COUNTER.scores_and_counts(taps([1, 0, 0], [0, 2, 0], [0, 0, 5], [0, 3, 4], [0, 0, -1], [0, 0, 0]))
    assert found is not None
    # 3.5 + 1, which is rounded to even; 3.5 + 4; no more than 60; as much as the features' share; no less than 4.
    expected = 3.5 + math.exp(0.6 * math.log(4) + 0.8 * math.log(400))
    assert found.tolist() == [4, 8, 60, min(round(expected), 60), 4, 4]
    assert found.dtype == np.int64


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=3, max_size=3))
def test_whatever_the_features_the_count_is_within_its_range(row: list[float]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        _, [found] = COUNTER.scores_and_counts(taps(row))
    assert 4 <= found <= 60


def test_scores_and_counts_are_those_alone_of_one_pass_over_the_taps(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, ...]] = []

    def counted(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        read.append(weights.shape)
        return unit_products(rows, weights)

    monkeypatch.setattr(tap_products, "unit_products", counted)
    rng = np.random.default_rng(0)
    counter = CountSVM(
        ("gap", "other"),
        ("0", "1", "4+"),
        {"gap": rng.standard_normal((3, 3), np.float32), "other": rng.standard_normal((3, 1), np.float32)},
        rng.standard_normal(3, np.float32),
        beyond=OpenCount({**MODEL.weights, "other": np.float32([[1]])}, 0.0, floor=4, most=60),
    )
    images = taps(*rng.standard_normal((9, 3)).tolist())
    scores, counts = counter.scores_and_counts(images)
    assert read == [(4, 3), (4, 1)]
    np.testing.assert_allclose(scores, counter.scores(images), rtol=1e-5, atol=1e-6)
    assert counts is not None
    np.testing.assert_array_equal(counts, COUNTER.scores_and_counts(images)[1])
    scores, counts = replace(counter, beyond=None).scores_and_counts(images)
    np.testing.assert_array_equal(scores, counter.scores(images))
    assert counts is None


def test_a_counter_keeps_it_in_its_file(tmp_path: Path) -> None:
    COUNTER.save(tmp_path / "counter")
    found = load_counter(tmp_path / "counter").beyond
    assert found is not None
    np.testing.assert_array_equal(found.weights["gap"], MODEL.weights["gap"])
    assert (found.bias, found.floor, found.most) == (0.0, 4, 60)
    replace(COUNTER, beyond=None).save(tmp_path / "counter")
    assert load_counter(tmp_path / "counter").beyond is None


@pytest.mark.parametrize(
    "change",
    [
        {"bias": float("nan")},
        {"bias": "1e400"},
        {"floor": 4.0},
        {"floor": -1},
        {"most": 3},
        {"most": 10**300},
        {"most": True},
        {"weights": {"gap": np.float32([[0, 1, math.inf]])}},
        {"weights": {"gap": np.float32([0, 1, 2])}},
        {"weights": {"gap": np.float32([[0, 1, 2], [0, 1, 2]])}},
        {"weights": {"gap": np.float64([[0, 1, 2]])}},
    ],
)
def test_what_is_no_model_is_refused(change: dict[str, Any]) -> None:
    weights = change.get("weights", MODEL.weights)
    with pytest.raises(ModelError, match="is not a finite model: fit the counter again"):
        open_count(weights, {**MODEL.header(), **change})


@pytest.mark.parametrize(
    "header", [{}, [], "text", None, {"bias": "much"}, {"bias": 10**400}, {"bias": 1.0, "floor": 4}]
)
def test_settings_that_are_missing_are_said(header: Any) -> None:
    with pytest.raises(ModelError, match="lacks its settings"):
        open_count(MODEL.weights, header)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ("0", "4")},
        {"labels": ("0", "5+")},
        {"beyond": OpenCount({"gap": np.ones((1, 2), np.float32)}, 0.0, 4, 60)},
        {"beyond": OpenCount({"fc7": np.ones((1, 3), np.float32)}, 0.0, 4, 60)},
    ],
)
def test_it_goes_on_from_the_counters_last_label_with_its_features(change: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="does not go on from the last one, or reads other features"):
        replace(COUNTER, **change)
