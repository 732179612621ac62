from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pc_engine.bench.accuracy import cross_validation
from pc_engine.bench.accuracy.cross_validation import DEFAULT_FOLD_FIT, FoldFit, HeldOut, held_out_counters
from pc_engine.errors import DataError, UsageError
from pc_engine.fitted.counter import DEFAULT_LABELS, labels_up_to
from pc_engine.fitting.aim import Aim
from pc_engine.fitting.class_heat import ClassHeat
from pc_engine.fitting.counter import CountedImages, CounterFit
from pc_engine.modes.p2c_settings import P2CSettings


def features_of(counts: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows that tell the count, with some noise; the last value is the image's own number."""
    rng = np.random.default_rng(seed)
    angles = counts / 4
    rows = np.column_stack([np.cos(angles), np.sin(angles), rng.normal(0, 0.02, len(counts)), np.arange(len(counts))])
    rows[:, 3] /= 1e6
    return {"gap": rows.astype(np.float32)}


def held_out(
    features: Any,
    counts: np.ndarray,
    folds: int,
    *,
    groups: Any = None,
    map_widths: Any = None,
    fit: FoldFit = DEFAULT_FOLD_FIT,
    **options: Any,
) -> list[HeldOut]:
    images = CountedImages(features, counts, groups, map_widths)
    return held_out_counters(images, folds, fits=[fit], **{"labels": DEFAULT_LABELS, "seed": 0, **options})[fit]


def test_every_image_is_held_out_once_and_folds_have_equal_shares() -> None:
    counts = np.repeat([0, 1, 2, 3, 6], [10, 20, 10, 15, 25])
    folds = held_out(features_of(counts), counts, 5)
    assert sorted(np.concatenate([fold.places for fold in folds])) == list(range(80))
    for fold in folds:
        assert np.bincount(np.minimum(counts[fold.places], 4)).tolist() == [2, 4, 2, 3, 5]
        assert fold.counter.labels == ("0", "1", "2", "3", "4+")


def test_labels_can_be_others() -> None:
    counts = np.repeat([0, 1, 5, 9], 6)
    folds = held_out(features_of(counts), counts, 3, labels=labels_up_to(6))
    assert {fold.counter.labels for fold in folds} == {("0", "1", "5", "6+")}


def test_a_counter_never_sees_what_it_is_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.tile([0, 1, 2, 3], 6)
    features = features_of(counts)
    fit, seen = cross_validation.fit_svms, []

    def spy(images: CountedImages, **options: Any) -> Any:
        seen.append(set(np.rint(images.features["gap"][:, 3] * 1e6).astype(int)))
        return fit(images, **options)

    monkeypatch.setattr(cross_validation, "fit_svms", spy)
    folds = held_out(features, counts, 3)
    for fold, others in zip(folds, seen, strict=True):
        assert others == set(range(24)) - set(fold.places.tolist())


def test_folds_repeat_by_their_seed() -> None:
    counts = np.tile([0, 1, 2], 10)
    first, again, other = (
        [fold.places.tolist() for fold in held_out(features_of(counts), counts, 3, seed=seed)] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_label_of_one_image_is_not_learnt() -> None:
    counts = np.array([0] * 6 + [1] * 6 + [3])
    folds = held_out(features_of(counts), counts, 3)
    assert {fold.counter.labels for fold in folds} == {("0", "1")}
    assert sorted(np.concatenate([fold.places for fold in folds])) == list(range(13))


def test_wrong_use_is_said() -> None:
    counts = np.array([1] * 10)
    with pytest.raises(DataError, match="Fewer than two count labels"):
        held_out(features_of(counts), counts, 2)
    for folds in (1, 11):
        with pytest.raises(UsageError, match=f"{folds} folds of 10 images"):
            held_out(features_of(counts), counts, folds)


def test_a_group_is_held_out_whole() -> None:
    counts = np.tile([0, 1, 2, 3], 15)
    groups = [place // 12 for place in range(60)]
    folds = held_out(features_of(counts), counts, 5, groups=groups)
    assert sorted(np.concatenate([fold.places for fold in folds])) == list(range(60))
    left_out = [{groups[place] for place in fold.places} for fold in folds]
    assert sorted(left_out, key=min) == [{0}, {1}, {2}, {3}, {4}]
    with pytest.raises(UsageError, match=r"6 folds were asked for, but the images form 5 groups"):
        held_out(features_of(counts), counts, 6, groups=groups)


def test_what_a_counter_is_fitted_with_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.tile([0, 1, 2, 3], 6)
    features = {**features_of(counts), "fc7": features_of(counts, 1)["gap"]}
    heat = ClassHeat(np.zeros((24, 3, 3), np.float32), P2CSettings(), "evidence")
    asked: list[dict[str, Any]] = []
    fit, rest = cross_validation.fit_svms, cross_validation.fit_counter

    def spy(images: CountedImages, **options: Any) -> Any:
        asked.append({**options, **vars(images), "features": tuple(images.features)})
        return fit(images, **options)

    def spy_on_rest(svms: Any, beside: CounterFit, **options: Any) -> Any:
        asked[-1].update(options, beside=beside)
        return rest(svms, beside, **options)

    monkeypatch.setattr(cross_validation, "fit_svms", spy)
    monkeypatch.setattr(cross_validation, "fit_counter", spy_on_rest)
    groups = [place // 4 for place in range(24)]
    everything = held_out(features, counts, 3, groups=groups, map_widths={"fc7": 1}, heat=heat)
    assert [(each["map_widths"], each["beside"]) for each in asked] == [({"fc7": 1}, CounterFit(Aim.MEAN))] * 3
    assert [(each["features"], len(each["heat"].maps)) for each in asked] == [(("gap", "fc7"), 16)] * 3
    assert [sorted(set(each["groups"])) for each in asked] == [
        sorted({groups[place] for place in range(24)} - {groups[place] for place in fold.places}) for fold in everything
    ]
    del asked[:]
    beside = CounterFit(Aim.OVERALL, coupling=False, clusters=False, beyond=False)
    fit_less = FoldFit(("fc7",), mirrored=False, beside=beside)
    less = held_out(features, counts, 3, map_widths={"fc7": 1}, heat=heat, fit=fit_less)
    options = ("features", "map_widths", "beside")
    assert [tuple(each[name] for name in options) for each in asked] == [(("fc7",), None, beside)] * 3
    assert {fold.counter.features for fold in less} == {("fc7",)}


def test_a_counter_of_raw_features_is_one_of_the_ways() -> None:
    """Rows of one direction differ in length alone, which is the count."""
    counts = np.tile([0, 3], 12)
    features = {"gap": ((1 + counts[:, None]) * np.array([1.0, 2.0])).astype(np.float32)}
    fits = (DEFAULT_FOLD_FIT, FoldFit(normalised=False))
    found = held_out_counters(CountedImages(features, counts), 3, ("0", "3"), 0, fits=fits)
    right = {
        fit: [fold.counter.scores(features).argmax(axis=1)[fold.places] == counts[fold.places] / 3 for fold in folds]
        for fit, folds in found.items()
    }
    assert np.concatenate(right[fits[1]]).all()
    assert not np.concatenate(right[fits[0]]).all()


def test_ways_to_fit_that_differ_beside_the_svms_share_these(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.tile([0, 1, 2, 3], 6)
    features = {**features_of(counts), "fc7": features_of(counts, 1)["gap"]}
    heat = ClassHeat(np.zeros((24, 3, 3), np.float32), P2CSettings(), "evidence")
    fits = (
        DEFAULT_FOLD_FIT,
        FoldFit(beside=CounterFit(coupling=False)),
        FoldFit(beside=CounterFit(clusters=False)),
        FoldFit(features=("fc7",)),
    )
    alone = {fit: held_out(features, counts, 3, heat=heat, fit=fit) for fit in fits}
    fit_svms, fitted, steps = cross_validation.fit_svms, [], []

    def spy(*arguments: Any, **options: Any) -> Any:
        fitted.append(1)
        return fit_svms(*arguments, **options)

    monkeypatch.setattr(cross_validation, "fit_svms", spy)
    together = held_out_counters(
        *(CountedImages(features, counts), 3, DEFAULT_LABELS, 0),
        heat=heat,
        fits=fits,
        progress=lambda *step: steps.append(step),
    )
    assert list(together) == list(fits)
    assert len(fitted) == 6
    assert steps == [(done, 6) for done in range(7)]
    for fit, folds in together.items():
        for fold, before in zip(folds, alone[fit], strict=True):
            assert fold.report == before.report
            assert fold.places.tolist() == before.places.tolist()
            for name, weights in before.counter.weights.items():
                assert np.array_equal(fold.counter.weights[name], weights)
