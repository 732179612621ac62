"""`write_report`: the page of a run, as a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pc_engine.decoding.browser_formats import is_shown_upright
from pc_engine.errors import PcEngineError, UsageError, system_reason
from pc_engine.files.durable import publish, unpublished
from pc_engine.hardware.machine import usable_cores
from pc_engine.report.compact import Tables, compact_row, json_array, page_head, script_json
from pc_engine.report.comparison import Comparison
from pc_engine.report.figures import FigureCollector, run_facts
from pc_engine.report.page import ASSETS, PageParts, is_page, render_page
from pc_engine.report.thumbnails import PER_PART, Thumbnails
from pc_engine.runs.out_file import check_no_file_of_a_run, check_replaceable
from pc_engine.runs.photos import RunPhotos, names_a_file
from pc_engine.runs.rows import iter_rows

REPORT_FILE = "report.html"

_PARTS = PageParts((ASSETS / "page.css", ASSETS / "report.css"), ASSETS / "report.js")
# Pictures come from beside the page, or from inside it; 'self' means nothing to a page that is a file.
_POLICY = "img-src 'self' file: data:"


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes
    ----------
    path, size
        Where, and its size in bytes.
    images, done
        Rows of the run, and those of images that could be done.
    without_photo
        Images that could be done whose photo was not found, or for a thumbnail not read.
    missing
        Where the first of them was looked for; None where there is none.
    in_archives
        Images that could be done whose photos are no files, and have no thumbnails.
    thumbnails
        Small pictures in the page.
    """

    path: Path
    images: int
    done: int
    without_photo: int
    missing: str | None
    in_archives: int
    thumbnails: int
    size: int


def write_report(
    directory: Path,
    out: Path | None = None,
    *,
    compare: Path | None = None,
    photos: Path | None = None,
    thumbnails: bool | None = None,
    workers: int | None = None,
    shrinking: Callable[[int, int], None] = lambda _done, _total: None,
) -> Report:
    """Write an HTML page about a run.

    Parameters
    ----------
    directory
        The run directory.
    out
        The file to write; ``report.html`` in the run directory where None.
    compare
        Another run over the same photos, whose counts are shown beside this one's.
    photos
        The folder that the photos lie in now; None where they lie as they did in the run.
    thumbnails
        Put a small picture of every photo into the page (True), which otherwise refers to the photos where they lie; of
        those only that browsers do not show (None, see `pc_engine.decoding.browser_formats`), or of none (False).
    workers
        Threads that make thumbnails; one per usable core where None.
    shrinking
        Called as ``shrinking(done, total)`` after every thumbnail.

    Raises
    ------
    UsageError
        If the directory holds no rows, or the run to compare with none of the same photos, or ``photos`` is no folder,
        or if ``out`` exists and is no report, or is a file of a run, or if no file can be made there.
    PcEngineError
        If the page cannot be written to its end.
    """
    path = directory / REPORT_FILE if out is None else out
    _check(path)
    found = RunPhotos(directory, photos)
    # Two runs name the same photos, wherever these lie now.
    comparison = None if compare is None else Comparison(compare, RunPhotos(directory))
    tables, collector = Tables(), FigureCollector()
    rows: list[str] = []
    thumbs = Thumbnails()
    examples: list[str] = []
    done = without_photo = in_archives = 0
    missing: str | None = None
    for row in iter_rows(directory, corrected=True):
        collector.add(row)
        rows.append(script_json(compact_row(row, tables, None if comparison is None else comparison.answer(row))))
        if len(tables.folders) > len(examples):
            examples.append(row["path"])
        is_done = row["status"] == "ok"
        done += is_done
        wanted = _wants_thumbnail(row, found) if thumbnails is None else thumbnails
        thumbs.ask(row, wanted=wanted)
        if is_done and not wanted:
            if found.is_gone(row["path"]):
                without_photo += 1
                missing = missing or row["path"]
            in_archives += not names_a_file(row["path"])
    head = {
        **page_head(directory, tables, [_address(example, found, path) for example in examples]),
        "figures": collector.figures(run_facts(directory)),
        "compare": None if comparison is None else comparison.figures(),
        "thumbnailsPerPart": PER_PART if thumbs.any_asked else None,
        "thumbnailsOfAll": bool(thumbnails),
    }

    def data() -> Iterator[tuple[str, Iterable[str]]]:
        yield "head", [script_json(head)]
        yield "rows", json_array(rows)
        for number, made in enumerate(thumbs.parts(found, workers or usable_cores(), shrinking)):
            yield f"thumbnails-{number}", [script_json(made)]

    _write(path, render_page(_PARTS, f"{head['name']} - pc-engine", data(), policy=_POLICY))
    without_photo += len(thumbs.missing)
    missing = missing or next(iter(thumbs.missing), None)
    where = None if missing is None else os.fspath(found.file(missing) or missing)
    return Report(path, len(rows), done, without_photo, where, in_archives, thumbs.made, path.stat().st_size)


def _wants_thumbnail(row: Mapping[str, Any], photos: RunPhotos) -> bool:
    """Whether a row's photo is a file that browsers do not show."""
    if row["status"] != "ok" or not names_a_file(row["path"]):
        return False
    file = photos.file(row["path"])
    return file is not None and not is_shown_upright(file) and not photos.is_gone(row["path"])


def _address(example: str, photos: RunPhotos, page: Path) -> str | None:
    """Return the address of the folder of a photo relative to the page; None if it is none of a file system."""
    file = photos.file(example)
    if file is None:
        return None
    try:
        relative = Path(os.path.relpath(file.parent, os.path.abspath(page.parent))).as_posix()
    except ValueError:  # another drive
        return file.parent.as_uri() + "/"
    return quote(relative, errors="surrogateescape") + "/"


def _check(path: Path) -> None:
    if os.path.isdir(path):  # where the name is too long, too
        raise UsageError(f"{path} is a folder: name the file to write, such as {path / REPORT_FILE}.")
    check_no_file_of_a_run(path)
    check_replaceable(path, is_page, "report")


def _write(path: Path, pieces: Iterable[str]) -> None:
    """Write the page under another name first, so that a page that was there stays whole until this one is."""
    temporary = unpublished(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = temporary.open("w", encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({system_reason(error)}): choose another file with --out."
        ) from None
    try:
        with stream:
            stream.writelines(pieces)
        publish(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise PcEngineError(
            f"{path} cannot be written ({system_reason(error)}): make room, or choose another file with --out."
        ) from None
