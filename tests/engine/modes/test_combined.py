from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pc_engine.errors import ModelError, UsageError
from pc_engine.fitted.cluster_likelihood import ClusterLikelihood, PeakSettings
from pc_engine.fitted.counter import CountSVM
from pc_engine.fitted.open_count import OpenCount
from pc_engine.fitted.signatures import SignatureDictionary
from pc_engine.kernels import mean_heatmap
from pc_engine.modes.c2p import C2PSettings, c2p
from pc_engine.modes.combined import CombinedSettings, PointedClusters, PointerKind, combined
from pc_engine.modes.p2c import p2c
from pc_engine.modes.p2c_settings import P2CSettings

MODULE = sys.modules[combined.__module__]  # whose name in its package is that of the function
GRID = 14
LABELS = ("0", "1", "2", "3", "4+")
COUNTER = CountSVM(("answer",), LABELS, {"answer": np.eye(5, dtype=np.float32)}, np.zeros(5, np.float32))
SIGNATURES = SignatureDictionary({"conv_last": np.array([[0], [1]], np.int32)}, np.ones(2, bool))
SETTINGS = P2CSettings(top_last=1, min_density=0.3, min_distance=3)
PEAKS = PeakSettings(SETTINGS.cutoff, SETTINGS.min_density, SETTINGS.min_distance)
BOXES = CombinedSettings(pointer="box")
PLACES = [(2, 2), (11, 2), (2, 11), (11, 11), (6, 6), (11, 6)]


def taps_for(numbers_of_bumps: list[int], answers: list[int]) -> dict[str, np.ndarray]:
    """Images with so many bumps in the map of class 1, for which the SVM says the label of that index."""
    y, x = np.mgrid[:GRID, :GRID]
    maps = np.zeros((len(answers), 2, GRID, GRID), np.float32)
    for n, number in enumerate(numbers_of_bumps):
        for k, (centre_x, centre_y) in enumerate(PLACES[:number]):
            # The first bump is the highest, so that those asked for are known.
            maps[n, 1] += (1 - 0.05 * k) * np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / 1.3)
    return {
        "conv_last": maps,
        "answer": np.eye(5, dtype=np.float32)[answers],
        "logits": np.tile(np.float32([0, 1]), (len(answers), 1)),
    }


def believing(weight: float, peaks: PeakSettings = PEAKS) -> CountSVM:
    """The SVM, beside which as many clusters as a label says speak for it with so much weight."""
    table = weight * np.eye(6, 5, dtype=np.float32)
    table[5, 4] = weight
    return replace(COUNTER, clusters=ClusterLikelihood(table, peaks, "evidence"))


def n_pointers(pointers: np.ndarray) -> list[int]:
    return (~np.isnan(pointers[..., 0])).sum(axis=1).tolist()


def test_a_closed_label_is_the_count_and_the_clusters_follow_it() -> None:
    outcome = combined(taps_for([3, 3, 3, 3], [0, 1, 2, 3]), COUNTER, SIGNATURES, SETTINGS)
    np.testing.assert_array_equal(outcome.count, [0, 1, 2, 3])
    assert n_pointers(outcome.pointers) == [0, 1, 2, 3]
    np.testing.assert_array_equal(outcome.class_id, [1, 1, 1, 1])
    np.testing.assert_array_equal(outcome.count_scores, np.eye(5)[:4])
    assert outcome.kind == "ellipse"


@pytest.mark.parametrize("number", [1, 2, 3, 6])
def test_ellipses_lie_on_the_bumps(number: int) -> None:
    outcome = combined(taps_for([number], [min(number, 4)]), COUNTER, SIGNATURES, SETTINGS)
    found = outcome.pointers[0][:, :2] * GRID - 0.5
    nearest = np.linalg.norm(found[:, None] - np.array(PLACES[:number]), axis=-1)
    assert sorted(nearest.argmin(axis=1).tolist()) == list(range(number))
    assert (nearest.min(axis=1) < 0.3).all()


