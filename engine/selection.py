"""Which backend and precision run a network on this machine: the fastest that gives the reference's numbers.

The first time a network is opened with ``auto``, every backend and precision that works here runs the same batch; those
whose taps agree with ONNX Runtime in fp32 arithmetic are timed. The verdict is kept per network, machine and versions.

That batch is drawn, so it can tell a backend that computes nonsense from one that rounds, not what the rounding does to
counts. ``pc-engine build --calibrate`` measures that on photos, and a precision whose agreement was measured to be
below `MIN_AGREEMENT` takes part only where it is asked for by name. int8 is never taken unmeasured: it is a network of
its own, whose ranges suit the photos it was made with, and here only what different backends make of it is compared.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pc_engine.backbone import PRECISIONS, Backbone, CompileRequest, Probe, Taps
from pc_engine.backends import BACKENDS, REFERENCE
from pc_engine.errors import BackendError, ModelError, UsageError
from pc_engine.machine import BusyElsewhere, describe_machine
from pc_engine.manifest import QUANTISED_FILES, Manifest
from pc_engine.storage import FileCache, cache_key

#: Largest allowed difference of a tap from the reference, as the L2 norm of the difference over that of the tap.
#: bf16 has 8 bits of mantissa, 0.4 % a rounding; over the layers of VGG that adds up to about 1 %. int8 is compared
#: with its own network in fp32 arithmetic: a sum that falls between two of 256 levels goes either way, and a MobileNet
#: makes 5 % of that; a sum that saturates, or a scale that is misread, costs a tap its whole size.
TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2, "fp16": 1e-2, "int8": 0.15}

#: Least share of held-out images with the class and the count of fp32 for a precision to be used without being named.
MIN_AGREEMENT = 0.97

_TIMED_ROUNDS = 3
# Candidates this close to the fastest are timed once more, in the opposite order: what slowed the machine for a while
# must not decide.
_CONTENDER = 1.6
# A choice made while others had more than this share of the cores is measured once more the next time.
_BUSY = 0.15
_AUTO = "auto"


@dataclass(frozen=True)
class Candidate:
    """One backend at one precision, and how it did.

    ``difference`` is the largest relative L2 difference of a tap from the same network in fp32 arithmetic,
    ``images_per_second`` the network alone; both None where it did not run. ``reason`` says why it was rejected, and is
    empty where it passed.
    """

    backend: str
    precision: str
    difference: float | None = None
    images_per_second: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Selection:
    """What was chosen for a network on this machine, and the candidates it was chosen from.

    ``provisional`` is a choice made while others used the machine: it is measured once more the next time.
    """

    backend: str
    precision: str
    candidates: tuple[Candidate, ...]
    provisional: bool = False


Report = Callable[[str], None]


def open_backbone(
    request: CompileRequest,
    backend: str = _AUTO,
    precision: str = _AUTO,
    report: Report = lambda _: None,
    *,
    mode: str | None = None,
) -> Backbone:
    """Compile a network for this machine, or load it from the cache.

    Parameters
    ----------
    request
        The network; its ``precision`` is replaced by the one chosen.
    backend, precision
        A name, or ``"auto"``.
    report
        Called with a sentence before anything that takes seconds.
    mode
        The mode whose counts have to agree for ``"auto"`` to take a precision; None asks for those of all.

    Raises
    ------
    UsageError
        If the name is not known.
    BackendError
        If that backend or precision does not work here, or none gives the reference's numbers.
    ModelError
        If the network gives no finite numbers to compare, or is to run at int8 and has not been quantised.
    """
    _check_precision(precision)
    if _AUTO in (backend, precision):
        chosen = select(request, backend, precision, mode=mode, report=report)
        backend, precision = chosen.backend, chosen.precision
    probe = _require(backend, precision)
    request = request.at(precision)
    cache = FileCache()
    name = "network-" + cache_key({**_facts(request), "backend": backend, "version": probe.version})
    saved = cache.get(name)
    if saved is not None:
        # A file that this machine cannot load after all is as good as none, and is replaced below.
        with contextlib.suppress(BackendError):
            return BACKENDS[backend].load(request, saved)
    report(f"Compiling {request.manifest.name} for {backend} at {precision} (kept for later runs) ...")
    # No room for a cache, no permission, or a file that cannot be loaded again: the run does not depend on one.
    with contextlib.suppress(OSError, BackendError):
        saved = cache.put(name, lambda path: BACKENDS[backend].compile(request, save_to=path).close())
        return BACKENDS[backend].load(request, saved)
    return BACKENDS[backend].compile(request)


def select(
    request: CompileRequest,
    backend: str = _AUTO,
    precision: str = _AUTO,
    *,
    mode: str | None = None,
    report: Report = lambda _: None,
    fresh: bool = False,
) -> Selection:
    """Return the fastest candidate that agrees with the reference, measuring only if that was not done before.

    ``fresh`` measures in any case. See `open_backbone` for the rest.
    """
    _check_precision(precision)
    if precision != _AUTO:
        request.at(precision)  # raises where there is no network for it
    probes = {name: BACKENDS[name].probe() for name in _names(backend)}
    native = [(name, kind) for name, probe in probes.items() for kind in probe.precisions]
    if precision == _AUTO:
        absent = QUANTISED_FILES.keys() - request.manifest.quantised.keys()
        pairs = [(name, kind) for name, kind in native if kind not in absent]
        refused = _refused(request.manifest, mode)
    else:
        pairs, refused = [(name, kind) for name, kind in native if kind == precision], {}
    if not pairs:
        _require_any(probes, precision)
    kept = [pair for pair in pairs if pair[1] not in refused]
    out = tuple(Candidate(*pair, reason=refused[pair[1]]) for pair in pairs if pair[1] in refused)
    if len(kept) == 1 and backend != _AUTO:
        return Selection(*kept[0], candidates=out)
    cache = FileCache()
    facts = {
        **_facts(request),
        "selection": 2,
        "networks": {kind: request.at(kind).network_sha256 for _, kind in kept},
        "pairs": kept,
        "refused": refused,
        "versions": _versions(probes),
    }
    name = "selection-" + cache_key(facts)
    kept_json = None if fresh else cache.get_json(name)
    known = None if kept_json is None else _from_json(kept_json)
    if known is not None and not known.provisional:
        return known
    report(f"Choosing the fastest backend for {request.manifest.name} on this machine (once) ...")
    meter = BusyElsewhere()
    chosen = _choose(request, kept)
    elsewhere = meter.share() or 0.0
    for candidate in chosen.candidates:
        if candidate.reason and (candidate.backend, candidate.precision) == (chosen.backend, chosen.precision):
            report(
                f"{candidate.backend} at {candidate.precision} {candidate.reason}; it runs as it was asked for by name."
            )
    chosen = replace(chosen, candidates=(*chosen.candidates, *out))
    if known is not None:
        chosen = _best_of_both(chosen, known)
    elif elsewhere > _BUSY:
        report(f"Other processes had {elsewhere:.0%} of the cores meanwhile: this is measured again the next time.")
        chosen = replace(chosen, provisional=True)
    cache.put_json(name, asdict(chosen))
    return chosen


def _best_of_both(now: Selection, before: Selection) -> Selection:
    """Return the choice by the better of two timings of each candidate."""
    rates = {(candidate.backend, candidate.precision): _rate(candidate) for candidate in before.candidates}
    candidates = tuple(
        replace(
            candidate, images_per_second=max(_rate(candidate), rates.get((candidate.backend, candidate.precision), 0))
        )
        if _rate(candidate)
        else candidate
        for candidate in now.candidates
    )
    best = max(candidates, key=_rate)
    return Selection(best.backend, best.precision, candidates) if _rate(best) else now


def refusal(manifest: Manifest, precision: str, mode: str | None = None) -> str:
    """Return why ``"auto"`` does not take a precision for this model, empty if it may."""
    report = manifest.fidelity_now(precision)
    if report is None:
        return "not measured on photos: not used unless asked for by name" if precision in QUANTISED_FILES else ""
    agreement = report.agreement(mode)
    if agreement >= MIN_AGREEMENT:
        return ""
    return f"agreement {100 * agreement:.1f} %, below {100 * MIN_AGREEMENT:.0f} %: not used unless asked for by name"


def _refused(manifest: Manifest, mode: str | None) -> dict[str, str]:
    reasons = {precision: refusal(manifest, precision, mode) for precision in PRECISIONS}
    return {precision: reason for precision, reason in reasons.items() if reason}


def probe_images(manifest_height: int, manifest_width: int, n: int, seed: int = 0) -> np.ndarray:
    """Return n pictures of blobs over gradients, uint8 (n, H, W, 3): cheap, the same everywhere, and not mere noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : manifest_height * 1j, 0 : 1 : manifest_width * 1j]
    pictures = np.empty((n, manifest_height, manifest_width, 3), np.uint8)
    for picture in pictures:
        slope = rng.uniform(-1, 1, (2, 3))
        values = 0.5 + 0.4 * (x[..., None] * slope[0] + y[..., None] * slope[1])
        for _ in range(4):
            centre, size = rng.uniform(0.1, 0.9, 2), rng.uniform(0.03, 0.2)
            blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / size**2)
            values = values + blob[..., None] * rng.uniform(-1, 1, 3)
        values = values + rng.normal(0, 0.05, values.shape)
        picture[:] = np.clip(values * 255, 0, 255)
    return pictures


