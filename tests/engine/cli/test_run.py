import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pc_engine.catalogue import EMBEDDED, PREFERRED, installed_directory
from pc_engine.errors import DeviceLostError
from pc_engine.runs.rows import iter_rows
from pc_engine.runs.writers import SCHEMA

MODEL = ("--backend", "onnxruntime", "--precision", "fp32")


def test_json_has_one_row_per_file_and_exit_code_3_where_one_failed(pc_engine, scenes, tiny_directory):
    outcome = pc_engine("run", scenes, "--model", tiny_directory, "--json", *MODEL)
    summary = outcome.json()
    assert outcome.code == 3
    assert (summary["n"], summary["ok"], summary["failed"]) == (6, 5, 1)
    assert [row["count"] for row in summary["rows"]] == [0, 1, 2, 3, 4, None]
    broken = summary["rows"][-1]
    assert broken["status"] == "error"
    assert broken["error"].startswith("It is not an image")
    assert list(broken) == SCHEMA.names


@pytest.mark.parametrize("mode", ["c2p", "p2c", "combined"])
def test_every_mode_counts(pc_engine, scenes, tiny_directory, mode):
    (scenes / "broken.jpg").unlink()
    outcome = pc_engine("run", scenes, "--mode", mode, "--model", tiny_directory, "--json", *MODEL)
    assert outcome.code == 0
    assert [row["count"] for row in outcome.json()["rows"]][1:] == [1, 2, 3, 4]
    assert {len(row["pointers"]) for row in outcome.json()["rows"][1:]} == {1, 2, 3, 4}


def test_a_known_count_is_pointed_at_and_shown_as_it_is(pc_engine, scenes, tiny_directory, tmp_path):
    (scenes / "broken.jpg").unlink()
    arguments = ("run", scenes, "--count", "5", "--model", tiny_directory, *MODEL)
    outcome = pc_engine(*arguments)
    assert outcome.code == 0
    assert "5 images, 0 failed. Images by count: 4+: 5." in outcome.out
    assert outcome.out.count("│     5 │") == 5  # not 4+, which c2p says of what it counts
    out = ("--out", tmp_path / "run", "--quiet")
    assert pc_engine(*arguments, *out).code == 0
    assert {row["count"] for row in iter_rows(tmp_path / "run")} == {5}
    # By several processes as well, each of which is told.
    assert pc_engine(*arguments, "--out", tmp_path / "shared", "--quiet", "--processes", "2").code == 0
    assert {row["count"] for row in iter_rows(tmp_path / "shared")} == {5}
    # What was counted is not mixed with it.
    outcome = pc_engine("run", scenes, "--model", tiny_directory, *MODEL, *out)
    assert outcome.code == 2
    assert "--count 5, not none" in " ".join(outcome.err.split())


@pytest.mark.parametrize("options", [(), ("--processes", "2")])
def test_a_table_says_how_many_objects_each_image_shows(pc_engine, scenes, tiny_directory, tmp_path, options):
    table = scenes / "counts.csv"
    table.write_text("path,count\n1.png,1\n4.png,2\n3.png,\n2.png,2\n")
    out = tmp_path / "run"
    outcome = pc_engine(
        *("run", f"@{table}", "--count", "count", "--model", tiny_directory, "--out", out, *options, *MODEL)
    )
    assert outcome.code == 3
    rows = {Path(row["path"]).stem: row for row in iter_rows(out)}
    assert {name: (row["count"], len(row["pointers"])) for name, row in rows.items()} == {
        "1": (1, 1),
        "4": (2, 2),
        "3": (None, 0),
        "2": (2, 2),
    }
    assert rows["3"]["error"].startswith("How many objects it shows is not known")
    table.write_text("path,number\n1.png,4\n3.png,3\n")
    outcome = pc_engine(
        *("run", f"@{table}", "--count", "number", "--model", tiny_directory, "--out", out, *options, *MODEL)
    )
    assert outcome.code == 2
    assert "--count count, not number" in " ".join(outcome.err.split())


