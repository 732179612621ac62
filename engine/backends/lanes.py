"""Batches on their way through a network on a GPU: one computes, the others are copied there and back meanwhile.

All batches are computed on one stream, one after the other, by one CUDA graph with one set of buffers: a batch fills
the GPU, so that two at once would only share its caches, and take twice the memory. Each batch in flight has a stream
for its images and a host thread that waits for it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pc_engine.backbone import CompileRequest, Taps
from pc_engine.backends.idle import Idle
from pc_engine.backends.recorded_work import REFUSALS, record
from pc_engine.errors import BackendError, first_line
from pc_engine.hardware.cuda import ImageBuffer, cuda_errors, free_unused_memory, on_device
from pc_engine.kernels.array_module import Array

#: Batches in flight: one computes, the next is queued behind it, and the host has a third.
PARALLEL = 3
# Runs after which a program that records by itself has done so: early ones compile, the next is recorded. If these were
# batches, decoders would allocate meanwhile, which can spoil a recording.
_RUNS_TO_RECORD_ITSELF = 3


class Program(Protocol):
    """A network with the memory that one batch of it needs.

    Attributes
    ----------
    captures
        Whether a run of it is to be recorded as a CUDA graph. Where it is not, the program may record its early ones by
        itself.
    """

    captures: bool

    def execute(self, images: Array, stream: Any) -> Mapping[str, Array]:
        """Queue a full batch on ``stream``; return the taps that it fills, which the program goes on owning.

        Raises
        ------
        BackendError
            If it cannot be queued.
        """

    def close(self) -> None:
        """Free what the GPU holds for it; nothing is queued any more."""


class Lanes:
    """A network on a GPU, of a program and a lane for each batch in flight: what backends there have in common.

    Parameters
    ----------
    request
        What was compiled.
    index
        The GPU.
    make_program
        Makes the program, while the stream that it will compute on is the current one.

    Attributes
    ----------
    remarks
        Sentences on what runs other than intended, such as a CUDA graph that could not be captured.

    Raises
    ------
    DeviceMemoryError
        If the GPU's memory does not hold it.
    BackendError
        If the program cannot be made, or fails.
    """

    parallel = PARALLEL

    def __init__(self, request: CompileRequest, index: int, make_program: Callable[[], Program]) -> None:
        import cupy

        self.request = request
        self._cupy, self._index = cupy, index
        pixels = request.manifest.input
        shape = (request.batch_size, pixels.height, pixels.width, 3)
        self.remarks: tuple[str, ...] = ()
        # What is queued for a batch stays together.
        self._queueing = threading.Lock()
        with cuda_errors("loading the network"), on_device(index):
            self._stream = cupy.cuda.Stream(non_blocking=True)
            with self._stream:  # which fills them, and which no other stream waits for
                self._images = cupy.zeros(shape, cupy.uint8)
                self._program = make_program()
            self._graph: Any = None
            # The taps that the graph fills, and the shape of an image's part and the type of each.
            self._taps: Mapping[str, Array] = {}
            self._kinds: dict[str, tuple[tuple[int, ...], Any]] = {}
            try:
                self._warm_up()
                self._idle = Idle([_Lane(shape) for _ in range(PARALLEL)])
            except BaseException:
                # What a library has of the GPU is not freed with Python's objects. If that fails, too, why is known.
                with contextlib.suppress(Exception):
                    self._program.close()
                raise

    def infer(self, images: Array, into: Taps | None = None) -> dict[str, Array]:
        """Run a batch and wait for it; see `pc_engine.backbone.Backbone.infer`.

        Work that the calling thread's current CuPy stream was given before is waited for on the GPU. Images that are on
        the GPU must be complete on that stream.
        """
        with self._idle.taken() as lane, cuda_errors("running the network"), on_device(self._index):
            return self._run(lane, images, into or {})

    def _run(self, lane: _Lane, images: Array, into: Taps) -> dict[str, Array]:
        taken = lane.images.take(images)
        n = len(taken)
        # Allocated for the caller's stream, so that memory freed there is not written to before it is done with.
        results = {
            name: into[name] if name in into else self._cupy.empty((n, *shape), dtype)
            for name, (shape, dtype) in self._kinds.items()
        }
        try:
            lane.stream.wait_event(self._cupy.cuda.get_current_stream().record())
            placed = lane.images.place(taken, lane.stream)
            arrived = lane.stream.record()
            with self._queueing:
                self._stream.wait_event(arrived)
                self._queue(placed, results)
                lane.done.record(self._stream)
        except BaseException:
            # Till then what was queued uses the images, the lane and the results, which others will have.
            lane.stream.synchronize()
            self._stream.synchronize()
            raise
        lane.done.synchronize()
        return results

    def _queue(self, placed: Array, results: Mapping[str, Array]) -> None:
        """Queue a batch; what a run without a graph was given for its taps is the next one's when this returns."""
        # To the same place each time: graphs, also those that a library captures by itself, read their images there.
        self._images.data.copy_from_device_async(placed.data, placed.nbytes, self._stream)
        if self._graph is None:
            taps = self._program.execute(self._images, self._stream)
        else:
            taps = self._taps
            self._graph.launch(self._stream)
        for name, result in results.items():
            result.data.copy_from_device_async(taps[name].data, result.nbytes, self._stream)

    def close(self) -> None:
        """Free what the GPU holds; no batch is in flight any more."""
        if not self._idle.close():
            return
        # A GPU that was lost has nothing left to free, and is no reason to end otherwise than planned.
        with contextlib.suppress(BackendError), cuda_errors("closing the network"), on_device(self._index):
            self._stream.synchronize()
            self._taps = {}
            self._program.close()
            del self._graph, self._program, self._images
            free_unused_memory()

    def _warm_up(self) -> None:
        """Run once, as first runs allocate and compile, and then record a run as a CUDA graph, or let that be done.

        A graph starts the kernels of a batch with one call. Where it cannot be captured (another library of the process
        may forbid it, or an engine need the host in between) every batch starts them one by one: slower where kernels
        are short, with the same numbers.
        """
        for _ in range(1 if self._program.captures else _RUNS_TO_RECORD_ITSELF):
            self._run_once()
        if self._program.captures and (reason := self._record()):
            self.remarks = (f"No CUDA graph could be captured, so kernels are started one by one ({reason}).",)
            # A capture that failed leaves its stream unusable.
            self._stream = self._cupy.cuda.Stream(non_blocking=True)
            self._run_once()

    def _record(self) -> str:
        """Record a run as the graph; return why that cannot be done, or nothing.

        What the error held on to, such as the memory of that run, is free then.
        """
        try:
            self._graph, self._taps = record(self._stream, lambda: self._program.execute(self._images, self._stream))
            self._graph.launch(self._stream)
            self._stream.synchronize()
        except REFUSALS as error:
            self._graph, self._taps = None, {}
            return first_line(error)
        return ""

    def _run_once(self) -> None:
        """Run without a graph, and learn what the taps are; those of the next run have their memory."""
        taps = self._program.execute(self._images, self._stream)
        self._stream.synchronize()
        self._kinds = {name: (tap.shape[1:], tap.dtype) for name, tap in taps.items()}


class _Lane:
    """What a batch in flight has to itself: used by one thread at a time."""

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        import cupy

        self.stream = cupy.cuda.Stream(non_blocking=True)
        # A host thread that waits for a batch sleeps: its core is for decoding.
        self.done = cupy.cuda.Event(block=True, disable_timing=True)
        with self.stream:
            self.images = ImageBuffer(shape)
