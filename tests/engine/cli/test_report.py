from __future__ import annotations

import os
import shlex
import tarfile
from pathlib import Path
from urllib.parse import urlsplit

from pc_engine.runs.corrections import Correction, append_correction
from pc_engine.runs.rows import iter_rows

MODEL = ("--backend", "onnxruntime")
WHEN = "2026-01-02T03:04:05+00:00"


def run(pc_engine, scenes, tiny_directory, out: Path, mode: str = "combined") -> Path:
    code = pc_engine("run", scenes, "--model", tiny_directory, "--mode", mode, "--out", out, "--quiet", *MODEL).code
    assert code == 3  # one of the scenes is no picture
    return out


def test_a_report_is_made_of_a_run(pc_engine, scenes, tiny_directory, tmp_path):
    out = run(pc_engine, scenes, tiny_directory, tmp_path / "run")
    outcome = pc_engine("report", out)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"The report on 6 images is {out / 'report.html'}" in outcome.out
    other = run(pc_engine, scenes, tiny_directory, tmp_path / "other", "c2p")
    page = tmp_path / "page.html"
    outcome = pc_engine("report", out, "--out", page, "--compare", other, "--thumbnails", "--json")
    size = page.stat().st_size
    shown = {"without_photo": 0, "in_archives": 0, "thumbnails": 5, "unfinished": False}
    assert outcome.json() == {"report": str(page), "images": 6, **shown, "bytes": size}
    assert page.read_text().count("data:image/webp") == 5


def test_photos_that_are_gone_are_said(pc_engine, scenes, tiny_directory, tmp_path):
    out = run(pc_engine, scenes, tiny_directory, tmp_path / "run")
    scenes.rename(tmp_path / "moved")
    for options in ((), ("--thumbnails",)):
        outcome = pc_engine("report", out, *options)
        assert outcome.code == 0
        said = " ".join(outcome.err.split())
        assert f"5 of 5 photos were not found or could not be read, such as {scenes}/" in said
        assert "say where with --photos DIR" in said
        assert pc_engine("report", out, *options, "--json").json()["without_photo"] == 5
    assert pc_engine("report", out, "--quiet").err == ""


def test_photos_that_moved_are_found(pc_engine, scenes, tiny_directory, tmp_path):
    out = run(pc_engine, scenes, tiny_directory, tmp_path / "run")
    other = run(pc_engine, scenes, tiny_directory, tmp_path / "other", "c2p")
    moved = scenes.rename(tmp_path / "moved")
    assert pc_engine("report", out, "--photos", moved, "--compare", other).err == ""
    assert '"moved/"' in (out / "report.html").read_text() or '"../moved/"' in (out / "report.html").read_text()
    assert pc_engine("report", out, "--photos", moved, "--thumbnails", "--json").json()["thumbnails"] == 5
    refused = pc_engine("report", out, "--photos", tmp_path / "absent")
    assert refused.code == 2
    assert "There is no folder" in refused.err


