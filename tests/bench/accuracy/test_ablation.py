from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pc_engine.bench.accuracy.ablation import ALTERNATIVES, ablate
from pc_engine.bench.accuracy.contenders import Contender, judge
from pc_engine.bench.accuracy.evaluation import evaluate
from pc_engine.bench.accuracy.settings import EvaluationSettings
from pc_engine.bench.accuracy.truth import Truth
from pc_engine.datasets import read_labelled
from pc_engine.errors import DataError, UsageError
from pc_engine.fitted.cluster_likelihood import ClusterLikelihood, PeakSettings
from pc_engine.manifest import Tap
from pc_engine.model import load_model
from pc_engine.modes import MODES, settings_for
from pc_engine.modes.combined import POINTER_KINDS
from pc_engine.modes.p2c_manifest import heat_name
from pc_engine.selection.execution import Execution

FAST = {"execution": Execution("onnxruntime", "fp32"), "workers": 2}
# What is found out as late as the network is opened.
NOWHERE = Execution(device="nowhere")
PLACES = [(1, 1), (6, 1), (1, 6), (6, 6), (4, 4)]


@pytest.fixture
def blobs(tmp_path: Path, draw_scene: Any) -> str:
    """Scenes of 0 to 5 blobs with boxes one cell large."""
    records = []
    for count in range(6):
        draw_scene(PLACES[:count]).save(tmp_path / f"{count}.png")
        boxes = [{"c": "blob", "b": [8 * x, 8 * y, 8, 8]} for x, y in PLACES[:count]]
        records.append({"file": f"{count}.png", "count": count, "boxes": boxes})
    (tmp_path / "labels.json").write_text(json.dumps({"set": "blobs", "images": records}))
    return str(tmp_path)


def run(data: str, model: Path, alternatives: Any = None, **options: Any) -> dict[str, Any]:
    settings = EvaluationSettings(model=str(model), **{**FAST, **options})
    found = ablate(data, read_labelled(data), settings, alternatives)
    assert json.loads(json.dumps(found)) == found
    return found


def test_each_trial_is_what_an_evaluation_with_that_setting_gives(
    blobs: str, tiny_directory: Path, tiny_manifest: Any, make_model: Any, tmp_path: Path
) -> None:
    found = run(blobs, tiny_directory, {"p2c.min_distance": [2, 5.5], "p2c.trim": [0.9]}, modes=("p2c",))
    trials = found["modes"]["p2c"]
    assert [(trial["setting"], trial["value"], trial["default"]) for trial in trials] == [
        (None, None, None),
        ("p2c.min_distance", 5.5, 2),  # 2 is the model's own
        ("p2c.trim", 0.9, 0.5),
    ]
    for trial, changes in zip(trials, ({}, {"p2c.min_distance": 5.5}, {"p2c.trim": 0.9}), strict=True):
        changed = replace(tiny_manifest, settings={**tiny_manifest.settings, **changes})
        model = make_model(tmp_path / f"changed{len(changes)}{trial['value']}", manifest=changed)
        expected = evaluate(blobs, read_labelled(blobs), EvaluationSettings(model=str(model), modes=("p2c",), **FAST))
        for name in ("count_accuracy", "pointing", "iou", "mean_pointer_area"):
            assert trial[name] == expected[name]
    # Blobs closer than 5.5 cells are one: the fifth, in the middle.
    assert trials[0]["count_accuracy"]["mean"] == 1
    assert trials[1]["count_accuracy"]["mean"] < 1
    assert trials[1]["gain"]["mean"]["gain"] == pytest.approx(trials[1]["count_accuracy"]["mean"] - 1)
    assert [trial["counts_changed"] for trial in trials] == [0, 4, 0]
    assert [trial["labels_changed"] for trial in trials] == [0, 4, 0]
    same = trials[0]["gain"]["mean"]
    assert same["gain"] == 0
    assert same["interval"][0] == -same["interval"][1] < 0  # on other images they might differ


