"""The GPU that is measured: what it is, what it can do at most, and how time is taken on it."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from pc_engine.bench.environment import describe_environment
from pc_engine.bench.gpu.report import Row
from pc_engine.errors import first_line
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
_WARM_UPS = 3


class Meter(Protocol):
    """A device and its clock."""

    name: str

    def place(self, array: np.ndarray) -> Array:
        """Return the array on the device."""

    def seconds(self, work: Callable[[], object]) -> float:
        """Return the seconds on the device that one call of ``work`` takes, all that it queues included."""

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

    def seconds(self, work: Callable[[], object]) -> float:
        """See `Meter.seconds`: median of several stretches of as many calls as take a while, after a warm-up."""
        cupy = self._cupy
        for _ in range(_WARM_UPS):
            work()
        once = self._stretch(work, 1)
        calls = max(int(_LEAST_SECONDS / _MEDIAN_OF / max(once, 1e-7)), 1)
        found: float = statistics.median(self._stretch(work, calls) / calls for _ in range(_MEDIAN_OF))
        cupy.get_default_memory_pool().free_all_blocks()
        return found

    def synchronise(self) -> None:
        """See `Meter.synchronise`."""
        self._cupy.cuda.Device().synchronize()

    def _stretch(self, work: Callable[[], object], calls: int) -> float:
        cupy = self._cupy
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        for _ in range(calls):
            work()
        end.record()
        end.synchronize()
        return float(cupy.cuda.get_elapsed_time(start, end)) / 1e3


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

    PyTorch's product, or CuPy's for fp32 and fp16 where PyTorch is not installed: each calls cuBLAS. Random values, as
    a card computes faster on zeros.
    """
    products = _torch_products if is_installed("torch") else _cupy_products
    for precision, work in products(meter, side):
        try:
            rate = 2 * side**3 / meter.seconds(work)
        except (RuntimeError, ImportError) as error:  # a type that it does not multiply, or there is no cuBLAS
            yield {"what": "matrix product", "precision": precision, "reason": first_line(error)}
            continue
        yield {"what": "matrix product", "precision": precision, "tera_ops": rate / 1e12}


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


def _torch_products(meter: Meter, side: int) -> Iterator[tuple[str, Callable[[], object]]]:
    import torch

    # PyTorch and CuPy both work on the default stream unless told otherwise, so that CuPy's events time PyTorch too.
    with _without_tf32():
        for precision, kind in (("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
            a, b = (torch.randn(side, side, device=meter.name).to(kind) for _ in range(2))
            out = torch.empty_like(a)
            yield precision, lambda a=a, b=b, out=out: torch.mm(a, b, out=out)  # type: ignore[misc]
        a, b = (torch.randint(-128, 128, (side, side), device=meter.name, dtype=torch.int8) for _ in range(2))
        # cuBLAS multiplies 8-bit integers with one of the two transposed.
        yield "int8", lambda: torch._int_mm(a, b.t())
        x, y = (torch.randn(side, side, device=meter.name).to(torch.float8_e4m3fn) for _ in range(2))
        scale = torch.ones((), device=meter.name)
        yield "fp8", lambda: torch._scaled_mm(x, y.t(), scale, scale, out_dtype=torch.bfloat16)


@contextmanager
def _without_tf32() -> Iterator[None]:
    import torch

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _cupy_products(meter: Meter, side: int) -> Iterator[tuple[str, Callable[[], object]]]:
    rng = np.random.default_rng(0)
    for precision, kind in (("fp32", np.float32), ("fp16", np.float16)):
        a, b = (meter.place(rng.standard_normal((side, side), np.float32).astype(kind)) for _ in range(2))
        yield precision, lambda a=a, b=b: a @ b  # type: ignore[misc]


def _cuda_runtime() -> str:
    import cupy

    version = int(cupy.cuda.runtime.runtimeGetVersion())
    return f"{version // 1000}.{version % 1000 // 10}"


def _nvidia_smi(device: str) -> str | None:
    """Return what nvidia-smi says about the card and its clocks; None where it is absent."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, f"--query-gpu={_SMI}", "--format=csv,noheader", f"--id={device_index(device)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{_SMI}: {done.stdout.strip()}"