@pytest.mark.parametrize("pointer", ["ellipse", "mixture"])
def test_ellipses_have_the_spread_of_the_heat_that_they_stand_for(pointer: PointerKind) -> None:
    taps = taps_for([2], [2])
    outcome = combined(taps, COUNTER, SIGNATURES, SETTINGS, CombinedSettings(pointer=pointer))
    assert outcome.kind == "ellipse"
    # Two bumps of exp(-r^2 / 1.3), multiplied by themselves and cut off below: half a cell, and the least deviation.
    radii = outcome.pointers[0, :2, 2:4] * GRID
    np.testing.assert_allclose(radii, np.hypot(0.5, 0.35), atol=0.12)
    assert outcome.pointers[0, :2, 4].sum() == pytest.approx(1)


def test_two_close_bumps_of_unlike_height_each_have_their_ellipse() -> None:
    taps = taps_for([0], [2])
    y, x = np.mgrid[:GRID, :GRID]
    for centre, height in ((5, 1.0), (8, 0.6)):
        taps["conv_last"][0, 1] += height * np.exp(-((x - centre) ** 2 + (y - 6) ** 2) / 1.3)
    found = combined(taps, COUNTER, SIGNATURES, SETTINGS).pointers[0, :, :2] * GRID - 0.5
    np.testing.assert_allclose(sorted(found[:, 0]), [5, 8], atol=0.3)
    np.testing.assert_allclose(found[:, 1], 6, atol=0.1)


def test_merged_clusters_keep_two_neighbours_apart_and_a_third_in_one() -> None:
    taps = taps_for([0], [3])
    y, x = np.mgrid[:GRID, :GRID]
    bumps = {(2, 2): 1.0, (6, 2): 0.9, (2, 11): 0.7, (10, 11): 0.6}  # one strong object of two parts, two weak ones
    for (centre_x, centre_y), height in bumps.items():
        taps["conv_last"][0, 1] += height * np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / 1.3)

    def rows(clusters: PointedClusters) -> list[int]:
        settings = CombinedSettings(clusters=clusters, cutoff=1.2, parting_power=1.0, reach=1000)
        found = combined(taps, COUNTER, SIGNATURES, SETTINGS, settings).pointers[0, :, 1]
        return sorted(np.rint(found * GRID - 0.5).astype(int).tolist())

    assert rows("peaks") == [2, 2, 11]
    assert rows("merged") == rows("round") == [2, 11, 11]


def test_a_faint_object_is_kept_apart_from_others_by_the_power_that_heat_is_parted_by() -> None:
    taps = taps_for([0], [2])
    y, x = np.mgrid[:GRID, :GRID]
    bumps = {(2, 3): 1.0, (5, 3): 1.0, (2, 10): 0.3}  # one strong object of two parts, and a faint one
    for (centre_x, centre_y), height in bumps.items():
        taps["conv_last"][0, 1] += height * np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / 1.3)

    def rows(parting_power: float) -> list[int]:
        settings = CombinedSettings(clusters="round", parting_power=parting_power, valley_power=0, reach=1000)
        found = combined(taps, COUNTER, SIGNATURES, SETTINGS, settings).pointers[0, :2, 1]
        return sorted(np.rint(found * GRID - 0.5).astype(int).tolist())

    assert rows(1.0) == [3, 3]
    assert rows(CombinedSettings().parting_power) == [3, 10]


def test_what_is_far_and_faint_draws_no_pointer_to_itself() -> None:
    taps = taps_for([0], [1])
    y, x = np.mgrid[:GRID, :GRID]
    for (centre_x, centre_y), height in {(2, 3): 1.0, (12, 11): 0.6}.items():
        taps["conv_last"][0, 1] += height * np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / 1.3)

    def pointer(reach: float) -> np.ndarray:
        found = combined(taps, COUNTER, SIGNATURES, SETTINGS, CombinedSettings(reach=reach)).pointers[0, 0, :4] * GRID
        assert isinstance(found, np.ndarray)
        return found

    np.testing.assert_allclose(pointer(5.0)[:2] - 0.5, (2, 3), atol=0.1)
    assert pointer(1000.0)[0] - 0.5 > 2.5
    assert pointer(1000.0)[2] > 2 * pointer(5.0)[2]


