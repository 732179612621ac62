from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.svm import LinearSVC

from pc_engine.errors import DataError
from pc_engine.fitted.counter import DEFAULT_LABELS, CountSVM
from pc_engine.fitting.aim import Aim
from pc_engine.fitting.class_heat import ClassHeat
from pc_engine.fitting.counter import CountedImages, CounterFit, fit_counter, fit_svms
from pc_engine.fitting.counter_report import CounterReport
from pc_engine.fitting.linear_svm import fit_one_vs_rest
from pc_engine.fitting.reduction import reduce_features
from pc_engine.modes.p2c_settings import P2CSettings

Features = dict[str, np.ndarray]


def make_data(n: int = 120, sizes: tuple[int, int] = (150, 90), noise: float = 1.0) -> tuple[Features, np.ndarray]:
    rng = np.random.default_rng(1)
    counts = np.arange(n) % 7
    label = np.minimum(counts, 4)
    features = {}
    for name, size in zip(("pool5", "fc6"), sizes, strict=True):
        centres = rng.normal(size=(5, size))
        features[name] = (10 * (centres[label] + noise * rng.normal(size=(n, size)))).astype(np.float32)
    return features, counts


def fitted(
    features: Features,
    counts: np.ndarray,
    *,
    groups: list[int] | None = None,
    map_widths: dict[str, int] | None = None,
    couple: bool = True,
    heat: ClassHeat | None = None,
    **options: Any,
) -> tuple[CountSVM, CounterReport]:
    images = CountedImages(features, counts, groups, map_widths)
    return fit_counter(fit_svms(images, **options), CounterFit(coupling=couple), heat=heat)


def normalised(features: Features) -> np.ndarray:
    rows = [matrix.astype(np.float64) for matrix in features.values()]
    return np.concatenate([row / np.linalg.norm(row, axis=1)[:, None] for row in rows], axis=1)


def test_a_separable_problem_is_solved_and_the_scores_agree_with_the_counts() -> None:
    features, counts = make_data()
    counter, report = fitted(features, counts)
    assert counter.features == ("pool5", "fc6")
    predicted = counter.scores(features).argmax(axis=1)
    np.testing.assert_array_equal(predicted, np.minimum(counts, 4))
    assert report.mean_accuracy > 0.95
    assert report.images == {"0": 18, "1": 17, "2": 17, "3": 17, "4+": 51}


@pytest.mark.parametrize("sizes", [(150, 90), (12, 8)], ids=["more features than images", "fewer features"])
def test_the_reduced_fit_equals_the_fit_on_the_full_features(sizes: tuple[int, int]) -> None:
    features, counts = make_data(sizes=sizes, noise=3.0)
    label = np.minimum(counts, 4)
    reduced = reduce_features(features)
    np.testing.assert_allclose(reduced.rows @ reduced.rows.T, normalised(features) @ normalised(features).T, atol=1e-6)
    weights, bias = fit_one_vs_rest(reduced.rows, label, c=0.5, seed=0)
    expanded = np.concatenate(list(reduced.expand(weights).values()), axis=1)
    full = LinearSVC(C=0.5, class_weight="balanced", dual=False, tol=1e-8).fit(normalised(features), label)
    np.testing.assert_allclose(
        normalised(features) @ expanded.T + bias, full.decision_function(normalised(features)), atol=2e-3
    )
    assert reduced.rows.shape[1] <= min(len(counts), sum(sizes))


@pytest.mark.parametrize("sizes", [(180, 90), (12, 8)], ids=["more features than images", "fewer features"])
def test_maps_are_learnt_as_if_each_had_been_shown_mirrored_too(sizes: tuple[int, int]) -> None:
    features, counts = make_data(sizes=sizes, noise=3.0)
    label = np.minimum(counts, 4)
    width = 3
    reduced = reduce_features(features, {"pool5": width})
    unit = {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in features.items()}
    mirrored = mirror(unit["pool5"], width)
    even = np.concatenate([(unit["pool5"] + mirrored) / 2, unit["fc6"]], axis=1)
    np.testing.assert_allclose(reduced.rows @ reduced.rows.T, even @ even.T, atol=1e-6)
    weights, bias = fit_one_vs_rest(reduced.rows, label, c=0.5, seed=0)
    expanded = reduced.expand(weights)
    np.testing.assert_allclose(expanded["pool5"], mirror(expanded["pool5"], width), atol=1e-12)
    scores = even @ np.concatenate(list(expanded.values()), axis=1).T
    for maps in (unit["pool5"], mirrored):  # raw ones, either way
        found = maps @ expanded["pool5"].T + unit["fc6"] @ expanded["fc6"].T
        np.testing.assert_allclose(found, scores, atol=1e-5)
    full = LinearSVC(C=0.5, class_weight="balanced", dual=False, tol=1e-8).fit(even, label)
    np.testing.assert_allclose(scores + bias, full.decision_function(even), atol=2e-3)


