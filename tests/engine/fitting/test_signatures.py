from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pc_engine.errors import DataError, ModelError, UsageError
from pc_engine.fitting.signatures import SignatureAccumulator


def make_batch(n: int, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    taps = {
        "conv_last": rng.random((n, 8, 3, 3)).astype(np.float32),
        "conv_prev": rng.random((n, 5, 4, 4)).astype(np.float32),
        "logits": rng.random((n, 4)).astype(np.float32),
    }
    return taps, rng.integers(0, 3, n)


def test_max_ranks_by_the_class_mean_of_the_spatial_maximum() -> None:
    taps, ids = make_batch(40)
    accumulator = SignatureAccumulator(4)
    accumulator.add(taps, ids)
    signatures = accumulator.finish()
    for tap in ("conv_last", "conv_prev"):
        maxima = taps[tap].reshape(*taps[tap].shape[:2], -1).max(axis=2)
        for class_id in range(3):
            expected = np.argsort(-maxima[ids == class_id].mean(axis=0))
            np.testing.assert_array_equal(signatures.ranking[tap][class_id], expected)
        np.testing.assert_array_equal(signatures.ranking[tap][3], np.argsort(-maxima.mean(axis=0)))
    assert signatures.known.tolist() == [True, True, True, False]


def test_contrast_finds_the_map_of_a_class_behind_a_saturating_activation() -> None:
    # Map 0 answers everything everywhere, map 1 and 2 answer one class each over a larger area; every map reaches the
    # cap of ReLU6 somewhere, so the maximum tells nothing.
    maps = np.zeros((6, 3, 4, 4), np.float32)
    maps[:, :, 0, 0] = 6
    maps[:, 0] = 6
    maps[:3, 1, 1:3] = 6
    maps[3:, 2, 1:3] = 6
    ids = np.array([0, 0, 0, 1, 1, 1])
    contrast, maximum = (SignatureAccumulator(2, rank, taps=("conv_last",)) for rank in ("contrast", "max"))
    for accumulator in (contrast, maximum):
        accumulator.add({"conv_last": maps}, ids)
    assert contrast.finish().ranking["conv_last"][:, 0].tolist() == [1, 2]
    assert maximum.finish().ranking["conv_last"].tolist() == [[0, 1, 2], [0, 1, 2]]


def test_contrast_ranks_by_how_far_the_mean_of_a_class_is_above_that_of_all_images() -> None:
    taps, _ = make_batch(40)
    ids = np.repeat([0, 1, 2], [30, 9, 1])  # of the last class there is one image
    accumulator = SignatureAccumulator(3, "contrast")
    accumulator.add(taps, ids)
    for tap, ranking in accumulator.finish().ranking.items():
        means = taps[tap].mean(axis=(2, 3))
        for class_id in range(3):
            expected = np.argsort(means.mean(axis=0) - means[ids == class_id].mean(axis=0))
            np.testing.assert_array_equal(ranking[class_id], expected)


def test_classes_never_seen_hold_the_ranking_over_all_images_in_contrast_too() -> None:
    taps, ids = make_batch(30)
    accumulator = SignatureAccumulator(4, "contrast")
    accumulator.add(taps, ids)
    expected = np.argsort(-taps["conv_last"].mean(axis=(0, 2, 3)))
    np.testing.assert_array_equal(accumulator.finish().ranking["conv_last"][3], expected)


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 20), max_size=4), rank=st.sampled_from(["max", "contrast"]))
def test_batches_do_not_matter(cuts: list[int], rank: str) -> None:
    taps, ids = make_batch(20)
    whole, parts = SignatureAccumulator(4, rank), SignatureAccumulator(4, rank)
    whole.add(taps, ids)
    edges = [0, *sorted(cuts), 20]
    for start, stop in pairwise(edges):
        parts.add({name: tap[start:stop] for name, tap in taps.items()}, ids[start:stop])
    assert len(parts) == 20
    for tap, ranking in whole.finish().ranking.items():
        np.testing.assert_array_equal(parts.finish().ranking[tap], ranking)


def test_depth_keeps_the_best_maps_of_each_tap() -> None:
    taps, ids = make_batch(20)
    accumulator = SignatureAccumulator(3)
    accumulator.add(taps, ids)
    full, cut = accumulator.finish(), accumulator.finish(depth=6)
    assert {tap: ranking.shape for tap, ranking in cut.ranking.items()} == {"conv_last": (3, 6), "conv_prev": (3, 5)}
    np.testing.assert_array_equal(cut.ranking["conv_last"], full.ranking["conv_last"][:, :6])


def test_half_precision_maps_are_summed_without_overflow() -> None:
    maps = np.full((1, 2, 14, 14), 500, np.float16)  # 196 x 500 is beyond float16
    maps[0, 1] = 600
    accumulator = SignatureAccumulator(2, "contrast", taps=("conv_last",))
    accumulator.add({"conv_last": maps}, np.array([0]))
    assert accumulator.finish().ranking["conv_last"][1].tolist() == [1, 0]


def test_a_mean_that_overflows_is_said_without_a_warning() -> None:
    with pytest.raises(DataError, match="'conv_last' holds values that are not finite"):
        SignatureAccumulator(2, "contrast", ("conv_last",)).add(
            {"conv_last": np.full((1, 2, 4, 4), 3e38, np.float32)}, np.array([0])
        )


def test_wrong_input_is_named_and_adds_nothing() -> None:
    taps, ids = make_batch(4)
    accumulator = SignatureAccumulator(3)
    with pytest.raises(DataError, match="run from 0 to 3, but the network has 3 classes"):
        accumulator.add(taps, np.array([0, 1, 2, 3]))
    with pytest.raises(ModelError, match=r"'conv_prev' need its feature maps.*not among \['conv_last'\]"):
        accumulator.add({"conv_last": taps["conv_last"]}, ids)
    with pytest.raises(ModelError, match=r"with N = 3, but it has shape \(4, 8, 3, 3\)"):
        accumulator.add(taps, ids[:3])
    taps["conv_prev"][0, 0, 0, 0] = np.inf
    with pytest.raises(DataError, match="'conv_prev' holds values that are not finite"):
        accumulator.add(taps, ids)
    assert len(accumulator) == 0
    with pytest.raises(DataError, match="No class-labelled image"):
        accumulator.finish()
    with pytest.raises(UsageError, match="no ranking 'sum': choose one of max, contrast"):
        SignatureAccumulator(3, "sum")
