"""``pc-engine run``: from a folder of photos to counts and pointers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pc_engine.catalogue import EMBEDDED
from pc_engine.cli import options
from pc_engine.cli.console import (
    Tracker,
    number_of_images,
    print_json,
    progress,
    remark,
    remark_at_once,
)
from pc_engine.cli.run_engine import engine_options, named, open_engine
from pc_engine.cli.run_options import (
    LOCAL,
    DiskOptions,
    EngineOptions,
    RunOptions,
    WorkerOptions,
    require_out,
)
from pc_engine.cli.run_table import ShownRows, failed_images, print_no_images, print_run
from pc_engine.cli.stopping import Stopping, exit_code
from pc_engine.decoding.decode import MAX_PIXELS
from pc_engine.decoding.settings import Decoding
from pc_engine.engine import Engine
from pc_engine.errors import PcEngineError
from pc_engine.modes import find_mode
from pc_engine.overlay import write_overlay
from pc_engine.runs.partition_names import find_format
from pc_engine.runs.run_state import State
from pc_engine.selection.execution import Execution
from pc_engine.shown_text import for_terminal, number_of
from pc_engine.sources import DEMO, SourceImage, count_images, iter_images, named_twice
from pc_engine.sources.lists import MARK, STDIN
from pc_engine.sources.passed_over import PassedOver
from pc_engine.sources.sharding import parse_shard
from pc_engine.sources.stored_names import start_folder

if TYPE_CHECKING:
    from pc_engine.distributed.shared_engine import SharedEngine
    from pc_engine.runs.run_directory import RunDirectory

_SOME_FAILED = 3
_SHOWN = 3
_OF_DIGITS = f"These are counts of digit objects, the only ones '{EMBEDDED}' knows: for photos, choose another --model."


def run(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Folders, files, globs, tar, ZIP and Parquet archives, addresses (s3://, https://, ...), @list.txt, "
            "@table.csv or @- for a list on stdin, or demo: for the built-in scenes.",
        ),
    ],
    mode: options.ModeOfRun = None,
    model: options.Model = None,
    out: Annotated[Path | None, options.out("Directory for rows and overlays.")] = None,
    backend: options.Backend = "auto",
    precision: options.Precision = "auto",
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    cluster: options.Cluster = None,
    classes: options.Classes = None,
    pointer: options.Pointer = None,
    counts: options.Count = None,
    row_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Rows as parquet or jsonl; if omitted, as those in --out are, else parquet.",
            callback=options.word(find_format),
        ),
    ] = None,
    overlay: Annotated[bool, typer.Option("--overlay", help="Write each photo with its pointers drawn on it.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace an earlier run in the --out directory.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Retry the images in the --out directory that failed.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option("--shard", help="I/N: do the I-th of N parts of the images, for job arrays; all share one --out."),
    ] = None,
    engine_name: Annotated[
        str,
        typer.Option(
            "--engine",
            help="local, or ray: on all machines of a Ray cluster that share the --out folder.",
            callback=options.any_case,
        ),
    ] = LOCAL,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            help="Processes of this machine that share the images: several keep a fast GPU busy; if omitted, one does "
            "them all.",
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address", help="Address of a Ray cluster, or auto; if omitted, RAY_ADDRESS or this machine alone."
        ),
    ] = None,
    ray_cpus: Annotated[
        int | None, typer.Option("--ray-cpus", help="Cores per Ray worker; if omitted, what suits the machines.")
    ] = None,
    max_pixels: options.MaxPixels = MAX_PIXELS,
    isolate: options.Isolate = False,
    image_seconds: options.ImageSeconds = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Count the objects in every image of SOURCE and point at each.

    Without --out, the table is printed and nothing is written. With it, a stopped run goes on where it was when the
    same command is run again.

    Exit code: 0 all images done, even if there are none, 3 some failed (each has its row), 2 wrong use, 1 the run
    could not go on, 130 stopped by Ctrl-C, 143 by SIGTERM.
    """
    require_out(
        out,
        {
            "--overlay": overlay,
            "--fresh": fresh,
            "--retry-failed": retry_failed,
            "--shard": shard is not None,
            "--format": row_format is not None,
        },
    )
    decoding = Decoding(max_pixels, isolate, image_seconds)
    shared_by = WorkerOptions(engine_name, processes, ray_address, ray_cpus)
    shared_by.check(out)
    disk = DiskOptions(
        out=out,
        row_format=row_format,
        overlay=overlay,
        fresh=fresh,
        retry_failed=retry_failed,
        shard=None if shard is None else parse_shard(shard),
    )
    count, column = options.known_count(counts)
    engine = EngineOptions(
        mode=mode,
        model=model,
        execution=Execution(backend, precision, device, batch_size),
        workers=workers,
        cluster=cluster,
        classes=classes,
        pointer=pointer,
        count=count,
        decoding=decoding,
    )
    raise typer.Exit(_do(RunOptions(sources, engine, shared_by, disk, column, quiet, as_json)))


