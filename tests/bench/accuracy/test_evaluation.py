"""`evaluate` on a folder in the form of MSO, whose figures are worked out by hand, and what else it is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pc_engine.bench.accuracy import contenders
from pc_engine.bench.accuracy.evaluation import accuracy_gain_of, evaluate
from pc_engine.bench.accuracy.settings import EvaluationSettings
from pc_engine.bench.accuracy.truth import Truth
from pc_engine.datasets import LabelledImage, read_labelled
from pc_engine.errors import DataError, ModelError, UsageError
from pc_engine.fitted.counter import CountSVM, labels_up_to
from pc_engine.manifest_file import read_manifest
from pc_engine.result import Result
from pc_engine.say import Say
from pc_engine.selection.execution import Execution

FAST = {"execution": Execution("onnxruntime", "fp32"), "workers": 2}
# What is found out as late as the network is opened.
NOWHERE = Execution(device="nowhere")

# Blobs fill cells of 8 x 8 pixels, and mode p2c of the tiny model points with just these cells:
# (1, 1) gives the box 8 8 16 16.
A, B, C, D, E = (1, 1), (6, 1), (1, 6), (6, 6), (4, 4)
# Name, label, blobs drawn, annotated corners.
MSO: list[tuple[str, int, list[Any], list[Any]]] = [
    # Right: 0 found.
    ("none.png", 0, [], []),
    # Right, and contained whole; the boxes are the same, so their intersection over union (IoU) is 1.
    ("exact.png", 1, [A], [[8, 8, 16, 16]]),
    # The pointer 48 8 56 16 has 6 of its 8 columns inside: .75. IoU: 48 / (64 + 10 * 8 - 48) = 1/2.
    ("most.png", 1, [B], [[50, 8, 60, 16]]),
    # Wrong: 2 found. Whichever of them is pointed at where the count is known, it is contained.
    ("wrong.png", 1, [A, D], [[8, 8, 56, 56]]),
    # Right. The first box is cut to 0 0 16 16, so it holds its pointer: IoU 64 / 256. The second holds half of its own,
    # which does not exceed .5: IoU 32 / (64 + 64 - 32) = 1/3.
    ("two.png", 2, [A, D], [[-4, -4, 16, 16], [52, 48, 60, 56]]),
    # Right. Two exact; the third pointer, 8 48 16 56, has 2 of 8 columns inside: .25. IoU 16 / (64 + 10 * 20 - 16).
    ("three.png", 3, [A, B, C], [[8, 8, 16, 16], [48, 8, 56, 16], [0, 40, 10, 60]]),
    # Right: the label's "4+" is read as 5, the number of boxes, and 5 are found. All exact.
    ("five.png", 4, [A, B, C, D, E], [[8 * x, 8 * y, 8 * x + 8, 8 * y + 8] for x, y in (A, B, C, D, E)]),
    # Right, but one box does not make two: no part in pointing.
    ("short.png", 2, [A, D], [[8, 8, 16, 16]]),
    # Right, without boxes: no part in pointing.
    ("unboxed.png", 1, [E], []),
    # Right, but one of three boxes lies outside the picture, which leaves two: no part in pointing.
    ("outside.png", 3, [A, B, C], [[8, 8, 16, 16], [48, 8, 56, 16], [70, 70, 80, 80]]),
]


@pytest.fixture(params=["7.3", "5"])
def mso(
    request: pytest.FixtureRequest, tmp_path: Path, draw_scene: Any, matlab_writers: dict[str, Callable[..., None]]
) -> Path:
    """The images of `MSO` in ``img/``, one that is broken and one that is missing, and the index beside."""
    folder = tmp_path / "MSO"
    (folder / "img").mkdir(parents=True)
    entries = []
    for name, label, cells, corners in MSO:
        draw_scene(cells).save(folder / "img" / name)
        entries.append({"name": name, "label": label, "anno": corners})
    (folder / "img" / "broken.png").write_bytes(b"no picture")
    entries += [{"name": name, "label": 1, "anno": [[0, 0, 9, 9]]} for name in ("broken.png", "missing.png")]
    matlab_writers[request.param](folder / "imgIdx.mat", entries)
    return folder


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG that no other file is the same as, though it may show the same."""
    text = PngInfo()
    text.add_text("Title", path.name)
    picture.save(path, pnginfo=text)


