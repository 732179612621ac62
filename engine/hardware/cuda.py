"""The NVIDIA GPU as CuPy sees it: which one, images on their way to it, and what its errors mean.

CuPy owns memory and streams, because the kernels behind the network are CuPy's and work on the network's own buffers.
Arrays of other libraries come in through ``__cuda_array_interface__`` or DLPack, without a copy; they have to live in
the device's primary context (for PyCUDA ``pycuda.autoprimaryctx``, as ``pycuda.autoinit`` makes a context of its own).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pc_engine.backbone import check_batch
from pc_engine.errors import BackendError, DeviceLostError, DeviceMemoryError, first_line
from pc_engine.hardware.devices import NOT_STARTED, gpu_count, not_started
from pc_engine.kernels.array_module import Array

# Codes of cudaError_t, which CuPy's errors carry as ``status``.
OUT_OF_MEMORY = 2
LAUNCH_FAILURE = 719
# After these, every further call of the process fails: the context is gone, or the card is. Of those from 226 on, CUDA
# says so itself but of 709 and 999.
_LOST = frozenset(
    (46, 100, 201, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, LAUNCH_FAILURE, 721, 810, 911, 999)
)
# What libraries that allocate by themselves say where there is no memory left: CUDA, cuBLAS, cuDNN, nvImageCodec,
# TensorRT and ONNX Runtime, each in words of its own.
_NO_MEMORY = re.compile(
    r"out[ _]?of[ _]?memory|MemoryAllocation|alloc\w*_fail|failed to allocate memory|allocator error allocating|"
    r"smaller than requested bytes",
    re.IGNORECASE,
)
_DLPACK_CPU = 1
# TensorRT asks this of every address that it is given.
_ALIGNMENT = 256


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU: its CUDA index, name, compute capability, and the driver that runs it."""

    index: int
    name: str
    capability: tuple[int, int]
    driver: str

    def __str__(self) -> str:
        major, minor = self.capability
        return f"{self.name} (compute capability {major}.{minor}, driver {self.driver})"


def device_index(device: str) -> int:
    """Return N of ``"cuda:N"``, 0 of ``"cuda"``."""
    return int(device.partition(":")[2] or 0)


def describe_gpu(device: str) -> Gpu:
    """Return what ``device`` is.

    Raises
    ------
    BackendError
        If there is no such GPU.
    """
    cupy = _cupy()
    index = device_index(device)
    with cuda_errors("looking for the GPU"):
        count = gpu_count()
        if index >= count:
            raise BackendError(
                f"There is no GPU {index} here, the machine has {count}: use cuda:0 to cuda:{count - 1}."
            )
        properties = cupy.cuda.runtime.getDeviceProperties(index)
        version = int(cupy.cuda.runtime.driverGetVersion())
    name = properties["name"]
    return Gpu(
        index,
        name.decode() if isinstance(name, bytes) else str(name),
        (int(properties["major"]), int(properties["minor"])),
        f"{version // 1000}.{version % 1000 // 10}{_driver_release()}",
    )


@contextmanager
def on_device(index: int) -> Iterator[None]:
    """Make GPU ``index`` the current one in the ``with`` block."""
    with _cupy().cuda.Device(index):
        yield


def free_unused_memory() -> None:
    """Give back what CuPy keeps for later, so that others, such as TensorRT, can have it."""
    cupy = _cupy()
    cupy.get_default_memory_pool().free_all_blocks()
    cupy.get_default_pinned_memory_pool().free_all_blocks()
    if (pool := _cudas_own_pool()) is not None:
        cupy.cuda.runtime.memPoolTrimTo(pool, 0)


def keep_freed_memory(size: int) -> None:
    """Let the current GPU keep so many bytes that other libraries free, for what they allocate next.

    By itself CUDA gives all of it back whenever something waits for the GPU, and takes it anew for the next batch.
    `free_unused_memory` gives it back, too.
    """
    runtime = _cupy().cuda.runtime
    if (pool := _cudas_own_pool()) is not None:
        runtime.memPoolSetAttribute(pool, runtime.cudaMemPoolAttrReleaseThreshold, size)


def _cudas_own_pool() -> int | None:
    """Return the pool that libraries without one allocate from; None where a GPU, such as a virtual one, has none."""
    cupy = _cupy()
    runtime, device = cupy.cuda.runtime, cupy.cuda.Device().id
    if not runtime.deviceGetAttribute(runtime.cudaDevAttrMemoryPoolsSupported, device):
        return None
    return int(runtime.deviceGetDefaultMemPool(device))


