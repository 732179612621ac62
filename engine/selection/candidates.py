"""The candidates for running a network: which give the reference's numbers, and how fast each is.

All run the same drawn pictures. What a GPU computes is brought to the host for this check alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pc_engine.backbone import Backbone, CompileRequest, Taps
from pc_engine.backends import BACKENDS, REFERENCE
from pc_engine.errors import BackendError, DeviceLostError, DeviceMemoryError, ModelError
from pc_engine.hardware.device_work import working_on
from pc_engine.kernels.array_module import to_host
from pc_engine.manifest import EVIDENCE

#: Largest allowed difference of a tap from the reference, as the L2 norm of the difference over that of the tap.
#: bf16 has 8 bits of mantissa, 0.4 % a rounding; over the layers of VGG that adds up to about 1 %. int8 is compared
#: with its own network in fp32 arithmetic: a sum that falls between two of 256 levels goes either way, and a MobileNet
#: makes 5 % of that; a sum that saturates, or a scale that is misread, costs a tap its whole size. So is fp8, whose
#: levels are wider: float16 instead of float32 between the layers makes 2 % of `lego` and 16 % of an EfficientNet.
TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2, "fp16": 1e-2, "int8": 0.15, "fp8": 0.3}
# TensorRT's levels are signed, so that what is never negative has half of them: twice the rounding. Measured on a
# MobileNet in ONNX Runtime: 0.153.
_SIGNED_INT8 = {"tensorrt": 0.3}
#: Largest allowed difference of the evidence. It jumps where a ReLU or the best class tips over, as the last bit of
#: what it reads can make it; on images of the same class, one in a hundred of 4,096 units that tip makes a tenth, a
#: product that is wrong all of it.
EVIDENCE_TOLERANCE = 0.5

# The best of so many rounds counts. None is begun after so many seconds: what disturbs a short round is little beside a
# long one.
_TIMED_ROUNDS, _TIMED_SECONDS = 3, 3.0
# Candidates this close to the fastest are timed once more, in the opposite order: what slowed the machine for a while
# must not decide.
_CONTENDER = 1.6
# Different pictures in a batch that is checked on a GPU: the reference runs on the CPU, where many would take minutes.
_PICTURES_FOR_GPU = 16

#: Compiles a network, or loads it, for the backend of the given name.
Open = Callable[[CompileRequest, str], Backbone]


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

    @property
    def pair(self) -> tuple[str, str]:
        """Its backend and its precision."""
        return self.backend, self.precision

    @property
    def rate(self) -> float:
        """``images_per_second`` where it passed, else 0."""
        return 0.0 if self.reason else self.images_per_second or 0.0


def with_better_rates(candidates: Sequence[Candidate], rates: Mapping[tuple[str, str], float]) -> tuple[Candidate, ...]:
    """Return the candidates that passed with the better of their rate and that of their pair in ``rates``."""
    return tuple(
        replace(candidate, images_per_second=max(candidate.rate, rates.get(candidate.pair, 0.0)))
        if candidate.rate
        else candidate
        for candidate in candidates
    )


def compare_candidates(
    request: CompileRequest,
    pairs: Sequence[tuple[str, str]],
    open_network: Open,
    judged: Collection[tuple[str, str]] = (),
) -> tuple[Candidate, ...]:
    """Run a network on each pair of backend and precision, and time those that give the reference's numbers.

    Of those ``judged`` it is known what they cost on photos: drawn pictures only have to tell rounding from nonsense.

    Raises
    ------
    ModelError
        If the network gives no finite numbers to compare with.
    DeviceMemoryError
        If none passed, and for one of them the GPU's memory was too small.
    DeviceLostError
        If the GPU stopped answering.
    """
    pictures = _pictures(request)
    batch = _repeated(pictures, request.batch_size)
    # By file, so that fp32 and bf16, which run the same one, share a reference.
    references: dict[Path, Taps] = {}
    candidates, too_large = [], None
    for name, precision in pairs:
        exact = replace(request.at(precision), precision="fp32", device="cpu", batch_size=len(pictures))
        if exact.network not in references:
            taps = _reference(exact, pictures)
            references[exact.network] = {tap: _repeated(values, len(batch)) for tap, values in taps.items()}
        try:
            limit = tolerance(name, precision)
            if (name, precision) in judged:
                limit = max(limit, TOLERANCE["int8"])
            candidates.append(_try(request.at(precision), name, batch, references[exact.network], open_network, limit))
        except DeviceMemoryError as error:
            # Its words alone: the error holds on to what took the memory, which others are to have.
            too_large = DeviceMemoryError(str(error))
            candidates.append(Candidate(name, precision, reason=str(error)))
    if too_large is not None and all(candidate.reason for candidate in candidates):
        raise too_large
    # What slows a CPU down leaves a GPU as it is, and there networks take minutes to compile.
    return (
        _time_again(request, tuple(candidates), batch, open_network) if request.device == "cpu" else tuple(candidates)
    )


def probe_images(height: int, width: int, n: int, seed: int = 0) -> np.ndarray:
    """Return n pictures of blobs over gradients, uint8 (n, H, W, 3): cheap, the same everywhere, and not mere noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    pictures = np.empty((n, height, width, 3), np.uint8)
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


