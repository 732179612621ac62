"""Batches in flight on a GPU: each has a lane, with a stream, its buffers and a CUDA graph of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any, Protocol

from pc_engine.backbone import CompileRequest
from pc_engine.backends.cuda import ImageBuffer, cuda_errors, first_line, free_unused_memory, on_device
from pc_engine.errors import BackendError
from pc_engine.kernels.array_module import Array

#: Batches in flight: while the host finishes one, the GPU has another.
PARALLEL = 2


class Program(Protocol):
    """What a lane runs: a network with the memory that one batch of it needs.

    Attributes
    ----------
    captures
        Whether a run of it is to be recorded as a CUDA graph.
    anywhere
        Whether it reads images wherever they are on the GPU; else they are copied into the lane's own buffer.
    """

    captures: bool
    anywhere: bool

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
    """The lanes of a network.

    Parameters
    ----------
    request
        What was compiled.
    index
        The GPU.
    make_program
        Makes the program of a lane, while the lane's stream is the current one.

    Attributes
    ----------
    remarks
        Sentences on what runs other than intended, such as a CUDA graph that could not be captured.

    Raises
    ------
    DeviceMemoryError
        If the GPU's memory does not hold them.
    BackendError
        If a program cannot be made, or fails.
    """

    def __init__(self, request: CompileRequest, index: int, make_program: Callable[[], Program]) -> None:
        self._index = index
        self._idle: SimpleQueue[_Lane] = SimpleQueue()
        with cuda_errors("loading the network"), on_device(index):
            lanes = [_Lane(request, make_program) for _ in range(PARALLEL)]
        self.remarks = tuple(dict.fromkeys(lane.remark for lane in lanes if lane.remark))
        for lane in lanes:
            self._idle.put(lane)

    def run(self, images: Array) -> dict[str, Array]:
        """Run a batch and wait for it; see `pc_engine.backbone.Backbone.infer`.

        Work that the calling thread's current CuPy stream was given before is waited for on the GPU. Images that are on
        the GPU must be complete on that stream.
        """
        lane = self._idle.get()
        try:
            with cuda_errors("running the network"), on_device(self._index):
                return lane.run(images)
        finally:
            self._idle.put(lane)

    def close(self) -> None:
        """Free what the GPU holds for the lanes that are idle."""
        # A GPU that was lost has nothing left to free, and is no reason to end otherwise than planned.
        with contextlib.suppress(BackendError), cuda_errors("closing the network"), on_device(self._index):
            lanes = [self._idle.get() for _ in range(self._idle.qsize())]
            for lane in lanes:
                lane.close()
            free_unused_memory()


class _Lane:
    """What a batch needs: used by one thread at a time."""

    def __init__(self, request: CompileRequest, make_program: Callable[[], Program]) -> None:
        import cupy

        self._cupy = cupy
        pixels = request.manifest.input
        self._stream = cupy.cuda.Stream(non_blocking=True)
        # A host thread that waits for a batch sleeps: its core is for decoding.
        self._done = cupy.cuda.Event(block=True, disable_timing=True)
        with self._stream:  # which fills them, and which no other stream waits for
            self._images = ImageBuffer((request.batch_size, pixels.height, pixels.width, 3))
            self._program = make_program()
        self._graph: Any = None
        self._taps: Mapping[str, Array] = {}
        self.remark = ""
        self._warm_up()

    def run(self, images: Array) -> dict[str, Array]:
        """Run one batch and wait for it."""
        taken = self._images.take(images)
        n = len(taken)
        caller = self._cupy.cuda.get_current_stream()
        # Allocated for the caller's stream, so that memory freed there is not written to before it is done with.
        results = {name: self._cupy.empty((n, *tap.shape[1:]), tap.dtype) for name, tap in self._taps.items()}
        self._stream.wait_event(caller.record())
        placed = self._images.place(taken, self._stream, anywhere=self._program.anywhere)
        if self._graph is not None and placed is self._images.device:
            self._graph.launch(self._stream)
        else:
            self._execute(placed)
        for name, tap in self._taps.items():
            results[name].data.copy_from_device_async(tap.data, results[name].nbytes, self._stream)
        self._done.record(self._stream)
        self._done.synchronize()
        return results

    def close(self) -> None:
        """Free what the GPU holds for this lane."""
        self._stream.synchronize()
        self._taps = {}
        self._program.close()
        del self._graph, self._program, self._images

    def _execute(self, images: Array) -> None:
        self._taps = self._program.execute(images, self._stream)

    def _warm_up(self) -> None:
        """Run once, as first runs allocate and compile, and then record a run as a CUDA graph.

        A graph starts the kernels of a batch with one call. Where it cannot be captured (another library of the process
        may forbid it, or an engine need the host in between) every batch starts them one by one: slower where kernels
        are short, with the same numbers.
        """
        self._execute(self._images.device)
        self._stream.synchronize()
        if not self._program.captures:
            return
        try:
            self._graph = self._capture()
            self._graph.launch(self._stream)
            self._stream.synchronize()
        except (BackendError, self._cupy.cuda.runtime.CUDARuntimeError) as error:
            self._graph = None
            self.remark = f"No CUDA graph could be captured, so kernels are started one by one ({first_line(error)})."
            # A capture that failed leaves its stream unusable.
            self._stream = self._cupy.cuda.Stream(non_blocking=True)
            self._execute(self._images.device)
            self._stream.synchronize()

    def _capture(self) -> Any:
        self._stream.begin_capture()
        try:
            self._execute(self._images.device)
        except BackendError:
            # Ended in any case, so that the thread can use CUDA again; that it failed is known.
            with contextlib.suppress(self._cupy.cuda.runtime.CUDARuntimeError):
                self._stream.end_capture()
            raise
        return self._stream.end_capture()
