"""Where a run can take place: the CPU, or an NVIDIA GPU, and what it takes to use one."""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass

from pc_engine.errors import UsageError, first_line
from pc_engine.packages import missing

_DRIVER = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
# Queues of a GPU that CUDA's streams share. Of its own 8, those that decode photos come to share one with the network,
# and wait behind whole batches of it.
_QUEUES, _MOST_QUEUES = "CUDA_DEVICE_MAX_CONNECTIONS", "32"
#: The cudaError_t of a process in which CUDA does not start, mostly as it has been started in the one that forked it.
NOT_STARTED = 3


@dataclass(frozen=True)
class Requirement:
    """Something that a GPU cannot be used without: whether it ``works``, and a sentence on what was found or lacks."""

    name: str
    works: bool
    reason: str


def check_device_name(device: str) -> None:
    """Raise UsageError unless ``device`` is ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", device):
        raise UsageError(f"There is no device '{device}': choose auto, cpu, cuda or cuda:NUMBER.")


def driver_found() -> bool:
    """Return whether NVIDIA's driver is installed. Where it is not, nothing slower has to be asked."""
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:
        return False
    return True


def gpu_reason() -> str:
    """Return one sentence that says why no NVIDIA GPU can be used here, or an empty string if one is there."""
    try:
        import cupy
    except ImportError:
        # What comes first is said first: the package helps nobody who has no driver, and mostly no GPU.
        if not driver_found():
            return f"No NVIDIA driver was found ({_DRIVER}): install it if there is a GPU, or use --device cpu."
        return str(missing("cupy", "run on an NVIDIA GPU"))
    try:
        count = gpu_count()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        if getattr(error, "status", 0) == NOT_STARTED:
            return not_started(first_line(error))
        return f"CuPy finds no NVIDIA GPU ({str(error).split(': ')[-1]}): install a driver, or use --device cpu."
    return "" if count else "This machine has no NVIDIA GPU: use --device cpu."


def not_started(said: str) -> str:
    """Return a sentence on what to do where CUDA ``said`` by `NOT_STARTED` that it does not start in this process."""
    return (
        f"CUDA does not start in this process ({said}): if it was forked from one that had used a GPU, start it with "
        "multiprocessing's 'spawn' or 'forkserver', else check nvidia-smi, or use --device cpu."
    )


def gpu_count() -> int:
    """Return how many NVIDIA GPUs there are, where CuPy finds any."""
    import cupy

    # Read when CUDA starts on a GPU, which this precedes.
    os.environ.setdefault(_QUEUES, _MOST_QUEUES)
    return int(cupy.cuda.runtime.getDeviceCount())


def open_gpus(asked: str, chosen: str) -> int:
    """Return how many GPUs may take part: 0 where ``asked`` names one, or where ``chosen`` is the CPU."""
    return gpu_count() if asked in ("auto", "cuda") and chosen != "cpu" else 0


def gpu_requirements() -> list[Requirement]:
    """Return all that a GPU needs beside a backend, each looked at by itself: none hides what else is missing."""
    driver = driver_found()
    found = f"{_DRIVER} is there." if driver else f"{_DRIVER} is not found: install NVIDIA's driver for the GPU."
    return [Requirement("driver", driver, found), *_cupy_requirements()]


def _cupy_requirements() -> list[Requirement]:
    purposes = {"cupy": "hold arrays on an NVIDIA GPU", "nvrtc": "compile the kernels"}
    try:
        import cupy
    except ImportError:
        return [Requirement(name, False, str(missing("cupy", purpose))) for name, purpose in purposes.items()]
    versions = Requirement("cupy", True, f"CuPy {cupy.__version__}.")
    try:
        major, minor = cupy.cuda.nvrtc.getVersion()
    except Exception as error:  # whatever its loader says where the library is absent or does not fit
        reason = first_line(error)
        remedy = "pip install 'pc-engine[gpu]'"
        return [versions, Requirement("nvrtc", False, f"CuPy cannot compile kernels ({reason}): {remedy}.")]
    return [versions, Requirement("nvrtc", True, f"NVRTC {major}.{minor} compiles the kernels.")]
