"""Which backend and precision run a network on this machine: the fastest that gives the reference's numbers.

The first time a network is opened with ``auto``, every backend and precision that works here runs the same batch; those
whose taps agree with ONNX Runtime in fp32 arithmetic are timed. The verdict is kept per network, machine and versions,
and on a GPU also by card and driver.

That batch is drawn, so it can tell a backend that computes nonsense from one that rounds, not what the rounding does to
counts. ``pc-engine build --calibrate`` measures that on photos, and a precision whose agreement was measured to be
below `MIN_AGREEMENT` takes part only where it is asked for by name. int8 and fp8 are never taken unmeasured: each is a
network of its own, whose ranges suit the photos it was made with, and here only what different backends make of it is
compared. What was measured to keep counts may round the drawn pictures as much as that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pc_engine.backbone import PRECISIONS, Backbone, CompileRequest, Probe
from pc_engine.backends import BACKENDS
from pc_engine.errors import BackendError, DeviceLostError, DeviceMemoryError, PrecisionError
from pc_engine.files.storage import FileCache, cache_directory, cache_key
from pc_engine.hardware.cuda import describe_gpu
from pc_engine.hardware.machine import BusyElsewhere, describe_machine
from pc_engine.manifest import QUANTISED_FILES, Manifest
from pc_engine.say import Say
from pc_engine.selection.candidates import Candidate, compare_candidates, with_better_rates
from pc_engine.selection.execution import AUTO, check_backend, check_precision

#: Least share of held-out images with the class and the count of fp32 for a precision to be used without being named.
MIN_AGREEMENT = 0.97
#: Held-out images that this takes, of a network whose weights were rounded on others: on ten, one in four may change.
MIN_PHOTOS = 50

# A choice made while others had more than this share of the cores is measured once more the next time.
_BUSY = 0.15


@dataclass(frozen=True)
class Selection:
    """What was chosen for a network on this machine, and the candidates it was chosen from.

    ``provisional`` is a choice made while others used the machine: it is measured once more the next time.
    """

    backend: str
    precision: str
    candidates: tuple[Candidate, ...]
    provisional: bool = False


def open_backbone(
    request: CompileRequest,
    backend: str = AUTO,
    precision: str = AUTO,
    report: Say = lambda _: None,
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
        If that backend or precision does not work on the request's device, or none gives the reference's numbers; a
        `DeviceMemoryError` if a GPU's memory does not hold the network with its batches.
    ModelError
        If the network gives no finite numbers to compare; a `MissingPartError` if it is to run at int8 or fp8 and has
        not been quantised.
    """
    check_precision(precision)
    if AUTO in (backend, precision):
        chosen = select(request, backend, precision, mode=mode, report=report)
        backend, precision = chosen.backend, chosen.precision
    probe = _require(backend, precision, request.device)
    network = _open(request.at(precision), backend, probe.version, report)
    for sentence in network.remarks:
        report(sentence)
    return network


def _open(request: CompileRequest, backend: str, version: str, report: Say) -> Backbone:
    """Load a network from the cache; else compile it, keep it there, and load that."""
    cache = FileCache()
    name = "network-" + cache_key({**_facts(request), "backend": backend, "version": version})
    saved = cache.get(name)
    if saved is not None:
        # A file that this machine cannot load after all is as good as none, and is replaced below.
        with _suppress_failures():
            return BACKENDS[backend].load(request, saved)
    complaint, kept = cache.complaint(), False
    follows = complaint or "It is kept for later runs."
    report(f"Compiling {request.manifest.name} for {backend} at {request.precision} ... {follows}")
    # No room for a cache, no permission, or a file that cannot be loaded again: the run does not depend on one.
    with contextlib.suppress(OSError), _suppress_failures():
        saved = cache.put(name, lambda path: BACKENDS[backend].compile(request, save_to=path).close())
        kept = True
        return BACKENDS[backend].load(request, saved)
    network = BACKENDS[backend].compile(request)
    if not kept and not complaint:
        report(f"It was not kept after all: see that {cache_directory()} has room, or set PC_ENGINE_HOME to another.")
    return network


@contextlib.contextmanager
def _suppress_failures() -> Iterator[None]:
    """Let a backend's errors pass, but for those that another try would meet again."""
    try:
        yield
    except (DeviceMemoryError, DeviceLostError):
        raise
    except BackendError:
        pass