def run(data: str, model: Path, say: Say = lambda _: None, **options: Any) -> dict[str, Any]:
    settings = EvaluationSettings(model=str(model), **{**FAST, **options})
    report = evaluate(data, read_labelled(data), settings, report=say)
    assert json.loads(json.dumps(report)) == report
    return report


def test_a_folder_like_mso_gives_what_was_worked_out_by_hand(mso: Path, tiny_directory: Path) -> None:
    report = run(f"mso:{mso}", tiny_directory, modes=("p2c",))
    assert (report["mode"], report["model"], report["images"]) == ("p2c", "tiny", 11)
    # Ten could be read; one is broken, and one was never there.
    assert (report["n"], report["failed"], report["skipped"]) == (10, 1, 1)
    ((path, why),) = report["failures"]
    assert path.endswith("broken.png")
    assert why
    # Of the four images with one object, one was given two; all others are right.
    assert report["count_accuracy"] == pytest.approx(
        {"0": 1, "1": 3 / 4, "2": 1, "3": 1, "4+": 1, "mean": (1 + 3 / 4 + 1 + 1 + 1) / 5, "overall": 9 / 10}
    )
    confusion = np.diag([1, 3, 2, 2, 1])
    confusion[1, 2] = 1
    assert report["confusion"] == {"labels": ["0", "1", "2", "3", "4+"], "rows_true": confusion.tolist()}
    assert report["mean_absolute_error"] == pytest.approx(1 / 10)
    # At .5: both of one object; the first of two; two of three; all of five. At .8 the one at .75 falls away.
    assert report["pointing_images"] == {"1": 2, "2": 1, "3": 1, "4+": 1}
    assert report["pointing"]["0.5"] == pytest.approx(
        {"1": 1, "2": 1 / 2, "3": 2 / 3, "mean": (1 + 1 / 2 + 2 / 3) / 3, "4+": 1}
    )
    assert report["pointing"]["0.8"] == pytest.approx(
        {"1": 1 / 2, "2": 1 / 2, "3": 2 / 3, "mean": (1 / 2 + 1 / 2 + 2 / 3) / 3, "4+": 1}
    )
    # All 1 + 1 + 2 + 3 + 5 pointers together.
    curve = dict(zip(report["pointing_curve"]["ratio"], report["pointing_curve"]["containment"], strict=True))
    expected = {0.2: 12, 0.25: 11, 0.45: 11, 0.5: 10, 0.7: 10, 0.75: 9, 0.95: 9, 1.0: 0}
    assert {ratio: curve[ratio] for ratio in expected} == pytest.approx({r: n / 12 for r, n in expected.items()})
    assert report["iou"] == pytest.approx((1 + 1 / 2 + (1 / 4 + 1 / 3) + (1 + 1 + 16 / 248) + 5) / 12)
    assert report["mean_pointer_area"] == pytest.approx(64 / 64**2)
    assert report["boxes"] == {
        "judged": 5, "wrong_count": 1, "no_boxes": 1, "disagree": 2, "clipped": 1, "outside": 1
    }  # fmt: skip
    # Where counts are known, the image with a wrong one takes part as well, and its pointer is contained.
    known = report["known_count"]
    assert known["pointing_images"] == {"1": 3, "2": 1, "3": 1, "4+": 1}
    assert known["boxes"] == {**report["boxes"], "judged": 6, "wrong_count": 0}
    assert known["pointing"]["0.5"] == report["pointing"]["0.5"]
    assert known["pointing"]["0.8"]["1"] == pytest.approx(2 / 3)
    # Guessing by the shares .1, .4, .2, .2, .1 of the labels.
    assert report["baselines"]["chance"]["count_accuracy"] == pytest.approx(
        {"0": 0.1, "1": 0.4, "2": 0.2, "3": 0.2, "4+": 0.1, "mean": 0.2, "overall": 0.01 + 0.16 + 0.04 + 0.04 + 0.01}
    )
    assert report["baselines"]["spectral residual"]["n"] == 10


