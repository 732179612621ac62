"""``pc-engine run``: from a folder of photos to counts and pointers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pc_engine.catalogue import EMBEDDED, default_mode
from pc_engine.cli import options
from pc_engine.cli.console import (
    Tracker,
    number_of_images,
    print_json,
    progress,
    remark,
    remark_at_once,
)
from pc_engine.cli.run_table import ShownRows, print_no_images, print_run
from pc_engine.cli.stopping import Stopping, exit_code
from pc_engine.decoding.decode import MAX_PIXELS
from pc_engine.decoding.settings import Decoding
from pc_engine.engine import Engine
from pc_engine.errors import PcEngineError, UsageError
from pc_engine.hardware.devices import open_gpus
from pc_engine.modes import find_mode
from pc_engine.overlay import write_overlay
from pc_engine.runs.run_state import State, Tally
from pc_engine.shown_text import for_terminal
from pc_engine.sources import DEMO, SourceImage, count_images, iter_images, named_twice
from pc_engine.sources.lists import MARK, STDIN
from pc_engine.sources.passed_over import PassedOver
from pc_engine.sources.run_folders import OVERLAYS
from pc_engine.sources.sharding import parse_shard
from pc_engine.sources.stored_names import start_folder

if TYPE_CHECKING:
    from pc_engine.distributed.shared_engine import SharedEngine
    from pc_engine.runs.run_directory import RunDirectory

_LOCAL, _RAY = "local", "ray"
_SOME_FAILED = 3
_SHOWN = 3
_OF_DIGITS = f"These are counts of digit objects, as '{EMBEDDED}' knows no others: for photos name another --model."


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
    out: Annotated[Path | None, typer.Option("--out", help="Directory for rows and overlays.")] = None,
    backend: options.Backend = "auto",
    precision: options.Precision = "auto",
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    cluster: options.Cluster = None,
    classes: options.Classes = None,
    pointer: options.Pointer = None,
    counts: options.Count = None,
    row_format: Annotated[str | None, typer.Option("--format", help="Rows as parquet (default) or jsonl.")] = None,
    overlay: Annotated[bool, typer.Option("--overlay", help="Write each photo with its pointers drawn on it.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace an earlier run in the --out directory.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try the images that failed in the --out directory once more.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option("--shard", help="I/N: do the I-th of N parts of the images, for job arrays; all share one --out."),
    ] = None,
    engine_name: Annotated[
        str,
        typer.Option("--engine", help="local, or ray: on all machines of a Ray cluster that share the --out folder."),
    ] = _LOCAL,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes", help="Processes of this machine that share the images: several keep a fast GPU busy."
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", help="Of a Ray cluster, or auto; left out, RAY_ADDRESS or this machine alone."),
    ] = None,
    ray_cpus: Annotated[
        int | None, typer.Option("--ray-cpus", help="Cores of a Ray worker; left out, as suits the machines.")
    ] = None,
    max_pixels: options.MaxPixels = MAX_PIXELS,
    isolate: options.Isolate = False,
    image_seconds: options.ImageSeconds = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Count the objects in every image of SOURCE and point at each.

    Without --out the table is printed and nothing is written. With it, a run that was stopped goes on where it was when
    the same command is given again.

    Exit code: 0 all images done, be there none, 3 some failed (each has its row), 2 wrong use, 1 the run could not go
    on, 130 stopped by Ctrl-C, 143 by SIGTERM.
    """
    on_disk = {
        "--overlay": overlay,
        "--fresh": fresh,
        "--retry-failed": retry_failed,
        "--shard": shard is not None,
        "--format": row_format is not None,
    }
    for option, given in on_disk.items():
        if given and out is None:
            raise UsageError(f"{option} needs a directory to write to: say where with --out DIR.")
    decoding = Decoding(max_pixels, isolate, image_seconds)
    _check_engine(engine_name, {"--ray-address": ray_address, "--ray-cpus": ray_cpus}, processes, out)
    part = None if shard is None else parse_shard(shard)
    if row_format is not None:
        from pc_engine.runs.partition_names import find_format

        find_format(row_format)
    # A source that does not exist is said before a model is loaded. The rows may go into the folder of the photos, and
    # the pictures drawn beside them are none of these.
    overlays = None if out is None else out / OVERLAYS
    stopping = Stopping(remark_at_once(quiet))
    passed_over = PassedOver(
        # The labels of the demo's scenes are nobody's lost photo.
        lambda name: DEMO not in sources and (part is None or part.holds(name)) and not _is_of_a_run(name)
    )
    shared = engine_name != _LOCAL or processes is not None
    count, column = options.known_count(counts)
    images = iter_images(
        sources,
        without=overlays,
        stop=stopping.asked,
        passed_over=passed_over.add,
        named_again=passed_over.add_named_again,
        by_name=shared,
        count_column=column,
    )
    say, silent = remark(quiet), quiet or as_json
    if again := named_twice(sources):
        more = f" and {len(again) - _SHOWN:,} others" if len(again) > _SHOWN else ""
        say(for_terminal(f"{', '.join(again[:_SHOWN])}{more}: named again, and gone through once."))
    if out is None and not as_json and MARK + STDIN not in sources:
        # Before a model is chosen for nothing, or even fetched.
        first = next(images, None)
        if first is None:
            if not quiet:
                print_no_images(passed_over)
            return
        images = chain([first], images)
    shown = ShownRows(all_of_them=as_json and out is None)
    with contextlib.ExitStack() as stack:
        rows = None
        if out is not None:
            # With Arrow, which nothing needs that is only shown.
            from pc_engine.runs.run_directory import RunDirectory

            rows = RunDirectory(out, row_format, fresh=fresh, retry_failed=retry_failed, shard=part)
            stack.enter_context(rows)
        # The demo's scenes show what the embedded model knows, whatever there is for photos.
        model_of_run = EMBEDDED if model is None and {*sources} == {DEMO} else model
        earlier = (rows.earlier if rows is not None else None) or {}
        mode_of_run = mode or _mode_left_out(
            earlier, model_of_run, only_p2c=bool(cluster or classes), told=count, say=say
        )
        if rows is not None:
            rows.check({"mode": find_mode(mode_of_run).name})
        pictures = overlays if overlay else None
        asked: dict[str, Any] = {
            "model": model_of_run,
            "mode": mode_of_run,
            "batch_size": batch_size,
            "workers": workers,
            "cluster": cluster,
            "classes": classes,
            "pointer": pointer,
            "count": count,
            "decoding": decoding,
            **_as_before(earlier, {"backend": backend, "precision": precision, "device": device}),
        }
        engine: Engine | SharedEngine
        if rows is None or not shared:
            engine = Engine(report=say, **asked)
            # Parts of a job array have GPUs of their own by what starts them.
            if part is None and (gpus := open_gpus(str(asked["device"]), engine.device)) > 1:
                say(f"One of {gpus} GPUs is used: --processes {gpus}, with --out, uses all of them.")
        else:
            ray = {"address": ray_address, "cpus": ray_cpus}
            engine = _shared_engine(rows, sources, pictures, say, processes, ray, asked)
        stack.enter_context(engine)
        if rows is not None:
            made_with = {**engine.identity(), "count_column": column}
            about = {**engine.describe(), "sources": list(sources), "folder": start_folder()}
            rows.begin(made_with, about, sources)
            if rows.before:
                nor = ", and no pictures of them are drawn: --fresh does all again" if overlay else ""
                say(f"{out} has {rows.before:,} rows already; their images are not done again{nor}.")
            if rows.lost:
                say(
                    f"{', '.join(rows.lost)}: no such folder is there any more, and {out} has rows of its photos. If "
                    f"it was renamed, they are counted once more by their new names, but not with --fresh."
                )
        stack.enter_context(stopping)
        start = time.perf_counter()
        with progress(mode_of_run, quiet=silent) as tracker:
            _count_in_background(sources, overlays, rows, tracker)
            todo = stopping.until_asked(images if rows is None else rows.remaining(images))
            if isinstance(engine, Engine):
                _run_here(engine, todo, rows, pictures, shown, tracker)
            elif rows is not None:
                for tally in engine.run(todo, stopping.asked):
                    rows.add(tally)
                    tracker.advance(tally.n)
        state: State = "finished" if stopping.signal is None else "interrupted"
        summary = _summary(engine, rows, shown.tally, time.perf_counter() - start)
        summary["passed_over"] = passed_over.to_dict()
        summary["named_again"] = passed_over.named_again
        # Said at the start as well, where a table has long scrolled it away, and where nothing else is.
        of_digits = model is None and summary["model"] == EMBEDDED and summary["n"] and {*sources} != {DEMO}
        summary["notes"] = [_OF_DIGITS] if of_digits else []
        if rows is not None:
            rows.close(state, summary)
    if as_json:
        listed = {} if out is not None else {"rows": [row.to_dict() for row in shown.rows]}
        print_json({**summary, "state": state, "out": None if out is None else str(out), **listed})
    elif not quiet:
        print_run(shown, summary, passed_over, out, overlay, part, stopped=stopping.signal is not None)
    for note in summary["notes"]:
        remark(quiet=False)(note)
    if stopping.signal is not None:
        _say_how_to_go_on(say, out, summary["n"])
        raise typer.Exit(exit_code(stopping.signal))
    raise typer.Exit(_SOME_FAILED if summary["failed"] else 0)


