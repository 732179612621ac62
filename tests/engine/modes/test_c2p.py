from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pc_engine.errors import ManifestError, ModelError, UsageError
from pc_engine.fitted.counter import CountSVM
from pc_engine.manifest import Manifest, NetworkInput, Tap
from pc_engine.modes.c2p import C2PSettings, c2p, c2p_taps, mixture_pointers

GRID = 14


def bumps(*centres: tuple[float, float], height: int = GRID, width: int = GRID, spread: float = 0.8) -> np.ndarray:
    """A heatmap (H, W) with a Gaussian bump of peak 1 at each (x, y) in cells, cell centres at integers."""
    y, x = np.mgrid[:height, :width]
    heat = np.zeros((height, width))
    for centre_x, centre_y in centres:
        heat += np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / (2 * spread**2))
    return heat


def counter_for(labels: tuple[str, ...]) -> CountSVM:
    """A counter that reads the answer from a one-hot tap."""
    n = len(labels)
    return CountSVM(("answer",), labels, {"answer": np.eye(n, dtype=np.float32)}, np.zeros(n, np.float32))


def taps_for(heats: np.ndarray, answers: list[int], n_labels: int = 5) -> dict[str, np.ndarray]:
    """Taps whose ``conv_last`` has 3 maps with the given mean and whose ``answer`` names the count label."""
    maps = heats[:, None] * np.array([0.5, 1.0, 1.5])[:, None, None]
    return {"conv_last": maps.astype(np.float32), "answer": np.eye(n_labels, dtype=np.float32)[answers]}


COUNTER = counter_for(("0", "1", "2", "3", "4+"))
PLACES = [(2.0, 2.0), (11.0, 3.0), (3.0, 11.0), (11.0, 11.0)]


def test_k_bumps_get_k_pointers_at_the_bumps() -> None:
    heats = np.stack([bumps(*PLACES[:k]) for k in range(5)])
    outcome = c2p(taps_for(heats, [0, 1, 2, 3, 4]), COUNTER)
    np.testing.assert_array_equal(outcome.count, [0, 1, 2, 3, 4])
    assert outcome.kind == "ellipse"
    assert outcome.class_id is None
    assert outcome.pointers.shape == (5, 4, 5)
    for k, pointers in enumerate(outcome.pointers):
        found = pointers[~np.isnan(pointers[:, 0])]
        assert len(found) == k
        assert np.isnan(pointers[k:]).all()
        expected = (np.array(PLACES[:k]).reshape(-1, 2) + 0.5) / GRID
        order, wanted = np.lexsort(found[:, :2].T), np.lexsort(expected.T)
        np.testing.assert_allclose(found[order, :2], expected[wanted], atol=0.25 / GRID)
        # A bump of 0.8 cells, cut off at the mean of the map, is a little narrower.
        assert ((found[:, 2:4] > 0.5 / GRID) & (found[:, 2:4] < 0.9 / GRID)).all()
        np.testing.assert_allclose(found[:, 4], 1 / max(k, 1), atol=0.02)


def test_four_or_more_points_at_four() -> None:
    outcome = c2p(taps_for(bumps(*PLACES, (7.0, 7.0))[None], [4]), COUNTER)
    assert outcome.count[0] == 4
    assert not np.isnan(outcome.pointers).any()


def test_as_many_as_are_known_are_pointed_at_whatever_the_svm_says() -> None:
    known = np.array([0, 1, 3, 5, 1000])
    outcome = c2p(taps_for(np.stack([bumps(*PLACES, (7.0, 7.0))] * 5), [4, 0, 1, 2, 3]), COUNTER, known_count=known)
    np.testing.assert_array_equal(outcome.count, known)
    pointed = (~np.isnan(outcome.pointers[..., 0])).sum(axis=1)
    assert pointed[:4].tolist() == [0, 1, 3, 5]
    assert 5 <= pointed[4] <= GRID * GRID
    assert outcome.count_scores is None  # nothing was counted


