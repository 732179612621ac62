"""The GPU that is measured: what it is, what it can do at most, and how time is taken on it."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import numpy as np

from pc_engine.bench.environment import describe_environment, seconds_of
from pc_engine.bench.gpu.report import Row, measured
from pc_engine.hardware.cuda import describe_gpu, device_index
from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.packages import is_installed

_PACKAGES = (
    *("cupy-cuda13x", "torch", "triton", "tensorrt-cu13", "tensorrt-rtx-cu13", "onnxruntime-gpu", "onnx"),
    *("nvidia-cudnn-frontend", "nvidia-cudnn-cu13"),
    *("cuml-cu13", "nvidia-nvimgcodec-cu13", "simplejpeg", "pillow", "scikit-learn"),
)
_SMI = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
_COPIED_BYTES = 1 << 32
_MATRIX = 8192
_MEDIAN_OF = 7
# A measurement goes on until it took this long, so that the clocks settle.
_LEAST_SECONDS = 0.2
# What is done at full load takes as long as the networks that are put beside it: under its power limit a card slows
# down within the first second.
_LEAST_SECONDS_AT_FULL_LOAD = 2.0
_WARM_UPS = 3
# Calls that are queued before the first of them begins: a queue of CUDA's holds about a thousand kernels.
_MOST_QUEUED = 64
_LONGEST_WAIT = 0.25
# Keeps the device busy for so many nanoseconds.
_WAIT = """extern "C" __global__ void wait_for_the_host(unsigned long long nanoseconds) {
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    do {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - start < nanoseconds);
}"""


# Makes the matrices of a product, and returns what multiplies them.
MakeProduct = Callable[[], Callable[[], object]]


class Meter(Protocol):
    """A device and its clock."""

    name: str

    def place(self, array: np.ndarray) -> Array:
        """Return the array on the device."""

    def seconds(self, work: Callable[[], object], *, least: float = _LEAST_SECONDS, queued: bool = False) -> float:
        """Return the seconds on the device that one call of ``work`` takes, all that it queues included.

        Parameters
        ----------
        work
            What is timed.
        least
            Seconds for which it is done again and again.
        queued
            Whether calls wait until several are queued: kernels shorter than the host needs to start them are else
            timed at the rate of that.
        """

    def synchronise(self) -> None:
        """Wait until the device has done all that it was given."""


class CudaMeter:
    """A GPU through CuPy, timed by events on the current stream.

    Parameters
    ----------
    device
        ``"cuda:N"``; it becomes the current one.
    """

    def __init__(self, device: str) -> None:
        import cupy

        self.name = device
        self._cupy = cupy
        cupy.cuda.Device(device_index(device)).use()

    def place(self, array: np.ndarray) -> Array:
        """See `Meter.place`."""
        return self._cupy.asarray(array)

    def seconds(self, work: Callable[[], object], *, least: float = _LEAST_SECONDS, queued: bool = False) -> float:
        """See `Meter.seconds`: median of several stretches of as many calls as take a while, after a warm-up."""
        cupy = self._cupy
        _repeat(work, _WARM_UPS)
        once, wait = self._stretch(work, 1), 0.0
        calls = max(int(least / _MEDIAN_OF / max(once, 1e-7)), 1)
        if queued:
            calls = min(calls, _MOST_QUEUED)
            wait = min(2 * seconds_of(lambda: _repeat(work, calls)), _LONGEST_WAIT)
            self._stretch(work, 1, wait)  # compiles what waits
        found: float = statistics.median(self._stretch(work, calls, wait) / calls for _ in range(_MEDIAN_OF))
        cupy.get_default_memory_pool().free_all_blocks()
        return found

    def synchronise(self) -> None:
        """See `Meter.synchronise`."""
        self._cupy.cuda.Device().synchronize()

    def _stretch(self, work: Callable[[], object], calls: int, wait: float = 0.0) -> float:
        """Return the seconds that calls take, the first of which begins when the device has waited for so long."""
        cupy = self._cupy
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        if wait:
            cupy.RawKernel(_WAIT, "wait_for_the_host")((1,), (1,), (np.uint64(1e9 * wait),))
        start.record()
        _repeat(work, calls)
        end.record()
        end.synchronize()
        return float(cupy.cuda.get_elapsed_time(start, end)) / 1e3


def _repeat(work: Callable[[], object], calls: int) -> None:
    """Call ``work`` so often; each result's memory is free for the next, which the host would else wait to be given."""
    for _ in range(calls):
        work()


def describe(device: str) -> dict[str, Any]:
    """Return the machine, its GPU, and the versions of what computes; JSON-ready."""
    return {
        **describe_environment(*_PACKAGES),
        "gpu": str(describe_gpu(device)),
        "cuda_runtime": _cuda_runtime(),
        "nvidia_smi": _nvidia_smi(device),
    }