def tap_difference(taps: Taps, reference: Taps) -> float:
    """Return the largest relative L2 difference over the taps; infinite where a tap is not finite."""
    worst = 0.0
    for name, expected in reference.items():
        difference = float(np.linalg.norm((taps[name] - expected).ravel()))
        norm = float(np.linalg.norm(expected.ravel()))
        relative = difference / norm if norm > 0 else difference
        worst = max(worst, relative if np.isfinite(relative) else float("inf"))
    return worst


def _choose(request: CompileRequest, pairs: Sequence[tuple[str, str]]) -> Selection:
    pixels = request.manifest.input
    images = probe_images(pixels.height, pixels.width, request.batch_size)
    # By file, so that fp32 and bf16, which run the same one, share a reference.
    references: dict[Path, Taps] = {}
    for _, precision in pairs:
        exact = replace(request.at(precision), precision="fp32")
        if exact.network not in references:
            references[exact.network] = _reference(exact, images)
    candidates = tuple(_try(request, *pair, images, references[request.at(pair[1]).network]) for pair in pairs)
    passed = [candidate for candidate in candidates if not candidate.reason]
    if not passed:
        # With fp32 among them the reference passes, so these were asked for by name. How much their rounding costs is
        # for a comparison on photos to say.
        rough = [c for c in candidates if c.precision != "fp32" and np.isfinite(c.difference or np.inf)]
        if rough:
            best = min(rough, key=lambda candidate: candidate.difference or 0.0)
            return Selection(best.backend, best.precision, candidates)
        reasons = "; ".join(f"{c.backend} {c.precision}: {c.reason}" for c in candidates)
        raise BackendError(f"No backend runs {request.manifest.name} correctly here ({reasons}).")
    candidates = _time_again(request, candidates, images)
    best = max(candidates, key=_rate)
    return Selection(best.backend, best.precision, candidates)


