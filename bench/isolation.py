"""What decoding in processes that may die costs: the same photos through threads and processes, in turn."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pc_engine.bench.environment import describe_environment, median_rate, seconds_of
from pc_engine.bench.photos import readable_photos, repeat_to
from pc_engine.bench.throughput import ThroughputSettings, complete_model
from pc_engine.decoding.isolated_decoder import IsolatedDecoder
from pc_engine.decoding.settings import Decoding
from pc_engine.engine import Engine
from pc_engine.errors import PcEngineError
from pc_engine.hardware.machine import BusyElsewhere
from pc_engine.modes import find_mode
from pc_engine.networks import open_network
from pc_engine.progress import Progress
from pc_engine.say import Say


@dataclass(frozen=True)
class IsolationReport:
    """Rates of runs that decode in threads and in processes, in images/s; medians of ``repeats`` rounds.

    Attributes
    ----------
    decode_ips, run_ips
        Decoding alone, from files; and whole runs, from files to rows. By ``"threads"`` and ``"processes"``.
    start_seconds
        From asking for the processes to the first image that they decoded.
    n, workers
        Images of a round; threads, and as many processes.
    share_elsewhere
        Share of the cores that other programs had meanwhile; None where the system does not say.
    """

    model: str
    mode: str
    backend: str
    precision: str
    n: int
    repeats: int
    workers: int
    decode_ips: dict[str, float]
    run_ips: dict[str, float]
    start_seconds: float
    share_elsewhere: float | None
    machine: dict[str, Any] = field(default_factory=lambda: describe_environment("pillow", "simplejpeg"))

    @property
    def cost(self) -> dict[str, float]:
        """Share of the rate that processes take, of decoding and of the run; negative where they are faster."""
        return {
            name: 1 - rates["processes"] / rates["threads"]
            for name, rates in (("decode", self.decode_ips), ("run", self.run_ips))
        }

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, with the costs."""
        return {**asdict(self), "cost": self.cost}


def measure_isolation(
    photos: Sequence[Path],
    settings: ThroughputSettings,
    *,
    report: Say = lambda _: None,
    progress: Progress = lambda *_: None,
) -> IsolationReport:
    """Run ``photos`` with threads and with processes that decode, in turn, after a check that their rows are equal.

    On the CPU, whatever device ``settings`` ask for.

    Raises
    ------
    PcEngineError
        If a model, backend or precision does not work here, no photo can be read, or rows differ.
    """
    settings = replace(settings, execution=replace(settings.execution, device="cpu"))
    model, _ = complete_model(photos, settings, report)
    mode = find_mode(settings.mode)
    network = open_network(model, mode.taps(model.manifest), settings.execution, mode=mode.name, report=report)
    pixels = model.manifest.input
    readable, _ = readable_photos(photos[: settings.n], pixels.height, pixels.width, keep=1)
    paths = repeat_to(readable, settings.n)
    data = [path.read_bytes() for path in readable]
    with contextlib.ExitStack() as stack:
        stack.callback(network.close)
        engines = {
            name: stack.enter_context(
                Engine(model, mode=mode.name, network=network, workers=settings.workers, decoding=Decoding(isolate=own))
            )
            for name, own in (("threads", False), ("processes", True))
        }
        workers = engines["threads"].workers
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        rows = [list(engine.run_paths(readable)) for engine in engines.values()]
        if rows[0] != rows[1]:
            raise PcEngineError("Processes decode pixels that differ from those of threads: please report it.")

        def decode(engine: Engine) -> None:
            for _ in pool.map(
                lambda k: engine.decoders.decode(data[k % len(data)], pixels.height, pixels.width), range(settings.n)
            ):
                pass

        def run(engine: Engine) -> None:
            for _ in engine.run_paths(paths):
                pass

        busy = BusyElsewhere()
        seconds: dict[tuple[str, str], list[float]] = {}
        for round_ in range(settings.repeats):
            progress("isolation", round_, settings.repeats)
            # Whoever is first in one round is last in the next.
            for name in list(engines)[:: 1 if round_ % 2 == 0 else -1]:
                for what, work in (("decode", decode), ("run", run)):
                    took = seconds_of(partial(work, engines[name]))
                    seconds.setdefault((what, name), []).append(took)
        start = statistics.median(_start_seconds(workers, data[0]) for _ in range(settings.repeats))
        rate = {key: median_rate(settings.n, values) for key, values in seconds.items()}
        return IsolationReport(
            model=model.name,
            mode=mode.name,
            backend=network.backend,
            precision=network.request.precision,
            n=settings.n,
            repeats=settings.repeats,
            workers=workers,
            decode_ips={name: rate["decode", name] for name in engines},
            run_ips={name: rate["run", name] for name in engines},
            start_seconds=start,
            share_elsewhere=busy.share(),
        )


def _start_seconds(workers: int, data: bytes) -> float:
    def start() -> None:
        decoders.append(IsolatedDecoder(workers))
        decoders[0].decode(data, 8, 8)

    decoders: list[IsolatedDecoder] = []
    seconds = seconds_of(start)
    decoders[0].close()
    return seconds