def copy_rate(meter: Meter, size: int = _COPIED_BYTES) -> float:
    """Return bytes per second, read and written, of a copy on the device that no cache holds."""
    some = meter.place(np.arange(1 << 20, dtype=np.int64))
    source = get_array_module(some).resize(some, size // 8)
    target = source.copy()

    def copy() -> None:
        target[...] = source

    return 2 * int(target.nbytes) / meter.seconds(copy)


def matrix_rates(meter: Meter, side: int = _MATRIX) -> Iterator[Row]:
    """Yield the operations per second of a product of two random square matrices, by precision.

    PyTorch's product, or CuPy's for fp32 and fp16 where PyTorch does not reach the device: each calls cuBLAS. Random
    values, as a card computes faster on zeros.
    """
    products = _torch_products if torch_reaches(meter.name) else _cupy_products
    for precision, make_product in products(meter, side):
        yield measured({"what": "matrix product", "precision": precision}, _product_figures, meter, make_product, side)


def _product_figures(meter: Meter, make_product: MakeProduct, side: int) -> Row:
    return {"tera_ops": 2 * side**3 / meter.seconds(make_product(), least=_LEAST_SECONDS_AT_FULL_LOAD) / 1e12}


def torch_reaches(device: str) -> bool:
    """Whether PyTorch is installed and computes on a device: its packages for the CPU know of GPUs and use none."""
    if not is_installed("torch"):
        return False
    try:
        import torch

        torch.empty(0, device=device)
    except Exception:  # an AssertionError without CUDA; whatever a loader or a driver says where it does not fit
        return False
    return True


def wall_rate(work: Callable[[], int], seconds: float = 2.0, runs: int = 5) -> tuple[float, list[float]]:
    """Return images per second of the median run, and those of all; ``work`` returns how many images it did.

    For work that waits for the device itself. ``seconds`` are spent on all runs together, at least one call each.
    """
    work()
    rates = []
    for _ in range(runs):
        start, done = time.perf_counter(), 0
        while not done or time.perf_counter() - start < seconds / runs:
            done += work()
        rates.append(done / (time.perf_counter() - start))
    return statistics.median(rates), rates


def _torch_products(meter: Meter, side: int) -> Iterator[tuple[str, MakeProduct]]:
    """Yield what makes a product of each precision.

    PyTorch and CuPy both work on the default stream unless told otherwise, so that CuPy's events time PyTorch too.
    """
    import torch

    def floats(kind: Any) -> Callable[[], object]:
        a, b = (torch.randn(side, side, device=meter.name).to(kind) for _ in range(2))
        out = torch.empty_like(a)
        return lambda: torch.mm(a, b, out=out)

    def int8() -> Callable[[], object]:
        a, b = (torch.randint(-128, 128, (side, side), device=meter.name, dtype=torch.int8) for _ in range(2))
        # cuBLAS multiplies 8-bit integers with one of the two transposed.
        return lambda: torch._int_mm(a, b.t())

    def fp8() -> Callable[[], object]:
        a, b = (torch.randn(side, side, device=meter.name).to(torch.float8_e4m3fn) for _ in range(2))
        scale = torch.ones((), device=meter.name)
        # Sums as the card's own, like those of networks: else each is added to one in float32 again and again.
        return lambda: torch._scaled_mm(a, b.t(), scale, scale, out_dtype=torch.bfloat16, use_fast_accum=True)

    with _without_tf32():
        for precision, kind in (("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
            yield precision, partial(floats, kind)
        yield "int8", int8
        yield "fp8", fp8


@contextmanager
def _without_tf32() -> Iterator[None]:
    import torch

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _cupy_products(meter: Meter, side: int) -> Iterator[tuple[str, MakeProduct]]:
    rng = np.random.default_rng(0)

    def floats(kind: type[np.floating[Any]]) -> Callable[[], object]:
        a, b = (meter.place(rng.standard_normal((side, side), np.float32).astype(kind)) for _ in range(2))
        return lambda: a @ b

    for precision, kind in (("fp32", np.float32), ("fp16", np.float16)):
        yield precision, partial(floats, kind)


def _cuda_runtime() -> str:
    import cupy

    version = int(cupy.cuda.runtime.runtimeGetVersion())
    return f"{version // 1000}.{version % 1000 // 10}"


def _nvidia_smi(device: str) -> str | None:
    """Return what nvidia-smi says about the card and its clocks; None where it is absent.

    It is asked by the card's place: its own numbers are other ones where CUDA is shown some of the cards.
    """
    import cupy

    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    place = cupy.cuda.runtime.deviceGetPCIBusId(device_index(device))
    command = [program, f"--query-gpu={_SMI}", "--format=csv,noheader", f"--id={place}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{_SMI}: {done.stdout.strip()}"