def test_table_without_out_writes_nothing(pc_engine, scenes, tiny_directory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*.p*"))
    outcome = pc_engine("run", scenes, "--model", tiny_directory, *MODEL)
    assert outcome.code == 3
    assert "6 images, 1 failed. Images by count: 0: 1, 1: 1, 2: 1, 3: 1, 4+: 1." in outcome.out
    assert "failed: It is not an image" in " ".join(outcome.out.split())
    assert sorted(tmp_path.rglob("*.p*")) == before


@pytest.mark.parametrize("row_format", ["parquet", "jsonl"])
def test_out_holds_the_rows_and_the_overlays(pc_engine, scenes, tiny_directory, tmp_path, row_format):
    out = tmp_path / "run"
    outcome = pc_engine(
        "run", scenes, "--model", tiny_directory, "--out", out, "--format", row_format, "--overlay", *MODEL
    )
    assert outcome.code == 3
    assert [path.name for path in sorted(out.glob(f"*.{row_format}"))] == [f"part-00000.{row_format}"]
    assert [row["count"] for row in iter_rows(out)] == [0, 1, 2, 3, 4, None]
    assert json.loads((out / "run.json").read_text())["n"] == 6
    overlays = sorted(path.name for path in (out / "overlays").iterdir())
    assert [name.partition("-")[0] for name in overlays] == list("01234")
    with Image.open(out / "overlays" / overlays[4]) as drawn:
        assert drawn.size == (64, 64)


def test_gpus_that_take_no_part_are_said(pc_engine, scenes, tiny_directory, tmp_path, monkeypatch):
    monkeypatch.setattr("pc_engine.cli.run_engine.open_gpus", lambda *_: 4)
    out = tmp_path / "run"
    sentence = "One of 4 GPUs is used: --processes 4, with --out, uses all of them."
    command = ("run", scenes, "--model", tiny_directory, *MODEL)
    assert sentence in " ".join(pc_engine(*command).err.split())
    assert sentence not in " ".join(pc_engine(*command, "--out", out, "--shard", "1/2").err.split())
    monkeypatch.setattr("pc_engine.cli.run_engine.open_gpus", lambda *_: 1)
    assert "GPU" not in pc_engine(*command).err


def test_the_same_command_does_nothing_twice(pc_engine, scenes, tiny_directory, tmp_path):
    out = tmp_path / "run"
    arguments = ("run", scenes, "--model", tiny_directory, "--out", out, *MODEL)
    assert pc_engine(*arguments).code == 3
    before = [*iter_rows(out)]
    again = pc_engine(*arguments)
    assert again.code == 3
    assert f"{out} has 6 rows already; their images are skipped." in again.err
    assert "6 images, 1 failed." in again.out
    assert [*iter_rows(out)] == before
    assert pc_engine(*arguments, "--fresh").code == 3
    assert [*iter_rows(out)] == before


def test_new_images_are_added_and_failed_ones_tried_again(pc_engine, scenes, tiny_directory, tmp_path, draw_scene):
    out = tmp_path / "run"
    arguments = ("run", scenes, "--model", tiny_directory, "--out", out, "--json", "--overlay", *MODEL)
    assert pc_engine(*arguments).json()["failed"] == 1
    draw_scene([(1, 1), (6, 6)]).save(scenes / "new.png")
    summary = pc_engine(*arguments).json()
    assert (summary["n"], summary["failed"], summary["state"]) == (7, 1, "finished")
    draw_scene([(3, 3)]).save(scenes / "broken.jpg", format="PNG")
    assert pc_engine(*arguments).json()["failed"] == 1
    mended = pc_engine(*arguments, "--retry-failed")
    assert mended.code == 0
    assert (mended.json()["n"], mended.json()["failed"]) == (7, 0)
    assert {Path(row["path"]).name: row["count"] for row in iter_rows(out)}["broken.jpg"] == 1
    drawn = sorted(path.name.partition("-")[0] for path in (out / "overlays").iterdir())
    assert drawn == [*"01234", "broken", "new"]


@pytest.mark.parametrize("options", [(), ("--shard", "1/1")])
def test_each_row_has_one_picture_after_a_run_that_was_killed_and_a_fresh_one(
    pc_engine, scenes, tiny_directory, tmp_path, options
):
    out = tmp_path / "run"
    arguments = ("run", scenes, "--model", tiny_directory, "--out", out, "--overlay", *options, *MODEL)
    assert pc_engine(*arguments).code == 3
    drawn = {path.name: path.read_bytes() for path in (out / "overlays").iterdir()}
    assert len(drawn) == 5
    # As if it had been killed before its rows were published, or only some.
    for path in out.glob("part-*"):
        path.unlink()
    for again in ((), ("--fresh",)):
        assert pc_engine(*arguments, *again).code == 3
        assert {path.name: path.read_bytes() for path in (out / "overlays").iterdir()} == drawn


def test_photos_by_another_name_are_not_counted_twice(pc_engine, scenes, tiny_directory, tmp_path, monkeypatch):
    monkeypatch.chdir(scenes.parent)
    options = ("--model", tiny_directory, "--out", tmp_path / "run", *MODEL)
    assert pc_engine("run", scenes.name, *options).code == 3
    outcome = pc_engine("run", scenes, *options)
    assert outcome.code == 2
    assert "under another name: name them as before" in " ".join(outcome.err.split())
    assert len([*iter_rows(tmp_path / "run")]) == 6
    assert pc_engine("run", f"./{scenes.name}/", *options).code == 3
    assert len([*iter_rows(tmp_path / "run")]) == 6
    assert pc_engine("run", scenes, *options, "--fresh").code == 3
    assert len([*iter_rows(tmp_path / "run")]) == 6


def test_a_shard_without_images_is_said_so(pc_engine, scenes, tiny_directory, tmp_path):
    (scenes / "broken.jpg").unlink()
    for k in range(1, 60):
        outcome = pc_engine(
            *("run", scenes, "--model", tiny_directory, "--out", tmp_path / "run", "--shard", f"{k}/60", *MODEL)
        )
        assert outcome.code == 0
        if "has no images: there is nothing to do" in outcome.out:
            assert f"Shard {k}/60 has no images: there is nothing to do." in outcome.out
            break
    else:
        pytest.fail("60 shards of 5 images cannot all have some")


def test_a_folder_that_was_renamed_is_missed(pc_engine, scenes, tiny_directory, tmp_path):
    arguments = ("--model", tiny_directory, "--out", tmp_path / "run", *MODEL)
    assert pc_engine("run", scenes, *arguments).code == 3
    renamed = scenes.rename(tmp_path / "renamed")
    again = pc_engine("run", renamed, *arguments)
    assert again.code == 3
    assert f"{scenes}: the folder is gone, but {tmp_path / 'run'} has rows of its photos." in again.err
    assert "the folder is gone" not in pc_engine("run", renamed, *arguments).err


def test_rows_in_the_current_folder_have_its_name(pc_engine, scenes, tiny_directory, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    outcome = pc_engine("run", scenes, "--model", tiny_directory, "--out", ".", *MODEL)
    assert f"Rows are in {tmp_path}/here." in "".join(outcome.out.split("\n"))


def test_what_was_left_to_choose_stays_as_it_was_chosen(pc_engine, scenes, tiny_directory, tmp_path):
    out = tmp_path / "run"
    options = ("--model", tiny_directory, "--out", out, "--json")
    assert pc_engine("run", scenes, *options, *MODEL).json()["backend"] == "onnxruntime"
    (tmp_path / "new").mkdir()
    again = pc_engine("run", scenes, tmp_path / "new", *options)
    assert (again.json()["backend"], again.json()["precision"]) == ("onnxruntime", "fp32")
    assert "Choosing the fastest" not in again.err


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (("--mode", "p2c"), "(mode c2p, not p2c): choose another folder"),
        (("--backend", "openvino"), "(backend onnxruntime, not openvino)"),
        (("--format", "jsonl"), "holds rows as parquet, not jsonl"),
        (("--shard", "1/2"), "holds a run that is not split into shards"),
    ],
)
def test_rows_of_different_settings_are_not_mixed(pc_engine, scenes, tiny_directory, tmp_path, other, expected):
    out = tmp_path / "run"
    arguments = ("run", scenes, "--model", tiny_directory, "--out", out, "--quiet", *MODEL)
    assert pc_engine(*arguments).code == 3
    before = sorted((path.name, path.read_bytes()) for path in out.iterdir())
    refused = pc_engine(*arguments, *other)
    assert refused.code == 2
    assert expected in refused.err
    assert sorted((path.name, path.read_bytes()) for path in out.iterdir()) == before