def mirror(rows: np.ndarray, width: int) -> np.ndarray:
    return rows.reshape(len(rows), -1, width)[..., ::-1].reshape(rows.shape)


def test_blocks_of_columns_end_where_rows_of_maps_do(monkeypatch: pytest.MonkeyPatch) -> None:
    features, _ = make_data(sizes=(180, 90))
    whole = reduce_features(features, {"pool5": 6})
    monkeypatch.setattr("pc_engine.fitting.reduction._COLUMNS", 16)
    for blocks in (reduce_features(features, {"pool5": 6}), reduce_features(features, {"pool5": 6, "unknown": 2})):
        np.testing.assert_allclose(blocks.rows @ blocks.rows.T, whole.rows @ whole.rows.T, atol=1e-9)


def test_the_counter_scores_a_picture_and_its_mirror_image_alike() -> None:
    features, counts = make_data()
    counter, _ = fitted(features, counts, c_grid=(1.0,), map_widths={"pool5": 10})
    other = {**features, "pool5": mirror(features["pool5"], 10)}
    np.testing.assert_allclose(counter.scores(features), counter.scores(other), atol=1e-4)
    one_sided, _ = fitted(features, counts, c_grid=(1.0,))
    assert np.abs(one_sided.scores(features) - one_sided.scores(other)).max() > 0.1


def test_repeated_images_and_dark_images_do_no_harm() -> None:
    features, counts = make_data(n=60)
    features = {name: np.concatenate([rows, rows, np.zeros_like(rows[:5])]) for name, rows in features.items()}
    counts = np.concatenate([counts, counts, np.arange(5)])
    reduced = reduce_features(features)
    assert reduced.rows.shape == (125, 60)
    counter, _ = fitted(features, counts, c_grid=(1.0,))
    assert (counter.scores(features).argmax(axis=1) == np.minimum(counts, 4))[:120].all()


def test_raw_and_normalised_features_give_the_same_counter() -> None:
    features, counts = make_data()
    unit = {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in features.items()}
    raw, _ = fitted(features, counts, c_grid=(0.3,))
    same, _ = fitted(unit, counts, c_grid=(0.3,))
    np.testing.assert_allclose(raw.scores(features), same.scores(features), atol=1e-3)


def test_the_same_input_gives_the_same_counter() -> None:
    features, counts = make_data(noise=4.0)
    first, first_report = fitted(features, counts)
    second, second_report = fitted(features, counts)
    assert first_report == second_report
    np.testing.assert_array_equal(first.scores(features), second.scores(features))


def test_features_without_information_are_reported_at_chance() -> None:
    rng = np.random.default_rng(0)
    features = {"fc6": rng.normal(size=(500, 40)).astype(np.float32)}
    _, report = fitted(features, rng.integers(0, 5, 500), c_grid=(0.1, 1.0))
    assert 0.1 < report.mean_accuracy < 0.3


def test_balanced_classes_keep_a_rare_label_alive() -> None:
    rng = np.random.default_rng(3)
    counts = np.repeat([1, 2], [190, 10])
    features = {"fc6": (rng.normal(size=(200, 5)) + 1.5 * (counts[:, None] == 2)).astype(np.float32)}
    _, report = fitted(features, counts, labels=("1", "2"), c_grid=(1.0,))
    assert report.recall["2"] >= 0.7


def test_two_labels_give_two_opposed_scores() -> None:
    features, counts = make_data()
    counter, _ = fitted(features, counts % 2, labels=("0", "1"), c_grid=(1.0,))
    scores = counter.scores(features)
    assert scores.shape == (120, 2)
    np.testing.assert_allclose(scores[:, 0], -scores[:, 1], atol=1e-5)
    np.testing.assert_array_equal(scores.argmax(axis=1), counts % 2)


