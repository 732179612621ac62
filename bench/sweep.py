"""A run's throughput over batch sizes, precisions and numbers of decoding threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from pc_engine.backbone import PRECISIONS
from pc_engine.backends import BACKENDS
from pc_engine.bench.throughput import ThroughputSettings, measure_throughput
from pc_engine.errors import BackendError, ModelError
from pc_engine.hardware.machine import usable_cores
from pc_engine.progress import Progress
from pc_engine.say import Say
from pc_engine.selection.device_choice import choose_device
from pc_engine.selection.execution import AUTO, Execution

_BATCH_SIZES = (1, 8, 32)


def sweep_throughput(
    photos: Sequence[Path],
    settings: ThroughputSettings,
    *,
    report: Say = lambda _: None,
    progress: Progress = lambda *_: None,
) -> list[dict[str, Any]]:
    """Measure every batch size x precision x number of workers that ``settings`` leave open.

    Returns
    -------
    list
        `Throughput.to_dict` of each, or, where one does not work here, its settings and the sentence under ``error``.
    """
    asked = settings.execution
    precisions = _native_precisions(asked) if asked.precision == AUTO else (asked.precision,)
    sizes = _BATCH_SIZES if asked.batch_size is None else (asked.batch_size,)
    workers = sorted({1, usable_cores()}) if settings.workers is None else [settings.workers]
    rows: list[dict[str, Any]] = []
    for precision, size, threads in product(precisions, sizes, workers):
        execution = replace(asked, precision=precision, batch_size=size)
        chosen = replace(settings, execution=execution, workers=threads)
        report(f"Measuring {precision}, batches of {size}, {threads} decoding thread(s) ...")
        try:
            rows.append(measure_throughput(photos, chosen, report=report, progress=progress).to_dict())
        except (BackendError, ModelError) as error:
            identity = {"mode": chosen.mode, "precision": precision, "batch_size": size, "workers": threads}
            rows.append({**identity, "error": str(error)})
    return rows


def _native_precisions(asked: Execution) -> tuple[str, ...]:
    """Return the precisions that run on that device, on that backend or on any."""
    device = choose_device(asked)
    names = tuple(BACKENDS) if asked.backend == AUTO else (asked.backend,)
    native = {precision for name in names for precision in BACKENDS[name].probe(device).precisions}
    return tuple(precision for precision in PRECISIONS if precision in native)
