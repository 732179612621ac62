"""A TensorRT engine at work: several contexts, each with a stream, its buffers and a CUDA graph of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from pc_engine.backbone import CompileRequest
from pc_engine.backends.cuda import Gpu, ImageBuffer, cuda_errors, first_line, free_unused_memory, on_device
from pc_engine.backends.tensorrt_library import Library
from pc_engine.errors import BackendError
from pc_engine.graph import IMAGE
from pc_engine.kernels.array_module import Array

#: Batches in flight: while the host finishes one, the GPU has another.
PARALLEL = 2

# What a JIT-compiling library keeps of an engine's kernels: `None` before there is any.
LoadKernels = Callable[[], bytes | None]
KeepKernels = Callable[[bytes], None]


class TensorRtBackbone:
    """A network in TensorRT.

    Parameters
    ----------
    request
        What was compiled.
    library, gpu
        What runs it, and where.
    engine
        The serialised engine, built by this library for this GPU.
    load_kernels, keep_kernels
        Where TensorRT-RTX finds the kernels that it compiled for this engine before, and leaves them.

    Attributes
    ----------
    remarks
        Sentences on what runs other than intended, such as a CUDA graph that could not be captured.

    Raises
    ------
    DeviceMemoryError
        If the GPU's memory does not hold it.
    BackendError
        If the engine cannot be loaded, or does not give the taps asked for.
    """

    backend = "tensorrt"
    parallel = PARALLEL

    def __init__(
        self,
        request: CompileRequest,
        library: Library,
        gpu: Gpu,
        engine: bytes | memoryview,
        load_kernels: LoadKernels = lambda: None,
        keep_kernels: KeepKernels = lambda _: None,
    ) -> None:
        self.request = request
        self.remarks: tuple[str, ...] = ()
        self._gpu = gpu
        self._idle: SimpleQueue[_Lane] = SimpleQueue()
        with cuda_errors("loading the network"), on_device(gpu.index), library.log.watch():
            runtime = library.create("Runtime", library.logger, action="starting the runtime")
            loaded = library.check(runtime.deserialize_cuda_engine(engine), "loading the engine")
            _check_tensors(library, loaded, request)
            settings = _RuntimeSettings(library, loaded, load_kernels())
            lanes = [_Lane(library, settings, request) for _ in range(self.parallel)]
            kernels = settings.compiled_kernels()
        if kernels is not None:
            keep_kernels(kernels)
        self.remarks = tuple(dict.fromkeys(lane.remark for lane in lanes if lane.remark))
        # Contexts need their engine, and an engine its runtime, as long as they live.
        self._owners = [runtime, loaded, settings]
        for lane in lanes:
            self._idle.put(lane)

    def infer(self, images: Array) -> dict[str, Array]:
        """See `pc_engine.backbone.Backbone.infer`.

        Work that the calling thread's current CuPy stream was given before is waited for on the GPU. Images that are on
        the GPU must be complete on that stream.
        """
        lane = self._idle.get()
        try:
            with cuda_errors("running the network"), on_device(self._gpu.index):
                return lane.run(images)
        finally:
            self._idle.put(lane)

    def close(self) -> None:
        """See `pc_engine.backbone.Backbone.close`."""
        # A GPU that was lost has nothing left to free, and is no reason to end otherwise than planned.
        with contextlib.suppress(BackendError), cuda_errors("closing the network"), on_device(self._gpu.index):
            lanes = [self._idle.get() for _ in range(self._idle.qsize())]
            for lane in lanes:
                lane.close()
            self._owners.clear()
            free_unused_memory()


class _RuntimeSettings:
    """How contexts are made: TensorRT-RTX captures CUDA graphs itself and uses the kernels of earlier runs."""

    def __init__(self, library: Library, engine: Any, kernels: bytes | None) -> None:
        self._library, self._engine = library, engine
        self._config: Any = None
        self._cache: Any = None
        #: Whether the library replays graphs by itself.
        self.captures = False
        self._known = kernels
        strategies = getattr(library.trt, "CudaGraphStrategy", None)
        if strategies is None:
            return
        self._config = library.check(engine.create_runtime_config(), "configuring the runtime")
        self._config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE
        self.captures = True
        self._cache = self._config.create_runtime_cache()
        if self._cache is not None:
            # Kernels of another driver or version are refused, and compiled again.
            if kernels is not None:
                self._cache.deserialize(kernels)
            self._config.set_runtime_cache(self._cache)

    def create_context(self) -> Any:
        arguments = () if self._config is None else (self._config,)
        context = self._engine.create_execution_context(*arguments)
        return self._library.check(context, "making room for a batch")

    def compiled_kernels(self) -> bytes | None:
        """Return the kernels to keep, None where there are none or no new ones."""
        serialised = None if self._cache is None else self._cache.serialize()
        kernels = None if serialised is None else bytes(serialised)
        return None if kernels == self._known else kernels


class _Lane:
    """One context with what a batch needs: used by one thread at a time."""

    def __init__(self, library: Library, settings: _RuntimeSettings, request: CompileRequest) -> None:
        import cupy

        self._library, self._cupy = library, cupy
        pixels = request.manifest.input
        shape = (request.batch_size, pixels.height, pixels.width, 3)
        self._context = settings.create_context()
        self._stream = cupy.cuda.Stream(non_blocking=True)
        # A host thread that waits for a batch sleeps: its core is for decoding.
        self._done = cupy.cuda.Event(block=True, disable_timing=True)
        with self._stream:  # which fills them, and which no other stream waits for
            self._images = ImageBuffer(shape)
            self._taps = {
                name: cupy.empty((shape[0], *request.manifest.taps[name].shape), cupy.float32) for name in request.taps
            }
        library.check(self._context.set_input_shape(IMAGE, shape), "setting the batch size")
        for name, tap in self._taps.items():
            library.check(self._context.set_tensor_address(name, tap.data.ptr), f"placing '{name}'")
        self._graph: Any = None
        self.remark = ""
        self._warm_up(capture=not settings.captures)

    def run(self, images: Array) -> dict[str, Array]:
        """Run one batch and wait for it."""
        taken = self._images.take(images)
        n = len(taken)
        caller = self._cupy.cuda.get_current_stream()
        # Allocated for the caller's stream, so that memory freed there is not written to before it is done with.
        results = {name: self._cupy.empty((n, *tap.shape[1:]), tap.dtype) for name, tap in self._taps.items()}
        self._stream.wait_event(caller.record())
        placed = self._images.place(taken, self._stream)
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
        del self._graph, self._context, self._taps, self._images

    def _execute(self, images: Array) -> None:
        check, context = self._library.check, self._context
        check(context.set_tensor_address(IMAGE, images.data.ptr), f"placing '{IMAGE}'")
        check(context.execute_async_v3(self._stream.ptr), "running the network")

    def _warm_up(self, capture: bool) -> None:
        """Run once, as first runs allocate and compile, and then record a run as a CUDA graph.

        A graph starts the kernels of a batch with one call. Where it cannot be captured (another library of the process
        may forbid it, or an engine need the host in between) every batch starts them one by one: slower where kernels
        are short, with the same numbers.
        """
        self._execute(self._images.device)
        self._stream.synchronize()
        if not capture:
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


def _check_tensors(library: Library, engine: Any, request: CompileRequest) -> None:
    """Raise BackendError unless the engine takes the images and gives the taps of the request, of their types."""
    trt, pixels = library.trt, request.manifest.input
    expected = {IMAGE: (trt.DataType.UINT8, (pixels.height, pixels.width, 3))} | {
        name: (trt.DataType.FLOAT, tuple(request.manifest.taps[name].shape)) for name in request.taps
    }
    names = [engine.get_tensor_name(k) for k in range(engine.num_io_tensors)]
    found = {name: (engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name))[1:]) for name in names}
    wrong = sorted(
        name
        for name in found.keys() | expected.keys()
        if name not in found or name not in expected or not _agree(found[name], expected[name])
    )
    if wrong:
        raise BackendError(
            f"The {library.title} engine differs from the model in {', '.join(wrong)}: delete the cache folder that "
            f"'pc-engine doctor' names."
        )


def _agree(found: tuple[Any, tuple[int, ...]], expected: tuple[Any, tuple[int, ...]]) -> bool:
    """Whether type and shape are the same, where an engine tells them: sizes that it computes are -1."""
    (kind, sizes), (wanted_kind, wanted) = found, expected
    same_rank = len(sizes) == len(wanted)
    return kind == wanted_kind and same_rank and all(a in (-1, b) for a, b in zip(sizes, wanted, strict=True))
