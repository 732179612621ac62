"""How fast a run is beside the network it is made of: decoding, network, post-processing, and all of it together."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from pc_engine.backbone import Backbone
from pc_engine.bench.arithmetic import operations_per_image, peak_operations
from pc_engine.bench.environment import (
    describe_environment,
    median_rate,
    peak_memory_mb,
    reset_peak_memory,
    seconds_of,
)
from pc_engine.bench.photos import in_batches, readable_photos, repeat_to
from pc_engine.bench.random_parts import SEED, with_random_parts
from pc_engine.catalogue import default_model, find_model
from pc_engine.decoding.decode import decode_image
from pc_engine.engine import Engine
from pc_engine.errors import UsageError
from pc_engine.hardware.machine import BusyElsewhere
from pc_engine.kernels import to_host
from pc_engine.model import Model
from pc_engine.modes import Part, find_mode
from pc_engine.networks import open_network
from pc_engine.pipeline import TapBatch, tap_batches
from pc_engine.progress import Progress
from pc_engine.runs.writers import PartitionWriter
from pc_engine.say import Say
from pc_engine.selection.execution import DEFAULT_EXECUTION, Execution

# Distinct batches that the network alone is run on: enough that none is a special case, few enough to weigh nothing.
_BATCHES_KEPT = 4
# Photos that a random counter is balanced on.
_CALIBRATION_PHOTOS = 64


@dataclass(frozen=True)
class ThroughputSettings:
    """What to measure.

    Attributes
    ----------
    model
        A model's name or directory; None for that of a run which names none.
    mode, workers
        As those of `pc_engine.Engine`.
    execution
        How its network is run.
    n
        Images of one run, the photos repeated if there are fewer.
    repeats
        Runs of the network and of the whole, in turn; medians are given.
    """

    model: str | None = None
    mode: str = "c2p"
    execution: Execution = DEFAULT_EXECUTION
    workers: int | None = None
    n: int = 512
    repeats: int = 5

    def __post_init__(self) -> None:
        for name in ("n", "repeats"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} is {getattr(self, name)}, expected a number of at least 1.")
        find_mode(self.mode)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, those of `execution` beside the others."""
        return {
            "model": self.model,
            "mode": self.mode,
            **asdict(self.execution),
            "workers": self.workers,
            "n": self.n,
            "repeats": self.repeats,
        }


@dataclass(frozen=True)
class Throughput:
    """Rates in images per second, each the median of ``repeats`` runs.

    Attributes
    ----------
    settings
        As measured: what was left to choose is filled in.
    model
        Name of the model.
    decode_ips
        The decoding threads alone, from files to pixels of the network's size.
    network_ips
        The compiled network alone, on full batches that are in memory already.
    postprocess_ips
        All that follows the network, on taps that are in memory already: the mode and its rows.
    end_to_end_ips
        From files to written rows; its runs alternate with those of the network.
    peak_rss_mb
        Largest resident memory while loading and running, in MB (10**6 bytes); None where the system does not say.
    seconds, stages
        Wall-clock seconds of the median run from files to rows, and those by stage. Stages overlap, and decoding counts
        every thread.
    runs
        Seconds of every single run, by rate.
    busy_elsewhere
        Share of the cores' time that other processes had meanwhile; None where the system does not say.
    random_parts
        The fitted parts that the model lacks and that were filled in at random.
    operations_per_image
        Additions and multiplications of the network for one image.
    peak_operations
        The most operations a second that the cores can do at this precision; None where that cannot be measured.
    """

    settings: ThroughputSettings
    model: str
    decode_ips: float
    network_ips: float
    postprocess_ips: float
    end_to_end_ips: float
    peak_rss_mb: float | None
    seconds: float
    stages: dict[str, float]
    runs: dict[str, list[float]]
    busy_elsewhere: float | None = None
    random_parts: tuple[Part, ...] = ()
    operations_per_image: int = 0
    peak_operations: float | None = None
    machine: dict[str, Any] = field(default_factory=describe_environment)

    @property
    def operations_per_second(self) -> float:
        """What the network alone computes in a second."""
        return self.operations_per_image * self.network_ips

    @property
    def share_of_peak(self) -> float | None:
        """That over the most that the cores can do at this precision; None where one of them is not known."""
        return self.operations_per_second / self.peak_operations if self.peak_operations else None

    @property
    def ratio(self) -> float:
        """The whole run's rate over that of its network alone."""
        return self.end_to_end_ips / self.network_ips

    @property
    def bottleneck(self) -> str:
        """The stage that would be the slowest if each had the machine to itself."""
        rates = {"decode": self.decode_ips, "network": self.network_ips, "postprocess": self.postprocess_ips}
        return min(rates, key=lambda stage: rates[stage])

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            **self.settings.to_dict(),
            **{name: value for name, value in asdict(self).items() if name != "settings"},
            "random_parts": list(self.random_parts),
            "ratio": self.ratio,
            "bottleneck": self.bottleneck,
            "operations_per_second": self.operations_per_second,
            "share_of_peak": self.share_of_peak,
        }


