"""``pc-engine run``: from a folder of photos to counts and pointers."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from pc_engine.cli import options
from pc_engine.cli.console import Tracker, print_json, print_line, print_table, progress, remark
from pc_engine.engine import Engine
from pc_engine.errors import PcEngineError, UsageError
from pc_engine.overlay import write_overlay
from pc_engine.result import Result
from pc_engine.sources import count_images, iter_images
from pc_engine.writers import FORMATS, OVERLAYS, RunWriter

_TABLE_ROWS = 40
_SOME_FAILED = 3


@dataclass
class _Tally:
    """What a finished run is summed up from; it keeps the first rows only, unless all are to be printed."""

    keep: int | None
    n: int = 0
    failed: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    rows: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        self.n += 1
        self.failed += not result.ok
        if result.count_label is not None:
            self.labels[result.count_label] += 1
        if self.keep is None or len(self.rows) < self.keep:
            self.rows.append(result)


def run(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Folders, files, globs, tar and Parquet shards, addresses (s3://, https://, ...), @list.txt or "
            "@table.csv, or demo: for the built-in scenes.",
        ),
    ],
    mode: options.Mode = "c2p",
    model: options.Model = None,
    out: Annotated[Path | None, typer.Option("--out", help="Directory for rows and overlays.")] = None,
    backend: options.Backend = "auto",
    precision: options.Precision = "auto",
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    cluster: options.Cluster = None,
    row_format: Annotated[str, typer.Option("--format", help="Rows as parquet or jsonl.")] = "parquet",
    overlay: Annotated[bool, typer.Option("--overlay", help="Write each photo with its pointers drawn on it.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace an earlier run in the --out directory.")] = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Count the objects in every image of SOURCE and point at each.

    Without --out the table is printed and nothing is written. Exit code: 0 all images done, 3 some failed (each has its
    row), 2 wrong use, 1 the run could not go on.
    """
    if overlay and out is None:
        raise UsageError("--overlay writes pictures: say where with --out DIR.")
    if row_format not in FORMATS:
        raise UsageError(f"There is no row format '{row_format}': choose one of {', '.join(FORMATS)}.")
    # A source that does not exist is said before a model is loaded. The rows may go into the folder of the photos, and
    # the pictures drawn beside them are none of these.
    overlays = None if out is None else out / OVERLAYS
    paths = iter_images(sources, without=overlays)
    writer = None if out is None else RunWriter(out, row_format, fresh=fresh)
    silent = quiet or as_json
    tally = _Tally(keep=None if as_json and out is None else _TABLE_ROWS)
    with Engine(
        model,
        mode=mode,
        backend=backend,
        precision=precision,
        device=device,
        batch_size=batch_size,
        workers=workers,
        cluster=cluster,
        report=remark(quiet),
    ) as engine:
        start = time.perf_counter()
        with writer or contextlib.nullcontext(), progress(mode, quiet=silent) as tracker:
            _count_in_background(sources, overlays, tracker)
            for index, result in enumerate(engine.run_paths(paths)):
                with engine.clock.measure("write"):
                    if writer is not None:
                        writer.write(result)
                    if overlay and overlays is not None:
                        write_overlay(result, index, overlays)
                tally.add(result)
                tracker.advance()
        summary = _summary(engine, tally, time.perf_counter() - start)
    if writer is not None:
        writer.finish(summary)
    if as_json:
        rows = {} if out is not None else {"rows": [row.to_dict() for row in tally.rows]}
        print_json({**summary, "out": None if out is None else str(out), **rows})
    elif not quiet:
        _print(tally, summary, out, overlay)
    raise typer.Exit(_SOME_FAILED if tally.failed else 0)


def _count_in_background(sources: Sequence[str], overlays: Path | None, tracker: Tracker) -> None:
    """Give the progress bar its total as soon as the listing is through, without holding up the run."""

    def count() -> None:
        with contextlib.suppress(PcEngineError):
            total = count_images(sources, without=overlays)
            if total is not None:
                tracker.set_total(total)

    threading.Thread(target=count, daemon=True).start()


def _summary(engine: Engine, tally: _Tally, seconds: float) -> dict[str, Any]:
    return {
        "mode": engine.mode.name,
        "model": engine.model.name,
        "network_sha256": engine.model.manifest.network_sha256,
        "backend": engine.backend,
        "precision": engine.precision,
        "device": engine.device,
        "batch_size": engine.batch_size,
        "n": tally.n,
        "ok": tally.n - tally.failed,
        "failed": tally.failed,
        "counts": dict(sorted(tally.labels.items())),
        "seconds": round(seconds, 3),
        "images_per_second": round(tally.n / seconds, 2) if seconds > 0 else None,
        "stages": {name: round(value, 3) for name, value in engine.clock.seconds.items()},
    }


def _print(tally: _Tally, summary: dict[str, Any], out: Path | None, overlay: bool) -> None:
    if tally.n == 0:
        print_line("No images were found.")
        return
    folder = _common_folder([row.path for row in tally.rows])
    rows = [_table_row(row, folder) for row in tally.rows]
    print_table(folder, ("image", ">count", "class", "pointers (x, y)"), rows)
    if tally.n > len(tally.rows):
        print_line(f"... and {tally.n - len(tally.rows):,} more.")
    counts = ", ".join(f"{label}: {n:,}" for label, n in summary["counts"].items())
    print_line(f"{tally.n:,} images, {tally.failed:,} failed. Images by count: {counts or 'none'}.")
    print_line(
        f"{summary['images_per_second']:,} images/s ({summary['model']}, {summary['mode']}, {summary['backend']} "
        f"{summary['precision']}, {summary['seconds']:,} s)."
    )
    if out is not None:
        print_line(f"Rows are in {out}" + (f", pictures in {out / OVERLAYS}." if overlay else "."))


def _common_folder(paths: Sequence[str]) -> str:
    """Return the folder that all images lie in, to be named once; empty where there is none."""
    try:
        return os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # absolute and relative paths, or two drives
        return ""


def _table_row(result: Result, folder: str) -> Sequence[str]:
    name = os.path.relpath(result.path, folder) if folder else result.path
    if not result.ok:
        return name, "-", "", f"failed: {result.error}"
    shown = " ".join("({:.0f}, {:.0f})".format(*pointer.centre) for pointer in result.pointers[:6])
    more = len(result.pointers) - 6
    named = "" if result.class_name is None else f"{result.class_name} ({result.class_score:.0%})"
    return name, str(result.count), named, shown + (f" +{more}" if more > 0 else "")
