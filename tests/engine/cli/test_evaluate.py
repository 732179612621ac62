import errno
import json
import os
import re
import sys

import pytest

FAST = ("--backend", "onnxruntime", "--precision", "fp32")


def test_help_shows_the_form_of_the_labels(pc_engine):
    shown = " ".join(pc_engine("evaluate", "--help").out.split())
    assert (
        '"boxes": [{"c": "apple", "b": [x, y, width, height]}]}, ...]}, where "boxes" or "count" may be omitted'
        in shown
    )


@pytest.mark.parametrize(("command", "part"), [("evaluate", "sos:DIR#test"), ("fit-counter", "sos:DIR#train")])
def test_help_names_the_parts_of_the_papers_split(pc_engine, command, part):
    assert part in "".join(pc_engine(command, "--help").out.split())


@pytest.fixture
def boxed(scenes):
    """The folder of scenes with labels.json: counts right for all but the last, boxes a little off the blobs."""
    places = [(1, 1), (6, 1), (1, 6), (6, 6)]
    records = [{"file": "broken.jpg", "count": 2, "boxes": []}, {"file": "absent.jpg", "count": 2, "boxes": []}]
    for count in range(5):
        boxes = [{"c": "red", "b": [column * 8 + 1, row * 8, 8, 8]} for column, row in places[:count]]
        records.append({"file": f"{count}.png", "count": count if count < 4 else 3, "boxes": boxes})
    records[-1]["boxes"].append({"c": "red", "b": [-80, 0, 8, 8]})
    (scenes / "labels.json").write_text(json.dumps({"set": "blobs", "images": records}))
    return scenes


def test_tables_stand_beside_the_published_ones(pc_engine, boxed, tiny_directory):
    outcome = pc_engine("evaluate", boxed, "--mode", "all", "--model", tiny_directory, *FAST)
    assert outcome.code == 0, outcome.err
    for expected in (
        *("Zhang et al.", "P2C (paper)", "chance, here", "spectral residual, here", "combined, here"),
        *("Pointing accuracy at overlap 0.5", "Pointing accuracy at overlap 0.8", "Confusion of p2c"),
        *("mean absolute error", "95 % interval", "mean IoU", "What combined gains over other modes"),
        *("Pointing accuracy at overlap 0.8 on all images, by modes that are told the true count",),
        *("pointing at 0.5, where both count right (", "pointing at 0.8, told the count ("),
        *("Images that every one of these modes counts wrong", "c2p, p2c, combined", "if independent"),
        *("1 box lay outside its picture", "2 items were skipped", "broken.jpg", "absent.jpg"),
    ):
        assert expected in outcome.out
    # What was measured here is what the table is read for.
    first = [line.split("│")[1].strip() for line in outcome.out.split("┡", 1)[1].splitlines() if line.startswith("│")]
    assert first[:6:2] == ["c2p, here", "p2c, here", "combined, here"]
    assert first.index("Chance (paper)") > first.index("spectral residual, here")
    # 7 of 8 columns of every pointer are inside.
    (first, *_) = [line for line in outcome.out.splitlines() if "p2c, here" in line and "1.00" in line]
    assert first.count("1.00") >= 3


def test_intervals_are_as_wide_as_few_images_leave_them(pc_engine, scenes, tiny_directory):
    boxes = [{"c": "red", "b": [8, 8, 8, 8]}]
    # The first is right; the others have one object, of which the labels say two.
    images = [{"file": "1.png", "count": 1, "boxes": boxes}, *({"file": "1.png", "count": 2} for _ in range(5))]
    for place, image in enumerate(images[1:]):
        (scenes / f"copy{place}.png").write_bytes((scenes / "1.png").read_bytes())
        image["file"] = f"copy{place}.png"
    _label(scenes, *images)
    shown = pc_engine("evaluate", scenes, "--model", tiny_directory, "--mode", "p2c", *FAST).out
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines()]
    start = next(place for place, line in enumerate(lines) if line[:1] == ["p2c, here"])
    assert lines[start] == ["p2c, here", "-", "100", "0", "-", "-", "50", "17"]
    assert lines[start + 1] == ["95 % interval", "-", "21-100", "0-43", "-", "-", "10-72", "0-50"]
    # Pointing is of one image, and so is what it is.
    pointing = next(place for place, line in enumerate(lines) if line[:2] == ["p2c, here", "1.00"])
    assert lines[pointing + 1] == ["95 % interval", *"-----"]
    assert ["p2c, here", "1", "1.00", "-"] in [line[:4] for line in lines]