def test_lengths_are_those_of_the_grid_and_settings_reach_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    taps = taps_for([3], [2])
    fine = {**taps, "conv_last": taps["conv_last"].repeat(2, axis=2).repeat(2, axis=3)}
    asked: list[dict[str, object]] = []

    def watched(kernel: Any) -> Any:
        def call(*arrays: np.ndarray, **settings: Any) -> Any:
            asked.append(settings)
            return kernel(*arrays, **settings)

        return call

    for name in ("density_peaks", "merge_clusters"):
        monkeypatch.setattr(MODULE, name, watched(getattr(MODULE, name)))
    for clusters, floor in (("merged", 0.35**2), ("round", None)):
        asked.clear()
        pointing = CombinedSettings(clusters=clusters, cutoff=0.9, valley_power=2, reach=4.5)
        combined(fine, COUNTER, SIGNATURES, SETTINGS, pointing)
        divided, united = asked
        assert divided["cutoff"] == pytest.approx(2 * 0.9)
        assert united["reach"] == pytest.approx(2 * 4.5)
        assert (united["valley_power"], united["variance_floor"]) == (2, floor)


def test_columns_beside_each_other_are_columns_by_the_shape_they_share() -> None:
    taps = taps_for([0], [2])
    y, x = np.mgrid[:GRID, :GRID]
    for centre_x, centre_y in itertools.product((4, 8), (2, 5, 8, 11)):
        taps["conv_last"][0, 1] += np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / 1.3)

    def columns(clusters: PointedClusters) -> list[int]:
        settings = CombinedSettings(clusters=clusters, valley_power=0)
        found = combined(taps, COUNTER, SIGNATURES, SETTINGS, settings).pointers[0, :2, 0]
        return sorted(np.rint(found * GRID - 0.5).astype(int).tolist())

    assert columns("merged") == [4, 8]
    assert columns("round") != [4, 8]


@pytest.mark.parametrize("clusters", ["peaks", "merged"])
def test_heat_with_fewer_peaks_than_the_count_is_left_to_the_mixture(clusters: PointedClusters) -> None:
    taps = taps_for([3, 1], [3, 3])
    settings = CombinedSettings(clusters=clusters, cutoff=1.0)
    outcome = combined(taps, COUNTER, SIGNATURES, SETTINGS, settings)
    mixture = combined(taps, COUNTER, SIGNATURES, SETTINGS, CombinedSettings(pointer="mixture"))
    one_cell = {**taps, "conv_last": np.where(taps["conv_last"] > 0.9, taps["conv_last"], 0).astype(np.float32)}
    assert n_pointers(outcome.pointers) == n_pointers(mixture.pointers) == [3, 3]
    few = combined(one_cell, COUNTER, SIGNATURES, SETTINGS, settings)
    expected = combined(one_cell, COUNTER, SIGNATURES, SETTINGS, CombinedSettings(pointer="mixture"))
    assert few.count.tolist() == [3, 3]
    assert n_pointers(few.pointers) == n_pointers(expected.pointers)
    np.testing.assert_allclose(few.pointers[1], expected.pointers[1])


def test_it_points_at_the_class_and_not_at_what_is_merely_salient() -> None:
    taps = taps_for([1], [1])
    other = taps_for([2], [1])["conv_last"][:, 1] - taps["conv_last"][:, 1]  # the second place, and brighter
    taps["conv_last"][:, 0] = 3 * other
    x, y = combined(taps, COUNTER, SIGNATURES, SETTINGS).pointers[0, 0, :2] * GRID - 0.5
    np.testing.assert_allclose((x, y), PLACES[0], atol=0.3)
    salient = c2p(taps, COUNTER).pointers[0, 0, 0] * GRID - 0.5
    assert salient > x + 4  # drawn to the brighter one on the right


def test_powers_say_how_much_the_class_and_what_is_salient_count() -> None:
    taps = taps_for([1], [1])
    taps["conv_last"][:, 0] = 3 * (taps_for([2], [1])["conv_last"][:, 1] - taps["conv_last"][:, 1])  # salient

    def x_of(**powers: float) -> float:
        pointing = CombinedSettings(reach=1000, **powers)  # so that all heat is pointed at
        return float(combined(taps, COUNTER, SIGNATURES, SETTINGS, pointing).pointers[0, 0, 0] * GRID - 0.5)

    of_c2p = float(c2p(taps, COUNTER).pointers[0, 0, 0] * GRID - 0.5)
    np.testing.assert_allclose(x_of(class_power=0, salient_power=1), of_c2p, atol=0.1)
    assert x_of(class_power=0) > of_c2p  # more of the brighter one on the right
    np.testing.assert_allclose(x_of(salient_power=0), PLACES[0][0], atol=0.1)
    for name, value in (("salient_power", -1), ("parting_power", 0), ("valley_power", 11), ("reach", 0)):
        with pytest.raises(UsageError, match=rf"combined\.{name} is {value}"):
            CombinedSettings(**{name: value})


