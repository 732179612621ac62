"""Networks on a GPU: the same taps and counts as fp32 on the CPU, their rate, and what follows them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice

import numpy as np

from pc_engine.backbone import Backbone, Taps
from pc_engine.bench.arithmetic import operations_per_image
from pc_engine.bench.environment import seconds_of
from pc_engine.bench.gpu.device import matrix_rates, wall_rate
from pc_engine.bench.gpu.report import Row, measured, reason_of, spread
from pc_engine.bench.gpu.subjects import Job, Subject, Subjects, networks, run_in_batches
from pc_engine.hardware.device_arrays import pack
from pc_engine.host_outcome import outcome_arrays
from pc_engine.kernels import finite_images
from pc_engine.kernels.array_module import Array, to_host
from pc_engine.manifest import EVIDENCE
from pc_engine.mode_run import RecordedMode
from pc_engine.modes import MODES, Mode, Outcome, settings_for
from pc_engine.selection.candidates import EVIDENCE_TOLERANCE, tap_difference, tolerance

HostTaps = Mapping[str, np.ndarray]

# Distinct batches that a network is timed on.
_BATCHES = 4
# Batches that follow each other before all are waited for, which costs the time of one: so many unless they take long.
_IN_A_ROW, _SECONDS_IN_A_ROW = 32, 0.5


def measure_builds(job: Job, subjects: Subjects) -> Iterator[Row]:
    """Yield the seconds until each network is open that other parts open: compiled now, or found in the cache."""
    for subject in subjects:
        of_modes = {name: MODES[name].taps(subject.loaded.manifest) for name in job.modes}
        for kept, taps in {"all taps": (), **of_modes}.items():
            start = time.perf_counter()
            for row, network in networks(job, subject, taps):
                seconds = time.perf_counter() - start
                yield {**row, "for": kept} if network is None else {**row, "for": kept, "seconds": seconds}
                start = time.perf_counter()


def measure_parity(job: Job, subjects: Subjects) -> Iterator[Row]:
    """Yield how far every tap, and the counts of every mode, are from the same network in fp32 on the CPU."""
    for subject in subjects:
        for row, network in networks(job, subject):
            if network is None:
                yield row
                continue
            try:
                taps = run_in_batches(network, subject.images)
                reference = subject.reference_of(row["precision"])
            except Exception as error:  # one row must not cost the others
                yield {**row, "reason": reason_of(error)}
                continue
            yield from tap_rows(row, taps, reference)
            yield from count_rows(row, job, subject, taps, reference)


def tap_rows(about: Row, taps: Taps, reference: Taps) -> Iterator[Row]:
    """Yield the relative L2 difference of each tap, and whether it is one that the precision may have."""
    for name, expected in reference.items():
        limit = EVIDENCE_TOLERANCE if name == EVIDENCE else tolerance(about["backend"], about["precision"])
        difference = tap_difference({name: taps[name]}, {name: expected})
        yield {**about, "what": f"tap {name}", "difference": difference, "limit": limit, "within": difference <= limit}


def count_rows(about: Row, job: Job, subject: Subject, taps: HostTaps, reference: HostTaps) -> Iterator[Row]:
    """Yield the share of images that each mode counts on the device as it counts the reference's taps on the CPU.

    The modes run on the device, on taps as the network of the device gave them: the whole way there is compared.
    """
    for mode in (MODES[name] for name in job.modes):
        row = {**about, "what": f"counts {mode.name}", "images": len(subject.images)}
        yield measured(row, _same_counts, job, subject, mode, taps, reference)


def _same_counts(job: Job, subject: Subject, mode: Mode, taps: HostTaps, reference: HostTaps) -> Row:
    expected = counts_of(mode, subject, reference, job.batch_size, np.asarray)
    found = counts_of(mode, subject, taps, job.batch_size, job.meter.place)
    return {"same_counts": float((found == expected).mean())}


def counts_of(
    mode: Mode,
    subject: Subject,
    taps: HostTaps,
    batch_size: int,
    place: Callable[[np.ndarray], Array],
) -> np.ndarray:
    """Return the counts (N,) of all images, evaluated in batches where ``place`` puts their taps."""
    model = subject.model
    settings = settings_for(model.manifest)
    names = mode.taps(model.manifest)
    counts = []
    for start in range(0, len(subject.images), batch_size):
        batch = {name: place(taps[name][start : start + batch_size]) for name in names}
        counts.append(to_host(mode.evaluate(batch, model.parts, settings).count))
    return np.concatenate(counts)


def measure_networks(job: Job, subjects: Subjects) -> Iterator[Row]:
    """Yield the matrix rates of the card, then beside them the rate of every network with the taps of each mode."""
    peaks: dict[str, float] = {}
    for row in matrix_rates(job.meter):
        if "tera_ops" in row:
            peaks[row["precision"]] = row["tera_ops"]
        yield row
    for subject in subjects:
        for mode in job.modes:
            taps = MODES[mode].taps(subject.loaded.manifest)
            operations = operations_per_image(subject.request(taps))
            for opened, network in networks(job, subject, taps):
                row = {**opened, "mode": mode}
                yield row if network is None else measured(row, rate_row, row, job, subject, network, operations, peaks)


def rate_row(
    about: Row, job: Job, subject: Subject, network: Backbone, operations: int, peaks: Mapping[str, float]
) -> Row:
    """Return the rate of a network on batches that are on the device, and on batches that are on the host."""
    size = network.request.batch_size
    host = [np.take(subject.images, range(k * size, (k + 1) * size), axis=0, mode="wrap") for k in range(_BATCHES)]
    device = [job.meter.place(batch) for batch in host]
    with ThreadPoolExecutor(network.parallel) as pool:
        few = 2 * network.parallel
        times = batches_in_a_row(seconds_of(lambda: _run(network, device, pool, few)) / few, network.parallel)
        rate, runs = wall_rate(lambda: _run(network, device, pool, times))
        from_host, _ = wall_rate(lambda: _run(network, host, pool, times))
    tera = rate * operations / 1e12
    peak = peaks.get(about["precision"])
    return {
        **about,
        "what": "network",
        "batch": size,
        "images_per_s": rate,
        "spread": spread(runs),
        "from_host_images_per_s": from_host,
        "tera_ops": tera,
        "share_of_matrix": None if peak is None else tera / peak,
    }


def measure_modes(job: Job, subjects: Subjects) -> Iterator[Row]:
    """Yield the time of all that follows the network, mode by mode, on taps of one batch that are on the device.

    Of a batch recorded as a CUDA graph, as a run has it, and of its kernels started one by one.
    """
    size = job.batch_size
    for subject in subjects:
        taps = {
            name: job.meter.place(np.take(tap, range(size), axis=0, mode="wrap"))
            for name, tap in subject.reference.items()
        }
        for mode in (MODES[name] for name in job.modes):
            for cluster in mode.clusterings or (None,):
                row = {"model": subject.name, "mode": mode.name, "cluster": cluster, "batch": size}
                yield measured(row, mode_figures, job, subject, mode, cluster, taps)


def mode_figures(job: Job, subject: Subject, mode: Mode, cluster: str | None, taps: Taps) -> Row:
    """Return the microseconds an image of what follows the network, recorded and one by one.

    What cannot be recorded is started one by one in a run, too.
    """
    model = subject.model
    settings = settings_for(model.manifest, cluster=cluster)
    read = {name: taps[name] for name in mode.taps(model.manifest)}

    def evaluate(some: Taps) -> Outcome:
        return mode.evaluate(some, model.parts, settings)

    def one_by_one() -> None:
        pack(outcome_arrays(evaluate(read), finite_images([*read.values()])))

    scale = 1e6 / len(next(iter(read.values())))
    apart = job.meter.seconds(one_by_one) * scale
    if not settings.p2c.recordable:
        return {"us_per_image": apart, "recorded": False}
    recorded = RecordedMode(evaluate, read, finite_images([*read.values()]))
    place = recorded.taps
    whole = job.meter.seconds(lambda: recorded.queue(place, finite_images([*place.values()]))) * scale
    recorded.close()
    return {"us_per_image": whole, "recorded": True, "one_by_one_us_per_image": apart}


def batches_in_a_row(seconds: float, parallel: int) -> int:
    """Return how many batches, which take so long each, to run before all are waited for."""
    return max(2 * parallel, _BATCHES, min(_IN_A_ROW, int(_SECONDS_IN_A_ROW / seconds)))


def _run(network: Backbone, batches: Sequence[Array], pool: ThreadPoolExecutor, times: int) -> int:
    """Run so many batches, as many at once as the network takes; return the number of images."""
    done = pool.map(lambda images: len(next(iter(network.infer(images).values()))), islice(cycle(batches), times))
    return sum(done)
