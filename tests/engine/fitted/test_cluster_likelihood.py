from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pc_engine.errors import ModelError
from pc_engine.fitted.cluster_likelihood import ClusterLikelihood, PeakSettings, cluster_likelihood
from pc_engine.fitted.counter import CountSVM, load_counter

TABLE = np.log(np.float32([[0.7, 0.1], [0.2, 0.6], [0.1, 0.3]]))
PEAKS = PeakSettings(1.4, 0.5, 3.0)
LIKELIHOOD = ClusterLikelihood(TABLE, PEAKS, "evidence")
COUNTER = CountSVM(("gap",), ("0", "1+"), {"gap": np.ones((2, 3), np.float32)}, np.zeros(2, np.float32), LIKELIHOOD)


@given(st.lists(st.integers(-1, 30), max_size=8))
def test_scores_gain_the_row_of_their_clusters(clusters: list[int]) -> None:
    scores = np.arange(2 * len(clusters), dtype=np.float32).reshape(-1, 2)
    found = LIKELIHOOD.added_to(scores, np.array(clusters, np.int64))
    assert found.dtype == np.float32
    rows = [TABLE[min(max(number, 0), 2)] for number in clusters]
    np.testing.assert_array_equal(found, scores + np.reshape(rows, scores.shape))


def test_a_counter_keeps_it_in_its_file(tmp_path: Path) -> None:
    COUNTER.save(tmp_path / "counter")
    found = load_counter(tmp_path / "counter").clusters
    assert found is not None
    np.testing.assert_array_equal(found.log_likelihood, TABLE)
    assert (found.peaks, found.signatures) == (PEAKS, "evidence")
    replace(COUNTER, clusters=None).save(tmp_path / "counter")
    assert load_counter(tmp_path / "counter").clusters is None


def test_a_prominence_is_kept_and_a_counter_of_before_has_none(tmp_path: Path) -> None:
    peaks = PeakSettings(1.4, 0.5, 3.0, 0.2)
    replace(COUNTER, clusters=replace(LIKELIHOOD, peaks=peaks)).save(tmp_path / "counter")
    found = load_counter(tmp_path / "counter").clusters
    assert found is not None
    assert found.peaks == peaks
    of_before = {"cutoff": 1.4, "min_density": 0.5, "min_distance": 3.0, "signatures": "evidence"}
    assert cluster_likelihood(TABLE, of_before).peaks == PEAKS == replace(peaks, prominence=0.0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cutoff": 0}, "with the cutoff 0, expected a number from 0.01 to 1000"),
        ({"min_density": "0.5"}, "with the min_density '0.5'"),
        ({"min_density": True}, "with the min_density True"),
        ({"min_distance": float("nan")}, "with the min_distance nan"),
        ({"prominence": -0.1}, "with the prominence -0.1, expected a number from 0 to 1"),
        ({"prominence": None}, "with the prominence None"),
        ({"prominence": 0.2, "min_density": 0.1}, "with a prominence and the min_density 0.1, expected one above 0.1"),
    ],
)
def test_settings_of_a_stranger_are_looked_at(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        cluster_likelihood(TABLE, {**LIKELIHOOD.header(), **change})


@pytest.mark.parametrize("header", [{}, [], "text", None, {"cutoff": 1.0}])
def test_settings_that_are_missing_are_said(header: Any) -> None:
    with pytest.raises(ModelError, match="lack their settings"):
        cluster_likelihood(TABLE, header)


@pytest.mark.parametrize("table", [TABLE[0], TABLE[:0], TABLE.astype(np.float64), TABLE * np.float32(np.nan)])
def test_a_table_has_to_be_one(table: np.ndarray) -> None:
    with pytest.raises(ModelError, match="expected a table of finite values"):
        ClusterLikelihood(table, PEAKS, "evidence")


def test_a_table_for_other_labels_is_refused() -> None:
    with pytest.raises(ModelError, match="A count SVM of 2 labels has likelihoods of clusters for 1"):
        replace(COUNTER, clusters=ClusterLikelihood(TABLE[:, :1], PEAKS, "evidence"))


def test_a_file_without_the_table_is_refused(tmp_path: Path) -> None:
    from pc_engine.fitted.counter import _KIND
    from pc_engine.fitted.tensor_file import write_tensors

    header = {"features": ["gap"], "labels": ["0", "1+"], "clusters": LIKELIHOOD.header()}
    write_tensors(tmp_path / "counter", _KIND, {"weights.gap": COUNTER.weights["gap"], "bias": COUNTER.bias}, header)
    with pytest.raises(ModelError, match="lacks 'clusters'"):
        load_counter(tmp_path / "counter")