def test_an_out_folder_by_a_detour_makes_no_other(pc_engine, scenes, tiny_directory, tmp_path):
    runs = tmp_path / "runs"
    out = ("--out", runs / "new1/deep/../../new2")
    arguments = ("run", scenes, "--model", tiny_directory, *out, "--quiet", *MODEL)
    assert pc_engine(*arguments, "--mode", "p2c", "--cluster", "k-means").code == 2
    assert not runs.exists()
    assert pc_engine(*arguments).code == 3
    assert [path.name for path in runs.iterdir()] == ["new2"]
    assert len([*iter_rows(runs / "new2")]) == 6


def test_a_run_that_is_refused_leaves_a_folder_as_it_was(pc_engine, scenes, tiny_directory, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "notes.txt").touch()
    arguments = ("run", scenes, "--model", tiny_directory, "--mode", "p2c", "--cluster", "k-means", *MODEL)
    assert pc_engine(*arguments, "--out", out).code == 2
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (("--backend", "openvino"), "(backend onnxruntime, not openvino)"),
        (("--precision", "bf16"), "(precision fp32, not bf16)"),
        (("--device", "cuda:1"), "(device cpu, not cuda)"),
    ],
)
def test_what_is_named_is_compared_before_the_rest_is_taken_from_the_rows(
    pc_engine, scenes, tiny_directory, tmp_path, monkeypatch, other, expected
):
    """A precision of the rows that the backend does not have was said not to run here: nobody had asked for it."""
    out = tmp_path / "run"
    arguments = ("run", scenes, "--model", tiny_directory, "--out", out, "--quiet")
    assert pc_engine(*arguments, *MODEL).code == 3
    for name in ("choose_device", "require_precision"):
        monkeypatch.setattr(f"pc_engine.cli.run_engine.{name}", lambda *_: pytest.fail("compared too late"))
    refused = pc_engine(*arguments, *other)
    assert refused.code == 2
    assert f"holds rows made with other settings {expected}" in refused.err


