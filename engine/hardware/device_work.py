"""Where the threads of a run do their work: on the CPU, or each on a stream of its own of an NVIDIA GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any

from pc_engine.hardware.cuda import cuda_errors, device_index, free_unused_memory, on_device

# Streams that no thread uses, by CuPy and number of the GPU. They are kept, as CuPy keeps the memory that each freed.
_IDLE_STREAMS: defaultdict[tuple[ModuleType, int], SimpleQueue[Any]] = defaultdict(SimpleQueue)


@contextmanager
def working_on(device: str) -> Iterator[None]:
    """Let the arrays and kernels of the calling thread go to ``device`` in the ``with`` block.

    Parameters
    ----------
    device
        ``"cpu"``, where this does nothing, or ``"cuda:N"``: there the thread has a stream that no other one uses
        meanwhile, so that what it queues neither waits for other batches nor holds them up.

    Raises
    ------
    DeviceMemoryError, DeviceLostError, BackendError
        As CUDA's errors in the block are raised; see `pc_engine.hardware.cuda.cuda_errors`.
    """
    if device == "cpu":
        yield
        return
    import cupy

    index = device_index(device)
    # Outermost, as a GPU that was lost fails once more when the device before is made the current one again.
    with cuda_errors("counting and pointing"), on_device(index):
        idle = _IDLE_STREAMS[cupy, index]
        try:
            stream = idle.get_nowait()
        except Empty:
            stream = cupy.cuda.Stream(non_blocking=True)
        try:
            with stream:
                yield
        finally:
            idle.put(stream)


def make_room_on(device: str) -> None:
    """Give memory back that a GPU has no use for at the moment, before something smaller is tried."""
    if device != "cpu":
        with cuda_errors("making room"), on_device(device_index(device)):
            free_unused_memory()