def tolerance(backend: str, precision: str) -> float:
    """Return the largest difference of a tap from the reference that ``backend`` may have; see `TOLERANCE`."""
    return _SIGNED_INT8.get(backend, TOLERANCE[precision]) if precision == "int8" else TOLERANCE[precision]


def exact_difference(taps: Taps, reference: Mapping[str, np.ndarray]) -> float:
    """Return the `tap_difference` of all taps but the evidence; infinite where that is another altogether."""
    others = {name: expected for name, expected in reference.items() if name != EVIDENCE}
    if EVIDENCE not in reference:
        return tap_difference(taps, others)
    same = np.ones(len(reference[EVIDENCE]), bool)
    if "logits" in reference:
        same = to_host(taps["logits"]).argmax(axis=1) == reference["logits"].argmax(axis=1)
    found = {EVIDENCE: to_host(taps[EVIDENCE])[same]}
    if tap_difference(found, {EVIDENCE: reference[EVIDENCE][same]}) > EVIDENCE_TOLERANCE:
        return float("inf")
    return tap_difference(taps, others)


def tap_difference(taps: Taps, reference: Mapping[str, np.ndarray]) -> float:
    """Return the largest relative L2 difference over the taps; infinite where a tap is not finite."""
    worst = 0.0
    for name, expected in reference.items():
        difference = float(np.linalg.norm((to_host(taps[name]) - expected).ravel()))
        norm = float(np.linalg.norm(expected.ravel()))
        relative = difference / norm if norm > 0 else difference
        worst = max(worst, relative if np.isfinite(relative) else float("inf"))
    return worst


def _pictures(request: CompileRequest) -> np.ndarray:
    pixels = request.manifest.input
    n = request.batch_size if request.device == "cpu" else min(request.batch_size, _PICTURES_FOR_GPU)
    return probe_images(pixels.height, pixels.width, n)


def _repeated(rows: np.ndarray, n: int) -> np.ndarray:
    return rows if len(rows) == n else rows[np.arange(n) % len(rows)]


def _reference(request: CompileRequest, images: np.ndarray) -> Taps:
    network = BACKENDS[REFERENCE].compile(request)
    taps = network.infer(images)
    network.close()
    if not all(np.isfinite(tap).all() for tap in taps.values()):
        raise ModelError(
            f"The network of '{request.manifest.name}' returns values that are not finite for ordinary pictures, so no "
            "backend can be checked with it: look at its weights, or export it again."
        )
    return taps


def _try(
    request: CompileRequest, name: str, images: np.ndarray, reference: Taps, open_network: Open, limit: float
) -> Candidate:
    candidate = Candidate(name, request.precision)
    try:
        with closing(open_network(request, name)) as network:
            difference = exact_difference(network.infer(images), reference)
            candidate = replace(candidate, difference=difference)
            if not difference <= limit:
                return replace(
                    candidate, reason=f"differs from the reference by {difference:.2g}, more than {limit:.2g}"
                )
            return replace(candidate, images_per_second=_timed(network, images))
    except (DeviceMemoryError, DeviceLostError):
        raise
    except BackendError as error:
        return replace(candidate, reason=str(error))


def _time_again(
    request: CompileRequest, candidates: tuple[Candidate, ...], images: np.ndarray, open_network: Open
) -> tuple[Candidate, ...]:
    """Return the candidates with the better of two timings where there is more than one that could be the fastest."""
    bar = max(candidate.rate for candidate in candidates) / _CONTENDER
    contenders = [candidate for candidate in candidates if candidate.rate and candidate.rate >= bar]
    if len(contenders) < 2:
        return candidates
    again: dict[tuple[str, str], float] = {}
    for candidate in reversed(contenders):
        with closing(open_network(request.at(candidate.precision), candidate.backend)) as network:
            again[candidate.pair] = _timed(network, images)
    return with_better_rates(candidates, again)


def _timed(network: Backbone, images: np.ndarray) -> float:
    start, rates = time.perf_counter(), [_network_rate(network, images)]
    while len(rates) < _TIMED_ROUNDS and time.perf_counter() - start < _TIMED_SECONDS:
        rates.append(_network_rate(network, images))
    return max(rates)


def _network_rate(network: Backbone, images: np.ndarray) -> float:
    """Return images per second of the network alone, with as many batches at once as it takes."""

    def infer(batch: np.ndarray) -> None:
        with working_on(network.request.device):
            network.infer(batch)

    with ThreadPoolExecutor(network.parallel) as pool:
        start = time.perf_counter()
        for _ in pool.map(infer, [images] * network.parallel):
            pass
        return network.parallel * len(images) / (time.perf_counter() - start)