def test_another_model_is_other_settings(pc_engine, scenes, tiny_directory, make_model, tmp_path, tiny_counter):
    out = tmp_path / "run"
    assert pc_engine("run", scenes, "--model", tiny_directory, "--out", out, "--quiet", *MODEL).code == 3
    other = make_model(tmp_path / "other", counter=replace(tiny_counter, bias=tiny_counter.bias + 1))
    refused = pc_engine("run", scenes, "--model", other, "--out", out, "--quiet", *MODEL)
    assert refused.code == 2
    assert "(counter " in refused.err


def test_shards_do_all_images_between_them(pc_engine, scenes, tiny_directory, tmp_path):
    out = tmp_path / "run"
    arguments = ("run", scenes, "--model", tiny_directory, "--out", out, "--json", *MODEL)
    found = [pc_engine(*arguments, "--shard", f"{index}/3").json()["n"] for index in (1, 2, 3)]
    assert sum(found) == 6
    assert sorted(Path(row["path"]).name for row in iter_rows(out)) == sorted(path.name for path in scenes.iterdir())
    status = pc_engine("status", out, "--json").json()
    assert (status["n"], status["total"], status["state"]) == (6, 6, "finished")
    assert [shard["shard"] for shard in status["shards"]] == ["1/3", "2/3", "3/3"]


def test_quiet_prints_what_failed_alone(pc_engine, scenes, tiny_directory, tmp_path):
    arguments = ("run", scenes, "--model", tiny_directory, "--quiet", *MODEL)
    broken = scenes / "broken.jpg"
    outcome = pc_engine(*arguments)
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (3, "", 1)
    assert outcome.err.startswith(f"1 of 6 images failed, such as {broken}: It is not an image")
    for workers in ((), ("--processes", "2")):  # whose rows this process never sees
        out = tmp_path / f"a run{len(workers)}"
        outcome = pc_engine(*arguments, "--out", out, *workers)
        said = f"1 of 6 images failed: 'pc-engine status '{out}'' says why.\n"
        assert (outcome.code, outcome.out, outcome.err) == (3, "", said)
    assert pc_engine(*arguments, "--json").err == ""  # which says it as well
    broken.unlink()
    outcome = pc_engine(*arguments)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


def test_json_is_alone_on_stdout_and_remarks_go_to_stderr(pc_engine, scenes, tiny_directory):
    outcome = pc_engine("run", scenes, "--model", tiny_directory, "--json")
    assert outcome.json()["backend"] in ("onnxruntime", "openvino")
    assert "Choosing the fastest backend for tiny" in outcome.err


def test_folder_without_images(pc_engine, tmp_path, tiny_directory):
    (tmp_path / "empty").mkdir()
    outcome = pc_engine("run", tmp_path / "empty", "--model", tiny_directory, *MODEL)
    assert outcome.code == 0
    assert "No images were found: name folders or files with JPEG" in outcome.out
    assert outcome.err == ""  # no network is fetched for nothing
    outcome = pc_engine("run", tmp_path / "empty", "--model", tiny_directory, "--out", tmp_path / "run", *MODEL)
    assert outcome.code == 0
    assert "No images were found" in outcome.out


def test_a_folder_of_archives_says_how_to_name_them(pc_engine, tmp_path, tiny_directory):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/0.tar").touch()
    said = f"named as sources, such as '{tmp_path}/shards/*.tar'."
    outcome = pc_engine("run", tmp_path / "shards", "--model", tiny_directory, *MODEL)
    assert outcome.code == 0
    assert said in outcome.out
    outcome = pc_engine("run", tmp_path / "shards", "--model", tiny_directory, "--json", *MODEL)
    assert outcome.code == 0
    note = outcome.json()["notes"][-1]
    assert note.endswith(said)


def test_long_runs_show_their_first_rows_only(pc_engine, tmp_path, tiny_directory, draw_scene):
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(45):
        draw_scene([(2, 2)]).save(folder / f"{index:02d}.png")
    outcome = pc_engine("run", folder, "--model", tiny_directory, *MODEL)
    assert "... and 5 more." in outcome.out
    (folder / "50.jpg").write_bytes(b"no picture")
    outcome = pc_engine("run", folder, "--model", tiny_directory, *MODEL)
    assert "50.jpg" in outcome.out  # what failed is shown, wherever it stands
    assert "... and 5 more." in outcome.out


def test_an_open_ended_count_is_shown_as_what_it_is(pc_engine, tmp_path, tiny_directory, draw_scene):
    draw_scene([(1, 1), (6, 1), (1, 6), (6, 6)]).save(tmp_path / "four.png")
    outcome = pc_engine("run", tmp_path, "--model", tiny_directory, *MODEL)
    row = next(line for line in outcome.out.splitlines() if "four.png" in line)
    assert "4+" in row