def test_every_figure_has_its_interval(mso: Path, tiny_directory: Path) -> None:
    report = run(f"mso:{mso}", tiny_directory, modes=("p2c",))
    assert report == run(f"mso:{mso}", tiny_directory, modes=("p2c",))  # seeded
    for name in ("count_accuracy", "mean_absolute_error", "iou"):
        assert_within(report[name], report[f"{name}_interval"])
    assert report["mean_pointer_area_interval"] is None  # all have the same
    for name in ("pointing", "pointing_iou"):
        for ratio, of_label in report[name].items():
            intervals = report[f"{name}_interval"][ratio]
            alone = {label for label, n in report["pointing_images"].items() if n == 1}
            assert {label for label, interval in intervals.items() if interval is None} == alone == {"2", "3", "4+"}
            for label in of_label.keys() - alone:
                assert_within(of_label[label], intervals[label])
    curve = report["pointing_curve"]
    for name in ("containment", "intersection_over_union"):
        for value, (low, high) in zip(curve[name], curve[f"{name}_interval"], strict=True):
            assert low <= value <= high


def assert_within(value: Any, interval: Any) -> None:
    if isinstance(value, dict):
        assert value.keys() == interval.keys()
        for name in value:
            assert_within(value[name], interval[name])
    else:
        assert interval[0] - 1e-12 <= value <= interval[1] + 1e-12


def test_a_folder_like_sos_is_counted_but_not_pointed_at(
    tmp_path: Path, draw_scene: Any, tiny_directory: Path, matlab_writers: dict[str, Callable[..., None]]
) -> None:
    entries = []
    for place, (name, label, cells, _) in enumerate(MSO):
        draw_scene(cells).save(tmp_path / name)
        entries.append({"name": name, "label": label, "istest": place % 2})
    matlab_writers["7.3"](tmp_path / "imgIdx.mat", entries)
    report = run(f"sos:{tmp_path}#test", tiny_directory)
    # Of exact, wrong, three, short and outside the second is wrong.
    assert (report["mode"], report["n"]) == ("c2p", 5)
    assert report["count_accuracy"] == pytest.approx({"1": 1 / 2, "2": 1, "3": 1, "mean": 5 / 6, "overall": 4 / 5})
    assert set(report["pointing"]["0.5"].values()) == {None}
    assert report["boxes"]["no_boxes"] == 5


def test_all_modes_share_one_network_and_agree_with_each_alone(mso: Path, tiny_directory: Path) -> None:
    together = run(f"mso:{mso}", tiny_directory, modes=("all",))
    assert list(together["modes"]) == ["c2p", "p2c", "combined"]
    assert "count_accuracy" not in together
    # Where both are asked about all images, the gain is the difference of what each has.
    for other in ("c2p", "p2c"):
        ours, theirs = (together["modes"][mode]["known_count"]["pointing"]["0.5"] for mode in ("combined", other))
        gain = together["gains"][f"combined over {other}"]["known_count"]
        assert gain["images"] == 6
        assert gain["0.5"]["gain"] == pytest.approx(ours["mean"] - theirs["mean"])
    for mode in together["modes"]:
        alone = run(f"mso:{mso}", tiny_directory, modes=(mode,))
        assert alone["modes"][mode] == together["modes"][mode]
        assert {name: alone[name] for name in together["modes"][mode] if name != "failed"} == {
            name: value for name, value in together["modes"][mode].items() if name != "failed"
        }


@pytest.fixture
def blobs(tmp_path: Path, draw_scene: Any) -> Path:
    """A folder with labels.json: each of five counts four times, and one picture that is broken."""
    (tmp_path / "broken.png").write_bytes(b"no picture")
    records = [{"file": "broken.png", "count": 2, "boxes": []}, *draw_counts(tmp_path, draw_scene, [A, B, C, D], 4, 5)]
    (tmp_path / "labels.json").write_text(json.dumps({"images": records}))
    return tmp_path


def draw_counts(folder: Path, draw_scene: Any, places: list[Any], turns: int, counts: int) -> list[dict[str, Any]]:
    """Draw pictures of 0 to ``counts`` - 1 blobs, each number ``turns`` times elsewhere; return their labels."""
    records = []
    for turn in range(turns):
        for count in range(counts):
            chosen = (places[turn:] + places[:turn])[:count]
            save(draw_scene(chosen), folder / f"{turn}-{count}.png")
            boxes = [{"c": "red", "b": [column * 8, row * 8, 8, 8]} for column, row in chosen]
            records.append({"file": f"{turn}-{count}.png", "count": count, "boxes": boxes})
    return records


