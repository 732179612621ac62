from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pc_engine.errors import ModelError, UsageError
from pc_engine.fitted.signatures import SignatureDictionary
from pc_engine.kernels import mean_heatmap, resize_maps
from pc_engine.modes.outcome import Outcome
from pc_engine.modes.p2c import (
    cluster_pointers,
    clustered_heatmap,
    heat_clusters,
    p2c,
    signature_heatmap,
    weighing_heatmap,
)
from pc_engine.modes.p2c_settings import P2CSettings

MODULE = sys.modules["pc_engine.modes.p2c"]

# The third, cuml-dbscan, takes a GPU and is tested with scikit-learn in cuML's place.
ON_THE_CPU = ("density-peaks", "dbscan")

GRID = 14
SETTINGS = P2CSettings(top_last=1, top_prev=1, min_density=0.3, min_distance=3)
PLACES = [(2, 2), (11, 2), (2, 11), (11, 11), (6, 6), (11, 6)]


def bumps(*centres: tuple[float, float], height: int = GRID, width: int = GRID) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    heat = np.zeros((height, width))
    for centre_x, centre_y in centres:
        heat += np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / (2 * 0.8**2))
    return heat


#: Class k is spoken for by map k of both layers.
SIGNATURES = SignatureDictionary(
    {tap: np.array([[0, 1, 2], [1, 0, 2], [2, 0, 1]], np.int32) for tap in ("conv_last", "conv_prev")},
    np.ones(3, bool),
)