def reported(confusion: tuple[tuple[int, ...], ...], **options: Any) -> CounterReport:
    labels = ("0", "1", "2+") if len(confusion) == 3 else ("0", "1+")
    n = sum(map(sum, confusion))
    return CounterReport(labels, n, 1.0, 2, confusion, {1.0: (0.875, 0.1)}, **options)


def test_the_report_speaks_the_language_of_table_1() -> None:
    report = reported(((3, 1), (0, 6)), other_aim=(0.75, 1.0))
    assert report.recall == {"0": 0.75, "1+": 1.0}
    assert report.precision == {"0": 1.0, "1+": 6 / 7}
    assert (report.aim, report.aim.other) == ("mean", "overall")
    assert (report.mean_accuracy, report.overall_accuracy, report.cv_std) == (0.875, 0.9, 0.1)
    values = json.loads(json.dumps(report.to_dict()))
    assert values["count_accuracy"] == {"0": 0.75, "1+": 1.0, "mean": 0.875, "overall": 0.9}
    assert values["grid"] == [{"c": 1.0, "mean": 0.875, "std": 0.1}]
    assert values["confusion"] == [[3, 1], [0, 6]]
    assert (values["aim"], values["other_aim"]) == ("mean", {"mean": 0.75, "overall": 1.0})


@pytest.mark.parametrize(
    ("confusion", "answer"),
    [
        (((0, 24, 0), (0, 24, 0), (0, 24, 0)), "1"),
        (((0, 24, 0), (0, 23, 1), (0, 23, 1)), "1"),
        (((20, 4, 0), (0, 24, 0), (0, 4, 20)), None),
        (((2, 0, 0), (0, 2, 0), (0, 0, 2)), None),
    ],
)
def test_a_counter_with_but_one_answer_is_known(confusion: tuple[tuple[int, ...], ...], answer: str | None) -> None:
    assert reported(confusion).only_answer == answer


def test_a_counter_that_tells_rare_labels_at_the_others_cost_has_but_one_answer_overall() -> None:
    confusion = ((150, 50, 0), (0, 40, 0), (0, 0, 5))
    assert reported(confusion).only_answer is None
    assert reported(confusion, aim=Aim.OVERALL).only_answer == "0"


def test_a_label_never_predicted_has_no_precision() -> None:
    assert reported(((1, 0), (1, 0))).precision == {"0": 0.5, "1+": None}


def test_a_scarce_label_lowers_the_folds_and_a_missing_one_is_named() -> None:
    features, counts = make_data()
    counts = np.where(counts == 3, 2, counts)
    with pytest.raises(DataError, match=r"Too few of the 120 images show the count 3 \(0 images\): give at least 2"):
        fitted(features, counts)
    counts[:3] = 3
    steps: list[tuple[int, int]] = []
    _, report = fitted(features, counts, c_grid=(1.0, 1.0, 0.1), progress=lambda *step: steps.append(step))
    assert report.folds == 3
    assert steps == [(done, 7) for done in range(1, 8)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"features": {}}, "at least one tap"),
        ({"counts": np.ones(120)}, "type float64"),
        ({"counts": np.ones(7, np.int64)}, r"shape \(120, 150\), expected one row for each of the 7"),
        ({"labels": ("1", "2")}, "A count of 0 fits none"),
        ({"c_grid": ()}, "at least one, all above 0"),
        ({"folds": 1}, "at least 2"),
    ],
)
def test_wrong_input_is_named(change: dict[str, object], sentence: str) -> None:
    features, counts = make_data()
    arguments: dict[str, object] = {"features": features, "counts": counts, **change}
    with pytest.raises(DataError, match=sentence):
        fitted(**arguments)  # type: ignore[arg-type]


def test_features_that_are_not_finite_are_named() -> None:
    features, counts = make_data()
    features["fc6"][7, 3] = np.nan
    with pytest.raises(DataError, match=r"'fc6' of 1 image \(the first is number 7\)"):
        fitted(features, counts)