def test_every_mode_has_alternatives_of_its_own_settings(blobs: str, tiny_directory: Path) -> None:
    found = run(blobs, tiny_directory, modes=("all",))
    assert list(found["modes"]) == list(MODES) == list(ALTERNATIVES)
    for mode, trials in found["modes"].items():
        # The network gives no evidence, so that nothing else can be pointed at.
        heat = "c2p.heat" if "counter" in MODES[mode].needs else "p2c.heat"
        # Nor is the class's heat weighed with any that could be clamped softly.
        unread = {"combined.heat", "p2c.softness"}
        recounted = {"counter.open_label"} if "counter" in MODES[mode].needs else set()
        assert {trial["setting"] for trial in trials} == {None, *ALTERNATIVES[mode], heat, *recounted} - unread
    # Other maps than the model's own, and both together.
    for mode, own in (("c2p", ["conv_last"]), ("p2c", [])):
        heats = [trial["value"] for trial in found["modes"][mode] if trial["setting"] == f"{mode}.heat"]
        assert heats == [each for each in ("conv_prev", "conv_last", "conv_prev conv_last") if each not in own]
    # The model's own distance is 2; what p2c would take on its grid of 8 x 8 without it comes first.
    distances = [trial["value"] for trial in found["modes"]["p2c"] if trial["setting"] == "p2c.min_distance"]
    assert distances == [pytest.approx(4 * 8 / 14), 3, 5, 6]
    (box,) = [trial for trial in found["modes"]["combined"] if trial["value"] == "box"]
    assert box["mean_pointer_area"] != found["modes"]["combined"][0]["mean_pointer_area"]


def test_the_models_own_heat_is_not_tried_again_in_another_order(
    blobs: str, tiny_manifest: Any, make_model: Any, tmp_path: Path
) -> None:
    own = {f"{mode}.heat": "conv_last conv_prev" for mode in ("c2p", "p2c")}
    manifest = replace(tiny_manifest, settings={**tiny_manifest.settings, **own})
    found = run(blobs, make_model(tmp_path / "own", manifest=manifest), modes=("c2p", "p2c"))
    for mode, expected in (("c2p", {"conv_last", "conv_prev"}), ("p2c", {"", "conv_last", "conv_prev"})):
        trials = found["modes"][mode]
        assert {trial["value"] for trial in trials if trial["setting"] == f"{mode}.heat"} == expected
    # Weighed heat is clamped softly and counted by prominence, beside which a distance is not read and a least density
    # has to be above that of noise; without both is tried first.
    tried = {name: [trial["value"] for trial in trials if trial["setting"] == name] for name in ALTERNATIVES["p2c"]}
    assert tried["p2c.min_distance"] == []
    assert min(tried["p2c.min_density"]) > 0.1
    assert tried["p2c.softness"][0] == tried["p2c.prominence"][0] == 0


def test_what_does_not_go_with_the_models_own_settings_is_not_tried(
    blobs: str, tiny_manifest: Any, make_model: Any, tmp_path: Path
) -> None:
    """Prominences, which weighed heat has by default, need a least density above that of noise."""
    manifest = replace(tiny_manifest, settings={**tiny_manifest.settings, "p2c.min_density": 0.1})
    trials = run(blobs, make_model(tmp_path / "own", manifest=manifest), modes=("p2c",))["modes"]["p2c"]
    tried = {trial["setting"] for trial in trials}
    assert {"p2c.trim", "p2c.min_density"} <= tried
    assert tried.isdisjoint({"p2c.prominence", "p2c.heat"})


