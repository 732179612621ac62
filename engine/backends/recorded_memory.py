"""Memory for a program that is recorded as a CUDA graph, which goes on using what the arrays of its run were given."""

from __future__ import annotations

from typing import Any

from pc_engine.errors import BackendError
from pc_engine.hardware.cuda import OUT_OF_MEMORY, free_unused_memory
from pc_engine.kernels.array_module import Array


class RecordedMemory:
    """A pool of CuPy's for one program, in which no block is freed while the program is recorded.

    By itself a pool that finds no more memory first frees its blocks that no array uses, and tries again. While a run
    is recorded, the kernels recorded so far will use these very blocks.
    """

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy
        # No method of this object's: in a circle, memory would be freed when Python comes to look for circles.
        self._pool = cupy.cuda.MemoryPool(_new_block)
        self._stream: int | None = None

    def serve(self, stream: Any) -> Any:
        """Give the arrays of the ``with`` block memory for work on ``stream``, which is the current one.

        Blocks that were freed on another stream are given back: this one has no use for them.
        """
        if self._stream not in (None, stream.ptr):
            self._pool.free_all_blocks()
        self._stream = stream.ptr
        return self._cupy.cuda.using_allocator(self._pool.malloc)

    def close(self) -> None:
        """Give back what no array uses; the graph is not launched any more."""
        self._pool.free_all_blocks()


def _new_block(size: int) -> Array:
    """Return ``size`` bytes, if need be of those that CuPy's other pool keeps for later.

    Raises
    ------
    BackendError
        If there are none while a run is recorded; else it is CUDA's error, which the pool knows.
    """
    from cupy import cuda

    try:
        return cuda.MemoryPointer(cuda.Memory(size), 0)
    except cuda.runtime.CUDARuntimeError as error:
        if error.status != OUT_OF_MEMORY:
            raise
        if cuda.get_current_stream().is_capturing():
            raise BackendError(f"no {size:,} bytes of memory were left for recording it") from None
    free_unused_memory()
    return cuda.MemoryPointer(cuda.Memory(size), 0)
