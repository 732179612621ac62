"""Whole runs on a GPU by several processes, which share it: how many it takes to keep it busy."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import product
from pathlib import Path

from pc_engine.bench.gpu.report import Row, measured
from pc_engine.bench.gpu.subjects import Job, Subject, Subjects
from pc_engine.bench.photos import photos_of, repeat_to
from pc_engine.distributed.process_engine import ProcessEngine
from pc_engine.distributed.shared_engine import SharedRun
from pc_engine.fitting.from_images import store_parts
from pc_engine.runs.run_directory import RunDirectory
from pc_engine.sources import as_source_image

PROCESSES = (1, 2, 4, 8)
# A run of several begins slowly, while they start one after the other, and ends with those that have the last blocks.
_FROM, _TO = 0.5, 0.9


def measure_processes(job: Job, subjects: Subjects) -> Iterator[Row]:
    """Yield the rate from files to rows on disk of every mode and model, by the number of processes.

    Processes take seconds to start, so that all of it takes longer than a part may: every model comes in the first mode
    before any comes in the second.
    """
    with photos_of(job.photos) as photos, ExitStack() as stack:
        models = {subject.name: stack.enter_context(_on_disk(subject)) for subject in subjects}
        for mode, (name, model), processes in product(job.modes, models.items(), PROCESSES):
            row = {"model": name, "mode": mode, "processes": processes}
            yield measured(row, processes_row, job, model, mode, photos, processes)


@contextmanager
def _on_disk(subject: Subject) -> Iterator[Path]:
    """Where other processes find the model, with the parts that were made up for it."""
    subject.provide(subject.job.execution.precision)
    if subject.model is subject.loaded:
        yield subject.loaded.directory
        return
    with tempfile.TemporaryDirectory(prefix="pc-engine-model-") as folder:
        parts = subject.model.parts
        store_parts(subject.loaded, Path(folder), counter=parts.counter, signatures=parts.signatures)
        yield Path(folder)


def processes_row(job: Job, model: Path, mode: str, photos: Sequence[Path], processes: int) -> Row:
    """Return the rate at which so many processes do photos, once all are at it; ``job.n`` photos for each of them."""
    n = job.n * processes
    done: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory(prefix="pc-engine-run-") as folder, RunDirectory(Path(folder)) as rows:
        run = SharedRun(rows.share(), sorted({str(path.parent) for path in photos}))
        start = time.perf_counter()
        options = {"model": str(model), "mode": mode, **asdict(job.execution)}
        with ProcessEngine(run, processes=processes, **options) as engine:
            rows.begin(engine.identity(), engine.describe())
            for tally in engine.run(map(as_source_image, repeat_to(photos, n))):
                rows.add(tally)
                done.append((time.perf_counter() - start, (done[-1][1] if done else 0) + tally.n))
        about = engine.describe()
    return {
        "backend": about["backend"],
        "precision": about["precision"],
        "batch": about["batch_size"],
        "n": n,
        "run_images_per_s": steady_rate(done),
        "seconds_in_all": done[-1][0],
    }


def steady_rate(done: Sequence[tuple[float, int]]) -> float:
    """Return images a second in the middle of a run, of (seconds since its start, images done by then) in order.

    The whole run's rate where its middle is a single block.
    """
    seconds, images = done[-1]
    first, last = (next(at for at in done if at[1] >= share * images) for share in (_FROM, _TO))
    if last[0] <= first[0]:
        return images / seconds
    return (last[1] - first[1]) / (last[0] - first[0])