def test_pictures_that_were_not_drawn_are_not_claimed(pc_engine, tmp_path, scenes, tiny_directory):
    out = tmp_path / "out"
    pc_engine("run", scenes, "--model", tiny_directory, "--out", out, *MODEL)
    outcome = pc_engine("run", scenes, "--model", tiny_directory, "--out", out, "--overlay", *MODEL)
    assert "no overlays are drawn of what has a row: --fresh redoes all" in " ".join(outcome.err.split())
    assert "pictures in" not in outcome.out


def test_words_of_options_are_taken_in_capitals(pc_engine, tmp_path, scenes, tiny_directory):
    words = ("--mode", "P2C", "--backend", "ONNXRuntime", "--precision", "FP32", "--device", "CPU", "--format", "JSONL")
    arguments = ("run", scenes, "--model", tiny_directory, "--out", tmp_path / "out", "--json", *words)
    outcome = pc_engine(*arguments, "--cluster", "DBSCAN", "--pointer", "Box")
    assert outcome.code == 3, outcome.err
    assert (outcome.json()["mode"], outcome.json()["backend"]) == ("p2c", "onnxruntime")
    assert [*(tmp_path / "out").glob("*.jsonl")]


def test_a_fresh_run_without_overlays_says_that_it_removes_those_of_before(pc_engine, tmp_path, scenes, tiny_directory):
    out = tmp_path / "out"
    arguments = ("run", scenes, "--model", tiny_directory, "--out", out, *MODEL)
    pc_engine(*arguments, "--overlay")
    assert "Removed" not in pc_engine(*arguments, "--overlay", "--fresh").err
    outcome = pc_engine(*arguments, "--fresh")
    expected = f"Removed 5 pictures of the earlier run from {out}/overlays: add --overlay to draw new ones."
    assert expected in " ".join(outcome.err.split())
    assert not (out / "overlays").exists()


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        (("--device", "cuda"), 2, "No GPU was found."),
        (("--backend", "cudnn"), 2, "No GPU was found."),
        (("--device", "cpu", "--precision", "fp8"), 2, "Precision fp8 does not run here; what does: "),
        (("--device", "cpu", "--backend", "cudnn"), 1, "cuDNN runs on NVIDIA GPUs only: use it with --device cuda."),
    ],
)
def test_what_cannot_be_done_here_is_said_before_a_model_is_made(
    pc_engine, scenes, monkeypatch, options, code, expected
):
    monkeypatch.setattr("pc_engine.selection.device_choice.gpu_reason", lambda: "No GPU was found.")
    monkeypatch.setattr("pc_engine.cli.run_engine.default_mode", lambda _: pytest.fail("A model was looked for."))
    outcome = pc_engine("run", scenes, *options)
    assert outcome.code == code
    assert outcome.err.startswith(f"pc-engine: {expected}")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("nowhere",), "There is no file or folder: 'nowhere'"),
        (("*.nothing",), "The pattern matches nothing: '*.nothing'"),
        ((".", "--mode", "guess"), "There is no mode 'guess': choose one of c2p, p2c, combined."),
        ((".", "--model", "vgg17"), "There is no model 'vgg17': choose one of lego, vgg16, vgg19"),
        ((".", "--backend", "abacus"), "There is no backend 'abacus': choose one of auto, onnxruntime, "),
        ((".", "--device", "cuda"), ""),
        ((".", "--device", "tpu"), "There is no device 'tpu'"),
        ((".", "--overlay"), "--overlay needs a directory to write to: say where with --out DIR."),
        ((".", "--fresh"), "--fresh needs a directory to write to: say where with --out DIR."),
        ((".", "--format", "jsonl"), "--format needs a directory to write to: say where with --out DIR."),
        ((".", "--retry-failed"), "--retry-failed needs a directory to write to: say where with --out DIR."),
        ((".", "--shard", "1/2"), "--shard needs a directory to write to: say where with --out DIR."),
        ((".", "--out", "rows", "--shard", "3/2"), "There is no shard 3/2: shards are numbered from 1/2."),
        ((".", "--out", "rows", "--format", "xml"), "There is no row format 'xml': choose one of parquet, jsonl."),
        ((".", "--batch-size", "0"), "--batch-size is 0, expected a number of at least 1."),
        ((".", "--workers", "-1"), "--workers is -1, expected a number of at least 1."),
        ((".", "--mode", "p2c", "--cluster", "k-means"), "There is no clustering 'k-means'"),
        ((".", "--mode", "c2p", "--cluster", "dbscan"), "Mode c2p does not cluster, it fits a mixture"),
        ((".", "--mode", "combined", "--cluster", "dbscan"), "which only density-peaks can give"),
        ((".", "--mode", "p2c", "--cluster", "cuml-dbscan", "--device", "cpu"), "runs on an NVIDIA GPU"),
        ((".", "--mode", "c2p", "--classes", "2"), "Mode c2p counts objects of one class: omit --classes"),
        ((".", "--mode", "p2c", "--classes", "0"), "--classes is 0, expected a number of at least 1"),
        ((".", "--count", "0"), "--count is 0, expected a number of at least 1"),
        ((".", "--count", "2.5"), "--count is 2.5, expected a whole number, or the name of a table's column."),
        ((".", "--out", ""), "The value after --out is empty, perhaps from an unset variable: give one."),
        ((".", "--out="), "The value after --out is empty, perhaps from an unset variable: give one."),
        ((".", "--model=lego", ""), "The value on the command line is empty, perhaps from an unset variable"),
        (("",), "The value on the command line is empty, perhaps from an unset variable: give one."),
        ((".", "--count", "many"), "'many' should be a column of counts, but no table was given"),
        ((".", "--max-pixels", "0"), "--max-pixels is 0, expected a number of at least 1"),
        ((".", "--isolate", "--image-seconds", "nan"), "--image-seconds is nan, expected a number above 0"),
        ((".", "--mode", "p2c", "--count", "2", "--classes", "2"), "omit --cluster and --classes, or --count"),
        ((".", "--mode", "c2p", "--pointer", "box"), "Mode c2p points in one way only: omit --pointer"),
        ((".", "--mode", "p2c", "--pointer", "ellipse"), "no pointer 'ellipse' for mode p2c: choose one of core, box"),
        (
            (".", "--mode", "combined", "--pointer", "dot"),
            "There is no pointer 'dot' for mode combined: choose one of ellipse",
        ),
    ],
)
def test_wrong_use_gets_a_sentence_and_exit_code_2(pc_engine, scenes, tiny_directory, monkeypatch, arguments, expected):
    monkeypatch.chdir(scenes)
    named = () if "--model" in arguments else ("--model", tiny_directory)
    outcome = pc_engine("run", *arguments, *named)
    assert outcome.code == 2
    assert expected in outcome.err
    assert outcome.err.startswith("pc-engine: ")
    assert "Traceback" not in outcome.err


