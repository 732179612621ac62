"""Whole runs on a GPU: decoding, files to results, and what crosses between host and device meanwhile."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from pc_engine.bench.environment import seconds_of
from pc_engine.bench.gpu.decoding_ways import ways_rows
from pc_engine.bench.gpu.device import wall_rate
from pc_engine.bench.gpu.report import Row, measured, reason_of, spread
from pc_engine.bench.gpu.subjects import Job, Subject, Subjects
from pc_engine.bench.gpu.traffic import copies_of
from pc_engine.bench.photos import in_batches, photos_of, readable_photos, repeat_to
from pc_engine.bench.throughput import run_batches
from pc_engine.decoding.decode import decode_image
from pc_engine.decoding.decode_device import AT_ONCE
from pc_engine.engine import Engine
from pc_engine.hardware.machine import usable_cores
from pc_engine.kernels.array_module import to_host
from pc_engine.sources import SourceImage, read_file

_SIZE = 224
_RUNS = 3
_BATCHES = 4
# Batches of a run whose copies are counted.
_TRACED_BATCHES = 8


def measure_decoding(job: Job, _: object = None) -> Iterator[Row]:
    """Yield how many photos a second are decoded by the cores, and by the device with nvImageCodec."""
    with photos_of(job.photos) as photos:
        readable, images = readable_photos(photos, _SIZE, _SIZE, keep=min(job.batch_size, len(photos)))
        workers = usable_cores()
        paths = repeat_to(readable, job.n)
        with ThreadPoolExecutor(workers) as pool:
            runs = [seconds_of(lambda: list(pool.map(_decode, paths))) for _ in range(_RUNS)]
        rate = job.n / statistics.median(runs)
        yield {"what": f"{workers} cores", "images_per_s": rate, "spread": spread(runs)}
        data = [path.read_bytes() for path in readable[: job.batch_size]]
        expected = np.stack([image.pixels for image in images[: len(data)]])
        yield measured({"what": "nvImageCodec", "batch": len(data)}, nvimagecodec_figures, job, data, expected)
        yield from ways_rows(job.meter.name, readable[: job.batch_size])


def nvimagecodec_figures(job: Job, data: Sequence[bytes], expected: np.ndarray) -> Row:
    """Return the rate of `DeviceDecoder` on one batch, and how far its pixels are from the cores' own."""
    from pc_engine.decoding.decode_device import TOLERANCE, DeviceDecoder

    with closing(DeviceDecoder(job.meter.name, usable_cores())) as decoder:
        found = decoder.decode(data, _SIZE, _SIZE)
        rate, runs = wall_rate(lambda: len(decoder.decode(data, _SIZE, _SIZE).sizes))
    return {
        "images_per_s": rate,
        "spread": spread(runs),
        "on_device": found.on_device,
        "mean_difference": float(np.abs(to_host(found.pixels).astype(int) - expected).mean()),
        "limit": TOLERANCE,
    }


def measure_runs(job: Job, subjects: Subjects) -> Iterator[Row]:
    """Yield the rate from files to results of every model and mode, beside decoding and the network alone."""
    return _of_every_mode(job, subjects, lambda engine, photos: [run_row(engine, photos, job.n)])