def test_one_number_for_all_needs_no_counter() -> None:
    taps = taps_for(np.stack([bumps(*PLACES), np.zeros((GRID, GRID)), bumps(*PLACES[:1])]), [4, 0, 1])
    told = c2p(taps, None, known_count=3)
    each = c2p(taps, COUNTER, known_count=np.array([3, 3, 3]))
    np.testing.assert_array_equal(told.count, each.count)
    np.testing.assert_array_equal(told.pointers, each.pointers)
    assert told.pointers.shape[1] == 3
    with pytest.raises(ModelError, match="no counter to count with: fit one, or say how many objects"):
        c2p(taps, None)


def test_a_label_far_above_the_cells_takes_no_memory_for_its_number() -> None:
    counter = counter_for(("0", "1", "100000"))
    outcome = c2p(taps_for(np.stack([bumps(*PLACES), bumps(*PLACES[:1])]), [2, 1], n_labels=3), counter)
    assert outcome.count.tolist() == [100_000, 1]
    assert outcome.pointers.shape[1] <= GRID * GRID


def test_coordinates_are_fractions_of_each_axis_of_a_grid_that_is_not_square() -> None:
    outcome = c2p(taps_for(bumps((15.0, 1.0), height=6, width=20)[None], [1]), COUNTER)
    x, y, rx, ry, score = outcome.pointers[0, 0]
    assert x == pytest.approx(15.5 / 20, abs=0.01)
    assert y == pytest.approx(1.5 / 6, abs=0.04)
    assert rx * 20 == pytest.approx(ry * 6, rel=0.3)
    assert score == 1


def test_one_cell_alone_has_the_smallest_deviation() -> None:
    heat = np.zeros((1, GRID, GRID))
    heat[0, 4, 9] = 1
    outcome = c2p(taps_for(heat, [1]), COUNTER, C2PSettings(min_deviation=0.7))
    np.testing.assert_allclose(outcome.pointers[0, 0], [9.5 / GRID, 4.5 / GRID, 0.7 / GRID, 0.7 / GRID, 1])


def test_fewer_cells_than_the_count_get_fewer_pointers() -> None:
    heat = np.zeros((1, GRID, GRID))
    heat[0, 4, 9] = heat[0, 10, 2] = 1
    outcome = c2p(taps_for(heat, [3]), COUNTER)
    assert outcome.count[0] == 3
    assert (~np.isnan(outcome.pointers[0, :, 0])).sum() == 2


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_a_flat_heatmap_does_not_stop_the_batch(value: float) -> None:
    heats = np.stack([np.full((GRID, GRID), value), bumps(PLACES[0])])
    outcome = c2p(taps_for(heats, [2, 1]), COUNTER)
    np.testing.assert_array_equal(outcome.count, [2, 1])
    assert (~np.isnan(outcome.pointers[0, :, 0])).sum() == (2 if value else 0)
    np.testing.assert_allclose(outcome.pointers[1, 0, :2], 2.5 / GRID, atol=0.02)


def test_labels_of_the_counter_are_counts() -> None:
    counter = counter_for(("1", "3"))
    outcome = c2p(taps_for(np.stack([bumps(*PLACES[:3])] * 2), [1, 0], n_labels=2), counter)
    np.testing.assert_array_equal(outcome.count, [3, 1])
    assert outcome.count.dtype == np.int64
    np.testing.assert_array_equal(outcome.count_scores, np.eye(2)[[1, 0]])


heatmaps = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).gamma(0.3, size=(4, 6, 8)) ** 2  # sparse and peaked
)