def test_precision_that_does_not_run_here(pc_engine, scenes, tiny_directory, monkeypatch):
    monkeypatch.setattr("pc_engine.backends.onnxruntime.adds_bytes_exactly", lambda: True)
    outcome = pc_engine("run", scenes, "--model", tiny_directory, "--backend", "onnxruntime", "--precision", "bf16")
    assert outcome.code == 2
    assert "Precision bf16 does not run here; what does: onnxruntime at fp32 or int8." in outcome.err


@pytest.mark.parametrize(
    ("mode", "part", "command"),
    [
        ("c2p", "counter", "fit-counter"),
        ("p2c", "signatures", "fit-signatures"),
        ("combined", "counter", "fit-counter"),
    ],
)
def test_model_without_a_fitted_part_names_the_command(pc_engine, scenes, make_model, tmp_path, mode, part, command):
    model = make_model(tmp_path / "bare", **{part: None})
    outcome = pc_engine("run", scenes, "--mode", mode, "--model", model)
    assert outcome.code == 2
    assert f"pc-engine {command} DATA --model" in outcome.err


def test_a_gpu_that_is_lost_leaves_the_rows_of_before(pc_engine, scenes, tiny_directory, tmp_path, pretended):
    def lose(_):
        if len(pretended.sizes) == 3:
            raise DeviceLostError("The GPU stopped answering while running the network: look at nvidia-smi.")

    pretended.parallel = 1
    options = ("--backend", "pretended", "--precision", "fp32", "--device", "cuda", "--batch-size", "2")
    pretended.before = lose
    outcome = pc_engine("run", scenes, "--model", tiny_directory, "--out", tmp_path / "run", *options)
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1] == (
        "pc-engine: The GPU stopped answering while running the network: look at nvidia-smi."
    )
    assert "Traceback" not in outcome.err
    assert [row["count"] for row in iter_rows(tmp_path / "run")] == [0, 1, 2, 3]


def test_the_device_is_in_the_summary(pc_engine, scenes, tiny_directory, pretended):
    outcome = pc_engine("run", scenes, "--model", tiny_directory, "--json", "--precision", "fp32")
    assert (outcome.json()["device"], outcome.json()["backend"]) == ("cuda:0", "pretended")
    outcome = pc_engine("run", scenes, "--model", tiny_directory, "--json", "--precision", "fp32", "--device", "cpu")
    assert (outcome.json()["device"], outcome.json()["backend"]) == ("cpu", "onnxruntime")


def test_unexpected_error_is_one_sentence(pc_engine, scenes, tiny_directory, monkeypatch):
    monkeypatch.setattr("pc_engine.cli.run_engine.Engine", lambda *_, **__: 1 / 0)
    outcome = pc_engine("run", scenes, "--model", tiny_directory)
    assert outcome.code == 1
    assert "ZeroDivisionError: division by zero" in outcome.err
    assert "Traceback" not in outcome.err