def select(
    request: CompileRequest,
    backend: str = AUTO,
    precision: str = AUTO,
    *,
    mode: str | None = None,
    report: Say = lambda _: None,
    fresh: bool = False,
) -> Selection:
    """Return the fastest candidate that agrees with the reference, measuring only if that was not done before.

    ``fresh`` measures in any case. See `open_backbone` for the rest.
    """
    check_precision(precision)
    probes = {name: BACKENDS[name].probe(request.device) for name in _names(backend, request.device)}
    native = [(name, kind) for name, probe in probes.items() for kind in probe.precisions]
    if precision == AUTO:
        absent = QUANTISED_FILES.keys() - request.manifest.quantised.keys()
        pairs = [(name, kind) for name, kind in native if kind not in absent]
        refused = _refused(request.manifest, mode)
    else:
        pairs, refused = [(name, kind) for name, kind in native if kind == precision], {}
    if not pairs:
        _require_any(probes, precision)
    if precision != AUTO:
        request.at(precision)  # raises where there is no network for it
    kept = [pair for pair in pairs if pair[1] not in refused]
    out = tuple(Candidate(*pair, reason=refused[pair[1]]) for pair in pairs if pair[1] in refused)
    if not kept:
        reasons = "; ".join(f"{c.backend} {c.precision}: {c.reason}" for c in out)
        raise BackendError(f"No precision of {request.manifest.name} can be chosen here ({reasons}): name one.")
    if len(kept) == 1 and backend != AUTO:
        return Selection(*kept[0], candidates=out)
    # On the CPU, as a GPU's backends compute otherwise what a report of photos is of.
    judged = [pair for pair in kept if request.device == "cpu" and _keeps_counts(request.manifest, *pair, mode)]
    cache = FileCache()
    facts = {
        **_facts(request),
        "selection": 3,  # another number where networks are compiled in another way: what is kept was another's
        "networks": {kind: request.at(kind).network_sha256 for _, kind in kept},
        "pairs": kept,
        "refused": refused,
        "judged": judged,
        "versions": _versions(probes),
    }
    name = "selection-" + cache_key(facts)
    kept_json = None if fresh else cache.get_json(name)
    known = None if kept_json is None else _from_json(kept_json)
    if known is not None and not known.provisional:
        return known
    report(f"Choosing the fastest backend for {request.manifest.name} on this machine ...")
    meter = BusyElsewhere()
    chosen = _choose(request, kept, probes, report, judged)
    elsewhere = meter.share() or 0.0 if request.device == "cpu" else 0.0
    for candidate in chosen.candidates:
        if candidate.reason and candidate.pair == (chosen.backend, chosen.precision):
            report(
                f"{candidate.backend} at {candidate.precision} {candidate.reason}; it runs as it was asked for by name."
            )
    chosen = replace(chosen, candidates=(*chosen.candidates, *out))
    if known is not None:
        chosen = _best_of_both(chosen, known)
    elif elsewhere > _BUSY:
        report(f"Other processes used {elsewhere:.0%} of the cores meanwhile: this will be measured again next time.")
        chosen = replace(chosen, provisional=True)
    cache.put_json(name, asdict(chosen))
    return chosen


def _best_of_both(now: Selection, before: Selection) -> Selection:
    """Return the choice by the better of two timings of each candidate."""
    rates = {candidate.pair: candidate.rate for candidate in before.candidates}
    candidates = with_better_rates(now.candidates, rates)
    best = max(candidates, key=lambda candidate: candidate.rate)
    return Selection(best.backend, best.precision, candidates) if best.rate else now


def _choose(
    request: CompileRequest,
    pairs: list[tuple[str, str]],
    probes: dict[str, Probe],
    report: Say,
    judged: list[tuple[str, str]],
) -> Selection:
    def open_network(exact: CompileRequest, name: str) -> Backbone:
        # On a GPU the very file that will run is checked: two builds of an engine may take different kernels.
        if exact.device == "cpu":
            return BACKENDS[name].compile(exact)
        return _open(exact, name, probes[name].version, report)

    candidates = compare_candidates(request, pairs, open_network, judged)
    best = max(candidates, key=lambda candidate: candidate.rate)
    if best.rate:
        return Selection(best.backend, best.precision, candidates)
    # How much rounding costs that was asked for by name is for a comparison on photos to say. With fp32 among them they
    # were not asked for, and are wrong.
    rough = [c for c in candidates if np.isfinite(c.difference or np.inf)]
    if not rough or any(c.precision == "fp32" for c in candidates):
        reasons = "; ".join(f"{c.backend} {c.precision}: {c.reason}" for c in candidates)
        raise BackendError(f"No backend runs {request.manifest.name} correctly here ({reasons}).")
    best = min(rough, key=lambda candidate: candidate.difference or 0.0)
    return Selection(best.backend, best.precision, candidates)