def test_what_p2c_has_weighed_with_is_pointed_at_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    taps, weighed = taps_for([3], [3]), replace(SETTINGS, heat="conv_last")
    own = C2PSettings(mean_factor=2.5)
    unlike = combined(taps, COUNTER, SIGNATURES, weighed, c2p_settings=own).pointers
    in_other_words = C2PSettings(heat=" conv_last")  # so that it is computed again
    expected = combined(taps, COUNTER, SIGNATURES, weighed, c2p_settings=in_other_words).pointers
    monkeypatch.delattr(MODULE, "salient_heatmap")
    np.testing.assert_array_equal(combined(taps, COUNTER, SIGNATURES, weighed).pointers, expected)
    assert not np.allclose(unlike, expected)
    with pytest.raises(NameError):
        combined(taps, COUNTER, SIGNATURES, weighed, c2p_settings=own)


def test_what_is_pointed_at_is_clamped_at_once_however_p2c_clamps() -> None:
    taps, weighed = taps_for([3, 2], [3, 2]), replace(SETTINGS, heat="conv_last")
    soft = replace(weighed, softness=0.2)
    assert not np.array_equal(p2c(taps, SIGNATURES, soft).pointers, p2c(taps, SIGNATURES, weighed).pointers)
    expected = combined(taps, COUNTER, SIGNATURES, weighed).pointers
    np.testing.assert_array_equal(combined(taps, COUNTER, SIGNATURES, soft).pointers, expected)


def test_where_nothing_of_the_class_is_salient_the_class_alone_is_pointed_at() -> None:
    taps = taps_for([1], [1])
    taps["conv_last"][:, 0] = 5 * (np.mgrid[:GRID, :GRID][1] >= 8)
    alone = combined(taps, COUNTER, SIGNATURES, SETTINGS).pointers[0]
    assert not (mean_heatmap(taps["conv_last"], 1.0) * (taps["conv_last"][:, 1] > 0.2)).any()
    np.testing.assert_allclose(alone[0, :2] * GRID - 0.5, PLACES[0], atol=0.3)


def test_layers_of_different_grids_are_brought_to_the_finest() -> None:
    taps = taps_for([3], [3])
    fine = SignatureDictionary({"conv_prev": np.array([[0], [1]], np.int32)}, np.ones(2, bool))
    settings = replace(SETTINGS, top_prev=1, min_distance=6)
    doubled = {**taps, "conv_prev": np.kron(taps["conv_last"], np.ones((2, 2), np.float32))}
    outcome = combined(doubled, COUNTER, fine, settings)
    expected = combined(taps, COUNTER, SIGNATURES, SETTINGS)
    assert outcome.count.tolist() == [3]
    # Two of them lie above each other, but for the last bits of a sum.
    order, other = (np.lexsort(each.pointers[0, :, 1::-1].T.round(2)) for each in (outcome, expected))
    np.testing.assert_allclose(outcome.pointers[0, order, :2], expected.pointers[0, other, :2], atol=0.02)


@pytest.mark.parametrize("pointer", ["ellipse", "mixture", "box"])
@pytest.mark.parametrize("tap", ["conv_last", "conv_prev"])
def test_a_heatmap_that_is_no_heatmap_is_refused_and_the_next_image_is_not(tap: str, pointer: PointerKind) -> None:
    taps = taps_for([2, 2], [2, 2])
    taps["conv_prev"] = taps["conv_last"].copy()
    ranking = np.array([[0, 1], [1, 0]], np.int32)
    both = SignatureDictionary({"conv_last": ranking, "conv_prev": ranking}, np.ones(2, bool))
    taps[tap][0] = 3e38
    taps[tap][0, :, 0] = 0  # the sum of the maps overflows in some cells and not in others
    with np.errstate(over="ignore", invalid="ignore"):
        settings, pointing = replace(SETTINGS, top_last=2, top_prev=2), CombinedSettings(pointer=pointer)
        outcome = combined(taps, COUNTER, both, settings, pointing)
        told = combined(taps, None, both, settings, pointing, known_count=2)
    assert outcome.count.tolist() == told.count.tolist() == [-1, 2]
    assert n_pointers(outcome.pointers) == n_pointers(told.pointers) == [0, 2]