def test_folds_fit_what_the_model_lacks(blobs: Path, make_model: Callable[..., Path], tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", counter=None)
    with pytest.raises(ModelError, match="fit-counter"):
        run(str(blobs), model)
    report = run(str(blobs), model, modes=("all",), folds=4)
    assert report["folds"]["k"] == len(report["folds"]["c"]) == 4
    assert [report["modes"][mode]["n"] for mode in report["modes"]] == [20, 20, 20]
    assert report["failed"] == 1
    # Five features, fifteen pictures to learn from: chance is .2.
    assert report["modes"]["c2p"]["count_accuracy"]["mean"] >= 0.6
    assert report["modes"]["combined"]["boxes"]["judged"] > 0
    # How common a class is in the failure analysis is told of the images that a counter was fitted on.
    with_folds, alone = report["modes"]["p2c"], run(str(blobs), model, modes=("p2c",))["modes"]["p2c"]
    assert with_folds.pop("failure_analysis")["scale"] == alone.pop("failure_analysis")["scale"]
    assert with_folds == alone
    assert not (model / "counter.safetensors").exists()


def test_folds_judge_each_image_by_the_counter_that_did_not_see_it(
    blobs: Path, tiny_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: dict[int, int] = {}
    found = contenders.held_out_counters

    def spy(*arguments: Any, **options: Any) -> Any:
        folds = found(*arguments, **options)
        [of_fit] = folds.values()
        judged.update({place: id(fold.counter) for fold in of_fit for place in fold.places.tolist()})
        return folds

    monkeypatch.setattr(contenders, "held_out_counters", spy)
    used: dict[int, set[str]] = {}
    engine_of = contenders.Engine.evaluate

    def note(engine: Any, batch: Any, *known_count: Any) -> Any:
        rows = engine_of(engine, batch, *known_count)
        used.setdefault(id(engine.model.parts.counter), set()).update(Path(row.path).name for row in rows if row.ok)
        return rows

    monkeypatch.setattr(contenders.Engine, "evaluate", note)
    run(str(blobs), tiny_directory, folds=4)
    # The places are those of the images that can be read, which follow the broken one.
    names = [image.path.name for image in read_labelled(str(blobs)).images][1:]
    assert used == {
        counter: {names[place] for place in judged if judged[place] == counter} for counter in judged.values()
    }
    assert len(used) == 4


@pytest.fixture
def crowds(tmp_path: Path, draw_scene: Any) -> Path:
    """A folder with labels.json: 0 to 7 blobs three times each, and a box for each blob."""
    records = draw_counts(tmp_path, draw_scene, [A, B, C, D, E, (4, 1), (1, 4)], 3, 8)
    (tmp_path / "labels.json").write_text(json.dumps({"images": records}))
    return tmp_path


def counter_of(labels: tuple[str, ...], tiny_counter: CountSVM) -> CountSVM:
    """The tiny model's counter with other labels."""
    angles = np.arctan2([int(label.removesuffix("+")) for label in labels], 2)
    brightness, constant = np.flatnonzero(tiny_counter.weights["gap"].any(axis=0))
    weights = np.zeros((len(labels), tiny_counter.weights["gap"].shape[1]), np.float32)
    weights[:, brightness], weights[:, constant] = np.sin(angles), np.cos(angles)
    return CountSVM(("gap",), labels, {"gap": weights}, np.zeros(len(labels), np.float32))


def test_a_counter_is_judged_by_its_own_labels(
    crowds: Path, make_model: Callable[..., Path], tiny_counter: CountSVM, tmp_path: Path
) -> None:
    labels = labels_up_to(6)
    model = make_model(tmp_path / "model", counter=counter_of(labels, tiny_counter))
    report = run(str(crowds), model, modes=("all",))
    assert tuple(report["labels"]) == labels
    c2p = report["modes"]["c2p"]
    assert c2p["count_accuracy"] == dict.fromkeys((*labels, "mean", "overall"), 1.0)
    assert c2p["confusion"]["labels"] == list(labels)
    assert np.diag(c2p["confusion"]["rows_true"]).tolist() == [3] * 6 + [6]
    assert c2p["pointing_images"] == {"1": 3, "2": 3, "3": 3, "4": 3, "5": 3, "6+": 6}
    assert c2p["class_accuracy_by_count"] == {}
    assert set(report["modes"]["p2c"]["class_accuracy_by_count"]) == set(labels[1:])
    assert report["baselines"]["chance"]["count_accuracy"]["mean"] == pytest.approx(1 / 7)
    assert tuple(report["baselines"]["spectral residual"]["confusion"]["labels"]) == labels
    # The paper's rows are of other labels.
    assert report["published"] == {"count_accuracy": {}, "pointing": {}}
    # 4 and 5 are one label there.
    as_published = run(str(crowds), model, modes=("all",), max_count=4)
    assert as_published["labels"] == ["0", "1", "2", "3", "4+"]
    assert as_published["modes"]["c2p"]["pointing_images"]["4+"] == 12
    assert as_published["published"]["count_accuracy"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("0", "1", "2", "3"), labels_up_to(4)),
        (("1", "2", "4+"), labels_up_to(4)),
        (("0", "2"), labels_up_to(3)),
        (("0", "1+"), ("0", "1+")),
        (("0", "5000"), labels_up_to(1000)),
    ],
)
def test_images_of_counts_that_a_counter_has_no_label_for_are_judged(
    crowds: Path,
    make_model: Callable[..., Path],
    tiny_counter: CountSVM,
    tmp_path: Path,
    labels: tuple[str, ...],
    expected: tuple[str, ...],
) -> None:
    model = make_model(tmp_path / "model", counter=counter_of(labels, tiny_counter))
    report = run(str(crowds), model)
    assert (tuple(report["labels"]), report["n"]) == (expected, 24)
    assert bool(report["published"]["pointing"]) == (expected == labels_up_to(4))


