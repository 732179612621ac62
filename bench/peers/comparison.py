"""pc-engine beside its peers, in one run: the same photos and weights, checked to agree, then timed in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from pc_engine.backbone import PRECISIONS, CompileRequest
from pc_engine.backends import BACKENDS
from pc_engine.bench.environment import describe_environment, median_rate, seconds_of
from pc_engine.bench.peers.contract import Peer, PeerResult, Workload, label_of
from pc_engine.bench.peers.runtimes import EngineNetworkPeer, EnginePeer, OnnxRuntimePeer, OpenVinoPeer
from pc_engine.bench.photos import in_batches, readable_photos, repeat_to
from pc_engine.bench.throughput import ThroughputSettings, complete_model
from pc_engine.engine import Engine
from pc_engine.errors import BackendError, PcEngineError, first_line
from pc_engine.hardware.machine import BusyElsewhere
from pc_engine.model import Model
from pc_engine.modes import MODES, settings_for
from pc_engine.networks import network_request
from pc_engine.packages import require
from pc_engine.progress import Progress
from pc_engine.say import Say
from pc_engine.selection.candidates import TOLERANCE, tap_difference

MODE = "c2p"
#: Least share of photos with the reference's count. Not 1, as Pillow and libjpeg-turbo round pixels differently and a
#: photo between two labels then falls to either side. fp16 changes up to one count in a hundred besides.
COUNT_AGREEMENT = {"fp32": 0.95, "bf16": 0.85, "fp16": 0.93, "int8": 0.6, "fp8": 0.5}

_BATCHES_KEPT = 4
_CHECKED_PHOTOS = 64
_TUNED_PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class PeerReport:
    """A comparison.

    ``reference`` names the peer whose taps and counts the others were checked against, ``busy_elsewhere`` is the share
    of the cores' time that other processes had meanwhile.
    """

    model: str
    batch_size: int
    n: int
    repeats: int
    reference: str
    busy_elsewhere: float | None
    random_parts: tuple[str, ...]
    peers: tuple[PeerResult, ...]
    machine: dict[str, Any] = field(default_factory=lambda: describe_environment("torch", "scikit-learn", "pillow"))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            **vars(self),
            "mode": MODE,
            "tap_tolerance": TOLERANCE,
            "least_count_agreement": COUNT_AGREEMENT,
            "random_parts": list(self.random_parts),
            "peers": [asdict(peer) for peer in self.peers],
        }


def compare_with_peers(
    photos: Sequence[Path],
    settings: ThroughputSettings,
    *,
    try_compile: bool = True,
    report: Say = lambda _: None,
    progress: Progress = lambda *_: None,
) -> PeerReport:
    """Open every peer that works here, and time in turn those that agree with the first. Mode c2p, on the CPU.

    Parameters
    ----------
    photos
        The images; repeated up to ``settings.n``.
    settings
        Model, backend of pc-engine, batch size of all peers, images a run, and runs; its mode and precision do not
        count.
    try_compile
        Let peer (b) use torch.compile where it works and is faster; it takes a minute to find out.

    Raises
    ------
    MissingPackageError
        If PyTorch is not installed.
    BackendError
        If none of the others agrees with the first.
    """
    require("torch", "compare with PyTorch")
    # What a GPU is worth is for `pc_engine.bench.gpu.peers`.
    settings = replace(settings, mode=MODE, execution=replace(settings.execution, precision="fp32", device="cpu"))
    model, random_parts = complete_model(photos, settings, report)
    request = network_request(model, MODES[MODE].taps(model.manifest), batch_size=settings.execution.batch_size)
    pixels, size = model.manifest.input, request.batch_size
    kept = _BATCHES_KEPT * size
    readable, images = readable_photos(photos[: max(settings.n, kept)], pixels.height, pixels.width, keep=kept)
    batches = in_batches(images, size, _BATCHES_KEPT)
    peers: list[Peer] = []
    missing: list[PeerResult] = []
    try:
        for opened in _open_all(model, request, settings, batches[0], try_compile, report):
            if isinstance(opened, PeerResult):
                report(f"{label_of(opened)} is left out: {opened.reason}")
                missing.append(opened)
            else:
                peers.append(opened)
        work = Workload(repeat_to(readable, settings.n), batches)
        meter = BusyElsewhere()
        results = race(peers, work, settings.repeats, readable[:_CHECKED_PHOTOS], progress)
        elsewhere = meter.share()
        for result in results:
            if result.reason:
                report(f"{label_of(result)} is left out: {result.reason}")
    finally:
        for peer in reversed(peers):
            peer.close()
    everyone = sorted([*results, *missing], key=lambda peer: (peer.letter, peer.scope != "end to end"))
    return PeerReport(
        model=model.name,
        batch_size=size,
        n=settings.n,
        repeats=settings.repeats,
        reference=label_of(peers[0]),
        busy_elsewhere=elsewhere,
        random_parts=random_parts,
        peers=tuple(everyone),
    )


def race(
    peers: Sequence[Peer],
    work: Workload,
    repeats: int,
    checked_on: Sequence[Path],
    progress: Progress = lambda *_: None,
) -> list[PeerResult]:
    """Check every peer against the first of them, then let those that agree do the work in turn, ``repeats`` times.

    ``checked_on`` are the photos whose counts are compared. One that disagrees is not timed, as a wrong result has no
    speed; its result has the reason.

    Raises
    ------
    BackendError
        If there are others than the first, and none of them agrees with it.
    """
    results = _check(peers, Workload(checked_on, work.batches), progress)
    agreeing = [place for place, result in enumerate(results) if not result.reason]
    if len(agreeing) < min(2, len(peers)):
        raise BackendError(
            f"No other peer agrees with {label_of(peers[0])}, so nothing was timed ({label_of(results[1])}: "
            f"{results[1].reason.rstrip('.')}): see with 'pc-engine build' what runs this model correctly here, or use "
            "another."
        )
    few = Workload(work.paths[: 2 * work.batch_size], work.batches)
    for place in agreeing:
        peers[place].run(few)
    seconds: list[list[float]] = [[] for _ in peers]
    steps = repeats * len(agreeing)
    for step in range(steps):
        turn, place = divmod(step, len(agreeing))
        place = agreeing[(place + turn) % len(agreeing)]  # nobody always comes after the same one
        progress(label_of(peers[place]), step, steps)
        seconds[place].append(seconds_of(partial(peers[place].run, work)))
    progress("done", steps, steps)
    timed = [
        replace(result, seconds=tuple(runs), images_per_second=median_rate(work.images(result.scope), runs))
        if runs
        else result
        for result, runs in zip(results, seconds, strict=True)
    ]
    base = next((result.images_per_second for result in timed if result.letter == "a"), None)
    return [replace(result, ratio=_ratio(result.images_per_second, base)) for result in timed]


def _ratio(rate: float | None, base: float | None) -> float | None:
    return None if rate is None or base is None else rate / base


def _check(peers: Sequence[Peer], work: Workload, progress: Progress) -> list[PeerResult]:
    """Return what to say of each peer before it is timed, with a reason where it must not be."""
    images = work.batches[0]
    reference, counts = peers[0].taps(images), peers[0].run(work)
    results = []
    for place, peer in enumerate(peers):
        progress("checking", place, len(peers))
        difference, agreement, reason = tap_difference(peer.taps(images), reference), None, ""
        if not difference <= TOLERANCE[peer.precision]:
            reason = (
                f"its taps differ from those of {label_of(peers[0])} by {difference:.2g}, more than "
                f"{TOLERANCE[peer.precision]:.2g}."
            )
        elif peer.scope == "end to end" and counts:
            agreement = fmean(a == b for a, b in zip(peer.run(work), counts, strict=True))
            if agreement < COUNT_AGREEMENT[peer.precision]:
                reason = (
                    f"its counts are those of {label_of(peers[0])} for {agreement:.0%} of the photos, less than "
                    f"{COUNT_AGREEMENT[peer.precision]:.0%}."
                )
        about = {name: getattr(peer, name) for name in ("letter", "name", "precision", "scope", "note")}
        known = difference if isfinite(difference) else None
        results.append(PeerResult(**about, tap_difference=known, count_agreement=agreement, reason=reason))
    return results


def _open_all(
    model: Model,
    request: CompileRequest,
    settings: ThroughputSettings,
    images: np.ndarray,
    try_compile: bool,
    report: Say,
) -> Iterator[Peer | PeerResult]:
    """Yield every peer, or why it is not available; the reference first."""
    yield from _torch_peers(model, request, images, try_compile, report)
    report("Opening ONNX Runtime and OpenVINO ...")
    yield from _runtime_peers(OnnxRuntimePeer, "onnxruntime", request)
    yield from _runtime_peers(OpenVinoPeer, "openvino", request)
    for precision in PRECISIONS:
        yield from _engine_peers(model, settings, precision, request.batch_size, report)


def _torch_peers(
    model: Model, request: CompileRequest, images: np.ndarray, try_compile: bool, report: Say
) -> Iterator[Peer | PeerResult]:
    from pc_engine.bench.peers import torch_pipeline as pt

    # As one would write it first, and with the least that one would do to make it faster.
    sizes = sorted({1, request.batch_size})
    try:
        network = pt.torch_vgg(model.network, model.manifest, request.taps)
    except Exception as error:  # as of the runtimes below
        for size in sizes:
            yield PeerResult("a", pt.EagerPeer.name_for(size), "fp32", "end to end", reason=_why(error))
        for precision in _TUNED_PRECISIONS:
            yield PeerResult("b", pt.TunedPeer.name, precision, "end to end", reason=_why(error))
        return
    assert model.parts.counter is not None
    counting = pt.ImageByImage(model.parts.counter, settings_for(model.manifest).c2p)
    for size in sizes:
        yield pt.EagerPeer(network, model.manifest, counting, size)
    for precision in _TUNED_PRECISIONS:
        if try_compile:
            report(f"Trying torch.compile at {precision} ...")
        runner, note = pt.tuned_runner(network, precision, images, try_compile=try_compile)
        yield pt.TunedPeer(runner, note, precision, model.manifest, counting, request.batch_size)


def _runtime_peers(
    runtime: type[OnnxRuntimePeer] | type[OpenVinoPeer], backend: str, request: CompileRequest
) -> Iterator[Peer | PeerResult]:
    probe = BACKENDS[backend].probe()
    for precision in PRECISIONS:
        try:
            if precision not in probe.precisions:
                raise BackendError(f"{precision} does not run here. {probe.reason}")
            yield runtime(request.at(precision))
        except Exception as error:  # each library fails with its own, and the others race all the same
            yield PeerResult(runtime.letter, runtime.name, precision, runtime.scope, reason=_why(error))


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, PcEngineError) else f"{type(error).__name__}: {first_line(error)}"


def _engine_peers(
    model: Model, settings: ThroughputSettings, precision: str, batch_size: int, report: Say
) -> Iterator[Peer | PeerResult]:
    try:
        engine = Engine(
            model,
            mode=MODE,
            **asdict(replace(settings.execution, precision=precision, batch_size=batch_size)),
            workers=settings.workers,
            report=report,
        )
    except PcEngineError as error:
        yield PeerResult("e", EnginePeer.name, precision, "end to end", reason=str(error))
        return
    yield EnginePeer(engine)
    yield EngineNetworkPeer(engine)