def taps_for(heats: np.ndarray, classes: list[int], prev: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Taps that show the heatmap in the map of the image's class, and its mirror image in the others."""
    n = len(heats)

    def maps(shown: np.ndarray) -> np.ndarray:
        stack = np.repeat(shown[:, None, ::-1, :], 3, axis=1)
        stack[np.arange(n), classes] = shown
        return stack.astype(np.float32)

    return {
        "conv_last": maps(heats),
        "conv_prev": maps(heats if prev is None else prev),
        "logits": np.eye(3, dtype=np.float32)[classes] * 5,
    }


def used(pointers: np.ndarray) -> np.ndarray:
    return pointers[~np.isnan(pointers[:, 0])]


@pytest.mark.parametrize("cluster", ON_THE_CPU)
def test_k_bumps_of_the_classs_own_map_are_counted_and_boxed(cluster: Any) -> None:
    heats = np.stack([bumps(*PLACES[:k]) for k in range(7)])
    outcome = p2c(taps_for(heats, [0, 1, 2, 0, 1, 2, 0]), SIGNATURES, replace(SETTINGS, cluster=cluster))
    np.testing.assert_array_equal(outcome.count, range(7))
    assert outcome.count.dtype == np.int64
    assert outcome.kind == "box"
    np.testing.assert_array_equal(outcome.class_id, [0, 1, 2, 0, 1, 2, 0])
    np.testing.assert_allclose(outcome.class_score, np.exp(5) / (np.exp(5) + 2), rtol=1e-5)
    assert outcome.count_scores is None
    for k, pointers in enumerate(outcome.pointers):
        found = used(pointers)
        assert len(found) == k
        middles = (found[:, :2] + found[:, 2:4]) / 2
        expected = (np.array(PLACES[:k]).reshape(-1, 2) + 0.5) / GRID
        distance = np.abs(middles[:, None] - expected[None]).max(axis=2)
        near = distance < 1 / GRID
        np.testing.assert_array_equal(near.sum(axis=0), np.ones(k))  # each bump has one pointer, and each pointer
        np.testing.assert_array_equal(near.sum(axis=1), np.ones(k))  # one bump
        assert (found[:, 2:4] - found[:, :2] <= 6 / GRID).all()
        assert found[:, 4].sum() == pytest.approx(1 if k else 0)


def test_a_box_encloses_whole_cells_of_a_grid_that_is_not_square() -> None:
    heat = np.zeros((1, 4, 10))
    heat[0, 1:3, 6:9] = 1
    outcome = p2c(taps_for(heat, [0]), SIGNATURES, SETTINGS)
    np.testing.assert_allclose(outcome.pointers[0, 0], [6 / 10, 1 / 4, 9 / 10, 3 / 4, 1])


def test_trimming_draws_the_box_around_the_peak_and_does_not_change_the_count() -> None:
    taps = taps_for(np.stack([bumps(*PLACES[:3])]), [0])
    whole, trimmed = (p2c(taps, SIGNATURES, replace(SETTINGS, trim=trim)) for trim in (0.0, 0.9))
    assert whole.count[0] == trimmed.count[0] == 3
    area = [((p[:, 2] - p[:, 0]) * (p[:, 3] - p[:, 1])).sum() for p in (whole.pointers[0], trimmed.pointers[0])]
    assert area[1] < area[0] / 2
    np.testing.assert_allclose(trimmed.pointers[0, :, 4], whole.pointers[0, :, 4])


def test_layers_of_different_grids_are_brought_to_the_finer_one() -> None:
    fine = bumps(*PLACES[:2])
    coarse = fine.reshape(7, 2, 7, 2).mean(axis=(1, 3))
    for last, prev in ((coarse, fine), (fine, coarse)):
        taps = taps_for(last[None], [1], prev[None])
        heat = signature_heatmap(taps, SIGNATURES, np.array([1]), SETTINGS)
        assert heat.shape == (1, GRID, GRID)
        outcome = p2c(taps, SIGNATURES, SETTINGS)
        assert outcome.count[0] == 2
        middles = (outcome.pointers[0, :, :2] + outcome.pointers[0, :, 2:4]) / 2 * GRID
        np.testing.assert_allclose(sorted(middles[:, 0]), [2.5, 11.5], atol=1)


def test_a_layer_without_signatures_is_left_out() -> None:
    only_last = SignatureDictionary({"conv_last": SIGNATURES.ranking["conv_last"]}, SIGNATURES.known)
    heats = bumps(PLACES[0])[None]
    taps = taps_for(heats, [0], prev=bumps(PLACES[3])[None])
    assert p2c(taps, only_last, SETTINGS).count[0] == 1
    assert p2c(taps, SIGNATURES, replace(SETTINGS, top_prev=0)).count[0] == 1
    del taps["conv_prev"]
    assert p2c(taps, only_last, SETTINGS).count[0] == 1
    with pytest.raises(ModelError, match="take none"):
        p2c(taps, only_last, replace(SETTINGS, top_last=0))


def test_a_layer_with_fewer_maps_than_the_papers_number_gives_all_of_them() -> None:
    taps = taps_for(bumps(*PLACES[:2])[None], [0])
    heat = signature_heatmap(taps, SIGNATURES, np.array([0]), P2CSettings())
    np.testing.assert_allclose(
        heat, signature_heatmap(taps, SIGNATURES, np.array([0]), P2CSettings(top_last=3, top_prev=3))
    )


def test_signatures_shallower_than_asked_for_are_an_error_not_a_worse_result() -> None:
    shallow = SignatureDictionary({"conv_last": SIGNATURES.ranking["conv_last"][:, :1]}, SIGNATURES.known)
    with pytest.raises(ModelError, match="2 maps of 'conv_last' are asked for, but the signatures keep 1"):
        p2c(taps_for(bumps(PLACES[0])[None], [0]), shallow, replace(SETTINGS, top_last=2))


@pytest.mark.parametrize("cluster", ON_THE_CPU)
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_map_without_contrast_shows_nothing_and_does_not_stop_the_batch(cluster: Any, value: float) -> None:
    heats = np.stack([np.full((GRID, GRID), value), bumps(*PLACES[:2])])
    outcome = p2c(taps_for(heats, [0, 0]), SIGNATURES, replace(SETTINGS, cluster=cluster))
    np.testing.assert_array_equal(outcome.count, [0, 2])
    assert np.isnan(outcome.pointers[0]).all()
    dark = p2c(taps_for(heats[:1], [0]), SIGNATURES, replace(SETTINGS, cluster=cluster))
    assert dark.pointers.shape == (1, 0, 5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("cluster", ON_THE_CPU)
def test_the_scale_of_activations_does_not_matter(cluster: Any, scale: float) -> None:
    outcome = p2c(taps_for(bumps(*PLACES[:4])[None] * scale, [0]), SIGNATURES, replace(SETTINGS, cluster=cluster))
    assert outcome.count[0] == 4


def test_a_number_of_clusters_can_be_asked_for() -> None:
    heat = np.stack([bumps(*PLACES[:4])] * 5)
    wanted = np.array([0, 2, 4, 9, -1])
    found, pointers = cluster_pointers(heat, SETTINGS, n_centres=wanted)
    np.testing.assert_array_equal(found, [0, 2, 4, 4, 4])
    assert [len(used(p)) for p in pointers] == [0, 2, 4, 4, 4]


def test_as_many_as_are_known_are_boxed() -> None:
    known = np.array([0, 2, 4, 9])
    outcome = p2c(taps_for(np.stack([bumps(*PLACES[:4])] * 4), [0] * 4), SIGNATURES, SETTINGS, known)
    np.testing.assert_array_equal(outcome.count, known)  # of nine, four have a peak
    assert [len(used(p)) for p in outcome.pointers] == [0, 2, 4, 4]
    of_all = p2c(taps_for(bumps(*PLACES[:4])[None], [0]), SIGNATURES, SETTINGS, known_count=2)
    np.testing.assert_array_equal(of_all.pointers[0], used(outcome.pointers[1]))


@pytest.mark.parametrize("cluster", ON_THE_CPU)
def test_a_box_ends_where_the_heat_falls_to_a_fraction_of_its_greatest(cluster: Any) -> None:
    taps = taps_for(bumps((3, 4), (10, 9))[None], [0])
    settings = replace(SETTINGS, mean_factor=0.0, cluster=cluster, min_weight=1.0, pointer="box")
    for fraction in (0.2, 0.5):
        outcome = p2c(taps, SIGNATURES, replace(settings, box_trim=fraction))
        assert outcome.count[0] == 2
        distance = np.arange(4)
        reach = np.interp(-fraction, -np.exp(-(distance**2) / (2 * 0.8**2)), distance)
        found = GRID * used(outcome.pointers[0])
        for (x, y), box in zip([(3.5, 4.5), (10.5, 9.5)], found[np.argsort(found[:, 0])], strict=True):
            np.testing.assert_allclose(box[:4], [x - reach, y - reach, x + reach, y + reach], atol=1e-3)
    cores = p2c(taps, SIGNATURES, replace(settings, pointer="core"))
    np.testing.assert_array_equal(cores.pointers[..., 4], outcome.pointers[..., 4])
    with pytest.raises(UsageError, match="no pointer 'ellipse' for mode p2c: choose one of core, box"):
        replace(SETTINGS, pointer="ellipse")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"p2c\.box_trim is 1\.0, expected a number from 0 to 0\.99"):
        replace(SETTINGS, box_trim=1.0)


def test_objects_that_are_known_are_not_the_background() -> None:
    taps = taps_for(np.stack([bumps(*PLACES[:3])] * 2), [1, 1])
    taps["logits"][:, 2] = 4  # the next best class, whose maps show the mirror image
    outcome = p2c(taps, SIGNATURES, replace(SETTINGS, background_class=1), np.array([3, 1]))
    np.testing.assert_array_equal(outcome.class_id, [2, 2])
    assert [len(used(p)) for p in outcome.pointers] == [3, 1]


@pytest.mark.parametrize("grid", [(6, 7), (5, 7), (1, 8), (1, 1)])
@pytest.mark.parametrize("eps", [0.9, 1.0, 1.4, 1.5, 1.9])
def test_slots_on_a_device_are_as_many_as_dbscan_can_fill(
    pretended_gpu: Any, grid: tuple[int, int], eps: float
) -> None:
    row, column = np.indices(grid)
    # Each on its own: all cells, those of one colour of a chessboard, and every second of every second row.
    alone = [(row >= 0), (row + column) % 2 == 0, (row % 2 == 0) & (column % 2 == 0)]
    settings = P2CSettings(cluster="dbscan", eps=eps, min_weight=1.0)
    heat = np.array(alone, np.float32)
    cupy: Any = sys.modules["cupy"]
    slots = heat_clusters(cupy.asarray(heat), settings).slots
    assert slots == heat_clusters(heat, settings).count.max()


@pytest.mark.parametrize("changes", [{"cluster": "dbscan"}, {"classes": 2}])
def test_not_every_setting_can_be_told_a_count(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="Only density peaks of one class"):
        p2c(taps_for(bumps(*PLACES)[None], [0]), SIGNATURES, replace(SETTINGS, **changes), np.array([2]))


def test_with_a_prominence_peaks_count_in_parts() -> None:
    close, apart = bumps((4, 6), (7, 6)), bumps((3, 6), (9, 6))
    joined, apart_settings = np.stack([close, apart]), replace(SETTINGS, cutoff=1.5)
    by_prominence = replace(apart_settings, min_density=0.5, prominence=0.2)
    found, _ = cluster_pointers(joined, apart_settings)
    counted, pointers = cluster_pointers(joined, by_prominence)
    np.testing.assert_array_equal(found, [2, 2])
    np.testing.assert_array_equal(counted, [1, 2])
    assert [len(used(p)) for p in pointers] == [1, 2]
    # How far apart they are does not matter then; a number that is asked for is given as ever.
    np.testing.assert_array_equal(cluster_pointers(joined, replace(by_prominence, min_distance=99))[0], counted)
    asked = [cluster_pointers(joined, each, n_centres=np.array([2, -1])) for each in (apart_settings, by_prominence)]
    np.testing.assert_array_equal(asked[0][1], asked[1][1])


def test_a_prominence_of_nothing_is_the_two_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    peaks = MODULE.density_peaks
    monkeypatch.setattr(
        MODULE, "density_peaks", lambda *args, **kw: asked.append(kw["prominence"]) or peaks(*args, **kw)
    )
    heat = bumps(*PLACES)[None]
    cluster_pointers(heat, SETTINGS)
    cluster_pointers(heat, replace(SETTINGS, prominence=0.3))
    assert asked == [None, 0.3]


heatmaps = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).gamma(0.3, size=(4, 6, 8)) ** 2  # sparse and peaked
)