def test_an_error_that_is_the_same_in_all_images_has_no_interval(pc_engine, scenes, tiny_directory):
    _label(scenes, *({"file": f"{n}.png", "count": n} for n in range(3)))
    shown = pc_engine("evaluate", scenes, "--model", tiny_directory, "--mode", "p2c", *FAST).out
    assert "p2c: 3 images, overall 100.0% right, mean absolute error 0.00." in shown


def test_other_labels_have_columns_and_charts_of_their_own(pc_engine, boxed, tiny_directory, tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ("evaluate", boxed, "--model", tiny_directory, "--max-count", "6", "--out", tmp_path / "out", *FAST)
    outcome = pc_engine(*arguments)
    assert outcome.code == 0, outcome.err
    assert "6+" in outcome.out
    assert "4+" not in outcome.out
    # The paper's rows are of other labels.
    assert "paper" not in outcome.out
    assert "published" not in outcome.out
    assert (tmp_path / "out" / "count-accuracy.png").exists()
    ablation = pc_engine("bench", "ablation", boxed, "--model", tiny_directory, "--max-count", "2", "--json", *FAST)
    (first, *_) = ablation.json()["modes"]["c2p"]
    assert set(first["count_accuracy"]) == {"0", "1", "2+", "mean", "overall"}


def test_json_has_the_figures_of_one_mode_at_the_top(pc_engine, boxed, tiny_directory):
    outcome = pc_engine("evaluate", boxed, "--mode", "p2c", "--model", tiny_directory, "--json", *FAST)
    assert outcome.code == 0
    report = outcome.json()
    assert report["n"] == 5
    assert report["count_accuracy"] == {"0": 1, "1": 1, "2": 1, "3": 0.5, "mean": 0.875, "overall": 0.8}
    assert report["pointing"]["0.8"] == {"1": 1, "2": 1, "3": 1, "4+": None, "mean": 1}
    assert report["pointing_interval"]["0.8"]["1"] is None  # of a single image
    assert report["iou"] == pytest.approx(7 / 9)
    assert report["mean_pointer_area"] == pytest.approx(1 / 64)
    assert (report["failed"], report["skipped"]) == (1, 1)
    ((item, reason),) = report["skipped_items"]
    assert "absent.jpg" in item
    assert reason


def test_several_modes_are_named_one_by_one(pc_engine, boxed, tiny_directory):
    modes = ("--mode", "P2C", "--mode", "c2p")
    report = pc_engine("evaluate", boxed, *modes, "--model", tiny_directory, "--json", *FAST).json()
    assert list(report["modes"]) == ["p2c", "c2p"]


def test_out_gets_figures_and_charts(pc_engine, boxed, tiny_directory, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "new" / "out"
    outcome = pc_engine("evaluate", boxed, "--model", tiny_directory, "--out", out, "--json", *FAST)
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in out.iterdir()) == [
        *("confusion.png", "count-accuracy.png", "evaluation.json", "pointing-accuracy.png")
    ]
    assert json.loads((out / "evaluation.json").read_text()) == outcome.json()


@pytest.mark.parametrize("command", [("evaluate",), ("bench", "ablation")])
def test_out_replaces_nothing_but_an_earlier_measurement(pc_engine, boxed, tiny_directory, tmp_path, command):
    pytest.importorskip("matplotlib")
    own = "ablation.json" if "ablation" in command else "evaluation.json"
    asked = (*command, boxed, "--mode", "p2c", "--model", tiny_directory, "--quiet", *FAST)
    asked += ("--try", "p2c.trim=0") if "ablation" in command else ()
    out = tmp_path / "out"
    assert pc_engine(*asked, "--out", out).code == 0
    (out / own).write_text((out / own).read_text()[:200])  # as if the disk had been full
    assert pc_engine(*asked, "--out", out).code == 0
    json.loads((out / own).read_text())

    others = tmp_path / "others"
    others.mkdir()
    (others / "confusion.png").write_text("a picture")
    refused = pc_engine(*asked, "--out", others)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == f"pc-engine: {others} exists and is not empty: remove it, or name another directory.\n"
    (others / own).write_text('{"accuracy": 1}')
    refused = pc_engine(*asked, "--out", others)
    assert (refused.code, refused.out) == (2, "")
    assert f"{own} exists, and no {own.removesuffix('.json')} wrote it: choose another name." in refused.err
    left = {path.name: path.read_text() for path in others.iterdir()}
    assert left == {"confusion.png": "a picture", own: '{"accuracy": 1}'}


@pytest.mark.parametrize("command", [("evaluate",), ("bench", "ablation")])
def test_figures_that_cannot_be_written_are_printed_all_the_same(
    pc_engine, boxed, tiny_directory, tmp_path, monkeypatch, command
):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pc_engine.files.durable.sync_file", refuse)
    asked = (*command, boxed, "--mode", "p2c", "--model", tiny_directory, "--out", tmp_path / "out", *FAST)
    outcome = pc_engine(*asked, *(("--try", "p2c.trim=0") if "ablation" in command else ()))
    assert outcome.code == 1
    assert "p2c" in outcome.out
    assert re.search(r"pc-engine: .*\.json cannot be written \(No space left on device\): make room", outcome.err)
    assert [*(tmp_path / "out").iterdir()] == []


@pytest.mark.parametrize("command", [("evaluate",), ("bench", "ablation")])
def test_figures_that_cannot_be_printed_are_stored_all_the_same(
    pc_engine, boxed, tiny_directory, tmp_path, monkeypatch, command
):
    def refuse(*_, **__):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr("pc_engine.cli.console.print_json", refuse)
    asked = (*command, boxed, "--mode", "p2c", "--model", tiny_directory, "--out", tmp_path / "out", "--json", *FAST)
    outcome = pc_engine(*asked, *(("--try", "p2c.trim=0") if "ablation" in command else ()))
    assert outcome.code != 0
    assert (tmp_path / "out" / f"{'evaluation' if 'evaluate' in command else 'ablation'}.json").exists()


def test_without_matplotlib_there_are_figures_and_a_sentence(pc_engine, boxed, tiny_directory, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = pc_engine("evaluate", boxed, "--model", tiny_directory, "--out", tmp_path / "out", *FAST)
    assert outcome.code == 0
    assert "pc-engine[bench]" in outcome.err
    assert "c2p, here" in outcome.out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["evaluation.json"]


def test_curves_are_printed_and_drawn(pc_engine, boxed, tiny_directory, tmp_path):
    pytest.importorskip("matplotlib")
    labels = json.loads((boxed / "labels.json").read_text())
    labels["images"] = [{**entry} for entry in labels["images"] for _ in range(12)]
    one, two = labels["images"][36], labels["images"][48]
    one["boxes"] = [{"c": "red", "b": [0, 0, 60, 60]}]  # another scale, for another bin
    two["boxes"][0]["c"] = "green"
    (boxed / "labels.json").write_text(json.dumps(labels))
    modes = ("--mode", "p2c", "--mode", "c2p")
    out = tmp_path / "out"
    outcome = pc_engine("evaluate", boxed, *modes, "--model", tiny_directory, "--curves", "--out", out, *FAST)
    assert outcome.code == 0, outcome.err
    assert "By the mean size of an image's objects, √(box / picture) (p2c)" in outcome.out
    assert "By the mean size of an image's objects, √(box / picture) (c2p)" in outcome.out
    assert "what is expected of images with these true counts" in outcome.out
    # Two of four pictures at most have one scale with ten images; all others are alike, so no curve is drawn.
    assert not list(out.glob("failures-*"))
    silent = pc_engine("evaluate", boxed, "--model", tiny_directory, *FAST)
    assert "By the mean size" not in silent.out


def test_labels_without_boxes_say_so(pc_engine, scenes, tiny_directory):
    (scenes / "labels.csv").write_text("path,count\n" + "".join(f"{k}.png,{k}\n" for k in range(5)))
    outcome = pc_engine("evaluate", scenes, "--model", tiny_directory, "--curves", *FAST)
    assert outcome.code == 0
    assert "Pointing was not measured: the labels give no boxes of what they count." in outcome.out
    assert "images with objects have no boxes" not in outcome.out
    assert "Nothing was compared over scale, spacing and class: the labels give no boxes" in outcome.out


def _label(scenes, *images):
    (scenes / "labels.json").write_text(json.dumps({"images": images}))


@pytest.mark.parametrize(
    ("change", "why", "note"),
    [
        (
            lambda image: {**image, "count": image["count"] - 1},
            "no image with objects has as many boxes within it as its count says.",
            "3 images have a number of boxes other than their count and were not used.",
        ),
        (
            lambda image: {**image, "boxes": [{"c": "red", "b": [-80, 0, 8, 8]}]},
            "no image with objects has as many boxes within it as its count says.",
            "4 images with objects have no boxes; 4 boxes lay outside their picture and were left out.",
        ),
        (lambda image: {**image, "count": 0, "boxes": []}, "no image that could be read has objects.", ""),
    ],
    ids=["other numbers", "outside", "no objects"],
)
def test_why_pointing_was_not_measured_is_said(pc_engine, scenes, tiny_directory, change, why, note):
    boxes = [{"c": "red", "b": [8 * column, 0, 8, 8]} for column in range(4)]
    _label(scenes, *(change({"file": f"{n}.png", "count": n, "boxes": boxes[:n]}) for n in range(1, 5)))
    outcome = pc_engine("evaluate", scenes, "--model", tiny_directory, *FAST)
    assert outcome.code == 0, outcome.err
    said = " ".join(outcome.out.split())
    assert f"Pointing was not measured: {why} {note}".strip() in said
    assert "the labels give no boxes" not in said


def test_images_that_are_too_few_for_curves_are_said_to_be(pc_engine, scenes, tiny_directory):
    boxes = [{"c": "red", "b": [8, 8, 8, 8]}]
    few = ", and fewer than two classes have 10 images."
    for count, why in ((1, "all images with boxes are in one bin"), (2, "no image with objects has as many boxes")):
        _label(scenes, {"file": "1.png", "count": count, "boxes": boxes})
        said = " ".join(pc_engine("evaluate", scenes, "--model", tiny_directory, "--curves", *FAST).out.split())
        assert f"Nothing was compared over scale, spacing and class: {why}" in said
        assert few in said
        assert "the labels give no boxes" not in said


def test_quiet_prints_nothing(pc_engine, boxed, tiny_directory):
    outcome = pc_engine("evaluate", boxed, "--model", tiny_directory, "--quiet", *FAST)
    assert (outcome.code, outcome.out, outcome.err.strip()) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--mode", "both"), "There is no mode 'both': choose one of c2p, p2c, combined, all."),
        (("--mode", "all", "--mode", "both"), "There is no mode 'both': choose one of c2p, p2c, combined, all."),
        (("--mode", "p2c", "--folds", "3"), "omit --folds"),
        (("--folds", "6"), "6 folds of 5 images"),
        (("--unseen-classes",), "add --folds 5"),
        (("--aim", "overall"), "An aim is for a counter that is fitted in folds: add --folds 5."),
        (("--aim", "best"), "There is no aim 'best'"),
        (("--out", "labels.json/out"), "cannot be written"),
        (("--workers", "-1"), "--workers is -1, expected a number of at least 1"),
        (("--seed", "-1"), "The seed is -1, expected a number from 0"),
    ],
)
def test_wrong_use_is_one_sentence(pc_engine, boxed, tiny_directory, monkeypatch, arguments, expected):
    monkeypatch.chdir(boxed)
    outcome = pc_engine("evaluate", boxed, "--model", tiny_directory, *arguments, *FAST)
    assert outcome.code == 2
    assert expected in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("command", [("evaluate",), ("bench", "ablation"), ("fit-counter",)])