def test_counters_of_folds_have_the_labels_that_are_asked_for(
    crowds: Path, make_model: Callable[..., Path], tiny_counter: CountSVM, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "model", counter=None)
    assert run(str(crowds), model, folds=3)["labels"] == ["0", "1", "2", "3", "4+"]
    report = run(str(crowds), model, folds=3, max_count=6)
    assert tuple(report["labels"]) == labels_up_to(6)
    # Six are answered, where counters up to 4+ would end at four.
    assert np.array(report["confusion"]["rows_true"])[:, 6].any()
    counter_of(labels_up_to(7), tiny_counter).save(model / "counter.safetensors")
    assert tuple(run(str(crowds), model, folds=3)["labels"]) == labels_up_to(7)
    with pytest.raises(UsageError, match="--max-count is 0"):
        run(str(crowds), model, max_count=0)


def test_all_leaves_out_what_the_model_cannot_run(blobs: Path, make_model: Callable[..., Path], tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", signatures=None)
    said: list[str] = []
    settings = EvaluationSettings(model=str(model), modes=("all",), **FAST)
    report = evaluate("blobs", read_labelled(str(blobs)), settings, report=said.append)
    assert list(report["modes"]) == ["c2p"]
    assert "Mode p2c is left out: the model has no signatures." in said
    with pytest.raises(ModelError, match="fit-signatures"):
        run(str(blobs), model, modes=("c2p", "p2c"))
    with pytest.raises(ModelError, match="fit-signatures"):
        run(str(blobs), model, modes=("combined",), folds=2)


def test_a_photo_that_lies_there_twice_is_not_learnt_from_where_it_is_judged(
    blobs: Path, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    raw = json.loads((blobs / "labels.json").read_text())
    for record in list(raw["images"]):
        (blobs / f"copy-{record['file']}").write_bytes((blobs / record["file"]).read_bytes())
        raw["images"].append({**record, "file": f"copy-{record['file']}"})
    (blobs / "labels.json").write_text(json.dumps(raw))
    report = run(str(blobs), make_model(tmp_path / "model", counter=None), folds=4)
    assert (report["n"], report["folds"]["groups"]) == (40, 20)


def test_wrong_use_is_said(blobs: Path, tiny_directory: Path, tmp_path: Path) -> None:
    for options, expected in (
        ({"modes": ("p2c",), "folds": 3}, "omit --folds"),
        ({"modes": ("c2p",), "cluster": "dbscan"}, "omit --cluster"),
        ({"modes": ("both",)}, "no mode 'both'"),
        ({"folds": 1}, "1 folds of 20 images"),
    ):
        with pytest.raises(UsageError, match=expected):
            run(str(blobs), tiny_directory, **options)
    (tmp_path / "labels.csv").write_text("path,class\n0-1.png,red\n")
    (tmp_path / "labels.json").unlink()
    with pytest.raises(DataError, match="has a count"):
        run(str(blobs), tiny_directory)


def test_a_set_of_which_nothing_can_be_read_is_said(tmp_path: Path, tiny_directory: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "labels.csv").write_text("path,count\na.png,1\n")
    for folds in (None, 2):
        with pytest.raises(DataError, match="None of the 1 images can be read; the first: It is not an image"):
            run(str(tmp_path), tiny_directory, folds=folds)


def test_a_clustering_applies_to_the_modes_that_take_it(blobs: Path, tiny_directory: Path) -> None:
    said: list[str] = []
    report = run(str(blobs), tiny_directory, said.append, modes=("all",), cluster="dbscan")
    assert "'dbscan' is for mode p2c alone; the others stay as they are." in said
    assert (report["cluster"], report["pointer"]) == ("dbscan", None)
    manifest = read_manifest(tiny_directory)
    assert (report["settings"], report["network_sha256"]) == (manifest.settings, manifest.network_sha256)
    assert report["modes"]["p2c"]["known_count"] is None
    assert report["gains"]["combined over p2c"]["known_count"] is None
    assert report["gains"]["combined over c2p"]["known_count"]["images"] == 16
    assert report["modes"]["p2c"] == run(str(blobs), tiny_directory, modes=("p2c",), cluster="dbscan")["modes"]["p2c"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"cluster": "k-means"}, "There is no clustering 'k-means'"),
        ({"modes": ("c2p", "combined"), "cluster": "dbscan"}, "which only density-peaks can give"),
        ({"pointer": "dot"}, "There is no pointer 'dot' for mode combined"),
        ({"modes": ("c2p",), "pointer": "box"}, "Mode c2p points in one way only"),
    ],
)
def test_what_no_mode_takes_is_wrong_use(
    choice: dict[str, Any], message: str, blobs: Path, tiny_directory: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        run(str(blobs), tiny_directory, **{"modes": ("c2p", "p2c", "combined"), **choice})


def test_a_pointer_applies_to_the_modes_that_have_it(blobs: Path, tiny_directory: Path) -> None:
    usual, boxes, ellipses = (
        run(str(blobs), tiny_directory, modes=("all",), pointer=pointer) for pointer in (None, "box", "ellipse")
    )
    assert [report["pointer"] for report in (usual, boxes, ellipses)] == [None, "box", "ellipse"]
    assert ellipses["modes"] == usual["modes"]
    assert boxes["modes"]["c2p"] == usual["modes"]["c2p"]
    for mode in ("p2c", "combined"):
        assert boxes["modes"][mode]["count_accuracy"] == usual["modes"][mode]["count_accuracy"]
        assert boxes["modes"][mode]["mean_pointer_area"] > usual["modes"][mode]["mean_pointer_area"]


def test_a_crowd_without_boxes_is_not_pointed_at_for_nothing(
    tmp_path: Path, draw_scene: Any, tiny_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    engine_of = contenders.Engine.evaluate

    def note(engine: Any, batch: Any, known_count: Any = None) -> Any:
        told.extend([] if known_count is None else known_count.tolist())
        return engine_of(engine, batch, known_count)

    monkeypatch.setattr(contenders.Engine, "evaluate", note)
    for name in ("a", "b"):
        save(draw_scene([A, B]), tmp_path / f"{name}.png")
    (tmp_path / "labels.csv").write_text("path,count\na.png,1000\nb.png,2\n")
    report = run(str(tmp_path), tiny_directory, modes=("combined",))
    assert told == [0, 0]
    assert report["known_count"]["boxes"]["no_boxes"] == 2
    assert report["known_count"]["pointing"]["0.5"]["mean"] is None


def test_a_file_with_two_sets_of_labels_is_pointed_at_for_each(
    tmp_path: Path, draw_scene: Any, tiny_directory: Path
) -> None:
    save(draw_scene([A, B]), tmp_path / "a.png")
    boxes = [{"c": "red", "b": [8 * x, 8 * y, 8, 8]} for x, y in (A, B)]
    entries = [{"file": "a.png", "count": 2, "boxes": found} for found in (boxes, [])]
    (tmp_path / "labels.json").write_text(json.dumps({"images": entries}))
    known = run(str(tmp_path), tiny_directory, modes=("combined",))["known_count"]
    assert (known["boxes"]["judged"], known["boxes"]["no_boxes"]) == (1, 1)
    assert known["pointing"]["0.5"]["2"] == 1


def test_progress_ends_where_it_is_said_to(blobs: Path, tiny_directory: Path) -> None:
    steps: dict[str, list[tuple[int, int]]] = {}
    evaluate(
        "blobs",
        read_labelled(str(blobs)),
        EvaluationSettings(model=str(tiny_directory), folds=2, **FAST),
        progress=lambda stage, done, total: steps.setdefault(stage, []).append((done, total)),
    )
    assert list(steps) == ["features", "counters", "images", "spectral residual"]
    assert all(seen[-1][0] == seen[-1][1] for seen in steps.values())


def test_folds_keep_groups_together_and_know_how_common_a_class_is(
    tmp_path: Path, draw_scene: Any, tiny_directory: Path
) -> None:
    places, records = [A, B, C, D], []
    for turn in range(6):
        for count in range(5):
            name = f"{turn}-{count}.png"
            save(draw_scene(places[:count]), tmp_path / name)
            boxes = [{"c": "cat" if turn == 0 else "dog", "b": [8 * x, 8 * y, 8, 8]} for x, y in places[:count]]
            kind = boxes[0]["c"] if boxes else None
            records.append({"file": name, "count": count, "dominant": kind, "boxes": boxes, "group": turn // 2})
    (tmp_path / "labels.json").write_text(json.dumps({"images": records}))
    report = run(str(tmp_path), tiny_directory, modes=("all",), folds=3)
    assert (report["folds"]["groups"], report["folds"]["unseen_classes"]) == (3, False)
    # The fold of turns 0 and 1 is judged by twenty images, sixteen of them dogs; it alone has cats. The others by ten
    # of that fold, four cats and four dogs, and ten more, eight dogs.
    by_frequency = report["modes"]["c2p"]["failure_analysis"]["class_frequency"]["bins"]
    assert [(entry["up_to"], entry["images"]) for entry in by_frequency] == [(0.0, 4), (1.0, 20)]
    analysis = report["modes"]["p2c"]["failure_analysis"]
    assert sum(entry["images"] for entry in analysis["scale"]["bins"]) == 24
    # A cell is an eighth of the side; two of them leave four or five cells between.
    assert [entry["up_to"] for entry in analysis["scale"]["bins"]] == [0.15]
    assert [(entry["up_to"], entry["images"]) for entry in analysis["spacing"]["bins"]] == [(None, 18)]
    (dog,) = analysis["classes"]
    assert (dog["class"], dog["images"], dog["right"]) == ("dog", 20, 1)
    assert dog["frequency"] == pytest.approx((4 * 16 / 20 + 16 * 12 / 20) / 20)
    with pytest.raises(UsageError, match="4 folds were asked for, but the images form 3 groups"):
        run(str(tmp_path), tiny_directory, folds=4)


def test_classes_can_be_kept_from_the_counter(tmp_path: Path, draw_scene: Any, tiny_directory: Path) -> None:
    rows = ["path,count,class"]
    for kind in ("cat", "dog", "cow"):
        for count in range(4):
            for turn in range(2):
                name = f"{kind}-{count}-{turn}.png"
                save(draw_scene([A, B, C][:count]), tmp_path / name)
                rows.append(f"{name},{count},{kind if count else ''}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    report = run(str(tmp_path), tiny_directory, folds=3, unseen_classes=True)
    assert report["folds"]["unseen_classes"]
    assert report["folds"]["groups"] == 3 + 6  # each picture without objects stands for itself
    analysis = report["failure_analysis"]
    assert [(entry["up_to"], entry["images"]) for entry in analysis["class_frequency"]["bins"]] == [(0.0, 18)]
    assert analysis["scale"]["bins"] == []
    with pytest.raises(UsageError, match="add --folds 5"):
        run(str(tmp_path), tiny_directory, unseen_classes=True)
    (tmp_path / "labels.csv").write_text("\n".join(row.rpartition(",")[0] for row in rows))
    with pytest.raises(UsageError, match="The labels name no classes"):
        run(str(tmp_path), tiny_directory, folds=3, unseen_classes=True, execution=NOWHERE)


def test_modes_that_share_no_image_cannot_be_compared() -> None:
    image = LabelledImage(Path("a.png"), 1)
    row = Result("a.png", "ok", None, 8, 8, "c2p", "tiny", count=1)
    with pytest.raises(DataError, match="There is no image with a known count"):
        accuracy_gain_of(Truth([image]), [row], [Result("a.png", "error", "why", None, None, "p2c", "tiny")])