@settings(max_examples=40)
@given(
    heats=heatmaps,
    cluster=st.sampled_from(ON_THE_CPU),
    factor=st.floats(0, 3),
    trim=st.floats(0, 1),
)
def test_pointers_keep_their_promises_on_any_heatmap(
    heats: np.ndarray, cluster: Any, factor: float, trim: float
) -> None:
    chosen = P2CSettings(top_last=2, top_prev=1, mean_factor=factor, cluster=cluster, trim=trim)
    outcome = p2c(taps_for(heats, [0, 1, 2, 0]), SIGNATURES, chosen)
    assert outcome.pointers.shape[0::2] == (4, 5)
    for count, pointers in zip(outcome.count, outcome.pointers, strict=True):
        found = used(pointers)
        assert len(found) == count
        assert np.isnan(pointers[count:]).all()
        assert ((found[:, :4] >= 0) & (found[:, :4] <= 1)).all()
        assert (found[:, 2:4] > found[:, :2]).all()
        assert (np.diff(found[:, 4]) <= 0).all()
        assert found[:, 4].sum() <= 1 + 1e-9


@settings(max_examples=25)
@given(heats=heatmaps, order=st.permutations(range(4)), cluster=st.sampled_from(ON_THE_CPU))
def test_an_image_does_not_depend_on_its_place_in_the_batch(heats: np.ndarray, order: list[int], cluster: Any) -> None:
    classes, chosen = [0, 1, 2, 0], replace(SETTINGS, cluster=cluster)
    straight = p2c(taps_for(heats, classes), SIGNATURES, chosen)
    permuted = p2c(taps_for(heats[order], [classes[n] for n in order]), SIGNATURES, chosen)
    np.testing.assert_array_equal(permuted.count, straight.count[order])
    np.testing.assert_allclose(permuted.pointers, straight.pointers[order], rtol=1e-6, atol=1e-12)