@pytest.mark.parametrize("folds", ["1", "0", "-1"])
def test_a_number_that_is_none_of_folds_is_refused_before_the_data_is_read(pc_engine, command, folds):
    outcome = pc_engine(*command, "nowhere", "--model", "none", "--folds", folds)
    assert (outcome.code, outcome.err) == (2, f"pc-engine: --folds is {folds}, expected a number of at least 2.\n")


def test_an_ablation_shows_each_setting_beside_its_alternatives(pc_engine, boxed, tiny_directory, tmp_path):
    asked = ("--mode", "p2c", "--model", tiny_directory, "--try", "p2c.trim=0", "--try", "p2c.cluster=dbscan")
    asked += ("--try", "p2c.trim=0.9")  # beside those that were asked for before
    outcome = pc_engine("bench", "ablation", boxed, *asked, "--out", tmp_path / "new", *FAST)
    assert outcome.code == 0, outcome.err
    for expected in (
        "p2c, model tiny",
        "as it is",
        "0 (default 0.5)",
        "dbscan (default density-peaks)",
        "no count changes",
        "told .5",
        "broken.jpg",
    ):
        assert expected in outcome.out
    assert outcome.out.count("(default 0.5)") == 1  # once a setting, as some are long
    stored = json.loads((tmp_path / "new" / "ablation.json").read_text())
    assert [trial["value"] for trial in stored["modes"]["p2c"]] == [None, 0, 0.9, "dbscan"]
    shown = pc_engine("bench", "ablation", boxed, *asked, "--json", *FAST).json()
    assert shown["modes"] == stored["modes"]


