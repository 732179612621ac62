from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from pc_engine.errors import BackendError, DeviceLostError, DeviceMemoryError, PcEngineError
from pc_engine.hardware.cuda import ImageBuffer, as_array, cuda_errors, describe_gpu, device_index, library_failure


@pytest.mark.parametrize(("device", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:12", 12)])
def test_devices_are_numbered(device, index):
    assert device_index(device) == index


def test_a_gpu_is_described_by_what_compiled_networks_depend_on(gpu):
    found = describe_gpu("cuda:0")
    assert (found.index, found.name, found.capability) == (0, "NVIDIA H200", (9, 0))
    assert found.driver.startswith("13.0")
    assert "compute capability 9.0" in str(found)


def test_errors_of_another_kind_pass(gpu):
    with pytest.raises(KeyError), cuda_errors("testing"):
        raise KeyError("x")
    with pytest.raises(PcEngineError, match="as it was"), cuda_errors("testing"):
        raise PcEngineError("as it was")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (2, DeviceMemoryError),
        (1, BackendError),
        (720, BackendError),
        # Those of which CUDA says that the process must be terminated, and others after which nothing works.
        *((status, DeviceLostError) for status in (226, 700, 702, 710, *range(714, 720), 721, 810, 911)),
        *((status, DeviceLostError) for status in (214, 220, 999)),
    ],
)
@pytest.mark.parametrize("source", ["runtime", "driver"])
def test_errors_of_cuda_are_told_apart_by_their_number(gpu, status, kind, source):
    cuda = sys.modules["cupy"].cuda
    error = (cuda.runtime.CUDARuntimeError if source == "runtime" else cuda.driver.CUDADriverError)(status, "why")
    with pytest.raises(BackendError, match=r"while testing \(why\)") as caught, cuda_errors("testing"):
        raise error
    assert type(caught.value) is kind


def test_a_process_in_which_cuda_does_not_start_is_told_what_to_do(gpu):
    """After a fork it may count the cards and fail at the first thing that is asked of one."""
    error = sys.modules["cupy"].cuda.runtime.CUDARuntimeError(3, "cudaErrorInitializationError: initialization error")
    with pytest.raises(BackendError, match=r"initialization error\): if it was forked .* 'spawn'"), cuda_errors("it"):
        raise error


def test_memory_that_the_pool_has_not_got_is_told_apart(gpu):
    with pytest.raises(DeviceMemoryError, match="use a smaller batch size"), cuda_errors("testing"):
        raise sys.modules["cupy"].cuda.memory.OutOfMemoryError("Out of memory allocating 5 bytes")


@pytest.mark.parametrize(
    "words",
    [
        "cudaErrorMemoryAllocation: out of memory",
        "CUDA_ERROR_OUT_OF_MEMORY",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "nvImageCodec failure: NVIMGCODEC_STATUS_ALLOCATOR_FAILURE",
        "IExecutionContext: Error Code 2: OutOfMemory [Requested size was 123 bytes.]",
        "Error Code 1: Cuda Runtime [out of memory]",
        "autotuning: User allocator error allocating 861143040-byte buffer",
        "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 5",
        "BFCArena::AllocateRawInternal Available memory of 10 is smaller than requested bytes of 20",
        "CUDA failure 2: out of memory ; GPU=0",
    ],
)
def test_memory_that_a_library_has_not_got_is_told_apart(gpu, words):
    with pytest.raises(DeviceMemoryError, match=re.escape(words)), cuda_errors("testing"):
        raise RuntimeError(words)
    assert type(library_failure("It failed", RuntimeError(words))) is DeviceMemoryError


@pytest.mark.parametrize(
    "words",
    ["CUBLAS_STATUS_EXECUTION_FAILED", "CUDNN_STATUS_NOT_SUPPORTED", "an illegal memory access was encountered", ""],
)
def test_what_is_not_about_memory_is_not_taken_for_it(gpu, words):
    error = library_failure("It failed", RuntimeError(words))
    assert type(error) is BackendError
    assert str(error) == f"It failed ({words or 'RuntimeError'})."


def test_what_a_binding_raises_is_one_line(gpu):
    with pytest.raises(BackendError, match=r"while testing \(wrong shape\)"), cuda_errors("testing"):
        raise RuntimeError("wrong shape\nat such a line")


def test_arrays_of_the_host_become_numpy(gpu):
    images = np.zeros((2, 4, 4, 3), np.uint8)
    assert as_array(images) is images
    assert isinstance(as_array(images.tolist()), np.ndarray)


def test_a_short_batch_is_filled_with_black(gpu):
    cupy = sys.modules["cupy"]
    buffer = ImageBuffer((4, 2, 2, 3))
    stream = cupy.cuda.Stream(non_blocking=True)
    full = np.full((4, 2, 2, 3), 9, np.uint8)
    buffer.place(buffer.take(full), stream)
    for images in (full[:2], gpu.array(full[:2])):
        placed = buffer.place(buffer.take(images), stream)
        stream.synchronize()
        np.testing.assert_array_equal(placed.get()[:2], full[:2])
        assert not placed.get()[2:].any()


def test_images_in_another_order_or_badly_aligned_are_copied(gpu):
    cupy = sys.modules["cupy"]
    buffer = ImageBuffer((2, 4, 4, 3))
    stream = cupy.cuda.Stream(non_blocking=True)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (3, 4, 4, 3), np.uint8)
    array = gpu.array(values)
    for view, expected in ((array[1:], values[1:]), (array[::2], values[::2])):
        placed = buffer.place(buffer.take(view), stream)
        stream.synchronize()
        assert placed is buffer.device
        np.testing.assert_array_equal(placed.get(), expected)
    assert buffer.place(buffer.take(array[:2]), stream).data.ptr == array.data.ptr