def test_fewer_peaks_than_the_count_give_fewer_boxes_and_the_count_stays() -> None:
    outcome = combined(taps_for([1], [3]), COUNTER, SIGNATURES, SETTINGS, BOXES)
    assert outcome.kind == "box"
    assert outcome.count.tolist() == [3]
    assert n_pointers(outcome.pointers) == [1]


@pytest.mark.parametrize("pointer", ["ellipse", "mixture", "box"])
def test_as_many_as_are_known_are_pointed_at_whatever_is_counted(pointer: PointerKind) -> None:
    known = np.array([0, 1, 2, 6, 3])
    outcome = combined(
        taps_for([6, 6, 6, 6, 6], [1, 3, 4, 2, 4]),
        *(believing(0.1), SIGNATURES, SETTINGS, CombinedSettings(pointer=pointer)),
        known_count=known,
    )
    np.testing.assert_array_equal(outcome.count, known)
    assert n_pointers(outcome.pointers) == known.tolist()
    # Nor where there is more to count than the background lets clusters be found.
    counting_on = replace(COUNTER, beyond=OpenCount({"answer": np.zeros((1, 5), np.float32)}, 2.0, 4, 60))
    settings = replace(SETTINGS, background_class=0)
    taps = {**taps_for([3, 3], [4, 4]), "logits": np.float32([[1, 0], [1, 0]])}
    pointing = CombinedSettings(pointer=pointer)
    outcome = combined(taps, counting_on, SIGNATURES, settings, pointing, known_count=np.array([0, 2]))
    assert n_pointers(outcome.pointers) == [0, 2]


@pytest.mark.parametrize("pointer", ["ellipse", "mixture", "box"])
def test_one_number_for_all_needs_no_counter_and_counts_nothing(pointer: PointerKind) -> None:
    taps, pointing = taps_for([6, 0, 2], [1, 3, 4]), CombinedSettings(pointer=pointer)
    told = combined(taps, None, SIGNATURES, SETTINGS, pointing, known_count=2)
    each = combined(taps, COUNTER, SIGNATURES, SETTINGS, pointing, known_count=np.array([2, 2, 2]))
    assert told.count_scores is each.count_scores is None
    assert told.count.tolist() == [2, 2, 2]
    np.testing.assert_array_equal(told.count, each.count)
    np.testing.assert_array_equal(told.pointers, each.pointers)
    assert n_pointers(told.pointers)[::2] == [2, 2]
    with pytest.raises(ModelError, match="no counter to count with: fit one, or say how many objects"):
        combined(taps, None, SIGNATURES, SETTINGS, pointing)


def test_a_pointer_that_does_not_exist_is_wrong_use() -> None:
    with pytest.raises(
        UsageError, match="There is no pointer 'dot' for mode combined: choose one of ellipse, mixture, box"
    ):
        CombinedSettings(pointer="dot")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cutoff"):
        CombinedSettings(cutoff=0)


def test_under_the_open_label_the_clustering_counts() -> None:
    outcome = combined(taps_for([6, 5, 4], [4, 4, 4]), COUNTER, SIGNATURES, SETTINGS)
    np.testing.assert_array_equal(outcome.count, [6, 5, 4])
    assert n_pointers(outcome.pointers) == [6, 5, 4]


@pytest.mark.parametrize("pointing", [CombinedSettings(), BOXES], ids=["ellipses", "boxes"])
def test_a_counter_that_counts_on_is_believed_under_the_open_label_alone(pointing: CombinedSettings) -> None:
    # exp(log 2) more than 3.5 where the SVM says so: 5 and a half, which is rounded to even.
    weights = np.float32([[0, 0, 0, 0, np.log(2.2)]])
    counting_on = replace(COUNTER, beyond=OpenCount({"answer": weights}, 0.0, 4, 60))
    outcome = combined(taps_for([6, 6, 2, 6], [4, 3, 4, 0]), counting_on, SIGNATURES, SETTINGS, pointing)
    np.testing.assert_array_equal(outcome.count, [6, 3, 6, 0])
    pointed = n_pointers(outcome.pointers)
    assert pointed[:2] == [6, 3]
    assert pointed[2] == (2 if pointing is BOXES else 6)  # boxes are of peaks, and there are two
    fewer = replace(COUNTER, beyond=OpenCount({"answer": weights}, -1.0, 4, 60))
    outcome = combined(taps_for([6], [4]), fewer, SIGNATURES, SETTINGS, pointing)
    assert outcome.count.tolist() == n_pointers(outcome.pointers) == [4]