def test_photos_are_found_from_elsewhere_by_the_folder_that_the_run_was_started_in(
    pc_engine, scenes, tiny_directory, tmp_path, monkeypatch
):
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    out = run(pc_engine, Path("..") / scenes.name, tiny_directory, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert pc_engine("report", out).err == ""


def test_a_review_says_that_photos_are_gone_and_finds_them(pc_engine, scenes, tiny_directory, tmp_path, monkeypatch):
    out = run(pc_engine, scenes, tiny_directory, tmp_path / "run")
    moved = scenes.rename(tmp_path / "moved")
    monkeypatch.setattr("socketserver.BaseServer.serve_forever", lambda self, poll_interval=0.5: None)
    outcome = pc_engine("review", out, "--no-browser")
    assert "is not there: if the photos have moved, say where with --photos DIR." in outcome.out
    append_correction(out, Correction(next(iter_rows(out))["path"], 3, (), WHEN))
    outcome = pc_engine("review", out, "--no-browser", "--photos", moved)
    assert "is not there" not in outcome.out
    assert f"fit-counter {shlex.quote(f'run:{out}@{moved}')}" in outcome.out


def test_photos_in_archives_are_said_unless_they_are_put_inside(pc_engine, scenes, tiny_directory, tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        shard.add(scenes, "scenes")
    out = run(pc_engine, tmp_path / "shard.tar", tiny_directory, tmp_path / "run")
    outcome = pc_engine("report", out)
    assert "5 of 5 photos are in archives or at addresses" in " ".join(outcome.err.split())
    assert pc_engine("report", out, "--thumbnails").err == ""
    for option, number in (((), 0), (("--no-thumbnails",), 0), (("--thumbnails",), 5)):
        assert pc_engine("report", out, *option, "--json").json()["thumbnails"] == number


def test_folders_of_the_page_are_made(pc_engine, scenes, tiny_directory, tmp_path):
    out = run(pc_engine, scenes, tiny_directory, tmp_path / "run")
    assert pc_engine("report", out, "--out", tmp_path / "new/folder/page.html").code == 0
    assert (tmp_path / "new/folder/page.html").is_file()
    refused = pc_engine("report", out, "--out", tmp_path / "new/folder/page.html/page.html")
    assert refused.code == 2
    assert "cannot be written (File exists): choose another file with --out." in " ".join(refused.err.split())


def test_what_cannot_be_reported_is_said(pc_engine, tmp_path):
    for command in ("report", "review"):
        outcome = pc_engine(command, tmp_path)
        assert outcome.code == 2
        assert "holds no rows: name the folder given to 'pc-engine run --out'" in outcome.err


def test_reviewing_ends_with_what_to_do_next(pc_engine, scenes, tiny_directory, tmp_path, monkeypatch):
    out = run(pc_engine, scenes, tiny_directory, tmp_path / "run")

    def interrupted(self, poll_interval: float = 0.5) -> None:
        raise KeyboardInterrupt

    opened: list[str] = []
    monkeypatch.setattr("socketserver.BaseServer.serve_forever", interrupted)
    monkeypatch.setattr("webbrowser.open", opened.append)
    outcome = pc_engine("review", out)
    assert outcome.code == 0
    port = urlsplit(opened[0]).port
    assert f"http://127.0.0.1:{port}/" in outcome.out
    assert opened[0] not in outcome.out
    assert "No image was reviewed." in outcome.out
    append_correction(out, Correction(next(iter_rows(out))["path"], 3, (), WHEN))
    outcome = pc_engine("review", out, "--no-browser")
    assert len(opened) == 1
    assert "1 of them already reviewed" in outcome.out
    assert "Images reviewed: 0 now, 1 of the run so far." in outcome.out
    assert f"fit-counter {shlex.quote(f'run:{out}')}" in outcome.out


def test_a_run_whose_corrections_cannot_be_saved_is_not_reviewed(
    pc_engine, scenes, tiny_directory, tmp_path, monkeypatch
):
    out = run(pc_engine, scenes, tiny_directory, tmp_path / "run")
    monkeypatch.setattr("socketserver.BaseServer.serve_forever", lambda self, poll_interval=0.5: None)
    can_be_accessed = os.access
    locked: list[Path] = []
    monkeypatch.setattr(
        "os.access", lambda path, mode: not (mode & os.W_OK and path in locked) and can_be_accessed(path, mode)
    )
    (out / "corrections.jsonl").touch()
    for path in (out, out / "corrections.jsonl"):
        locked[:] = [path]
        refused = pc_engine("review", out, "--no-browser")
        assert (refused.code, refused.out) == (2, "")
        assert "corrections.jsonl, which keeps corrections, cannot be written" in " ".join(refused.err.split())
    locked.clear()
    assert "Changes are saved at once." in pc_engine("review", out, "--no-browser").out


def test_the_counter_learns_from_what_was_reviewed(pc_engine, scenes, make_model, tmp_path):
    model = make_model(tmp_path / "model")
    out = run(pc_engine, scenes, model, tmp_path / "run", "c2p")
    for index, row in enumerate(row for row in iter_rows(out) if row["status"] == "ok"):
        append_correction(out, Correction(row["path"], index % 2, (), WHEN))
    outcome = pc_engine("fit-counter", f"run:{out}", "--model", model, "--folds", "2", "--json", *MODEL)
    assert outcome.code == 0
    assert outcome.json()["n"] == 5
