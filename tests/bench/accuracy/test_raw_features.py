from __future__ import annotations

import numpy as np
import pytest

from pc_engine.bench.accuracy.raw_features import RawCounter, reduce_raw
from pc_engine.errors import DataError
from pc_engine.fitted.counter import CountSVM
from pc_engine.fitted.open_count import OpenCount
from pc_engine.fitting.counter import CountedImages, CounterFit, fit_counter, fit_svms


@pytest.mark.parametrize("columns", [3, 40])
def test_all_rows_of_a_tap_are_divided_by_one_number(columns: int) -> None:
    rng = np.random.default_rng(0)
    features = {name: rng.random((12, columns)).astype(np.float32) * scale for name, scale in (("a", 1), ("b", 100))}
    reduced = reduce_raw(features)
    scaled = [rows / np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1).mean()) for rows in features.values()]
    assert reduced.rows @ reduced.rows.T == pytest.approx(sum(part @ part.T for part in scaled), rel=1e-5)
    # Weights on the reduced rows are expanded to those of the taps as they come.
    weights = rng.random((2, reduced.rows.shape[1]))
    expanded = reduced.expand(weights)
    assert sum(features[name] @ expanded[name].T for name in features) == pytest.approx(reduced.rows @ weights.T)
    with pytest.raises(DataError, match="not finite or too large"):
        reduce_raw({"a": np.full((2, 3), np.inf, np.float32)})


def test_scores_are_of_taps_as_they_come() -> None:
    rng = np.random.default_rng(0)
    weights = {"a": rng.random((3, 8)).astype(np.float32), "b": rng.random((3, 5)).astype(np.float32)}
    beyond = OpenCount({name: rows[:1] for name, rows in weights.items()}, -1.0, 2, 20)
    bias = np.arange(3, dtype=np.float32)
    counter = RawCounter.of(CountSVM(("a", "b"), ("0", "1", "2+"), weights, bias, beyond=beyond))
    taps = {"a": rng.random((4, 2, 2, 2)).astype(np.float32), "b": rng.random((4, 5)).astype(np.float32), "c": bias}
    products = taps["a"].reshape(4, 8) @ weights["a"].T + taps["b"] @ weights["b"].T
    assert counter.scores(taps) == pytest.approx(products + bias)
    scores, counts = counter.scores_and_counts(taps)
    assert np.array_equal(scores, counter.scores(taps))
    assert counts is not None
    assert counts.tolist() == beyond.counts(products[:, 0]).tolist()
    alone = RawCounter.of(CountSVM(("a", "b"), ("0", "1", "2+"), weights, bias))
    assert alone.scores_and_counts(taps)[1] is None


def test_a_counter_that_reads_raw_taps_sees_their_size() -> None:
    """Rows of one direction differ in length alone, which is the count."""
    counts = np.repeat([0, 1, 2, 3], 6)
    rows = (1 + counts[:, None]) * np.ones(4) + np.random.default_rng(0).normal(0, 0.01, (24, 4))
    features = {"gap": rows.astype(np.float32)}
    images, labels = CountedImages(features, counts), ("0", "1", "2", "3+")
    counters = {}
    for name, options in (("normalised", {}), ("raw", {"reduce": reduce_raw})):
        counters[name], _ = fit_counter(fit_svms(images, labels=labels, **options), CounterFit(coupling=False))
    found = {
        "normalised": counters["normalised"].scores(features).argmax(axis=1),
        "raw": RawCounter.of(counters["raw"]).scores(features).argmax(axis=1),
    }
    # One-vs-rest along a line tells the ends.
    ends = np.isin(counts, (0, 3))
    assert (found["raw"][ends] == counts[ends]).all()
    assert (found["normalised"] == counts).mean() < 0.6
