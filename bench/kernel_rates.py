"""Each kernel checked against an oracle, then timed beside working image by image and beside the memory bandwidth."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from pc_engine.backbone import LARGEST_BATCH
from pc_engine.bench.environment import describe_environment, seconds_of
from pc_engine.bench.kernel_cases import Case, kernel_cases, made_up_maps
from pc_engine.errors import BackendError, UsageError
from pc_engine.progress import Progress

# What oracles compare all pairs of, and what a run makes batches of; more is refused before it fills memory.
_LARGEST = {"grid": 64, "batch": LARGEST_BATCH, "channels": 4096}
_MOST_BYTES = 1 << 30
_COPIED_BYTES = 1 << 28
_REPEATS = 7
#: The slow peers are timed on this many images at most.
_PEER_IMAGES = 16


@dataclass(frozen=True)
class KernelRate:
    """How fast a kernel is.

    Attributes
    ----------
    kernel, mode
        Its name, and the mode whose sum it counts to, such as ``"c2p"`` or ``"p2c --cluster dbscan"``.
    peer
        What it was checked against and is compared with, image by image.
    ms, peer_ms
        Milliseconds an image: best of several runs on the batch, one core.
    speedup
        ``peer_ms / ms``.
    bytes
        Bytes an image that have to be moved at the least: inputs read once and results written once.
    bandwidth_share
        Rate of those bytes over that of a large copy; above 1 where the batch stays in the caches.
    """

    kernel: str
    mode: str
    peer: str
    ms: float
    peer_ms: float
    speedup: float
    bytes: int
    bandwidth_share: float


@dataclass(frozen=True)
class KernelReport:
    """Rates of all kernels. ``bandwidth_gb_s`` counts bytes read and bytes written of a large copy on one core."""

    grid: int
    batch: int
    channels: int
    bandwidth_gb_s: float
    kernels: tuple[KernelRate, ...]
    machine: dict[str, Any] = field(default_factory=lambda: describe_environment("scikit-learn", "scipy"))

    @property
    def sums_ms(self) -> dict[str, float]:
        """Milliseconds an image over the kernels of each mode; not over all, which never run together."""
        modes = dict.fromkeys(rate.mode for rate in self.kernels)
        return {mode: sum(rate.ms for rate in self.kernels if rate.mode == mode) for mode in modes}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**vars(self), "kernels": [asdict(rate) for rate in self.kernels], "sum_ms": self.sums_ms}


def measure_kernels(
    *, grid: int = 14, batch: int = 64, channels: int = 512, progress: Progress = lambda *_: None
) -> KernelReport:
    """Check and time all kernels on made-up feature maps, (batch, channels, grid, grid) float32.

    Raises
    ------
    UsageError
        If a size is too small to be one, or too large.
    BackendError
        If a kernel disagrees with its oracle. Then nothing is timed.
    """
    for name, value, least in (("grid", grid, 7), ("batch", batch, 1), ("channels", channels, 1)):
        if value < least:
            raise UsageError(f"--{name} is {value}, expected a number of at least {least}.")
        if value > _LARGEST[name]:
            raise UsageError(f"--{name} is {value:,}, expected a number of at most {_LARGEST[name]:,}.")
    size = 4 * batch * channels * grid**2
    if size > _MOST_BYTES:
        raise UsageError(
            f"{batch:,} images of {channels:,} maps of {grid} x {grid} cells have {size / 1e9:.1f} GB, more than "
            f"{_MOST_BYTES / 1e9:.1f}: lower --batch."
        )
    cases = list(kernel_cases(made_up_maps(batch, channels, grid)))
    # Scikit-learn warns that a mixture has not converged.
    with threadpool_limits(1), warnings.catch_warnings(action="ignore"):
        for case in cases:
            check(case, batch)
        bandwidth = copy_bandwidth()
        rates = []
        for place, case in enumerate(cases):
            progress(case.kernel, place, len(cases))
            rates.append(_timed(case, batch, bandwidth))
    return KernelReport(grid, batch, channels, bandwidth / 1e9, tuple(rates))


def check(case: Case, batch: int) -> None:
    """Raise BackendError unless the kernel gives what its peer gives, image by image."""
    found = case.run()
    for i in range(batch):
        expected = np.asarray(case.peer(i), np.float64)
        difference = float(np.abs(found[i] - expected).max()) if expected.size else 0.0
        if not difference <= case.tolerance * max(float(np.abs(expected).max(initial=0)), 1.0):
            raise BackendError(
                f"The kernel {case.kernel} differs from {case.peer_name} by {difference:.2g} on image {i}: nothing was "
                f"timed, as a wrong result has no speed."
            )


def copy_bandwidth() -> float:
    """Return bytes per second, read and written, of copying an array that no cache holds."""
    source = np.ones(_COPIED_BYTES // 8)
    target = np.zeros_like(source)
    return 2 * _COPIED_BYTES / min(seconds_of(lambda: np.copyto(target, source)) for _ in range(_REPEATS))


def _timed(case: Case, batch: int, bandwidth: float) -> KernelRate:
    few = min(batch, _PEER_IMAGES)
    seconds = min(seconds_of(case.run) for _ in range(_REPEATS)) / batch
    slow = min(seconds_of(lambda: [case.peer(i) for i in range(few)]) for _ in range(3)) / few
    moved = sum(array.nbytes for array in case.moved) // batch
    return KernelRate(
        case.kernel,
        case.mode,
        case.peer_name,
        1e3 * seconds,
        1e3 * slow,
        slow / seconds,
        moved,
        moved / seconds / bandwidth,
    )