@contextmanager
def cuda_errors(action: str) -> Iterator[None]:
    """Raise what goes wrong on the GPU in the ``with`` block as one-sentence errors of this project.

    It belongs outside of `on_device`, which fails once more where the GPU was lost.

    Raises
    ------
    DeviceMemoryError
        If the memory of the GPU is full.
    DeviceLostError
        If the GPU does not answer any more.
    BackendError
        If CUDA reports anything else.
    """
    cupy = _cupy()
    runtime, driver = cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError
    try:
        yield
    except cupy.cuda.memory.OutOfMemoryError as error:
        raise failure(action, str(error), OUT_OF_MEMORY) from None
    except (runtime, driver) as error:
        raise failure(action, str(error), int(getattr(error, "status", 0))) from None
    except RuntimeError as error:  # what the bindings of a library raise where they give no False
        status = OUT_OF_MEMORY if says_no_memory(str(error)) else 0
        raise failure(action, first_line(error), status) from None


def failure(action: str, reason: str, status: int) -> BackendError:
    """Return the error for something that went wrong on the GPU while ``action``, by its cudaError_t."""
    if status == OUT_OF_MEMORY:
        return DeviceMemoryError(f"The GPU ran out of memory while {action} ({reason}): use a smaller batch size.")
    if status in _LOST:
        return DeviceLostError(
            f"The GPU stopped answering while {action} ({reason}): start again, and check nvidia-smi."
        )
    if status == NOT_STARTED:
        return BackendError(not_started(reason))
    return BackendError(f"Something on the GPU failed while {action} ({reason}).")


def library_failure(said: str, error: Exception) -> BackendError:
    """Return the error for what a library raised where ``said`` happened, by whether it means that memory is full."""
    if says_no_memory(str(error)):
        return DeviceMemoryError(f"{said}: the GPU is out of memory; use a smaller batch size.")
    return BackendError(f"{said} ({first_line(error)}).")


def says_no_memory(text: str) -> bool:
    """Whether the words of a library mean that the memory of the GPU is full."""
    return _NO_MEMORY.search(text) is not None


def as_array(images: Array) -> Array:
    """Return ``images`` of any library as a CuPy array on the same memory if they are on a GPU, else as a NumPy one."""
    cupy = _cupy()
    if isinstance(images, (np.ndarray, cupy.ndarray)):
        return images
    if hasattr(images, "__cuda_array_interface__"):
        return cupy.asarray(images)
    if hasattr(images, "__dlpack_device__") and int(images.__dlpack_device__()[0]) != _DLPACK_CPU:
        return cupy.from_dlpack(images)
    return np.asarray(images)


class ImageBuffer:
    """Room for one batch of images on the GPU, and page-locked memory that they are copied from.

    Parameters
    ----------
    shape
        (batch size, H, W, 3).
    """

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        cupy = _cupy()
        import cupyx

        self._shape = shape
        self.device = cupy.zeros(shape, np.uint8)
        self._pinned = cupyx.empty_pinned(shape, np.uint8)

    def take(self, images: Array) -> Array:
        """Return images of any library as a NumPy array, or as a CuPy one where they are on a GPU.

        Raises
        ------
        UsageError
            If there are none, or more than a batch holds.
        BackendError
            If they are not of the network's size and type, or on another GPU.
        """
        taken = as_array(images)
        check_batch(len(taken), self._shape[0])
        if tuple(taken.shape[1:]) != self._shape[1:] or taken.dtype != np.uint8:
            raise BackendError(
                f"The network takes uint8 images of shape {self._shape[1:]}, got {taken.dtype} of shape "
                f"{tuple(taken.shape[1:])}."
            )
        if not isinstance(taken, np.ndarray) and taken.device.id != self.device.device.id:
            raise BackendError(
                f"The images are on GPU {taken.device.id} and the network is on GPU {self.device.device.id}: copy them "
                f"there, or run it with --device cuda:{taken.device.id}."
            )
        return taken

    def place(self, taken: Array, stream: Any) -> Array:
        """Return a full batch on the GPU that begins with what `take` gave, for work that follows on ``stream``.

        Images on the GPU stay where they are if they fill the batch, in order and aligned. Others are copied into this
        buffer; the rest of it is black. Images on the host pass through page-locked memory, so that the copy runs
        beside the computation of other batches.
        """
        n = len(taken)
        if isinstance(taken, np.ndarray):
            size = int(np.prod(self._shape[1:])) * n
            np.copyto(self._pinned[:n], taken)
            self.device.data.copy_from_host_async(self._pinned.ctypes.data, size, stream)
        else:
            if taken.flags.c_contiguous and n == self._shape[0] and taken.data.ptr % _ALIGNMENT == 0:
                return taken
            with stream:
                self.device[:n] = taken
        if n < self._shape[0]:
            with stream:
                self.device[n:] = 0
        return self.device


def _cupy() -> Any:
    import cupy

    return cupy


def _driver_release() -> str:
    """Return `` (release)`` of the kernel driver where the system tells it."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", text)
    return f", {found.group(1)}" if found else ""