@dataclass(frozen=True)
class _Job:
    """A run that is under way: what it was asked for, its images, what is to be said of them, and what was said."""

    asked: RunOptions
    images: Iterator[SourceImage]
    passed_over: PassedOver
    stopping: Stopping
    shown: ShownRows
    said: list[str] = field(default_factory=list)

    def say(self, sentence: str) -> None:
        """Print a remark, unless none are wanted, and keep it for the notes of the summary in JSON."""
        if not self.asked.quiet:
            self.said.append(sentence)
        remark(self.asked.quiet)(sentence)


def _do(asked: RunOptions) -> int:
    """Do a run, from its listing to what is said of it; return the exit code.

    The order counts. A source that does not exist is said before a model is loaded, and that there are no images before
    one is chosen for nothing, or even fetched. The directory is locked, and its rows are found to be of this mode,
    before the network is opened; they are replaced, or gone on with, after that.
    """
    job = _listed(asked)
    if asked.disk.out is None and not asked.as_json and MARK + STDIN not in asked.sources:
        first = next(job.images, None)
        if first is None:
            if not asked.quiet:
                print_no_images(job.passed_over)
            return 0
        job = replace(job, images=chain([first], job.images))
    with contextlib.ExitStack() as stack:
        rows = None if asked.disk.out is None else stack.enter_context(_run_directory(asked.disk, asked.disk.out))
        if rows is not None:
            rows.check(named(asked.engine.execution))
        options = engine_options(asked, (rows.earlier if rows is not None else None) or {}, job.say)
        if rows is not None:
            rows.check({"mode": find_mode(options["mode"]).name})
        engine = open_engine(asked, rows, options, job.say)
        stack.enter_context(engine)
        if rows is not None:
            _begin(job, rows, engine)
        stack.enter_context(job.stopping)
        start = time.perf_counter()
        _execute(job, rows, engine, options["mode"])
        state: State = "finished" if job.stopping.signal is None else "interrupted"
        summary = _summary(job, rows, engine, time.perf_counter() - start)
        if rows is not None:
            rows.close(state, summary)
    _print_summary(job, state, summary)
    if job.stopping.signal is not None:
        _say_how_to_go_on(job, summary["n"])
        return exit_code(job.stopping.signal)
    return _SOME_FAILED if summary["failed"] else 0


def _listed(asked: RunOptions) -> _Job:
    """Begin to list the images, and say which sources were named twice."""
    sources, shard = asked.sources, asked.disk.shard
    stopping = Stopping(remark_at_once(asked.quiet))
    passed_over = PassedOver(
        # The labels of the demo's scenes are nobody's lost photo.
        lambda name: DEMO not in sources and (shard is None or shard.holds(name)) and not _is_of_a_run(name)
    )
    images = iter_images(
        sources,
        # The rows may go into the folder of the photos, and the pictures drawn beside them are none of these.
        without=asked.disk.overlays,
        stop=stopping.asked,
        passed_over=passed_over.add,
        named_again=passed_over.add_named_again,
        by_name=asked.workers.shared,
        count_column=asked.count_column,
    )
    job = _Job(asked, images, passed_over, stopping, ShownRows(all_of_them=asked.as_json and asked.disk.out is None))
    if again := named_twice(sources):
        more = f" and {len(again) - _SHOWN:,} others" if len(again) > _SHOWN else ""
        job.say(for_terminal(f"{', '.join(again[:_SHOWN])}{more}: given more than once, processed once."))
    return job


def _run_directory(disk: DiskOptions, out: Path) -> RunDirectory:
    """Return the run directory, locked."""
    # With Arrow, which nothing needs that is only shown.
    from pc_engine.runs.run_directory import RunDirectory

    return RunDirectory(out, disk.row_format, fresh=disk.fresh, retry_failed=disk.retry_failed, shard=disk.shard)


def _begin(job: _Job, rows: RunDirectory, engine: Engine | SharedEngine) -> None:
    """Let the directory take rows of this engine, and say what it has already."""
    asked, out = job.asked, job.asked.disk.out
    made_with = {**engine.identity(), "count_column": asked.count_column}
    about = {**engine.describe(), "sources": list(asked.sources), "folder": start_folder()}
    rows.begin(made_with, about, asked.sources)
    if rows.before:
        nor = ", and no overlays are drawn of what has a row: --fresh redoes all" if asked.disk.overlay else ""
        skipped = "its image is skipped" if rows.before == 1 else "their images are skipped"
        job.say(f"{out} has {number_of(rows.before, 'row')} already; {skipped}{nor}.")
    if rows.pictures_removed and not asked.disk.overlay:
        pictures = number_of(rows.pictures_removed, "picture")
        job.say(f"Removed {pictures} of the earlier run from {asked.disk.overlays}: add --overlay to draw new ones.")
    if rows.lost:
        job.say(
            f"{', '.join(rows.lost)}: the folder is gone, but {out} has rows of its photos. If it was renamed, they "
            "are counted again under their new names, unless --fresh is given."
        )