def _mode_left_out(
    earlier: Mapping[str, Any],
    model: str | None,
    *,
    only_p2c: bool,
    told: int | str | None,
    say: Callable[[str], None],
) -> str:
    """Return the mode of a run that names none, see `options.ModeOfRun`; told counts, c2p needs no counter."""
    if isinstance(earlier.get("mode"), str):
        return str(earlier["mode"])
    if only_p2c:
        return "p2c"
    mode = "c2p" if told is not None else default_mode(model)
    if mode != "c2p":
        say(f"Mode {mode} is taken, which needs no counter, as the model has none: --mode names another.")
    return mode


def _as_before(earlier: Mapping[str, Any], asked: Mapping[str, str]) -> dict[str, str]:
    """Return the options with what is left to choose, "auto", chosen as an earlier run into the directory did."""
    chosen = {name: value for name, value in earlier.items() if isinstance(value, str)}
    return {name: chosen.get(name, value) if value == "auto" else value for name, value in asked.items()}


def _check_engine(name: str, ray: Mapping[str, object], processes: int | None, out: Path | None) -> None:
    """Refuse an engine that does not exist, is not installed, or does not go with the other options."""
    if name not in (_LOCAL, _RAY):
        raise UsageError(f"There is no engine '{name}': choose one of {_LOCAL}, {_RAY}.")
    for option, given in ray.items():
        if given is not None and name != _RAY:
            raise UsageError(f"{option} is for runs on Ray: add --engine ray.")
    if processes is not None:
        if name == _RAY:
            raise UsageError("--processes are of this machine alone: leave it out, as Ray starts its own workers.")
        if out is None:
            raise UsageError("--processes needs a directory for the rows of all: say where with --out DIR.")
    if name == _RAY:
        if out is None:
            raise UsageError("--engine ray needs a directory that all machines share: say where with --out DIR.")
        from pc_engine.distributed.ray_cluster import require_ray

        require_ray()