EVIDENCE = replace(SETTINGS, signature="evidence", mean_factor=1)


def evidence_for(classes: list[int]) -> np.ndarray:
    """Evidence that the map of the image's class speaks for it, and no other."""
    return 2 * np.eye(3, dtype=np.float32)[classes]


@pytest.mark.parametrize("cluster", ON_THE_CPU)
def test_the_networks_evidence_does_what_a_signature_does(cluster: Any) -> None:
    heats, classes = np.stack([bumps(*PLACES[:k]) for k in range(7)]), [0, 1, 2, 0, 1, 2, 0]
    taps = taps_for(heats, classes)
    taps["conv_prev"][:] = np.nan  # not read
    outcome = p2c({**taps, "evidence": evidence_for(classes)}, None, replace(EVIDENCE, cluster=cluster))
    np.testing.assert_array_equal(outcome.count, range(7))
    np.testing.assert_array_equal(outcome.class_id, classes)


def test_evidence_speaks_of_the_maps_that_the_head_reads() -> None:
    taps = taps_for(np.stack([bumps(*PLACES[:3])]), [1]) | {"evidence": evidence_for([1])}
    taps["conv_top"] = taps["conv_last"]
    taps["conv_last"] = np.zeros((1, 3, 2, 2), np.float32)
    assert p2c(taps, None, EVIDENCE).count[0] == 3
    del taps["conv_top"]
    assert p2c(taps, None, EVIDENCE).count[0] == 0


