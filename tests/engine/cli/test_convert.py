import json

import pytest

from pc_engine.converters import DATASET_FORMATS
from pc_engine.pointers import EllipsePointer
from pc_engine.result import Result, error_result
from pc_engine.runs.corrections import Correction, append_correction
from pc_engine.runs.writers import PartitionWriter

FIRST = Result(
    path="photos/a.jpg",
    status="ok",
    error=None,
    width=64,
    height=48,
    mode="c2p",
    model="tiny",
    count=2,
    count_label="2",
    pointers=(EllipsePointer(20, 10, 5, 4, 0.75), EllipsePointer(50, 40, 3, 2, 0.25)),
)
FAILED = error_result("photos/broken.jpg", "It is broken.", mode="c2p", model="tiny")


@pytest.fixture(params=["parquet", "jsonl"])
def run(request, tmp_path):
    (tmp_path / "run").mkdir()
    with PartitionWriter(tmp_path / "run", request.param) as writer:
        for result in (FIRST, FAILED):
            writer.write(result)
    return tmp_path / "run"


@pytest.mark.parametrize("to", DATASET_FORMATS)
def test_every_format_is_written_and_summed_up(pc_engine, run, tmp_path, to):
    outcome = pc_engine("convert", run, "--to", to, "--out", tmp_path / "set", "--json")
    left_out = 0 if to == "csv" else 1
    assert outcome.code == (3 if left_out else 0)
    summary = outcome.json()
    assert (summary["format"], summary["out"]) == (to, str(tmp_path / "set"))
    assert (summary["images"], summary["pointers"], summary["left_out"]) == (2 - left_out, 2, left_out)
    assert outcome.err == ""
    assert (tmp_path / "set").exists()


@pytest.mark.parametrize("to", DATASET_FORMATS)
def test_where_no_place_is_named_a_data_set_is_beside_its_run(pc_engine, run, tmp_path, monkeypatch, to):
    name = {"coco": "run-coco.json", "cvat": "run-cvat.xml"}.get(to, f"run-{to}")
    monkeypatch.chdir(tmp_path)
    assert pc_engine("convert", "run", "--to", to, "--json").json()["out"] == name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", name]
    # From within the folder, too, whose name is no part of its path then.
    monkeypatch.chdir(run)
    assert pc_engine("convert", ".", "--to", to, "--fresh", "--json").json()["out"] == f"../{name}"


def test_what_was_left_out_is_said(pc_engine, run, tmp_path):
    outcome = pc_engine("convert", run, "--to", "coco", "--out", tmp_path / "run.json")
    assert outcome.out.splitlines() == [
        f"1 image with 2 pointers: {tmp_path / 'run.json'}. Image names are relative to photos.",
        "Left out: 1 image that could not be read in the run, so the size is not known (such as photos/broken.jpg).",
    ]


def test_what_was_left_out_is_said_to_those_who_want_no_remarks_too(pc_engine, run, tmp_path):
    arguments = ("convert", run, "--to", "coco", "--out", tmp_path / "run.json", "--quiet", "--fresh")
    outcome = pc_engine(*arguments)
    said = "Left out: 1 image that could not be read in the run, so the size is not known (such as photos/broken.jpg)."
    assert (outcome.code, outcome.out, outcome.err.splitlines()) == (3, "", [said])
    (run / "run.json").write_text(json.dumps({"state": "interrupted"}))
    outcome = pc_engine(*arguments)
    assert outcome.err.splitlines()[0].startswith(f"The run into {run} has not finished")
    assert outcome.err.splitlines()[1:] == [said]
    assert pc_engine(*arguments, "--json").json()["unfinished"]


def test_one_pointer_is_no_pointers(pc_engine, run, tmp_path):
    outcome = pc_engine("convert", run, "--to", "csv", "--out", tmp_path / "set", "--min-score", "0.5")
    assert outcome.out == f"2 images with 1 pointer: {tmp_path / 'set'}.\n"


