"""Work on a GPU that is recorded as a CUDA graph: one call starts all of its kernels, however many and short."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pc_engine.backends.recorded_memory import RecordedMemory
from pc_engine.errors import BackendError
from pc_engine.hardware.cuda import cuda_errors, on_device
from pc_engine.kernels.array_module import Array

#: What a recording fails with: a library says in ways of its own that it cannot be recorded, and CuPy by a MemoryError
#: that memory is short.
REFUSALS = (BackendError, RuntimeError, MemoryError)

Given = TypeVar("Given")


def record(stream: Any, work: Callable[[], Given]) -> tuple[Any, Given]:
    """Record what ``work`` queues on ``stream``, without running it; return the graph, and what ``work`` returned.

    The stream of a recording that failed cannot be used any more, the thread can.

    Raises
    ------
    BackendError, RuntimeError, MemoryError
        If that cannot be recorded; see `REFUSALS`.
    """
    import cupy

    stream.begin_capture()
    try:
        given = work()
    except REFUSALS:
        # Ended in any case, so that the thread can use CUDA again; that it failed is known.
        with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):
            stream.end_capture()
        raise
    return stream.end_capture(), given


class RecordedWork:
    """A function of arrays on a GPU, recorded once, to be repeated on other arrays of the same shapes and types.

    Parameters
    ----------
    work
        From arrays by their names to one array. It must not look at a value: no copy to the host, nothing that waits,
        and no array made of values of the host, whose copy would be repeated from memory that others use by then.
    inputs
        Arrays such as it will get, contiguous, complete on the current stream.

    Attributes
    ----------
    inputs
        The arrays that it works on: what is given to it is copied there, unless it lies there.

    Raises
    ------
    BackendError, RuntimeError, MemoryError
        If it cannot be recorded, or memory is short; see `REFUSALS`.
    """

    def __init__(self, work: Callable[[Mapping[str, Array]], Array], inputs: Mapping[str, Array]) -> None:
        import cupy

        self._cupy, self._index = cupy, int(cupy.cuda.Device().id)
        # A first run compiles, and makes constants that others will read, too: these must not lie in this one's memory.
        work(inputs)
        self._memory = RecordedMemory()
        # Not the caller's, which a recording that fails would leave unusable.
        stream = cupy.cuda.Stream(non_blocking=True)
        stream.wait_event(cupy.cuda.get_current_stream().record())
        with stream, self._memory.serve(stream):
            self.inputs = {name: cupy.empty(array.shape, array.dtype) for name, array in inputs.items()}
            self._take(inputs, stream)
            work(self.inputs)  # which allocates what the recording will find
            stream.synchronize()
            self._graph, self._result = record(stream, lambda: work(self.inputs))

    def __call__(self, inputs: Mapping[str, Array]) -> Array:
        """Queue the work on the current stream; return the array that it fills, and will fill again the next time."""
        stream = self._cupy.cuda.get_current_stream()
        self._take(inputs, stream)
        self._graph.launch(stream)
        return self._result

    def close(self) -> None:
        """Free its memory; nothing of it is queued any more."""
        # A GPU that was lost has nothing left to free, and is no reason to end otherwise than planned.
        with contextlib.suppress(BackendError), cuda_errors("closing what was recorded"), on_device(self._index):
            del self._graph, self._result, self.inputs
            self._memory.close()

    def _take(self, inputs: Mapping[str, Array], stream: Any) -> None:
        for name, place in self.inputs.items():
            if inputs[name] is not place:
                place.data.copy_from_device_async(inputs[name].data, place.nbytes, stream)