@pytest.mark.parametrize("pointer", ["ellipse", "mixture", "box"])
def test_more_objects_than_cells_are_counted_and_not_all_pointed_at(pointer: PointerKind) -> None:
    many = OpenCount({"answer": np.zeros((1, 5), np.float32)}, 30.0, 4, 1_000_000)
    counting_on = replace(COUNTER, beyond=many)
    outcome = combined(taps_for([3], [4]), counting_on, SIGNATURES, SETTINGS, CombinedSettings(pointer=pointer))
    assert outcome.count.tolist() == [1_000_000]
    assert 3 <= n_pointers(outcome.pointers)[0] <= GRID**2


def test_under_the_open_label_the_count_is_never_below_its_lower_end() -> None:
    # Thresholds at which clustering alone sees one object only; asked for four, it gives the four highest peaks.
    strict = replace(SETTINGS, min_density=1.0)
    taps = taps_for([6], [4])
    assert p2c(taps, SIGNATURES, strict).count.tolist() == [1]
    outcome = combined(taps, COUNTER, SIGNATURES, strict, BOXES)
    assert outcome.count.tolist() == [4]
    assert n_pointers(outcome.pointers) == [4]
    assert combined(taps_for([2], [4]), COUNTER, SIGNATURES, SETTINGS).count.tolist() == [4]


def test_what_is_clustered_is_weighed_in() -> None:
    taps = taps_for([3, 3, 3, 6], [2, 2, 2, 2])
    taps["answer"][:, 3] = [0.95, 0.6, 0, 0.95]
    taps["answer"] /= np.linalg.norm(taps["answer"], axis=1, keepdims=True)
    outcome = combined(taps, believing(0.1), SIGNATURES, SETTINGS)
    # Three peaks outweigh a lead of .04, and none of .3 or 1. Six peaks speak for "4+", and the SVM against it.
    np.testing.assert_array_equal(outcome.count, [3, 2, 2, 2])
    assert n_pointers(outcome.pointers) == [3, 2, 2, 2]
    scores = COUNTER.scores(taps)
    np.testing.assert_array_equal(outcome.count_scores[:, 4], scores[:, 4] + np.float32([0, 0, 0, 0.1]))
    np.testing.assert_array_equal(combined(taps, COUNTER, SIGNATURES, SETTINGS).count, [2, 2, 2, 2])
    trusting = combined(taps, believing(100), SIGNATURES, SETTINGS)
    np.testing.assert_array_equal(trusting.count, p2c(taps, SIGNATURES, SETTINGS).count)


def test_clusters_are_told_by_the_settings_that_they_were_believed_with() -> None:
    taps = taps_for([6], [4])
    settled = believing(0.1, PeakSettings(cutoff=1.0, min_density=0.7, min_distance=3))
    fewer = p2c(taps, SIGNATURES, replace(SETTINGS, min_density=0.7)).count.tolist()
    assert fewer == [5]
    assert combined(taps, settled, SIGNATURES, SETTINGS).count.tolist() == fewer


def test_the_networks_evidence_does_what_a_signature_does() -> None:
    taps = taps_for([3, 6], [2, 4])
    evidence = np.tile(np.float32([-1, 1]), (2, 1))
    settings = replace(SETTINGS, signature="evidence")
    outcome = combined({**taps, "evidence": evidence}, COUNTER, None, settings)
    np.testing.assert_array_equal(outcome.count, [2, 6])
    assert n_pointers(outcome.pointers) == [2, 6]