def _shared_engine(
    rows: RunDirectory,
    sources: Sequence[str],
    pictures: Path | None,
    say: Callable[[str], None],
    processes: int | None,
    ray: Mapping[str, Any],
    asked: Mapping[str, Any],
) -> SharedEngine:
    """Return what has the images done by several processes, or by Ray; ``asked`` are the options of each `Engine`."""
    # Here, as most runs have no use for it.
    from pc_engine.distributed.shared_engine import SharedRun

    shared = SharedRun(rows.share(), sources, overlays=pictures, report=say)
    if processes is not None:
        from pc_engine.distributed.process_engine import ProcessEngine

        return ProcessEngine(shared, processes=processes, **asked)
    from pc_engine.distributed.ray_engine import RayEngine

    return RayEngine(shared, **ray, **asked)


def _run_here(
    engine: Engine,
    images: Iterable[SourceImage],
    rows: RunDirectory | None,
    pictures: Path | None,
    shown: ShownRows,
    tracker: Tracker,
) -> None:
    """Do the images in this process, and write the row and the picture of each."""
    for result in engine.run_paths(images):
        with engine.clock.measure("write"):
            # First, as an image that has its row is done.
            if pictures is not None:
                write_overlay(result, pictures, engine.decoders.decode)
            if rows is not None:
                rows.write(result)
        shown.add(result)
        tracker.advance()


def _say_how_to_go_on(say: Callable[[str], None], out: Path | None, n: int) -> None:
    if out is None:
        say(f"Stopped after {number_of_images(n)}. With --out DIR, a run that is stopped can go on later.")
    else:
        say(f"Stopped. {out} has {n:,} rows: run the same command again to go on.")


def _count_in_background(
    sources: Sequence[str], overlays: Path | None, rows: RunDirectory | None, tracker: Tracker
) -> None:
    """Give the progress bar its total as soon as the listing is through, without holding up the run."""
    if rows is not None:
        tracker.advance(rows.before)

    def count_all() -> None:
        with contextlib.suppress(PcEngineError):
            total = count_images(sources, without=overlays, which=None if rows is None else rows.holds)
            if total is not None:
                tracker.set_total(total)
                if rows is not None:
                    rows.set_total(total)

    threading.Thread(target=count_all, daemon=True).start()


def _summary(engine: Engine | SharedEngine, rows: RunDirectory | None, shown: Tally, seconds: float) -> dict[str, Any]:
    """Sum up the run; where it went on with an earlier one, both."""
    tally = shown if rows is None else rows.tally
    seconds = seconds if rows is None else rows.seconds
    stages = Counter({} if rows is None else rows.stages_before)
    stages.update(engine.clock.seconds)
    return {
        **engine.describe(),
        **tally.to_dict(),
        "seconds": round(seconds, 3),
        "images_per_second": round(tally.n / seconds, 2) if seconds > 0 else None,
        "stages": {name: round(value, 3) for name, value in stages.items()},
    }


def _is_of_a_run(name: str) -> bool:
    from pc_engine.runs.run_directory import is_own_file  # which brings what writes rows

    return is_own_file(name)
