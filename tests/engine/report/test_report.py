from __future__ import annotations

import base64
import io
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pc_engine.errors import PcEngineError, UsageError
from pc_engine.pointers import EllipsePointer
from pc_engine.report import write_report
from pc_engine.result import Result, error_result
from pc_engine.runs.corrections import Correction, append_correction
from pc_engine.runs.writers import PartitionWriter

ROW = Result("a.jpg", "ok", None, 64, 48, "c2p", "tiny", 1, "1", pointers=(EllipsePointer(9.0, 9.0, 3.0, 3.0, 1.0),))


def write_run(directory: Path, *results: Result) -> Path:
    directory.mkdir(parents=True)
    with PartitionWriter(directory) as writer:
        for result in results:
            writer.write(result)
    return directory


def data(page: Path, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page.read_text(), re.DOTALL)
    return None if found is None else json.loads(found[1])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos #1"
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (640, 480), "red").save(folder / f"{name}.jpg")
    return folder


def test_photos_are_referred_to_relative_to_the_page(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    paths = (str(photos / "a.jpg"), "my photos #1/b.jpg", "https://example.org/x/c.jpg", "tar://d.jpg::s.tar")
    run = write_run(tmp_path / "runs" / "run", *(replace(ROW, path=path) for path in paths))
    written = write_report(run)
    assert (written.path, written.images) == (run / "report.html", 4)
    assert written.size == written.path.stat().st_size
    head = data(written.path, "head")
    assert dict(head["folders"]) == {
        f"{photos}/": "../../my%20photos%20%231/",
        "my photos #1/": "../../my%20photos%20%231/",
        "https://example.org/x/": None,
        "tar://": None,
    }
    assert [row[1] for row in data(written.path, "rows")] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg::s.tar"]
    assert data(written.path, "thumbnails-0") is None
    elsewhere = write_report(run, photos / "page.html").path
    assert dict(data(elsewhere, "head")["folders"])["my photos #1/"] == "./"


def test_photos_of_the_folder_that_the_run_was_started_in_are_referred_to(
    photos: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    run = write_run(photos / "run", replace(ROW, path="a.jpg"), replace(ROW, path="gone.jpg"))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    written = write_report(run)
    assert dict(data(written.path, "head")["folders"]) == {"": "../"}
    assert (written.images, written.done, written.without_photo) == (2, 2, 1)


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file systems there hold no such names")
def test_a_folder_whose_name_is_not_utf_8_is_referred_to_by_its_bytes(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "a.jpg").touch()
    written = write_report(write_run(tmp_path / "run", replace(ROW, path=f"{tmp_path}/caf\\xe9/a.jpg")))
    assert dict(data(written.path, "head")["folders"]) == {f"{tmp_path}/caf\\xe9/": "../caf%E9/"}
    assert written.without_photo == 0


def test_corrections_are_honoured(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ROW, replace(ROW, path="b.jpg"))
    append_correction(run, Correction("b.jpg", 3, (), "2026-01-02T03:04:05+00:00"))
    page = write_report(run).path
    assert [row[4] for row in data(page, "rows")] == [1, 3]
    assert data(page, "head")["figures"]["reviewed"] == 1


def test_thumbnails_are_inside_in_parts(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("pc_engine.report.report.PER_PART", 2)
    monkeypatch.setattr("pc_engine.report.thumbnails.PER_PART", 2)
    names = ("a.jpg", "gone.jpg", "b.jpg")
    run = write_run(tmp_path / "run", *(replace(ROW, path=str(photos / name)) for name in names))
    seen: list[tuple[int, int]] = []
    page = write_report(run, thumbnails=True, workers=2, shrinking=lambda *done: seen.append(done)).path
    assert seen == [(1, 3), (2, 3), (3, 3)]
    first, second = data(page, "thumbnails-0"), data(page, "thumbnails-1")
    assert [bool(address) for address in (*first, *second)] == [True, False, True]
    kind, encoded = second[0].split(",")
    assert kind == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as thumbnail:
        assert thumbnail.size == (160, 120)
    assert data(page, "head")["thumbnailsPerPart"] == 2


def test_photos_that_browsers_do_not_show_have_thumbnails(photos: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "red").save(photos / "scan.TIFF")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 64), "red").save(photos / "turned.webp", exif=exif)
    Image.new("RGB", (64, 48), "red").save(photos / "plain.webp")
    (photos / "broken.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    names = ("a.jpg", "scan.TIFF", "plain.webp", "turned.webp", "broken.jpg", "gone.tif")
    rows = (replace(ROW, path=str(photos / name)) for name in names)
    run = write_run(tmp_path / "run", *rows, error_result("no.tif", "No.", mode="c2p", model="tiny"))
    written = write_report(run)
    made = [bool(address) for address in data(written.path, "thumbnails-0")]
    assert made == [False, True, False, True, False, False, False]
    assert (written.thumbnails, written.without_photo) == (2, 2)
    head = data(written.path, "head")
    assert (head["thumbnailsPerPart"], head["thumbnailsOfAll"]) == (200, False)
    none = write_report(run, thumbnails=False)
    assert data(none.path, "thumbnails-0") is None
    assert (none.thumbnails, none.without_photo) == (0, 1)


def test_thumbnails_may_have_the_pixels_of_their_rows(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("pc_engine.runs.photos.MAX_PIXELS", 1000)
    fits = replace(ROW, path=str(photos / "a.jpg"), width=640, height=480)
    run = write_run(tmp_path / "run", fits, replace(fits, path=str(photos / "b.jpg"), width=64))
    written = write_report(run, thumbnails=True)
    assert [bool(address) for address in data(written.path, "thumbnails-0")] == [True, False]
    assert written.without_photo == 1


def test_another_run_is_compared_with_by_photo(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    run = write_run(
        tmp_path / "run",
        *(replace(ROW, path=f"my photos #1/{name}", mode="combined", count=5) for name in names[:3]),
        error_result("my photos #1/d.jpg", "No.", mode="combined", model="tiny"),
    )
    others = [
        replace(ROW, path=str(photos / "a.jpg"), count=2, count_label="2"),
        # At least 4: no disagreement with 5.
        replace(ROW, path=str(photos / "b.jpg"), count=4, count_label="4+", count_scores={"4+": 1.0}),
        replace(ROW, path=str(photos / "d.jpg")),
    ]
    other = write_run(tmp_path / "other", *others)
    page = write_report(run, compare=other).path
    of_both = {"name": "other", "mode": "c2p", "matched": 3, "both": 2, "same": 1}
    assert data(page, "head")["compare"] == {**of_both, "reviewed": 0, "right": 0, "other_right": 0}
    rows = data(page, "rows")
    assert [row[11:13] for row in rows] == [[2, 0], [4, 1], [], [1, 0]]
    assert rows[0][13] == [[0, 9, 9, 3, 3, 1]]


def test_runs_are_compared_as_they_counted_and_judged_by_what_people_found_right(tmp_path: Path) -> None:
    names = ("a.jpg", "b.jpg", "c.jpg")
    run = write_run(tmp_path / "run", *(replace(ROW, path=name, count=2, count_label="2") for name in names))
    others = [replace(ROW, path=name, count=n, count_label=str(n)) for name, n in zip(names, (2, 3, 3), strict=True)]
    other = write_run(tmp_path / "other", *others)
    when = "2026-01-02T03:04:05+00:00"
    append_correction(run, Correction("b.jpg", 3, (), when))
    append_correction(other, Correction("a.jpg", 2, (), when))
    append_correction(other, Correction("c.jpg", 2, (), when))
    page = write_report(run, compare=other).path
    compare = data(page, "head")["compare"]
    assert (compare["both"], compare["same"]) == (3, 1)  # as corrected they would agree in all
    assert (compare["reviewed"], compare["right"], compare["other_right"]) == (3, 2, 2)
    # In the gallery this run's photos stand as corrected, and the other's as it counted.
    assert [(row[4], row[11]) for row in data(page, "rows")] == [(2, 2), (3, 3), (2, 3)]
    assert data(page, "rows")[1][14:] == [2]


def test_runs_that_were_told_other_counts_disagree(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    told = [replace(ROW, path=str(photos / "a.jpg"), count=n, count_label="4+") for n in (4, 6)]
    four, six = (write_run(tmp_path / str(row.count), row) for row in told)
    head = data(write_report(six, compare=four).path, "head")
    assert (head["compare"]["both"], head["compare"]["same"]) == (1, 0)
    assert [(bar["label"], bar["n"]) for bar in head["figures"]["counts"] if bar["n"]] == [("6", 1)]


def test_runs_of_other_photos_are_not_compared(tmp_path: Path) -> None:
    run, other = write_run(tmp_path / "run", ROW), write_run(tmp_path / "other", replace(ROW, path="z.jpg"))
    with pytest.raises(UsageError, match="The run other has no photo in common"):
        write_report(run, compare=other)
    assert not (run / "report.html").exists()


def test_hostile_texts_stay_inside_their_strings(tmp_path: Path) -> None:
    path = "</script><img src=x onerror=alert(1)>\u2028.jpg"
    run = write_run(tmp_path / "<b>run", error_result(path, "<script>alert(1)</script>", mode="c2p", model="<i>"))
    text = write_report(run).path.read_text(encoding="utf-8")
    assert "alert(1)" in text
    assert "<img src=x" not in text
    assert "<script>alert" not in text
    assert text.count("</script>") == 3  # head, rows, code
    assert "<title>&lt;b&gt;run" in text


def test_what_cannot_be_written_is_said_and_leaves_the_earlier_page(tmp_path: Path, monkeypatch: Any) -> None:
    run = write_run(tmp_path / "run", ROW)
    page = write_report(run).path
    before = page.read_text()

    def full(*_: Any) -> Callable[..., Any]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(PcEngineError, match=r"cannot be written .No space left on device."):
        write_report(run)
    assert page.read_text() == before
    assert [path.name for path in run.iterdir() if path.suffix == ".new"] == []
    with pytest.raises(PcEngineError, match="cannot be written"):
        write_report(run, tmp_path / "absent" / "page.html")


def test_a_page_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: Any) -> None:
    run = write_run(tmp_path / "run", ROW)
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append((run / "report.html").exists()))
    write_report(run)
    assert synced == [False, True]


def test_where_no_file_can_be_made_is_wrong_use(tmp_path: Path, monkeypatch: Any) -> None:
    run = write_run(tmp_path / "run", ROW)
    (tmp_path / "file").touch()
    for out in (tmp_path / "file/page.html", tmp_path / ("long" * 100)):
        with pytest.raises(UsageError, match=r"cannot be written \(.*\): choose another file with --out"):
            write_report(run, out)

    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(UsageError, match=r"report\.html cannot be written \(Read-only file system\): choose another"):
        write_report(run)


def test_a_report_replaces_none_but_an_earlier_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "<'" / ("é'" * 60), ROW)
    page = write_report(run).path
    assert write_report(run).path == page
    assert write_report(run, page.rename(tmp_path / "page.html")).images == 1
    for name in ("photo.jpg", "report.html"):
        (run / name).write_text("<!doctype html><title>of somebody else - pc-engine</title>")
    before = {path: path.read_bytes() for path in run.iterdir()}
    for name, why in (
        ("part-00000.parquet", "would be taken for a file of the run"),
        ("part-00001.jsonl", "would be taken for a file of the run"),
        ("photo.jpg", "no report wrote it"),
        ("report.html", "no report wrote it"),
    ):
        with pytest.raises(UsageError, match=rf"{why}.*: choose another name"):
            write_report(run, run / name)
    with pytest.raises(UsageError, match="no report wrote it"):
        write_report(run)
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    with pytest.raises(UsageError, match=r"is a folder: name the file to write, such as .*report\.html"):
        write_report(run, tmp_path)


def test_a_folder_without_rows_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no rows"):
        write_report(tmp_path)