def _execute(job: _Job, rows: RunDirectory | None, engine: Engine | SharedEngine, mode: str) -> None:
    """Do the images that are left, until there are no more or a signal comes."""
    with progress(mode, quiet=job.asked.quiet or job.asked.as_json) as tracker:
        _count_in_background(job, rows, tracker)
        todo = job.stopping.until_asked(job.images if rows is None else rows.remaining(job.images))
        if isinstance(engine, Engine):
            _run_here(job, rows, engine, todo, tracker)
        elif rows is not None:
            for tally in engine.run(todo, job.stopping.asked):
                rows.add(tally)
                tracker.advance(tally.n)


def _run_here(
    job: _Job, rows: RunDirectory | None, engine: Engine, images: Iterable[SourceImage], tracker: Tracker
) -> None:
    """Do the images in this process, and write the row and the picture of each."""
    pictures = job.asked.disk.pictures
    for result in engine.run_paths(images):
        with engine.clock.measure("write"):
            # First, as an image that has its row is done.
            if pictures is not None:
                write_overlay(result, pictures, engine.decoders.decode)
            if rows is not None:
                rows.write(result)
        job.shown.add(result)
        tracker.advance()


def _count_in_background(job: _Job, rows: RunDirectory | None, tracker: Tracker) -> None:
    """Give the progress bar its total as soon as the listing is through, without holding up the run."""
    sources, overlays = job.asked.sources, job.asked.disk.overlays
    if rows is not None:
        tracker.advance(rows.before)

    def count_all() -> None:
        with contextlib.suppress(PcEngineError):
            total = count_images(sources, without=overlays, which=None if rows is None else rows.holds)
            if total is not None:
                tracker.set_total(total)
                if rows is not None:
                    rows.file.total = total

    threading.Thread(target=count_all, daemon=True).start()


def _summary(job: _Job, rows: RunDirectory | None, engine: Engine | SharedEngine, seconds: float) -> dict[str, Any]:
    """Sum up the run, which took so many ``seconds``; where it went on with an earlier one, both."""
    tally = job.shown.tally if rows is None else rows.tally
    seconds = seconds if rows is None else rows.file.seconds
    stages = Counter({} if rows is None else rows.file.stages_before)
    stages.update(engine.clock.seconds)
    about = engine.describe()
    # A table says it below.
    unseen = job.passed_over.notes() if job.asked.as_json and not tally.n else []
    several = [] if job.asked.quiet else _of_several(engine.first_of_several)
    # Said at the start as well, where a table has long scrolled it away, and where nothing else is.
    of_digits = job.asked.engine.model is None and about["model"] == EMBEDDED and tally.n and not job.asked.of_demo
    return {
        **about,
        **tally.to_dict(),
        "seconds": round(seconds, 3),
        "images_per_second": round(tally.n / seconds, 2) if seconds > 0 else None,
        "stages": {name: round(value, 3) for name, value in stages.items()},
        "passed_over": job.passed_over.to_dict(),
        "named_again": job.passed_over.named_again,
        "notes": [*([_OF_DIGITS] if of_digits else []), *several, *unseen],
    }


def _of_several(files: int) -> list[str]:
    """Return the note on files that hold several pictures, if any were decoded."""
    if not files:
        return []
    what = "1 file holds several pictures" if files == 1 else f"{files:,} files hold several pictures each"
    return [f"{what}, of which the first was counted: save the others as files of their own to count them, too."]


def _print_summary(job: _Job, state: State, summary: Mapping[str, Any]) -> None:
    """Print what the run comes to, and the notes on it."""
    disk, shown = job.asked.disk, job.shown
    if job.asked.as_json:
        listed = {} if disk.out is not None else {"rows": [row.to_dict() for row in shown.rows]}
        where = {"state": state, "out": None if disk.out is None else str(disk.out)}
        print_json({**summary, "notes": [*job.said, *summary["notes"]], **where, **listed})
    elif not job.asked.quiet:
        print_run(shown, summary, job.passed_over, disk, stopped=job.stopping.signal is not None)
    elif failed := failed_images(shown, summary, disk.out):
        remark(quiet=False)(failed)
    for note in summary["notes"]:
        remark(quiet=False)(note)


def _say_how_to_go_on(job: _Job, n: int) -> None:
    out = job.asked.disk.out
    if n == 0:
        again = "" if out is None else ": run the same command again to begin"
        job.say(f"Stopped while the run was still preparing, before its first image was done{again}.")
    elif out is None:
        job.say(f"Stopped after {number_of_images(n)}. With --out DIR, a stopped run can go on later.")
    else:
        job.say(f"Stopped. {out} has {number_of(n, 'row')}: run the same command again to go on.")


def _is_of_a_run(name: str) -> bool:
    from pc_engine.runs.run_directory import is_own_file  # which brings what writes rows

    return is_own_file(name)