def test_only_the_maps_with_the_most_evidence_are_taken_if_so_set() -> None:
    taps = taps_for(np.stack([bumps(*PLACES[:2])]), [1]) | {"evidence": np.float32([[1, 2, 1]])}
    taps["conv_last"][:, [0, 2]] = bumps(*PLACES[2:5]) / 4
    assert p2c(taps, None, replace(EVIDENCE, min_density=0.1)).count[0] == 5
    assert p2c(taps, None, replace(EVIDENCE, min_density=0.1, top_evidence=1)).count[0] == 2


@pytest.mark.parametrize("signature", ["dictionary", "evidence"])
def test_finer_heat_tells_neighbours_apart_that_the_class_shows_as_one(signature: Any) -> None:
    places, elsewhere = [(2.5, 3.5), (6.5, 3.5), (11.5, 10.5)], (2.5, 10.5)
    seen = [(4.5, 3.5), places[2]]  # on maps of half the side, as broad as the two neighbours together
    coarse = np.maximum(bumps(*((x / 2 - 0.25, y / 2 - 0.25) for x, y in seen), height=7, width=7) ** 0.3 - 0.2, 0)
    taps = taps_for(coarse[None], [1]) | {"evidence": evidence_for([1])}
    # All classes' objects, among them one of another, the weakest a quarter as warm as the others.
    taps["fine"] = np.float32((bumps(*places[:2]) + bumps(places[2]) / 4 + bumps(elsewhere))[None, None])
    alone = P2CSettings(signature, top_last=1, top_prev=1, mean_factor=0, min_density=0.2, min_distance=3)
    weighed = replace(alone, heat="fine", cutoff=1.4)
    assert p2c(taps, SIGNATURES, replace(alone, cutoff=0.7, min_distance=1.5)).count[0] == 2
    found = p2c(taps, SIGNATURES, weighed)
    assert found.count[0] == 3
    middles = (used(found.pointers[0])[:, :2] + used(found.pointers[0])[:, 2:4]) / 2 * GRID - 0.5
    np.testing.assert_allclose(middles[np.argsort(middles.sum(axis=1))], places, atol=0.75)


def test_heat_is_weighed_by_the_geometric_mean() -> None:
    rng = np.random.default_rng(0)
    taps = {"coarse": np.float32(rng.normal(size=(2, 3, 4, 4))), "fine": np.float32(rng.normal(size=(2, 5, 8, 8)))}
    heat = rng.random((2, 8, 8))
    weighed = replace(SETTINGS, heat="coarse fine")
    found = clustered_heatmap(heat, weighing_heatmap(taps, weighed), weighed)
    maps = [resize_maps(mean_heatmap(taps["coarse"]), 8, 8), mean_heatmap(taps["fine"])]
    expected = (heat * maps[0] * maps[1]) ** (1 / 3)
    scale = expected.max(axis=(1, 2), keepdims=True) / found.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(found * scale, expected, rtol=1e-5)
    assert clustered_heatmap(heat, weighing_heatmap(taps, SETTINGS), SETTINGS) is heat
    softly = weighing_heatmap(taps, replace(SETTINGS, heat="fine", softness=0.3))
    np.testing.assert_array_equal(softly, mean_heatmap(taps["fine"], 1.0, 0.3))


@pytest.mark.parametrize("cluster", ON_THE_CPU)
def test_heat_that_is_none_where_it_is_weighed_with_refuses_its_image_alone(cluster: Any) -> None:
    taps = taps_for(np.stack([bumps(*PLACES[:2])] * 3), [1, 1, 1])
    taps["fine"] = taps["conv_last"].copy()
    taps["fine"][1, 0, 0, 0] = np.inf
    taps["fine"][2] = 1  # without contrast, which says nothing of where
    found = p2c(taps, SIGNATURES, replace(SETTINGS, heat="fine", cluster=cluster))
    np.testing.assert_array_equal(found.count, [2, -1, 2])
    if cluster == "density-peaks":
        told = p2c(taps, SIGNATURES, replace(SETTINGS, heat="fine"), np.array([1, 1, 2]))
        np.testing.assert_array_equal(told.count, [1, -1, 2])


