import errno
import fcntl
import os

from pc_engine.runs.corrections import Correction, append_correction
from pc_engine.runs.rows import iter_rows
from pc_engine.runs.run_state import lock_run

MODEL = ("--backend", "onnxruntime", "--precision", "fp32")


def test_a_finished_run(pc_engine, scenes, tiny_directory, tmp_path, monkeypatch):
    monkeypatch.chdir(scenes.parent)  # long paths would be folded in the table
    pc_engine("run", scenes.name, "--model", tiny_directory, "--out", tmp_path / "run", *MODEL)
    shown = pc_engine("status", tmp_path / "run")
    assert shown.code == 0
    assert "finished. tiny, c2p, onnxruntime fp32." in shown.out
    assert "6 of 6 images have rows, 1 of them failed." in shown.out
    assert "It is not an image" in shown.out
    assert "broken.jpg" in shown.out
    assert "--retry-failed" in shown.out


def test_a_run_of_one_image_is_told_as_one(pc_engine, scenes, tiny_directory, tmp_path):
    run = tmp_path / "run"
    pc_engine("run", scenes / "0.png", "--model", tiny_directory, "--out", run, *MODEL)
    assert "1 of 1 image has a row, 0 of them failed." in pc_engine("status", run).out
    again = pc_engine("run", scenes / "0.png", "--model", tiny_directory, "--out", run, *MODEL)
    assert f"{run} has 1 row already; its image is skipped." in again.err


def test_images_that_people_reviewed_are_counted(pc_engine, scenes, tiny_directory, tmp_path):
    run = tmp_path / "run"
    pc_engine("run", scenes, "--model", tiny_directory, "--out", run, "--quiet", *MODEL)
    assert "reviewed" not in pc_engine("status", run).out
    for path in [row["path"] for row in iter_rows(run)][:2]:
        append_correction(run, Correction(path, 0, (), "2026-01-01T00:00:00+00:00"))
    assert "2 images reviewed." in pc_engine("status", run).out
    assert pc_engine("status", run, "--json").json()["reviewed"] == 2