def test_a_format_is_taken_in_capitals(pc_engine, run, tmp_path):
    assert pc_engine("convert", run, "--to", "CSV", "--out", tmp_path / "set").code == 0


def test_options_reach_the_formats(pc_engine, run, tmp_path):
    options = ("--min-score", "0.5", "--image-root", "https://host/", "--relative-to", "photos", "--quiet")
    outcome = pc_engine("convert", run, "--to", "label-studio", "--out", tmp_path / "set", *options)
    assert (outcome.code, outcome.out) == (3, "")
    (task,) = json.loads((tmp_path / "set/tasks.json").read_text())
    assert task["data"]["image"] == "https://host/a.jpg"
    assert len(task["predictions"][0]["result"]) == 2


def test_a_folder_is_found_whichever_way_it_is_named(pc_engine, run, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").touch()
    outcome = pc_engine("convert", run, "--to", "yolo", "--out", tmp_path / "set", "--relative-to", tmp_path)
    assert outcome.code == 3
    assert (tmp_path / "set/images.txt").read_text() == "./images/photos/a.jpg\n"
    assert (tmp_path / "set/images/photos/a.jpg").is_file()
    assert "are not there" not in outcome.out
    (tmp_path / "photos/a.jpg").unlink()
    outcome = pc_engine("convert", run, "--to", "yolo", "--out", tmp_path / "set", "--fresh")
    assert outcome.out.splitlines()[-1].startswith("1 of 1 images of the list do not exist")


def test_a_folder_above_the_one_that_the_run_was_started_in_names_images(pc_engine, run, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").touch()
    monkeypatch.chdir(tmp_path)
    for folder in ("..", tmp_path.parent):
        outcome = pc_engine("convert", run, "--to", "yolo", "--out", "set", "--relative-to", folder, "--fresh")
        assert outcome.code == 3
        assert f"Image names are relative to {tmp_path.parent}." in outcome.out
        assert "are not there" not in outcome.out
        (line,) = (tmp_path / "set/images.txt").read_text().splitlines()
        assert line == f"./images/{tmp_path.name}/photos/a.jpg"
        assert (tmp_path / "set" / line).is_file()
    outcome = pc_engine("convert", run, "--to", "coco", "--out", "set.json", "--relative-to", "/", "--quiet")
    (image,) = json.loads((tmp_path / "set.json").read_text())["images"]
    assert image["file_name"] == f"{tmp_path}/photos/a.jpg".removeprefix("/")


def test_an_earlier_data_set_is_kept_unless_fresh(pc_engine, run, tmp_path):
    arguments = ("convert", run, "--to", "csv", "--out", tmp_path / "set", "--quiet")
    assert pc_engine(*arguments).code == 0
    refused = pc_engine(*arguments)
    assert refused.code == 2
    assert "--fresh" in refused.err
    assert pc_engine(*arguments, "--fresh").code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "excel"), "There is no format 'excel'"),
        (("--to", "coco", "--image-root", "x"), "--image-root is for label-studio"),
        (("--to", "coco", "--relative-to", "elsewhere"), "is not below elsewhere"),
        (("--to", "csv", "--relative-to", "photos"), "--relative-to is for formats that rename images"),
        (("--to", "coco", "--min-score", "nan"), "--min-score is nan, expected a number from 0 to 1."),
        (("--to", "coco", "--min-score", "5"), "--min-score is 5, expected a number from 0 to 1."),
    ],
)
def test_wrong_use_is_one_sentence_and_writes_nothing(pc_engine, run, tmp_path, options, message):
    outcome = pc_engine("convert", run, "--out", tmp_path / "set", *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "set").exists()
    assert not list(tmp_path.glob(".set*"))