def run_row(engine: Engine, photos: Sequence[Path], n: int, runs: int = _RUNS) -> Row:
    """Return the rates of a run of ``n`` photos, from files and from memory, of its decoding and its network, in turn.

    And how long a batch was in each stage of the run, waiting included; batches are in several at once.
    """
    pixels, size = engine.model.manifest.input, engine.batch_size
    readable, images = readable_photos(photos, pixels.height, pixels.width, keep=_BATCHES * size)
    batches = in_batches(images, size, _BATCHES)
    paths = repeat_to(readable, n)
    contents = {path: path.read_bytes() for path in set(paths)}
    in_memory = [SourceImage(str(path), partial(contents.__getitem__, path)) for path in paths]
    times = -(-n // size)
    list(engine.run_paths(paths[: 2 * size]))
    seconds: dict[str, list[float]] = {"decode": [], "network": [], "run": [], "memory": []}
    stages: Counter[str] = Counter()
    with ThreadPoolExecutor(engine.workers) as threads:
        for _ in range(runs):
            seconds["decode"].append(seconds_of(lambda: _decode_all(engine, paths, threads)))
            seconds["network"].append(seconds_of(lambda: run_batches(engine.network, batches, times)))
            before = _stages(engine)
            seconds["run"].append(seconds_of(lambda: list(engine.run_paths(paths))))
            stages.update({stage: taken - before[stage] for stage, taken in _stages(engine).items()})
            seconds["memory"].append(seconds_of(lambda: list(engine.run_paths(in_memory))))
    images_of = {"decode": n, "network": times * size, "run": n, "memory": n}
    rate = {name: images_of[name] / statistics.median(taken) for name, taken in seconds.items()}
    return {
        "backend": engine.backend,
        "precision": engine.precision,
        "batch": size,
        "n": n,
        "decoder": "cores" if engine.decoders.on_device is None else "nvImageCodec",
        "decode_images_per_s": rate["decode"],
        "network_images_per_s": rate["network"],
        "run_images_per_s": rate["run"],
        "run_from_memory_images_per_s": rate["memory"],
        "ratio": rate["run"] / min(rate["decode"], rate["network"]),
        **{f"{stage}_ms_of_a_batch": 1e3 * taken / (runs * times) for stage, taken in stages.items()},
        "spread": spread(seconds["run"]),
    }


def _stages(engine: Engine) -> Counter[str]:
    """Return the seconds of each stage of an engine's runs so far; those of "codec" and "resize" lie in "decode"."""
    decoder = engine.decoders.on_device
    return Counter({**engine.clock.seconds, **({} if decoder is None else decoder.clock.seconds)})


def _decode_all(engine: Engine, paths: Sequence[Path], threads: Executor) -> None:
    """Read and decode photos as the engine does: on the GPU batch by batch, one read while others are decoded."""
    pixels, size, decoder = engine.model.manifest.input, engine.batch_size, engine.decoders.on_device
    if decoder is None:
        list(threads.map(lambda path: decode_image(path, pixels.height, pixels.width), paths))
        return
    pieces = [paths[start : start + size] for start in range(0, len(paths), size)]
    with ThreadPoolExecutor(AT_ONCE + 1) as batches:
        list(batches.map(lambda part: decoder.decode([*map(read_file, part)], pixels.height, pixels.width), pieces))


def measure_traffic(job: Job, subjects: Subjects) -> Iterator[Row]:
    """Yield the copies between host and device during a run of several batches, mode by mode."""
    return _of_every_mode(job, subjects, traffic_rows)


def traffic_rows(engine: Engine, photos: Sequence[Path], batches: int = _TRACED_BATCHES) -> Iterator[Row]:
    """Yield the copies of each direction during a run of full batches that follows another run."""
    size = engine.batch_size
    pixels = engine.model.manifest.input
    readable, _ = readable_photos(photos, pixels.height, pixels.width, keep=1)
    paths = repeat_to(readable, batches * size)
    # The first run brings what stays on the device: weights of the counter, signatures.
    list(engine.run_paths(paths))
    for found in copies_of(lambda: list(engine.run_paths(paths))):
        yield {
            "direction": found.direction,
            "batches": batches,
            "copies": found.copies,
            "copies_per_batch": found.copies / batches,
            "bytes_per_image": found.bytes / len(paths),
            "every_copy_seen": found.complete,
        }


def _of_every_mode(
    job: Job, subjects: Subjects, measure: Callable[[Engine, Sequence[Path]], Iterable[Row]]
) -> Iterator[Row]:
    """Yield what ``measure`` says of every model and mode, or why that could not be measured."""
    with photos_of(job.photos) as photos:
        for subject in subjects:
            for mode in job.modes:
                row = {"model": subject.name, "mode": mode}
                try:
                    with _engine(job, subject, mode) as engine:
                        yield from ({**row, **found} for found in measure(engine, photos))
                except Exception as error:  # one run must not cost the others
                    yield {**row, "reason": reason_of(error)}


def _engine(job: Job, subject: Subject, mode: str) -> Engine:
    subject.provide(job.execution.precision)
    return Engine(subject.model, mode=mode, **asdict(job.execution))


def _decode(path: Path) -> int:
    return decode_image(path, _SIZE, _SIZE).width
