"""What people corrected in a run: ``corrections.jsonl`` beside its rows, one line for each change.

A line holds a path as its row has it, the count and the pointers that were found right, the class where it was not, and
when. The last line of a path counts; ``{"path": …, "withdrawn": true}`` takes back what was said before. Lines are only
ever added, so that a crash can tear the last one at most. Corrections outlive the rows: a run made anew with
``--fresh`` keeps them. Several reviews may add lines: each takes ``.corrections.lock`` for its own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import filelock

from pc_engine.errors import DataError, PcEngineError, UsageError, system_reason
from pc_engine.files.durable import sync, sync_folder, write_error
from pc_engine.files.json_values import is_text, is_whole, parse_line
from pc_engine.files.locks import NoLocksError, file_lock
from pc_engine.fitted.counter import DEFAULT_LABELS, row_label
from pc_engine.pointers import Pointer, parse_pointer, pointer_row
from pc_engine.runs.run_directory import CORRECTIONS

#: Classes that persons named have numbers from here on, to twice as many.
CLASSES_OF_PERSONS = 1 << 29

_LOCK = ".corrections.lock"
# Far longer than a line takes on a slow disk: whoever holds the lock that long hangs.
_LOCK_SECONDS = 30


@dataclass(frozen=True)
class Correction:
    """What a person says about one image.

    Attributes
    ----------
    path
        The image, as its row names it.
    count
        Number of objects.
    pointers
        In pixels of the picture as displayed. There may be fewer or more than ``count``.
    when
        Date and time of the correction, ISO 8601 with its offset from UTC.
    class_name
        Of the image, where that of the run is not right; None where it stands. Pointers of other classes keep theirs.
    """

    path: str
    count: int
    pointers: tuple[Pointer, ...]
    when: str
    class_name: str | None = None


def read_corrections(directory: Path) -> dict[str, Correction]:
    """Return the corrections of a run by path; empty where there are none.

    Raises
    ------
    DataError
        If a line other than a torn last one is not a correction.
    """
    path = directory / CORRECTIONS
    corrections: dict[str, Correction] = {}
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                try:
                    _apply(line, corrections)
                except ValueError as error:
                    if not line.endswith(b"\n"):  # torn by a crash, so that nobody was told it is saved
                        break
                    raise DataError(
                        f"Line {number} of {path} is not a correction ({error}): repair or remove it."
                    ) from None
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise DataError(f"{path} cannot be read ({system_reason(error)}): check its permissions.") from None
    return corrections


def check_correctable(directory: Path) -> None:
    """Raise UsageError if no correction can be added to those of a run, before anybody makes one."""
    path = directory / CORRECTIONS
    files = (path, directory / _LOCK)
    if not os.access(directory, os.W_OK | os.X_OK) or any(
        file.exists() and not os.access(file, os.W_OK) for file in files
    ):
        raise UsageError(
            f"{path}, which keeps corrections, cannot be written: change the permissions, or review a copy of "
            f"{directory}."
        )


def append_correction(directory: Path, correction: Correction) -> None:
    """Add a correction to those of a run; once this returns it survives a crash.

    Raises
    ------
    PcEngineError
        If it cannot be written; nothing of it is in the file then.
    """
    pointers = [pointer_row(pointer) for pointer in correction.pointers]
    values = {key: value for key, value in asdict(correction).items() if value is not None}
    _append(directory, {**values, "pointers": pointers})


def withdraw_correction(directory: Path, path: str, when: str) -> None:
    """Take back what was said about an image: its row stands as the run wrote it. Otherwise as `append_correction`."""
    _append(directory, {"path": path, "withdrawn": True, "when": when})


def corrected_row(row: dict[str, Any], correction: Correction | None) -> dict[str, Any]:
    """Return a row as `pc_engine.runs.rows.iter_rows` gives it with its correction; one that failed stays as it is.

    A class that was corrected has a number of `number_of_class`, and no score.
    """
    if correction is None or row["status"] != "ok":
        return row
    labels = tuple(row["count_scores"] or DEFAULT_LABELS)
    pointers = [pointer_row(pointer) for pointer in correction.pointers]
    of_class: dict[str, Any] = {}
    if correction.class_name is not None:
        of_class = {"class_id": number_of_class(correction.class_name), "class_name": correction.class_name}
        # Those that are of the image's class follow it.
        own = row["class_id"]
        follows = [own is not None and pointer.get("class_id") == own for pointer in pointers]
        pointers = [{**of, **of_class} if also else of for of, also in zip(pointers, follows, strict=True)]
        of_class["class_score"] = None
    return {
        **row,
        **of_class,
        "count": correction.count,
        "count_label": row_label(correction.count, labels),
        "pointers": pointers,
        "reviewed": True,
        "count_found": row["count"],
        "count_label_found": row["count_label"],
    }


def number_of_class(name: str) -> int:
    """Return the number of a class that a person named, which the name decides; no network has such.

    Of which class of a run it is, if any, is for whoever knows all of these to find, by the name.
    """
    digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
    return CLASSES_OF_PERSONS + int.from_bytes(digest) % CLASSES_OF_PERSONS


def _apply(line: bytes, corrections: dict[str, Correction]) -> None:
    value = parse_line(line)
    if not isinstance(value, dict) or not is_text(value.get("path")):
        raise ValueError("it has no path")
    path = value["path"]
    if value.get("withdrawn") is True:
        corrections.pop(path, None)
        return
    count, pointers = value.get("count"), value.get("pointers")
    if not is_whole(count):
        raise ValueError("its count is not a whole number of at least 0")
    if not isinstance(pointers, list):
        raise ValueError("it has no list of pointers")  # noqa: TRY004
    class_name = value.get("class_name")
    if not (class_name is None or (is_text(class_name) and class_name)):
        raise ValueError("its class is not a name")
    corrections[path] = Correction(
        path=path,
        count=count,
        pointers=tuple(map(parse_pointer, pointers)),
        when=str(value.get("when", "")),
        class_name=class_name,
    )


def _append(directory: Path, value: Mapping[str, Any]) -> None:
    path = directory / CORRECTIONS
    line = json.dumps(value, allow_nan=False).encode("ascii") + b"\n"
    try:
        is_new = not path.exists()
        # What another process has written so far looks like a line torn by a crash, and would be cut off. The lock is
        # taken second, as it would make a folder that is not there.
        lock = file_lock(directory / _LOCK, _LOCK_SECONDS)
        with path.open("ab+", buffering=0) as stream, lock:
            _mend_tail(stream)
            end = stream.seek(0, os.SEEK_END)
            try:
                if stream.write(line) != len(line):
                    raise OSError("the disk is full")
                sync(stream.fileno())
            except OSError:
                with suppress(OSError):
                    stream.truncate(end)
                raise
        if is_new:
            sync_folder(directory)
    except filelock.Timeout:
        raise PcEngineError(
            f"{path} is being written by another process, which does not end: look for another review of this run."
        ) from None
    except NoLocksError:
        raise PcEngineError(
            f"{path} cannot be written, as its disk takes no locks: review a copy of {directory} on another disk, or "
            f"have the lock service of its server started."
        ) from None
    except OSError as error:
        raise write_error(path, error) from None


def _mend_tail(stream: BinaryIO) -> None:
    """Let the file end with a whole line, so that the next one does not join a line torn by a crash."""
    stream.seek(max(stream.seek(0, os.SEEK_END) - 1, 0))
    if stream.read() in (b"", b"\n"):
        return
    # Only after a crash is all of it read.
    stream.seek(0)
    content = stream.read()
    start = content.rfind(b"\n") + 1
    try:
        parse_line(content[start:])
    except ValueError:
        stream.truncate(start)
    else:
        stream.write(b"\n")