def test_a_dictionary_that_is_not_there_is_missed() -> None:
    with pytest.raises(ModelError, match="no signature dictionary"):
        p2c(taps_for(bumps(PLACES[0])[None], [0]), None, SETTINGS)


def test_a_signature_of_another_kind_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no signature 'guess': choose one of dictionary, evidence"):
        P2CSettings(signature="guess")  # type: ignore[arg-type]


def test_an_image_of_the_background_class_shows_nothing() -> None:
    heats = np.stack([bumps(*PLACES[:3])] * 3)
    outcome = p2c(taps_for(heats, [0, 1, 2]), SIGNATURES, replace(SETTINGS, background_class=1))
    np.testing.assert_array_equal(outcome.count, [3, 0, 3])
    assert np.isnan(outcome.pointers[1]).all()
    np.testing.assert_array_equal(outcome.class_id, [0, 1, 2])


SEVERAL = P2CSettings(top_last=1, min_density=0.3, min_distance=3, classes=3)
ONE_MAP_EACH = SignatureDictionary({"conv_last": np.array([[0], [1], [2], [3]], np.int32)}, np.ones(4, bool))


def several_taps(places: list[list[tuple[int, int]]], logits: list[float]) -> dict[str, np.ndarray]:
    """One image whose map of each class has a bump at each of its places (x, y)."""
    y, x = np.mgrid[:14, :14]
    maps = np.zeros((1, len(places), 14, 14), np.float32)
    for of_class, centres in zip(maps[0], places, strict=True):
        for centre_x, centre_y in centres:
            of_class += np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / 1.3)
    return {"conv_last": maps, "logits": np.float32([logits])}


def classes_and_places(outcome: Outcome) -> set[tuple[int, int, int]]:
    there = ~np.isnan(outcome.pointers[0, :, 0])
    boxes = outcome.pointers[0, there]
    of_pointer = np.zeros(len(there), int) if outcome.pointer_class is None else outcome.pointer_class[0]
    centres = np.round((boxes[:, :2] + boxes[:, 2:4]) / 2 * 14 - 0.5).astype(int)
    return {(int(of), int(x), int(y)) for of, (x, y) in zip(of_pointer[there], centres, strict=True)}


def test_each_class_of_an_image_is_pointed_at_and_counted() -> None:
    taps = several_taps([[(2, 2), (11, 11)], [(11, 2)], [], []], [3, 2, -5, -5])
    outcome = p2c(taps, ONE_MAP_EACH, SEVERAL)
    assert outcome.count.tolist() == [3]
    assert outcome.class_id is not None
    assert outcome.class_id.tolist() == [0]
    assert classes_and_places(outcome) == {(0, 2, 2), (0, 11, 11), (1, 11, 2)}


def test_the_heat_of_each_class_is_weighed() -> None:
    taps = several_taps([[(2, 2), (11, 11), (6, 6)], [(11, 2)], [], []], [3, 2, -5, -5])
    taps["fine"] = several_taps([[(2, 2), (11, 11), (11, 2)]], [0])["conv_last"]
    outcome = p2c(taps, ONE_MAP_EACH, replace(SEVERAL, heat="fine"))
    assert classes_and_places(outcome) == {(0, 2, 2), (0, 11, 11), (1, 11, 2)}


def test_an_object_that_a_more_probable_class_has_is_not_counted_again() -> None:
    taps = several_taps([[(2, 2)], [(2, 2), (11, 11)], [(11, 11)], []], [2, 2.5, 1.5, -5])
    outcome = p2c(taps, ONE_MAP_EACH, SEVERAL)
    assert classes_and_places(outcome) == {(1, 2, 2), (1, 11, 11)}
    assert outcome.count.tolist() == [2]
    apart = p2c(taps, ONE_MAP_EACH, replace(SEVERAL, class_overlap=1.0))
    assert apart.count.tolist() == [4]