def _time_again(
    request: CompileRequest, candidates: tuple[Candidate, ...], images: np.ndarray
) -> tuple[Candidate, ...]:
    """Return the candidates with the better of two timings where there is more than one that could be the fastest."""
    bar = max(map(_rate, candidates)) / _CONTENDER
    contenders = [candidate for candidate in candidates if _rate(candidate) >= bar]
    if len(contenders) < 2:
        return candidates
    again: dict[tuple[str, str], float] = {}
    for candidate in reversed(contenders):
        network = BACKENDS[candidate.backend].compile(request.at(candidate.precision))
        again[candidate.backend, candidate.precision] = _timed(network, images)
        network.close()
    return tuple(
        replace(candidate, images_per_second=max(_rate(candidate), again[candidate.backend, candidate.precision]))
        if candidate in contenders
        else candidate
        for candidate in candidates
    )


def _rate(candidate: Candidate) -> float:
    """Return the rate of a candidate that passed, 0 of another."""
    return 0.0 if candidate.reason else candidate.images_per_second or 0.0


def _reference(request: CompileRequest, images: np.ndarray) -> Taps:
    network = BACKENDS[REFERENCE].compile(request)
    taps = network.infer(images)
    network.close()
    if not all(np.isfinite(tap).all() for tap in taps.values()):
        raise ModelError(
            f"The network of '{request.manifest.name}' returns values that are not finite for ordinary pictures, so no "
            f"backend can be checked with it: look at its weights, or export it anew."
        )
    return taps