def test_the_primal_solver_takes_over_where_the_dual_runs_out_of_iterations() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 3)) * [100.0, 1.0, 0.01]
    labels = rng.integers(0, 2, 300)
    dual = LinearSVC(C=1000.0, class_weight="balanced", dual=True, random_state=0, max_iter=1000)
    with pytest.warns(match="failed to converge"):
        dual.fit(rows, labels)
    weights, bias = fit_one_vs_rest(rows, labels, c=1000.0, seed=0)
    primal = LinearSVC(C=1000.0, class_weight="balanced", dual=False).fit(rows, labels)
    np.testing.assert_allclose(weights[1], primal.coef_[0], rtol=1e-6)
    np.testing.assert_allclose(bias[1], primal.intercept_[0], rtol=1e-6)


def on_a_line(n: int, seed: int) -> tuple[Features, np.ndarray]:
    """Features that turn with the count, so that no plane cuts off the counts in the middle."""
    counts = np.arange(n) % 5
    angle = 0.25 * counts + np.random.default_rng(seed).normal(0, 0.1, n)
    return {"fc7": np.column_stack([np.cos(angle), np.sin(angle)]).astype(np.float32)}, counts


def test_labels_are_coupled_where_that_helps() -> None:
    features, counts = on_a_line(300, 0)
    coupled, report = fitted(features, counts, c_grid=(0.1,))
    alone, lesser = fitted(features, counts, c_grid=(0.1,), couple=False)
    assert (report.coupled, lesser.coupled) == (True, False)
    assert lesser.mean_accuracy == pytest.approx(lesser.cv_mean, abs=1e-9)  # folds of equal shares
    unseen, expected = on_a_line(300, 1)
    before, after = (float((each.scores(unseen).argmax(axis=1) == expected).mean()) for each in (alone, coupled))
    assert before == pytest.approx(lesser.mean_accuracy, abs=0.1)
    assert after == pytest.approx(report.mean_accuracy, abs=0.05)
    assert after > before + 0.1
    assert report.to_dict()["coupled"]


def test_labels_are_coupled_unless_that_does_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    features, counts = make_data(n=300)
    assert fitted(features, counts, c_grid=(1.0,))[1].coupled  # the labels are separable, and it is all the same
    assert fitted(features, counts, c_grid=(1.0,), couple=False)[1].other_aim is None
    monkeypatch.setattr("pc_engine.fitting.counter.held_out_coupling", lambda scores, *_: -scores)
    counter, report = fitted(features, counts, c_grid=(1.0,))
    assert not report.coupled
    assert report.mean_accuracy == pytest.approx(report.cv_mean, abs=0.01)
    assert (counter.scores(features).argmax(axis=1) == np.minimum(counts, 4)).mean() > 0.95


def rare_and_blurred(n: int, seed: int) -> tuple[Features, np.ndarray]:
    """Nine in ten images show one object, the others two, which look nearly alike."""
    rng = np.random.default_rng(seed)
    counts = 1 + (rng.random(n) < 0.1)
    return {"fc7": np.column_stack([np.ones(n), counts + rng.normal(0, 0.8, n)]).astype(np.float32)}, counts


def test_the_aim_decides_whether_labels_or_images_weigh_alike() -> None:
    (features, counts), (unseen, expected) = rare_and_blurred(1000, 0), rare_and_blurred(4000, 1)
    svms = fit_svms(CountedImages(features, counts), labels=("1", "2"), c_grid=(1.0,))
    seen = {}
    for aim in Aim:
        counter, report = fit_counter(svms, CounterFit(aim), compare_aims=True)
        right = (counter.scores(unseen).argmax(axis=1) + 1) == expected
        seen[aim] = np.mean([right[expected == count].mean() for count in (1, 2)]), right.mean()
        assert (report.mean_accuracy, report.overall_accuracy) == pytest.approx(seen[aim], abs=0.06)
        assert report.aim is aim
    assert seen[Aim.MEAN][0] > seen[Aim.OVERALL][0] + 0.1
    assert seen[Aim.OVERALL][1] > seen[Aim.MEAN][1] + 0.1
    mean, overall = (fit_counter(svms, CounterFit(aim), compare_aims=True)[1] for aim in Aim)
    assert mean.other_aim == (overall.mean_accuracy, overall.overall_accuracy)
    assert overall.other_aim == (mean.mean_accuracy, mean.overall_accuracy)