def test_an_ablation_of_a_single_image_has_no_interval_of_a_gain(pc_engine, scenes, tiny_directory):
    _label(scenes, {"file": "2.png", "count": 2})
    asked = ("--mode", "p2c", "--model", tiny_directory, "--try", "p2c.min_distance=30", *FAST)
    shown = pc_engine("bench", "ablation", scenes, *asked).out
    assert "-100.0 [-]" in shown
    assert "nan" not in shown


def test_an_alternative_without_values_is_wrong_use(pc_engine, boxed, tiny_directory):
    outcome = pc_engine("bench", "ablation", boxed, "--model", tiny_directory, "--try", "p2c.trim", *FAST)
    assert outcome.code == 2
    assert "'p2c.trim' is not a setting with values: write it as p2c.trim=0,0.3,0.7." in outcome.err


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "boxed", "--pointer", "mixture"),
        ("bench", "ablation", "boxed", "--try", "c2p.nothing=1"),
        ("fit-counter", "boxed", "--max-count", "2", "--folds", "2", "--device", "cuda:99"),
        ("fit-signatures", "boxed", "--depth", "1"),
    ],
)
def test_no_folder_is_left_by_a_command_that_is_refused(pc_engine, boxed, tiny_directory, tmp_path, command):
    words = [boxed if word == "boxed" else word for word in command]
    outcome = pc_engine(*words, "--model", tiny_directory, "--out", tmp_path / "new" / "out")
    assert outcome.code == 2, outcome.err
    assert not (tmp_path / "new").exists()
