"""What ``pc-engine run`` prints when it is through: a table of rows, and how many there are in all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pc_engine.cli.console import number_of_images, print_line, print_table
from pc_engine.cli.run_options import DiskOptions
from pc_engine.modes import counts_by_label
from pc_engine.result import Result
from pc_engine.runs.run_state import Tally
from pc_engine.shown_text import for_shell
from pc_engine.sources.addresses import is_address
from pc_engine.sources.passed_over import PassedOver
from pc_engine.sources.sharding import Shard

_TABLE_ROWS = 40
# And of images that failed, which are what somebody has to look at, so many further ones.
_TABLE_FAILURES = 20
_NO_IMAGES = (
    "No images were found: name folders or files with JPEG, PNG, WebP, AVIF, HEIC, BMP, TIFF, GIF, JPEG 2000 or PPM "
    "pictures."
)


@dataclass
class ShownRows:
    """What the table of a run shows: its first rows and failures, unless all are to be printed, and the sum of all."""

    all_of_them: bool = False
    tally: Tally = field(default_factory=Tally)
    rows: list[Result] = field(default_factory=list)
    failures: int = 0  # behind the first rows

    def add(self, result: Result) -> None:
        """Take the next row."""
        self.tally.add(ok=result.ok, label=result.count_label)
        if self.all_of_them or len(self.rows) < _TABLE_ROWS:
            self.rows.append(result)
        elif not result.ok and self.failures < _TABLE_FAILURES:
            self.rows.append(result)
            self.failures += 1


def print_run(
    shown: ShownRows, summary: Mapping[str, Any], passed_over: PassedOver, disk: DiskOptions, *, stopped: bool = False
) -> None:
    """Print the table of a run, or of a shard of it, its ``summary``, and where its rows and pictures are.

    One that was ``stopped`` may not have come to its first image.
    """
    if summary["n"] == 0:
        if not stopped:
            print_no_images(passed_over, disk.shard)
        return
    if shown.rows:
        folder = _common_folder([row.path for row in shown.rows])
        classes = any(row.class_name is not None for row in shown.rows)  # of which c2p names none
        columns = ("image", ">count", *(["class"] if classes else []), "pointers (x, y)")
        print_table(folder, columns, [_table_row(row, folder, classes=classes) for row in shown.rows])
    if shown.tally.n > len(shown.rows):
        print_line(f"... and {shown.tally.n - len(shown.rows):,} more.")
    counts = ", ".join(f"{label}: {n:,}" for label, n in summary["counts"].items())
    print_line(f"{number_of_images(summary['n'])}, {summary['failed']:,} failed. Images by count: {counts or 'none'}.")
    print_line(
        f"{summary['images_per_second']:,} images/s ({summary['model']}, {summary['mode']}, {summary['backend']} "
        f"{summary['precision']}, {summary['seconds']:,} s)."
    )
    if (out := disk.out) is not None:
        where = out if out.name else out.absolute()  # "." is easily read as the end of the sentence
        has_pictures = disk.pictures is not None and disk.pictures.is_dir()
        print_line(f"Rows are in {where}" + (f", pictures in {disk.pictures}." if has_pictures else "."))
    _print_sentences(passed_over)


def failed_images(shown: ShownRows, summary: Mapping[str, Any], out: Path | None) -> str:
    """Return the sentence on images that failed, for those who want no table; empty where none did."""
    n, failed = summary["n"], summary["failed"]
    if not failed:
        return ""
    sentence = f"{failed:,} of {number_of_images(n)} failed"
    if out is not None:
        return f"{sentence}: 'pc-engine status {for_shell(str(out))}' says why."
    first = next(row for row in shown.rows if not row.ok)
    return f"{sentence}, such as {first.path}: {first.error}"


def print_no_images(passed_over: PassedOver, shard: Shard | None = None) -> None:
    """Print that there was nothing to do, at all or for a ``shard``."""
    empty = "" if shard is None else f"Shard {shard.option} has no images: there is nothing to do."
    print_line(empty or _NO_IMAGES)
    _print_sentences(passed_over)


def _print_sentences(passed_over: PassedOver) -> None:
    for sentence in passed_over.sentences():
        print_line(sentence)


def _common_folder(paths: Sequence[str]) -> str:
    """Return the folder that all images lie in, to be named once; empty where there is none, as of addresses."""
    if any(map(is_address, paths)):
        return ""
    try:
        return os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # absolute and relative paths, or two drives
        return ""


def _table_row(result: Result, folder: str, *, classes: bool) -> Sequence[str]:
    name = os.path.relpath(result.path, folder) if folder else result.path
    if not result.ok:
        return name, "-", *([""] if classes else []), f"failed: {result.error}"
    shown = " ".join("({:.0f}, {:.0f})".format(*pointer.centre) for pointer in result.pointers[:6])
    more = len(result.pointers) - 6
    named = "" if result.class_name is None else f"{_first_name(result.class_name)} ({result.class_score:.0%})"
    # Of an open-ended label the lower end alone is known.
    count = result.count_label if counts_by_label(result.mode, result.count_scores) else result.count
    return name, str(count), *([named] if classes else []), shown + (f" +{more}" if more > 0 else "")


def _first_name(class_name: str) -> str:
    """Return the first of the names that a class has: those of ImageNet have up to a line of them, which rows hold."""
    first, comma, _ = class_name.partition(", ")
    return f"{first}, ..." if comma else first