def test_a_disk_without_flock_takes_a_run_and_nothing_is_said(pc_engine, scenes, tiny_directory, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    (scenes / "broken.jpg").unlink()
    run = tmp_path / "run"
    for _ in range(2):  # the second time there is nothing to do
        outcome = pc_engine("run", scenes, "--model", tiny_directory, "--out", run, "--quiet", *MODEL)
        assert (outcome.code, outcome.err) == (0, "")
    assert "finished." in pc_engine("status", run).out
    lock = lock_run(run)
    try:
        assert "Another run is writing" in pc_engine("run", scenes, "--out", run, "--quiet", *MODEL).err
    finally:
        lock.release()


def test_a_run_at_work_says_when_rows_appear(pc_engine, tmp_path):
    lock = lock_run(tmp_path)
    try:
        (tmp_path / "run.json").write_text('{"state": "running", "total": 30, "images_per_second": 0.0}')
        shown = pc_engine("status", tmp_path)
        assert "0 of 30 images have rows" in shown.out
        assert shown.out.splitlines()[-1] == "Rows appear a partition at a time: after 10,000 images or 5 minutes."
        (tmp_path / "run.json").write_text('{"state": "running", "total": 30, "images_per_second": 0.1}')
        assert "0.1 images/s, 5 min left." in pc_engine("status", tmp_path).out
        (tmp_path / "run.json").write_text(
            '{"state": "running", "total": 30, "images_per_second": 0.1, "n": 12, "waiting": 12}'
        )
        shown = pc_engine("status", tmp_path).out
        assert "0 of 30 images have rows, 0 of them failed; 12 more are done and come with the next" in shown
        assert "0.1 images/s, 3 min left." in shown
        assert pc_engine("status", tmp_path, "--json").json()["waiting"] == 12
        (tmp_path / "run.json").write_text('{"state": "running", "workers": 2}')
        shown = pc_engine("status", tmp_path)
        assert shown.out.splitlines()[-1].startswith("Rows appear a block of images at a time, as workers finish them")
    finally:
        lock.release()


def test_a_shard_that_was_not_begun_is_missed(pc_engine, scenes, tiny_directory, tmp_path):
    arguments = ("run", scenes, "--model", tiny_directory, "--out", tmp_path / "run", "--quiet", *MODEL)
    pc_engine(*arguments, "--shard", "2/3")
    found = pc_engine("status", tmp_path / "run", "--json").json()
    assert (found["state"], found["total"]) == ("stopped", None)
    assert [shard["state"] for shard in found["shards"]] == ["finished"]
    shown = pc_engine("status", tmp_path / "run").out
    assert "Not begun: 1/3, 3/3: run the same command with each as --shard." in shown
    assert "again to go on" not in shown
    assert "2/3" in shown
    assert "2-of-3" not in shown
    assert found["shards_not_begun"] == 2


def test_rows_that_are_gone_are_not_taken_for_a_run_of_no_images(pc_engine, scenes, tiny_directory, tmp_path):
    run = tmp_path / "run"
    again = ("run", scenes, "--model", tiny_directory, "--out", run, "--quiet", *MODEL)
    pc_engine(*again)
    for part in run.glob("part-*"):
        part.unlink()
    refused = pc_engine("report", run)
    assert refused.code == 2
    assert f"The rows of the run into {run} are gone: restore its part files, or do the run again." in refused.err
    assert pc_engine(*again).code == 3
    assert pc_engine("report", run).code == 0


def test_a_run_without_rows_is_not_taken_for_another_folder(pc_engine, tiny_directory, tmp_path):
    (tmp_path / "empty").mkdir()
    run = tmp_path / "run"
    pc_engine("run", tmp_path / "empty", "--model", tiny_directory, "--out", run, "--quiet", *MODEL)
    commands = (("report", run), ("review", run), ("convert", run, "--to", "csv", "--out", tmp_path / "set"))
    for command in commands:
        refused = pc_engine(*command)
        assert refused.code == 2
        assert "found no images: run it on other sources." in " ".join(refused.err.split())
    (run / "run.json").write_text('{"state": "running"}')
    for command in commands:
        assert "has no rows yet: ask 'pc-engine status" in " ".join(pc_engine(*command).err.split())


def test_rows_of_which_nothing_says_how_they_were_made_are_not_gone_on_with(
    pc_engine, scenes, tiny_directory, tmp_path
):
    run = tmp_path / "run"
    command = ("run", scenes, "--model", tiny_directory, "--out", run, "--quiet", *MODEL)
    pc_engine(*command)
    for said in (None, "torn", '{"state": "interrupted"}', '{"state": "finished"}'):
        (run / "run.json").unlink()
        if said is not None:
            (run / "run.json").write_text(said)
        assert pc_engine(*command).code == 2
        shown = pc_engine("status", run).out
        assert "the same command" not in shown.lower()
        assert "run into another folder, or make them again with --fresh." in shown
        (run / "run.json").touch()
    assert pc_engine(*command, "--fresh").code == 3
    assert "--fresh" not in pc_engine("status", run).out


def test_a_folder_that_is_no_run(pc_engine, tmp_path):
    for folder in (tmp_path, tmp_path / "gone"):
        refused = pc_engine("status", folder)
        assert refused.code == 2
        assert "is not a run directory: name the folder given to 'pc-engine run --out'" in refused.err


def test_what_no_terminal_can_take_is_escaped(pc_engine, tmp_path):
    run = tmp_path / os.fsdecode(b"caf\xe9")
    run.mkdir()
    (run / "run.json").write_text('{"state": "finished", "settings": {"model": "\\ud800"}}')
    shown = pc_engine("status", run)
    assert shown.code == 0
    assert "\\udce9: finished. \\ud800, ?" in shown.out


def test_a_damaged_partition_is_named(pc_engine, scenes, tiny_directory, tmp_path):
    pc_engine("run", scenes, "--model", tiny_directory, "--out", tmp_path / "run", "--quiet", *MODEL)
    (tmp_path / "run/part-00000.parquet").write_bytes(b"PAR1 and nothing else")
    broken = pc_engine("status", tmp_path / "run")
    assert broken.code == 1
    assert "part-00000.parquet cannot be read" in broken.err
    assert "delete it, and the next run into this folder does its images again" in " ".join(broken.err.split())