def require_precision(precision: str, backend: str, device: str = "cpu") -> None:
    """Raise `BackendError` if no such backend runs ``precision``, or any if it is `AUTO`, on ``device``, saying why."""
    probes: dict[str, Probe] = {}
    for name in _names(backend, device):
        # One is enough, as each brings a library, which takes longer than all else that is looked at here.
        probes[name] = probe = BACKENDS[name].probe(device)
        if probe.available and precision in (AUTO, *probe.precisions):
            return
    _require_any(probes, precision)


def refusal(manifest: Manifest, precision: str, mode: str | None = None) -> str:
    """Return why ``"auto"`` does not take a precision for this model, empty if it may."""
    if precision == "fp32":  # what the others are compared with
        return ""
    report = manifest.fidelity_now(precision)
    if report is None:
        return "not measured on photos: not used unless asked for by name" if precision in QUANTISED_FILES else ""
    agreement = report.agreement(mode)
    if agreement >= MIN_AGREEMENT:
        if precision not in QUANTISED_FILES or report.n >= MIN_PHOTOS:
            return ""
        return f"judged on {report.n} photos, fewer than {MIN_PHOTOS}: not used unless asked for by name"
    return f"agreement {100 * agreement:.1f} %, below {100 * MIN_AGREEMENT:.0f} %: not used unless asked for by name"


def _keeps_counts(manifest: Manifest, backend: str, precision: str, mode: str | None) -> bool:
    """Whether enough photos were counted by this backend at this precision, and as with fp32."""
    report = manifest.fidelity_now(precision)
    known = report is not None and report.backend == backend and report.n >= MIN_PHOTOS
    return known and not refusal(manifest, precision, mode)


def _refused(manifest: Manifest, mode: str | None) -> dict[str, str]:
    reasons = {precision: refusal(manifest, precision, mode) for precision in PRECISIONS}
    return {precision: reason for precision, reason in reasons.items() if reason}


def _names(backend: str, device: str) -> tuple[str, ...]:
    kind = device.partition(":")[0]
    if backend == AUTO:
        return tuple(name for name in BACKENDS if kind in BACKENDS[name].devices)
    check_backend(backend)
    return (backend,)


def _require(backend: str, precision: str, device: str) -> Probe:
    probe = BACKENDS[_names(backend, device)[0]].probe(device)
    if precision not in probe.precisions:
        _require_any({backend: probe}, precision)
    return probe


def _require_any(probes: dict[str, Probe], precision: str) -> None:
    working = [f"{name} at {' or '.join(probe.precisions)}" for name, probe in probes.items() if probe.available]
    if working:
        raise PrecisionError(f"Precision {precision} does not run here; what does: {', '.join(working)}.")
    raise BackendError(" ".join(probe.reason for probe in probes.values()))


def _versions(probes: dict[str, Probe]) -> dict[str, str]:
    return {name: probe.version for name, probe in probes.items()}


def _facts(request: CompileRequest) -> dict[str, Any]:
    """Return all that a compiled network depends on, save the backend and its version."""
    gpu = {} if request.device == "cpu" else {"gpu": _gpu_facts(request.device)}
    return {
        "format": 5,
        "network": request.network_sha256,
        "input": asdict(request.manifest.input),
        # In their order: OpenVINO knows the outputs of a kept network by their places alone.
        "taps": [(name, request.manifest.taps[name].tensor) for name in request.taps],
        "precision": request.precision,
        "batch_size": request.batch_size,
        "threads": request.threads,
        "machine": {name: value for name, value in describe_machine().items() if name != "memory_gib"},
        **gpu,
    }


def _gpu_facts(device: str) -> dict[str, Any]:
    facts = asdict(describe_gpu(device))
    del facts["index"]  # cards of one kind share what was compiled
    return facts


def _from_json(value: dict[str, Any]) -> Selection:
    candidates = tuple(Candidate(**candidate) for candidate in value["candidates"])
    return Selection(value["backend"], value["precision"], candidates, value["provisional"])