def test_a_folder_without_rows_is_wrong_use(pc_engine, tmp_path):
    (tmp_path / "empty").mkdir()
    outcome = pc_engine("convert", tmp_path / "empty", "--to", "coco", "--out", tmp_path / "run.json")
    assert outcome.code == 2
    assert "holds no rows" in outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_a_run_of_a_model_converts(pc_engine, scenes, tiny_directory, tmp_path):
    backend = ("--backend", "onnxruntime", "--precision", "fp32")
    (scenes / "broken.jpg").unlink()
    ran = pc_engine(
        "run", scenes, "--model", tiny_directory, "--mode", "p2c", "--out", tmp_path / "run", "--quiet", *backend
    )
    assert ran.code == 0
    outcome = pc_engine("convert", tmp_path / "run", "--to", "yolo", "--out", tmp_path / "set", "--json")
    assert outcome.code == 0
    assert (outcome.json()["images"], outcome.json()["pointers"]) == (5, 1 + 2 + 3 + 4 + pointers_of_empty(tmp_path))
    for line in (tmp_path / "set/images.txt").read_text().splitlines():
        assert (tmp_path / "set" / line).is_file()
    assert len((tmp_path / "set/labels/4.txt").read_text().splitlines()) == 4


def pointers_of_empty(folder):
    """P2C has no notion of an empty picture."""
    return len((folder / "set/labels/0.txt").read_text().splitlines())


def test_what_was_corrected_is_what_is_converted(pc_engine, run, tmp_path):
    append_correction(run, Correction(FIRST.path, 1, FIRST.pointers[:1], "2026-01-01T00:00:00+00:00"))
    summary = pc_engine("convert", run, "--to", "csv", "--out", tmp_path / "set", "--json").json()
    assert (summary["images"], summary["pointers"]) == (2, 1)


@pytest.mark.parametrize("state", ["running", "interrupted", "finished"])
def test_a_run_that_did_not_come_to_its_end_is_said(pc_engine, run, tmp_path, state):
    (run / "run.json").write_text(json.dumps({"state": state}))  # nobody has the lock: what runs was killed
    outcome = pc_engine("convert", run, "--to", "csv", "--out", tmp_path / "set")
    report = pc_engine("report", run)
    if state == "finished":
        assert (outcome.code, outcome.err) == (0, "")
        assert "not finished" not in report.err
    else:
        said = f"The run into {run} has not finished, so its other images are not included: 'pc-engine status"
        assert outcome.code == 3
        assert said in outcome.err
        assert (report.code, said in report.err) == (0, True)
    found = pc_engine("convert", run, "--to", "csv", "--out", tmp_path / "json", "--json").json()
    assert found["unfinished"] == (state != "finished")


def test_a_partition_is_no_run(pc_engine, run, tmp_path):
    partition = next(run.glob("part-*"))
    outcome = pc_engine("convert", partition, "--to", "csv", "--out", tmp_path / "set")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"{partition} holds no rows: name the folder given to 'pc-engine run --out'." in outcome.err


def test_all_objects_have_the_category_that_is_named(pc_engine, run, tmp_path):
    outcome = pc_engine("convert", run, "--to", "coco", "--out", tmp_path / "set.json", "--one-class", "thing")
    assert outcome.code == 3
    assert [category["name"] for category in json.loads((tmp_path / "set.json").read_text())["categories"]] == ["thing"]


def test_no_folder_is_left_by_a_conversion_of_no_run(pc_engine, tmp_path):
    (tmp_path / "empty").mkdir()
    outcome = pc_engine("convert", tmp_path / "empty", "--to", "csv", "--out", tmp_path / "new" / "below")
    assert outcome.code == 2
    assert "holds no rows" in outcome.err
    assert not (tmp_path / "new").exists()


def test_a_link_that_leads_to_itself_is_no_run(pc_engine, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    outcome = pc_engine("convert", tmp_path / "loop", "--to", "csv")
    assert outcome.code == 2, outcome.err
    assert "loop" in outcome.err
    assert "should not have happened" not in outcome.err