@pytest.mark.parametrize("aim", list(Aim))
def test_of_few_images_a_coupling_has_to_gain(aim: Aim, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that changes nothing is taken of many images, and not of few; the aims' report says the same."""
    monkeypatch.setattr("pc_engine.fitting.counter.held_out_coupling", lambda scores, *_: scores)
    features, counts = make_data(n=300)
    assert fit_counter(fit_svms(CountedImages(features, counts), c_grid=(1.0,)), CounterFit(aim))[1].coupled
    few, scarce = counts[:60], np.where(counts == 2, 2, 1)
    for some, labels in ((few, DEFAULT_LABELS), (scarce[:120], ("1", "2"))):
        rows = {name: matrix[: len(some)] for name, matrix in features.items()}
        report = fit_counter(
            fit_svms(CountedImages(rows, some), labels=labels, c_grid=(1.0,)), CounterFit(aim), compare_aims=True
        )[1]
        assert report.coupled is (len(some) == 120)  # 17 images of one label, and enough of the other
        assert report.other_aim == (report.mean_accuracy, report.overall_accuracy)


def test_features_that_hardly_vary_are_not_coupled() -> None:
    """Each fold's SVM has its own level, which would be taken for a sign and blown up."""
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 5, 300)
    features = {"fc7": (1 + 1e-4 * rng.normal(size=(300, 8))).astype(np.float32)}
    counter, report = fitted(features, counts)
    assert not report.coupled
    assert np.abs(counter.scores(features)).max() < 10


def test_clusters_are_weighed_in_as_the_scores_are_coupled_or_not() -> None:
    features, counts = make_data(n=60, noise=6.0)
    maps = np.zeros((60, 14, 14), np.float32)
    rng = np.random.default_rng(0)
    for place, count in enumerate(np.where(rng.random(60) < 0.6, np.minimum(counts, 4), rng.integers(0, 5, 60))):
        maps[place, [2, 2, 11, 11][:count], [2, 11, 2, 11][:count]] = 1
    heat = ClassHeat(maps, P2CSettings(min_distance=3.0), "evidence")
    svms = fit_svms(CountedImages(features, counts), c_grid=(1.0,))
    seen: list[bool] = []

    def likelihood(*arguments: Any, coupled: bool, aim: Aim) -> None:
        seen.append(coupled)
        assert aim is Aim.OVERALL

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pc_engine.fitting.counter.fit_cluster_likelihood", likelihood)
        for couple in (True, False):
            report = fit_counter(svms, CounterFit(Aim.OVERALL, coupling=couple), heat=heat)[1]
            assert seen.pop() is report.coupled
    assert not report.coupled


def test_clusters_that_help_are_kept_with_the_counter() -> None:
    features, counts = on_a_line(200, 0)
    maps = np.zeros((200, 14, 14), np.float32)
    for place, count in enumerate(counts):
        maps[place, [2, 2, 11, 11][:count], [2, 11, 2, 11][:count]] = 1
    heat = ClassHeat(maps, P2CSettings(min_distance=3.0), "evidence")
    counter, report = fitted(features, counts, c_grid=(1.0,), heat=heat)
    assert counter.clusters is not None
    assert report.combined is not None
    assert report.combined.mean_accuracy > 0.97
    assert report.mean_accuracy < 0.9
    values = json.loads(json.dumps(report.to_dict()))["combined"]
    assert values["weight"] == report.combined.weight
    assert np.trace(values["confusion"]) / 200 == pytest.approx(values["mean"])
    found = counter.clusters.added_to(counter.scores(features), counts).argmax(axis=1)
    assert (found == counts).mean() > 0.97
    none = ClassHeat(np.zeros_like(maps), heat.settings, "evidence")
    alone, _ = fitted(features, counts, c_grid=(1.0,), heat=none)
    assert alone.clusters is None


def test_the_number_under_an_open_label_is_learnt_where_clusters_are_too_few() -> None:
    rng = np.random.default_rng(0)
    counts = np.concatenate([np.arange(80) % 4, rng.integers(4, 31, 120)])
    angle = np.log(counts + 1.0) / 3
    features = {"fc6": np.column_stack([np.cos(angle), np.sin(angle), rng.normal(0, 0.01, 200)]).astype(np.float32)}
    nothing = ClassHeat(np.zeros((200, 14, 14), np.float32), P2CSettings(), "evidence")
    svms = fit_svms(CountedImages(features, counts), c_grid=(1.0,))
    counter, report = fit_counter(svms, heat=nothing)
    assert counter.beyond is not None
    assert (counter.beyond.floor, counter.beyond.most) == (4, 60)
    _, found = counter.scores_and_counts(features)
    assert np.abs(found - counts)[counts >= 4].mean() < 2.5
    assert report.beyond is not None
    error, by_clusters = report.beyond
    assert error < 2.5
    assert by_clusters > 10  # there are none, which counts as 4
    assert fit_counter(svms, CounterFit(beyond=False), heat=nothing)[0].beyond is None
    assert fit_counter(svms)[0].beyond is None
    closed = fit_svms(CountedImages(features, np.minimum(counts, 4)), labels=("0", "1", "2", "3", "4"), c_grid=(1.0,))
    assert fit_counter(closed, heat=nothing)[0].beyond is None