def test_the_evidence_can_be_pointed_at_where_the_dictionary_is_counted_on() -> None:
    taps = taps_for([6, 1], [4, 1])
    # What the signature speaks of lies in map 1; the network's evidence speaks of another place, that map 0 shows.
    taps["conv_last"][:, 0] = taps_for([4, 4], [4, 4])["conv_last"][:, 1]
    taps["conv_last"][1, 0] = np.roll(taps["conv_last"][1, 1], 9, axis=1)
    taps["evidence"] = np.tile(np.float32([1, -0.5]), (2, 1))
    by_class, by_evidence = (
        combined(taps, COUNTER, SIGNATURES, SETTINGS, CombinedSettings(heat=heat)) for heat in ("p2c", "evidence")
    )
    np.testing.assert_array_equal(by_evidence.count, [6, 1])
    np.testing.assert_array_equal(by_evidence.count, by_class.count)
    found = [outcome.pointers[1, 0, :2] * GRID - 0.5 for outcome in (by_class, by_evidence)]
    np.testing.assert_allclose(found, [(2, 2), (11, 2)], atol=0.3)
    unfitted = replace(SETTINGS, signature="evidence", mean_factor=0)
    alone = combined(taps, COUNTER, None, unfitted, CombinedSettings(heat="evidence"))
    np.testing.assert_array_equal(alone.pointers[1], by_evidence.pointers[1, : alone.pointers.shape[1]])


def test_the_background_class_speaks_for_no_object_and_never_for_a_signature() -> None:
    taps = taps_for([2, 2], [2, 0])
    background = replace(SETTINGS, background_class=0)
    taps["logits"][:, 0] = 3
    outcome = combined(taps, believing(0.1), SIGNATURES, background)
    np.testing.assert_array_equal(outcome.count, [2, 0])
    np.testing.assert_array_equal(outcome.class_id, [1, 1])
    assert n_pointers(outcome.pointers) == [2, 0]
    np.testing.assert_array_equal(combined(taps, believing(2), SIGNATURES, background).count, [0, 0])


def test_labels_may_leave_counts_out() -> None:
    witness = ClusterLikelihood(np.float32([[0, 0], [9, 0], [0, 0], [0, 9], [0, 9]]), PEAKS, "evidence")
    weights = {"answer": np.eye(2, 5, dtype=np.float32)}
    counter = CountSVM(("answer",), ("1", "3"), weights, np.zeros(2, np.float32), witness)
    # Two clusters and none say nothing, the last row stands for four and more.
    outcome = combined(taps_for([2, 6, 0, 1], [0, 0, 1, 1]), counter, SIGNATURES, SETTINGS)
    np.testing.assert_array_equal(outcome.count, [1, 3, 3, 1])


def test_images_that_need_asking_again_do_not_change_the_others() -> None:
    taps = taps_for([6, 2, 3, 6, 0], [4, 4, 2, 1, 4])
    together = combined(taps, COUNTER, SIGNATURES, SETTINGS)
    np.testing.assert_array_equal(together.count, [6, 4, 2, 1, 4])
    assert n_pointers(together.pointers) == [6, 4, 2, 1, 0]
    boxes = combined(taps, COUNTER, SIGNATURES, SETTINGS, BOXES)
    assert n_pointers(boxes.pointers) == [6, 2, 2, 1, 0]
    for n in range(5):
        alone = combined({name: tap[n : n + 1] for name, tap in taps.items()}, COUNTER, SIGNATURES, SETTINGS)
        assert alone.count[0] == together.count[n]
        k = alone.pointers.shape[1]
        np.testing.assert_allclose(alone.pointers[0], together.pointers[n, :k], rtol=1e-6)
        assert np.isnan(together.pointers[n, k:]).all()


def test_a_heatmap_without_contrast_does_not_stop_the_batch() -> None:
    taps = taps_for([0, 0, 2], [3, 0, 2])
    taps["conv_last"][1] = 7
    outcome = combined(taps, COUNTER, SIGNATURES, SETTINGS)
    np.testing.assert_array_equal(outcome.count, [3, 0, 2])
    assert n_pointers(outcome.pointers) == [0, 0, 2]


def test_where_the_svm_is_right_and_peaks_are_clear_its_boxes_are_those_of_p2c() -> None:
    taps = taps_for([1, 2, 3], [1, 2, 3])
    one = combined(taps, COUNTER, SIGNATURES, SETTINGS, BOXES)
    other = p2c(taps, SIGNATURES, replace(SETTINGS, pointer="box"))
    np.testing.assert_array_equal(one.count, other.count)
    np.testing.assert_allclose(one.pointers[..., :4], other.pointers[..., :4], rtol=1e-6)


def test_a_clustering_that_cannot_be_asked_for_a_number_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="only density-peaks can give: omit --cluster"):
        combined(taps_for([1], [1]), COUNTER, SIGNATURES, replace(SETTINGS, cluster="dbscan"))