def test_help_says_which_model_is_taken_where_none_is_named(pc_engine):
    shown = " ".join(pc_engine("run", "--help").out.split())
    assert "if omitted, vgg16, vgg19 or efficientnet_lite2 if it is installed and has what the mode needs" in shown
    assert {name for names in PREFERRED.values() for name in names} == {"vgg16", "vgg19", "efficientnet_lite2"}
    assert EMBEDDED == "lego"


def test_help_names_every_command(pc_engine):
    outcome = pc_engine("--help")
    assert outcome.code == 0
    for name in ("run", "models", "export", "build", "fit-signatures", "fit-counter", "evaluate", "lego", "doctor"):
        assert name in outcome.out


def test_the_command_line_starts_without_what_only_some_commands_need():
    """Each of these takes a good part of a second to import, which every run would wait for."""
    program = (
        "import sys, pc_engine.cli; print([n for n in ('sklearn', 'scipy', 'openvino', 'torch') if n in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_an_engine_that_does_not_go_with_the_options_is_refused(
    pc_engine, scenes, tiny_directory, tmp_path, monkeypatch
):
    arguments = ("run", scenes, "--model", tiny_directory, *MODEL)
    out = ("--out", tmp_path / "run")
    for options, expected in (
        ((*out, "--engine", "spark"), "There is no engine 'spark': choose one of local, ray."),
        ((*out, "--ray-address", "auto"), "--ray-address is for runs on Ray: add --engine ray."),
        ((*out, "--ray-cpus", "2"), "--ray-cpus is for runs on Ray: add --engine ray."),
        (("--engine", "ray"), "--engine ray needs a directory that all machines share: say where with --out DIR."),
    ):
        refused = pc_engine(*arguments, *options)
        assert (refused.code, expected in " ".join(refused.err.split())) == (2, True)
    monkeypatch.setitem(sys.modules, "ray", None)
    missing = pc_engine(*arguments, *out, "--engine", "ray")
    assert missing.code == 2
    assert "The package 'ray' is needed to share a run among machines: install it with" in missing.err
    assert "pip install 'pc-engine[ray]'" in missing.err
    assert not (tmp_path / "run").exists()


def test_a_mode_that_is_left_out_suits_the_model_and_stays_that_of_the_rows(pc_engine, make_model, scenes, tmp_path):
    unfitted = make_model(tmp_path / "unfitted", counter=None)
    run = ("run", scenes, "--out", tmp_path / "run", "--model", unfitted, "--json", *MODEL)
    first = pc_engine(*run)
    assert first.json()["mode"] == "p2c"
    said = "Using mode p2c, as the model has no counter: the other modes need one (pc-engine fit-counter)."
    assert said in first.err
    again = pc_engine(*run)
    assert (again.json()["mode"], said in again.err) == ("p2c", False)
    assert pc_engine("run", scenes, "--model", unfitted, "--count", "2", "--json", *MODEL).json()["mode"] == "c2p"
    fitted = make_model(tmp_path / "fitted")
    named = pc_engine("run", scenes, "--model", fitted, "--json", *MODEL)
    assert (named.json()["mode"], said in named.err) == ("c2p", False)
    assert pc_engine("run", scenes, "--model", fitted, "--cluster", "dbscan", "--json", *MODEL).json()["mode"] == "p2c"


def test_the_seconds_of_a_run_and_of_its_stages_go_on_with_an_earlier_one(pc_engine, scenes, tiny_directory, tmp_path):
    arguments = ("run", scenes, "--model", tiny_directory, "--out", tmp_path / "run", "--json", *MODEL)
    first, second = pc_engine(*arguments).json(), pc_engine(*arguments).json()
    assert second["stages"] == first["stages"]
    assert first["stages"]["decode"] > 0
    assert second["seconds"] >= first["seconds"]
    fresh = pc_engine(*arguments, "--fresh").json()
    assert {*fresh["stages"]} == {*first["stages"]}


def test_whoever_counts_photos_by_the_embedded_model_is_told_at_the_end(pc_engine, scenes):
    told = "These are counts of digit objects"
    said = pc_engine("run", scenes / "1.png", *MODEL).err.splitlines()[-1]
    assert said.startswith(told)
    assert said.endswith("for photos, choose another --model.")
    quiet = pc_engine("run", scenes / "1.png", "--quiet", "--json", *MODEL)
    assert quiet.err.splitlines() == quiet.json()["notes"] == [said]
    assert told not in pc_engine("run", scenes / "1.png", "--model", "lego", *MODEL).err
    assert told not in pc_engine("run", "demo:", *MODEL).err


def test_the_demo_is_counted_by_the_model_that_knows_it_whatever_there_is_for_photos(pc_engine, make_model, scenes):
    make_model(installed_directory("vgg16"))
    assert pc_engine("run", "demo:", "--json", *MODEL).json()["model"] == EMBEDDED
    named = pc_engine("run", "demo:", "--model", "vgg16", "--json", *MODEL)
    assert named.json()["model"] != EMBEDDED
    assert pc_engine("run", scenes, "demo:", "--json", *MODEL).json()["model"] == named.json()["model"]