def test_groups_are_held_out_whole_where_every_label_is_left() -> None:
    features, counts = make_data()
    report = fitted(features, counts, c_grid=(1.0,), groups=[place // 40 for place in range(120)])[1]
    assert report.folds == 3
    assert report.parted == ()
    lonely = [0 if count == 3 else 1 for count in counts]  # no other group shows three
    for groups in (lonely, [0] * 120):
        report = fitted(features, counts, c_grid=(1.0,), groups=groups)[1]
        assert (report.folds, report.parted) == (5, DEFAULT_LABELS)


def test_copies_stay_together_where_one_label_has_to_be_parted() -> None:
    """A label that is a photo and its copy does not have the copies of other photos learnt by heart."""
    rng = np.random.default_rng(3)
    features = {"fc": np.repeat(rng.standard_normal((41, 60)).astype(np.float32), 2, axis=0)}
    counts = np.repeat([0, *([1, 2, 3, 4] * 10)], 2)
    svms = fit_svms(CountedImages(features, counts, np.repeat(np.arange(41), 2).tolist()), c_grid=(1.0,))
    assert svms.parted == ("0",)
    for others, held_out in svms.splits:
        assert not {*(others[2:] // 2)} & {*(held_out[held_out > 1] // 2)}
        assert {*counts[others].tolist()} == {0, 1, 2, 3, 4}
    told = svms.scores[2:].argmax(axis=1) == svms.truth[2:]
    assert told.mean() < 0.45  # noise: a quarter is chance, and nearly all are told where their copies are seen


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 12))
@settings(max_examples=60)
def test_folds_of_any_groups_show_every_label_to_those_who_learn(seed: int, labels: int, n_groups: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.repeat(np.arange(labels), 2), rng.integers(0, labels, rng.integers(0, 30))])
    groups = rng.integers(0, n_groups, len(truth)).tolist()
    features = {"fc": rng.standard_normal((len(truth), 2)).astype(np.float32)}
    svms = fit_svms(CountedImages(features, truth, groups), labels=tuple(map(str, range(labels))), c_grid=(1.0,))
    assert sorted(np.concatenate([held_out for _, held_out in svms.splits]).tolist()) == list(range(len(truth)))
    kept = {place for place, label in enumerate(truth) if str(label) not in svms.parted}
    for others, held_out in svms.splits:
        assert {*truth[others].tolist()} == {*range(labels)}
        assert not {groups[place] for place in kept & {*others}} & {groups[place] for place in kept & {*held_out}}


@pytest.mark.slow
def test_features_of_the_papers_size_are_fitted_without_a_copy_of_them() -> None:
    rng = np.random.default_rng(0)
    features = {"pool5": rng.random((600, 25_088), np.float32), "fc6": rng.random((600, 8_192), np.float32)}
    counts = rng.integers(0, 5, 600)
    tracemalloc.start()
    try:
        counter, _ = fitted(features, counts, c_grid=(1.0,), folds=2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert counter.weights["pool5"].shape == (5, 25_088)
    assert peak < 0.5 * sum(rows.nbytes for rows in features.values())


@pytest.mark.parametrize("size", [3, 200])
def test_features_that_are_all_0_are_said_to_tell_nothing(size: int) -> None:
    with pytest.raises(DataError, match="The features 'fc6' are 0 in all 10 images"):
        fitted({"fc6": np.zeros((10, size), np.float32)}, np.repeat([0, 1, 2, 3, 4], 2))


def test_features_too_large_for_a_sum_of_squares_are_one_sentence() -> None:
    features, counts = make_data()
    features["fc6"][5] = 1e30
    with pytest.raises(DataError, match=r"'fc6' of 1 image \(the first is number 5\)"):
        fitted(features, counts)