@settings(max_examples=40)
@given(heats=heatmaps, answers=st.lists(st.integers(0, 4), min_size=4, max_size=4), factor=st.floats(0, 3))
def test_pointers_keep_their_promises_on_any_heatmap(heats: np.ndarray, answers: list[int], factor: float) -> None:
    outcome = c2p(taps_for(heats, answers), COUNTER, C2PSettings(mean_factor=factor))
    assert outcome.pointers.shape[0::2] == (4, 5)
    for count, pointers in zip(outcome.count, outcome.pointers, strict=True):
        used = ~np.isnan(pointers[:, 0])
        assert used.sum() <= count
        assert not np.isnan(pointers[used]).any()
        assert np.isnan(pointers[~used]).all()
        assert used[: used.sum()].all()  # NaN rows come last
        assert ((pointers[used, :2] > 0) & (pointers[used, :2] < 1)).all()
        assert ((pointers[used, 2:4] > 0) & (pointers[used, 2:4] < 1)).all()
        assert (np.diff(pointers[used, 4]) <= 0).all()
        assert pointers[used, 4].sum() <= 1 + 1e-9


@settings(max_examples=25)
@given(heats=heatmaps, order=st.permutations(range(4)))
def test_an_image_does_not_depend_on_its_place_in_the_batch(heats: np.ndarray, order: list[int]) -> None:
    answers = [4, 2, 1, 3]
    straight = c2p(taps_for(heats, answers), COUNTER)
    permuted = c2p(taps_for(heats[order], [answers[n] for n in order]), COUNTER)
    np.testing.assert_array_equal(permuted.count, straight.count[order])
    np.testing.assert_allclose(permuted.pointers, straight.pointers[order], rtol=1e-9, atol=1e-12)


def test_maps_that_answer_nowhere_get_no_pointers() -> None:
    heats = np.stack([np.zeros((GRID, GRID)), bumps(PLACES[0])])
    outcome = c2p(taps_for(heats, [1, 1]), COUNTER)
    np.testing.assert_array_equal(outcome.count, [1, 1])
    assert np.isnan(outcome.pointers[0]).all()
    assert not np.isnan(outcome.pointers[1]).any()


def test_maps_before_an_activation_point_where_they_answer_most_whatever_the_sign() -> None:
    heats = np.stack([bumps(PLACES[0]), -bumps(PLACES[0])])
    outcome = c2p(taps_for(heats, [1, 1]), COUNTER)
    np.testing.assert_array_equal(outcome.pointers[0], outcome.pointers[1])


def test_of_several_taps_what_all_of_them_show_is_pointed_at() -> None:
    objects, edges, blobs = PLACES[:2], PLACES[2], (12.0, 12.0)
    coarse = bumps(*((x / 2 - 0.25, y / 2 - 0.25) for x, y in (*objects, blobs)), height=7, width=7)
    taps = taps_for(bumps(*objects, edges)[None], [2]) | {"coarse": np.float32(coarse[None, None])}
    found = c2p(taps, COUNTER, C2PSettings(heat="coarse conv_last"))
    expected = (np.array(objects) + 0.5) / GRID
    order = np.argsort(found.pointers[0, :, 0])
    np.testing.assert_allclose(found.pointers[0, order, :2], expected, atol=0.5 / GRID)


def test_the_taps_of_the_heat_are_read_and_have_to_be_maps() -> None:
    shapes = {"conv_last": (4, 7, 7), "fine": (4, 14, 14), "logits": (5,), "pooled": (4,)}
    manifest = Manifest(
        name="net",
        input=NetworkInput("image", 56, 56),
        taps={name: Tap(name, shape) for name, shape in shapes.items()},
        count_features=("pooled",),
    )
    assert c2p_taps(manifest) == ("pooled", "conv_last")
    assert c2p_taps(replace(manifest, settings={"c2p.heat": "fine conv_last"})) == ("pooled", "fine", "conv_last")
    for wrong in ("pooled", "conv_last finer"):
        with pytest.raises(
            ManifestError, match=rf"has no maps called {wrong.split()[-1]}: choose among conv_last, fine"
        ):
            c2p_taps(replace(manifest, settings={"c2p.heat": wrong}))
    with pytest.raises(UsageError, match=r"c2p\.heat names no tap"):
        C2PSettings(heat=" ")


def test_mixture_pointers_of_no_image() -> None:
    fitted, pointers = mixture_pointers(np.zeros((0, 4, 4)), np.zeros(0, np.int64), C2PSettings())
    assert (fitted.shape, pointers.shape) == ((0,), (0, 0, 5))