@pytest.mark.parametrize("options", [(), ("--processes", "2")])
def test_files_that_are_no_photos_are_said_once(pc_engine, scenes, tiny_directory, tmp_path, options):
    for name in ("1.mov", "2.MOV", "1.aae", ".DS_Store"):
        (scenes / name).touch()
    (scenes / "0.NEF").touch()  # no 0.jpg: it has its row
    arguments = ("run", scenes, "--model", tiny_directory, "--out", scenes, *options, *MODEL)
    first = pc_engine(*arguments)
    assert "3 files of unsupported kinds were passed over (2 .mov, 1 .aae).\n" in first.out
    # Going on, it is said of all that the folder holds, without the rows and the state that lie there by now.
    summary = pc_engine(*arguments, "--json").json()
    assert (summary["n"], summary["passed_over"]) == (7, {".mov": 2, ".aae": 1})
    assert json.loads((scenes / "run.json").read_text())["passed_over"] == summary["passed_over"]


def test_an_image_that_is_named_in_two_ways_has_one_row(pc_engine, scenes, tiny_directory, tmp_path):
    outcome = pc_engine("run", scenes, scenes / "*.png", "--model", tiny_directory, "--out", tmp_path / "run", *MODEL)
    alone = pc_engine("run", scenes, "--model", tiny_directory, "--json", *MODEL).json()
    state = json.loads((tmp_path / "run/run.json").read_text())
    assert (state["n"], state["total"]) == (alone["n"], alone["n"])
    assert f"{state['named_again']} images were given more than once and are counted once." in outcome.out
    assert alone["named_again"] == 0


def test_the_demo_passes_nothing_over(pc_engine):
    outcome = pc_engine("run", "demo:", *MODEL)
    assert outcome.code == 0
    assert "passed over" not in outcome.out + outcome.err


def test_a_folder_of_videos_alone_says_what_is_in_it(pc_engine, tmp_path, tiny_directory):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").touch()
    outcome = pc_engine("run", tmp_path / "videos", "--model", tiny_directory)
    assert outcome.code == 0
    assert outcome.out.endswith("1 file of an unsupported kind was passed over (1 .mp4).\n")


def test_what_was_said_beside_json_is_in_its_notes(pc_engine, scenes, tiny_directory, tmp_path):
    words = ("run", scenes, scenes, "--mode", "p2c", "--model", tiny_directory, "--out", tmp_path / "out", "--json")
    outcome = pc_engine(*words, *MODEL)
    said = f"{scenes}: given more than once, processed once."
    assert said in outcome.err.splitlines()
    assert said in outcome.json()["notes"]
    # Of the run, as it was told before: what was said is of one command.
    assert json.loads((tmp_path / "out/run.json").read_text())["notes"] == []


@pytest.mark.parametrize("out", [True, False])
def test_a_run_that_is_stopped_before_its_first_image_was_still_preparing(
    pc_engine, scenes, tiny_directory, tmp_path, monkeypatch, out
):
    monkeypatch.setattr("pc_engine.cli.run._execute", lambda job, *_: setattr(job.stopping, "signal", 2))
    into = ("--out", tmp_path / "out") if out else ()
    outcome = pc_engine("run", scenes, "--mode", "p2c", "--model", tiny_directory, *into, *MODEL)
    assert outcome.code == 130
    said = "Stopped while the run was still preparing, before its first image was done"
    assert outcome.err.endswith(f"{said}{': run the same command again to begin' if out else ''}.\n")


@pytest.mark.parametrize(
    "options", [(), ("--isolate",), ("--overlay", "--out", "run"), ("--processes=2", "--out", "run")]
)
def test_files_of_several_pictures_are_said(pc_engine, scenes, tiny_directory, tmp_path, monkeypatch, options):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with Image.open(scenes / "1.png") as first, Image.open(scenes / "2.png") as second:
        pictures = {"save_all": True, "append_images": [second]}
        first.save(scenes / "pages.tif", **pictures)
        (scenes / "broken.jpg").unlink()
        run = ("run", scenes, "--model", tiny_directory, *MODEL, *options)
        one = pc_engine(*run, "--json").json()
        first.save(scenes / "moving.gif", **pictures)
    outcome = pc_engine(*run, *(("--fresh",) if "run" in options else ()))
    behind = "of which the first was counted: save the others as files of their own to count them, too."
    assert one["notes"][-1] == f"1 file holds several pictures, {behind}"
    assert f"2 files hold several pictures each, {behind}" in " ".join(outcome.err.split())
    quiet = pc_engine(*run, "--quiet", *(("--fresh",) if "run" in options else ()))
    assert quiet.err == ""