def test_an_object_belongs_to_the_class_that_is_stronger_there() -> None:
    taps = several_taps([[(2, 2)], [(11, 11)], [], []], [3, 2, -5, -5])
    taps["conv_last"][0, 0] += 0.6 * taps["conv_last"][0, 1]  # the more probable class sees the other's object, too
    assert classes_and_places(p2c(taps, ONE_MAP_EACH, SEVERAL)) == {(0, 2, 2), (1, 11, 11)}
    assert classes_and_places(p2c(taps, ONE_MAP_EACH, replace(SEVERAL, classes=1))) == {(0, 2, 2), (0, 11, 11)}


@pytest.mark.parametrize(
    ("changes", "classes"),
    [({}, {0, 1}), ({"classes": 2}, {0, 1}), ({"class_share": 0.9}, {0}), ({"class_share": 0.0}, {0, 1, 2})],
)
def test_a_class_takes_part_as_its_rank_and_probability_allow(changes: dict[str, float], classes: set[int]) -> None:
    taps = several_taps([[(2, 2)], [(11, 11)], [(2, 11)], [(11, 2)]], [3, 2, -1, -2])
    outcome = p2c(taps, ONE_MAP_EACH, replace(SEVERAL, **changes))
    assert {found[0] for found in classes_and_places(outcome)} == classes


def test_a_network_that_sees_nothing_sees_nothing_of_any_class() -> None:
    taps = several_taps([[(2, 2)], [(11, 11)], [], []], [3, 2, -5, -5])
    assert p2c(taps, ONE_MAP_EACH, replace(SEVERAL, background_class=0)).count.tolist() == [0]
    second = p2c(taps, ONE_MAP_EACH, replace(SEVERAL, background_class=1))
    assert classes_and_places(second) == {(0, 2, 2)}


def test_what_is_pointed_with_does_not_change_which_objects_of_two_classes_are_one() -> None:
    # Neighbours whose boxes overlap by more than half of one, and whose cores do not.
    taps = several_taps([[(3, 6)], [(5, 6)], [], []], [3, 2.9, -5, -5])
    cores = p2c(taps, ONE_MAP_EACH, replace(SEVERAL, trim=0.9, class_overlap=0.3))
    boxes = p2c(taps, ONE_MAP_EACH, replace(SEVERAL, trim=0.9, class_overlap=0.3, pointer="box", box_trim=0.02))
    assert cores.count.tolist() == boxes.count.tolist() == [2]
    np.testing.assert_array_equal(cores.pointer_class, boxes.pointer_class)
    assert boxes.pointers.shape == cores.pointers.shape
    there = ~np.isnan(boxes.pointers[0, :, 0])
    first, second = boxes.pointers[0, there][:, :4]
    shared = np.prod(np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]))
    assert shared > 0.3 * np.prod(first[2:] - first[:2])


def test_one_class_of_several_is_what_a_single_class_gives() -> None:
    taps = several_taps([[(2, 2), (11, 11)], [(11, 2)], [], []], [9, 2, -5, -5])
    several, one = p2c(taps, ONE_MAP_EACH, SEVERAL), p2c(taps, ONE_MAP_EACH, replace(SEVERAL, classes=1))
    there = ~np.isnan(several.pointers[0, :, 0])
    np.testing.assert_array_equal(several.pointers[0, there], one.pointers[0])
    np.testing.assert_array_equal(several.count, one.count)
    np.testing.assert_allclose(several.class_score, one.class_score, rtol=1e-6)
    assert one.pointer_class is None


def test_a_refused_heatmap_of_a_class_that_takes_part_refuses_the_image() -> None:
    taps = several_taps([[(2, 2)], [(11, 11)], [(2, 11)], []], [3, 2, -5, -5])
    taps["conv_last"][0, 1, 0, 0] = np.inf
    with np.errstate(invalid="ignore"):
        assert p2c(taps, ONE_MAP_EACH, SEVERAL).count.tolist() == [-1]
        assert p2c(taps, ONE_MAP_EACH, replace(SEVERAL, class_share=0.9)).count.tolist() == [1]


def test_the_networks_evidence_cannot_speak_of_several_classes() -> None:
    with pytest.raises(UsageError, match="make signatures with 'pc-engine fit-signatures', or ask for 1 class"):
        P2CSettings(signature="evidence", classes=2)
