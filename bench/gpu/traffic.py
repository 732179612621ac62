"""How often, and how many bytes, cross between host and device while something runs."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pc_engine.bench.gpu.device import torch_reaches

# Kinds of copies in the names that CUPTI's records get: "Memcpy DtoH (Device -> Pinned)".
_DIRECTIONS = {"DtoH": "device to host", "HtoD": "host to device", "DtoD": "on the device", "PtoP": "between devices"}


@dataclass(frozen=True)
class Traffic:
    """Copies of one direction. ``complete`` is False where only the calls of CuPy's array methods were seen."""

    direction: str
    copies: int
    bytes: int
    complete: bool


def copies_of(work: Callable[[], object]) -> list[Traffic]:
    """Run ``work`` and return the copies that the process made meanwhile, by direction.

    By CUPTI, NVIDIA's tracing interface, which sees every copy of every library of the process, those of a replayed
    CUDA graph included; PyTorch's profiler brings it. Without a PyTorch that uses GPUs, or where CUPTI sees nothing at
    all, calls of ``cupy.ndarray.get`` alone are counted, for which ``work`` may run a second time.
    """
    if torch_reaches("cuda"):
        events = _traced(work)
        # Work on a GPU launches kernels: a trace without any is no trace.
        if any(event.get("cat") == "kernel" for event in events):
            return copies_in_trace(events)
    return _copies_by_cupy(work)


def _traced(work: Callable[[], object]) -> list[Mapping[str, Any]]:
    """Run ``work`` under PyTorch's profiler; return what happened on GPUs as events of a Chrome trace."""
    import torch

    torch.cuda.synchronize()  # which starts PyTorch on the GPU, if nothing did before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory(prefix="pc-engine-trace-") as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return events


def copies_in_trace(events: Iterable[Mapping[str, Any]]) -> list[Traffic]:
    """Return the copies among the events of a Chrome trace, both directions between host and device always among them.

    Fills of memory are no copies, and a copy of no bytes is none either.
    """
    found: dict[str, list[int]] = {name: [] for name in ("device to host", "host to device")}
    for event in events:
        if event.get("cat") != "gpu_memcpy":
            continue
        name = str(event.get("name", ""))
        kind = name.split()[1] if len(name.split()) > 1 else name
        size = int(event.get("args", {}).get("bytes", 0))
        if size:
            found.setdefault(_DIRECTIONS.get(kind, kind), []).append(size)
    return [Traffic(direction, len(sizes), sum(sizes), complete=True) for direction, sizes in found.items()]


def _copies_by_cupy(work: Callable[[], object]) -> list[Traffic]:
    sizes: list[int] = []
    with _watched_get(sizes):
        work()
    return [Traffic("device to host", len(sizes), sum(sizes), complete=False)]


@contextlib.contextmanager
def _watched_get(sizes: list[int]) -> Iterator[None]:
    import cupy

    plain = cupy.ndarray.get

    def get(array: Any, *arguments: Any, **keywords: Any) -> Any:
        sizes.append(int(array.nbytes))
        return plain(array, *arguments, **keywords)

    cupy.ndarray.get = get
    try:
        yield
    finally:
        cupy.ndarray.get = plain