def measure_throughput(
    photos: Sequence[Path],
    settings: ThroughputSettings,
    *,
    report: Say = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Throughput:
    """Measure a run of ``settings`` over ``photos``, and each of its stages alone.

    Raises
    ------
    PcEngineError
        If the model, backend or precision does not exist or does not work here, or no photo can be read.
    """
    model, random_parts = complete_model(photos, settings, report)
    reset_peak_memory()
    with Engine(
        model,
        mode=settings.mode,
        **asdict(settings.execution),
        workers=settings.workers,
        report=report,
    ) as engine:
        pixels, size = engine.model.manifest.input, engine.batch_size
        kept = _BATCHES_KEPT * size
        photos = photos[: max(settings.n, kept)]  # no more are read, of a folder of any size
        readable, images = readable_photos(photos, pixels.height, pixels.width, keep=kept)
        if len(readable) < len(photos):
            report(f"{len(photos) - len(readable)} of {len(photos)} images cannot be read and are skipped.")
        subject = _Subject(engine, repeat_to(readable, settings.n), in_batches(images, size, _BATCHES_KEPT))
        meter = BusyElsewhere()
        runs, stages, peak = _measure(subject, settings.repeats, progress)
        elsewhere = meter.share()
        request = engine.network.request
    end_to_end = runs["end_to_end"]
    middle = end_to_end.index(statistics.median_low(end_to_end))
    return Throughput(
        settings=replace(
            settings,
            execution=Execution(engine.backend, engine.precision, engine.device, size),
            workers=subject.workers,
        ),
        model=model.name,
        decode_ips=median_rate(settings.n, runs["decode"]),
        network_ips=median_rate(subject.full, runs["network"]),
        postprocess_ips=median_rate(len(subject.kept_paths), runs["postprocess"]),
        end_to_end_ips=median_rate(settings.n, end_to_end),
        peak_rss_mb=peak,
        seconds=end_to_end[middle],
        stages=stages[middle],
        runs=runs,
        busy_elsewhere=elsewhere,
        random_parts=random_parts,
        operations_per_image=operations_per_image(request),
        peak_operations=peak_operations(request.threads).get(request.precision),
    )


def complete_model(
    photos: Sequence[Path], settings: ThroughputSettings, report: Say = lambda _: None
) -> tuple[Model, tuple[Part, ...]]:
    """Return the model with what its mode needs, and which parts of that were filled in at random.

    A random counter is balanced on what the network says on the device of the measurement.
    """
    mode = find_mode(settings.mode)
    model = default_model(mode, report) if settings.model is None else find_model(settings.model, report)
    missing = model.missing_parts(mode)
    if not missing:
        return model, ()
    report(f"The model '{model.name}' has no {' and no '.join(missing)}: random ones (seed {SEED}) stand in.")
    taps = mode.taps(model.manifest)
    network = open_network(model, taps, settings.execution, report=report)
    pixels, size = model.manifest.input, network.request.batch_size
    _, images = readable_photos(photos[:_CALIBRATION_PHOTOS], pixels.height, pixels.width, keep=_CALIBRATION_PHOTOS)
    said = [network.infer(batch) for batch in in_batches(images, size, len(images))]
    network.close()
    seen = {name: np.concatenate([to_host(batch[name]) for batch in said]) for name in taps}
    return with_random_parts(model, missing, seen), missing


def run_batches(network: Backbone, batches: Sequence[np.ndarray], times: int) -> None:
    """Run ``times`` batches, going through ``batches`` in turn, as many at once as the network takes."""
    if network.parallel == 1:
        for images in islice(cycle(batches), times):
            network.infer(images)
        return
    with ThreadPoolExecutor(network.parallel) as pool:
        for _ in pool.map(lambda images: network.infer(images).clear(), islice(cycle(batches), times)):
            pass


class _Subject:
    """What is measured: a run, and the stages of that very run."""

    def __init__(self, engine: Engine, paths: list[Path], batches: list[np.ndarray]) -> None:
        self.engine = engine
        self.paths = paths
        self.batches = batches
        # The very network that the run uses: another instance lies elsewhere in memory, which is worth some per cent.
        self.network: Backbone = engine.network
        self.workers: int = engine.workers
        # A last batch that is padded is the whole run's own cost: the network alone gets full ones.
        self.full = -(-len(paths) // engine.batch_size) * engine.batch_size
        self.kept_paths = paths[: _BATCHES_KEPT * engine.batch_size]

    def decode(self) -> None:
        pixels = self.engine.model.manifest.input
        with ThreadPoolExecutor(self.workers) as pool:
            for _ in pool.map(lambda path: decode_image(path, pixels.height, pixels.width), self.paths):
                pass

    def run_network(self) -> None:
        run_batches(self.network, self.batches, self.full // self.engine.batch_size)

    def warm_up(self) -> None:
        for images in self.batches:
            self.network.infer(images)
        self.run_end_to_end(self.paths[: self.engine.batch_size])

    def run_end_to_end(self, paths: list[Path]) -> dict[str, float]:
        """Go from files to rows on disk; return the seconds by stage."""
        clock = self.engine.clock
        before = dict(clock.seconds)
        with tempfile.TemporaryDirectory(prefix="pc-engine-rows-") as folder, PartitionWriter(Path(folder)) as writer:
            for result in self.engine.run_paths(paths):
                with clock.measure("write"):
                    writer.write(result)
            with clock.measure("write"):
                writer.flush()
        return {stage: seconds - before.get(stage, 0.0) for stage, seconds in clock.seconds.items()}

    def postprocess(self, cached: list[TapBatch]) -> None:
        for batch in cached:
            for result in self.engine.evaluate(batch):
                result.to_dict()


def _measure(
    subject: _Subject, repeats: int, progress: Progress
) -> tuple[dict[str, list[float]], list[dict[str, float]], float | None]:
    """Return the seconds of all runs, the seconds by stage of those from files to rows, and the peak memory."""
    runs: dict[str, list[float]] = {name: [] for name in ("decode", "network", "end_to_end", "postprocess")}
    stages: list[dict[str, float]] = []

    def time(name: str, work: Callable[[], object]) -> None:
        runs[name].append(seconds_of(work))

    def end_to_end() -> None:
        time("end_to_end", lambda: stages.append(subject.run_end_to_end(subject.paths)))

    def network() -> None:
        time("network", subject.run_network)

    for _ in _steps("decode", repeats, progress):
        time("decode", subject.decode)
    subject.warm_up()
    # What slows the machine for a while hits both, and neither always comes second.
    for step in _steps("network, files to rows", repeats, progress):
        for turn in (network, end_to_end) if step % 2 == 0 else (end_to_end, network):
            turn()
    peak = peak_memory_mb()
    cached = list(tap_batches(subject.kept_paths, subject.network, subject.workers))
    subject.postprocess(cached)
    for _ in _steps("postprocess", repeats, progress):
        time("postprocess", lambda: subject.postprocess(cached))
    return runs, stages, peak


def _steps(name: str, repeats: int, progress: Progress) -> Iterator[int]:
    for step in range(repeats):
        progress(name, step, repeats)
        yield step
    progress(name, repeats, repeats)