def test_with_folds_the_counter_is_fitted_in_other_ways(
    blobs: str, tiny_manifest: Any, make_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Beside those of the counter; they are tried above, and each costs as much here.
    monkeypatch.setattr("pc_engine.bench.accuracy.ablation.ALTERNATIVES", {})
    labels = json.loads((Path(blobs) / "labels.json").read_text())
    images = list(labels["images"])
    for turn in range(11):
        for record in images:
            # What follows the end of a PNG makes another file, which may be in another fold.
            copy = f"{turn}-{record['file']}"
            (Path(blobs) / copy).write_bytes((Path(blobs) / record["file"]).read_bytes() + bytes([turn]))
            labels["images"].append({**record, "file": copy})
    (Path(blobs) / "labels.json").write_text(json.dumps(labels))
    features = ("gap", "logits", "conv_last")
    every = " ".join(features)
    model = make_model(tmp_path / "m", manifest=replace(tiny_manifest, count_features=features), counter=None)
    found = run(blobs, model, modes=("c2p", "combined"), folds=2)
    for mode, clusters in (
        ("c2p", []),
        ("combined", [("counter.clusters", "off", "on"), ("counter.beyond", "off", "on")]),
    ):
        trials = found["modes"][mode]
        assert [
            (each["setting"], each["value"], each["default"])
            for each in trials
            if each["setting"] and each["setting"].startswith("counter.")
        ] == [
            ("counter.coupling", "off", "on"),
            ("counter.aim", "overall", "mean"),
            ("counter.mirrored", "off", "on"),
            ("counter.normalise", "off", "on"),
            *clusters,
            *(("counter.features", value, every) for value in (*features, "gap logits")),
            ("counter.open_label", "BIC, cells", "its own"),
            ("counter.open_label", "BIC, effective cells", "its own"),
        ]
    # The class tells the count badly, so that clusters are worth something.
    poor = make_model(tmp_path / "n", manifest=replace(tiny_manifest, count_features=("logits",)), counter=None)
    found = run(blobs, poor, modes=("c2p", "combined"), folds=2)
    together, *others = found["modes"]["combined"]
    assert together["count_accuracy"]["mean"] == 1
    (alone,) = [each for each in others if each["setting"] == "counter.clusters"]
    assert alone["count_accuracy"] == found["modes"]["c2p"][0]["count_accuracy"] != together["count_accuracy"]
    assert "counter.features" not in {each["setting"] for each in others}
    given = run(blobs, model, {"c2p.mean_factor": [0.5]}, modes=("c2p",), folds=2)
    assert len(given["modes"]["c2p"]) == 2
    maps = make_model(tmp_path / "o", manifest=replace(tiny_manifest, count_features=("conv_last",)), counter=None)
    found = run(blobs, maps, modes=("c2p",), folds=2)["modes"]["c2p"]
    (one_sided,) = [each for each in found if each["setting"] == "counter.mirrored"]
    assert (one_sided["value"], one_sided["default"]) == ("off", "on")


def test_the_bic_of_mixtures_counts_under_the_open_label_alone(blobs: str, tiny_directory: Path) -> None:
    found = run(blobs, tiny_directory, modes=("c2p",))["modes"]["c2p"]
    usual, *others = found
    assert usual["count_accuracy"]["mean"] == 1
    assert usual["mean_absolute_error_open"] == 0.5  # 4 for the picture of 5, too
    for trial in (each for each in others if each["setting"] == "counter.open_label"):
        assert trial["count_accuracy"] == usual["count_accuracy"]
        assert trial["pointing"] == usual["pointing"]
        assert trial["mean_absolute_error"] == pytest.approx(trial["mean_absolute_error_open"] / 3)
        assert trial["labels_changed"] == 0
    assert any(trial["counts_changed"] for trial in others)
    (heat,) = [each for each in others if (each["setting"], each["value"]) == ("c2p.mean_factor", 0.5)]
    assert heat["mean_absolute_error_open"] == 0.5


def test_what_a_counter_settles_is_not_tried_in_vain(
    blobs: str, tiny_directory: Path, tiny_counter: Any, make_model: Any, tmp_path: Path
) -> None:
    manifest = load_model(tiny_directory).manifest
    signatures = str(heat_name(manifest, settings_for(manifest).p2c))
    table = np.zeros((6, len(tiny_counter.labels)), np.float32)
    witness = ClusterLikelihood(table, PeakSettings(1.0, 0.5, 2.0), signatures)
    weighing = make_model(tmp_path / "model", counter=replace(tiny_counter, clusters=witness))
    tried = {"p2c.cutoff": [3.0], "p2c.min_distance": [5.5], "p2c.mean_factor": [0.0]}
    for model, of_combined in ((tiny_directory, [*tried]), (weighing, ["p2c.mean_factor"])):
        said: list[str] = []
        settings = EvaluationSettings(model=str(model), modes=("p2c", "combined"), **FAST)
        found = ablate(blobs, read_labelled(blobs), settings, tried, report=said.append)
        settings_of = {mode: [trial["setting"] for trial in trials] for mode, trials in found["modes"].items()}
        assert settings_of == {"p2c": [None, *tried], "combined": [None, *of_combined]}
        left_out = [each for each in said if "not tried with another p2c.cutoff or p2c.min_distance:" in each]
        assert len(left_out) == (model == weighing)


@pytest.mark.parametrize(
    ("setting", "value", "modes", "readers"),
    [
        ("p2c.trim", 0.9, ("c2p",), "p2c"),
        ("p2c.classes", 2, ("combined", "c2p"), "p2c"),
        ("combined.pointer", "box", ("p2c",), "combined"),
        ("c2p.mean_factor", 0.5, ("p2c",), "c2p or combined"),
    ],
)
def test_a_setting_that_no_mode_reads_is_refused(
    blobs: str, tiny_directory: Path, setting: str, value: Any, modes: tuple[str, ...], readers: str
) -> None:
    expected = f"Mode {' or '.join(modes)} does not read the setting '{setting}': .* use --mode {readers}\\."
    with pytest.raises(UsageError, match=expected):
        run(blobs, tiny_directory, {setting: [value]}, modes=modes, execution=NOWHERE)


def test_a_setting_is_tried_in_the_modes_that_read_it(blobs: str, tiny_directory: Path) -> None:
    tried = {"p2c.trim": [0.9], "c2p.mean_factor": [0.5], "p2c.background_class": [2], "combined.pointer": ["box"]}
    found = run(blobs, tiny_directory, tried, modes=("all",))["modes"]
    assert {mode: [trial["setting"] for trial in trials] for mode, trials in found.items()} == {
        "c2p": [None, "c2p.mean_factor"],
        "p2c": [None, "p2c.trim", "p2c.background_class"],
        "combined": [None, "c2p.mean_factor", "p2c.background_class", "combined.pointer"],
    }


def test_what_combined_does_not_read_changes_no_row_of_it(blobs: str, tiny_directory: Path) -> None:
    other = {
        "p2c.eps": 3.0,
        "p2c.min_weight": 0.5,
        "p2c.pointer": "box",
        "p2c.trim": 0.9,
        "p2c.classes": 2,
        "p2c.class_share": 0.9,
        "p2c.class_overlap": 0.1,
    }
    assert {"p2c.cluster", *other} == {*MODES["combined"].unread}  # of another clustering there are no rows
    images = [image for image in read_labelled(blobs).images if image.count is not None]
    combined, settings = MODES["combined"], EvaluationSettings(**FAST)
    for pointer in POINTER_KINDS:
        plain = Contender(combined, changes={"combined.pointer": pointer})
        contenders = {"plain": plain, "other": replace(plain, changes={**plain.changes, **other})}
        truth = Truth(images)
        judged = judge(truth, load_model(tiny_directory), contenders, settings, lambda _: None, lambda *_: None)
        assert judged.rows["plain"] == judged.rows["other"]
        assert judged.told.get("plain") == judged.told.get("other")


@pytest.mark.parametrize(
    ("alternatives", "message"),
    [
        ({"p2c.size": [3]}, "There is no setting 'p2c.size': choose one of c2p.heat, c2p.mean_factor"),
        ({"p2c.trim": [2]}, "The setting p2c.trim is 2"),
        (
            {"p2c.heat": ["conv_last nosuch"]},
            "does not have the maps of p2c.heat=conv_last nosuch: choose among",
        ),
        (
            {"c2p.heat": ["logits"]},
            "'tiny' does not have the maps of c2p.heat=logits: choose among conv_prev",
        ),
        ({"p2c.signature": ["evidence"]}, "not have the tap of p2c.signature=evidence: leave that value out"),
    ],
)
def test_an_impossible_trial_is_said_before_anything_runs(
    blobs: str, tiny_directory: Path, alternatives: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(blobs, tiny_directory, alternatives, modes=("p2c", "c2p"), execution=NOWHERE)


def test_signatures_that_a_value_needs_are_missed_before_anything_runs(
    blobs: str, tiny_manifest: Any, make_model: Any, tmp_path: Path
) -> None:
    """The network gives evidence, of which the model makes do without a dictionary."""
    taps = {**tiny_manifest.taps, "evidence": Tap("gap", (tiny_manifest.taps["conv_last"].shape[0],))}
    model = make_model(tmp_path / "m", manifest=replace(tiny_manifest, taps=taps, settings={}), signatures=None)
    with pytest.raises(
        UsageError, match=r"not have the signatures of p2c\.signature=dictionary: .*fit-signatures DATA"
    ):
        run(blobs, model, {"p2c.signature": ["dictionary"]}, modes=("p2c",), execution=NOWHERE)


def test_labels_without_counts_are_no_data(tmp_path: Path, tiny_directory: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").touch()
    with pytest.raises(DataError, match="None of the images of"):
        run(str(tmp_path), tiny_directory)