def _try(request: CompileRequest, name: str, precision: str, images: np.ndarray, reference: Taps) -> Candidate:
    candidate = Candidate(name, precision)
    try:
        network = BACKENDS[name].compile(request.at(precision))
        difference = tap_difference(network.infer(images), reference)
        candidate = replace(candidate, difference=difference)
        if not difference <= TOLERANCE[precision]:
            network.close()
            limit = TOLERANCE[precision]
            return replace(candidate, reason=f"differs from the reference by {difference:.2g}, more than {limit:.2g}")
        rate = _timed(network, images)
        network.close()
    except BackendError as error:
        return replace(candidate, reason=str(error))
    return replace(candidate, images_per_second=rate)


def _timed(network: Backbone, images: np.ndarray) -> float:
    return max(network_rate(network, images, batches=1) for _ in range(_TIMED_ROUNDS))


def network_rate(network: Backbone, images: np.ndarray, batches: int) -> float:
    """Return images per second of the network alone, at least ``batches`` batches run as many at once as it takes."""
    rounds = max(batches // network.parallel, 1)
    with ThreadPoolExecutor(network.parallel) as pool:
        start = time.perf_counter()
        for _ in pool.map(network.infer, [images] * rounds * network.parallel):
            pass
        return rounds * network.parallel * len(images) / (time.perf_counter() - start)


def _check_precision(precision: str) -> None:
    if precision not in (_AUTO, *PRECISIONS):
        raise UsageError(f"There is no precision '{precision}': choose one of auto, {', '.join(PRECISIONS)}.")


def _names(backend: str) -> tuple[str, ...]:
    if backend == _AUTO:
        return tuple(BACKENDS)
    if backend not in BACKENDS:
        raise UsageError(f"There is no backend '{backend}': choose one of auto, {', '.join(BACKENDS)}.")
    return (backend,)


def _require(backend: str, precision: str) -> Probe:
    probe = BACKENDS[_names(backend)[0]].probe()
    if precision not in probe.precisions:
        _require_any({backend: probe}, precision)
    return probe


def _require_any(probes: dict[str, Probe], precision: str) -> None:
    working = [f"{name} at {' or '.join(probe.precisions)}" for name, probe in probes.items() if probe.available]
    if working:
        raise BackendError(f"Precision {precision} does not run here; what does: {', '.join(working)}.")
    raise BackendError(" ".join(probe.reason for probe in probes.values()))


def _versions(probes: dict[str, Probe]) -> dict[str, str]:
    return {name: probe.version for name, probe in probes.items()}


def _facts(request: CompileRequest) -> dict[str, Any]:
    """Return all that a compiled network depends on, save the backend and its version."""
    return {
        "format": 3,
        "network": request.network_sha256,
        "input": asdict(request.manifest.input),
        "taps": {name: request.manifest.taps[name].tensor for name in request.taps},
        "precision": request.precision,
        "batch_size": request.batch_size,
        "threads": request.threads,
        "machine": {name: value for name, value in describe_machine().items() if name != "memory_gib"},
    }


def _from_json(value: dict[str, Any]) -> Selection:
    candidates = tuple(Candidate(**candidate) for candidate in value["candidates"])
    return Selection(value["backend"], value["precision"], candidates, value["provisional"])
