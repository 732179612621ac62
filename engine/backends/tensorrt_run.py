"""A TensorRT engine at work: a context, and the taps that it fills."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from pc_engine.backbone import IMAGE, CompileRequest
from pc_engine.backends.lanes import Lanes
from pc_engine.backends.tensorrt_library import Library
from pc_engine.errors import BackendError
from pc_engine.hardware.cuda import Gpu, cuda_errors, on_device
from pc_engine.kernels.array_module import Array

# What a JIT-compiling library keeps of an engine's kernels: `None` before there is any.
LoadKernels = Callable[[], bytes | None]
KeepKernels = Callable[[bytes], None]


class TensorRtBackbone(Lanes):
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

    Raises
    ------
    DeviceMemoryError
        If the GPU's memory does not hold it.
    BackendError
        If the engine cannot be loaded, or does not give the taps asked for.
    """

    backend = "tensorrt"

    def __init__(
        self,
        request: CompileRequest,
        library: Library,
        gpu: Gpu,
        engine: bytes | memoryview,
        load_kernels: LoadKernels,
        keep_kernels: KeepKernels,
    ) -> None:
        library.log.forget()
        with cuda_errors("loading the network"), on_device(gpu.index):
            runtime = library.create("Runtime", library.logger, action="starting the runtime")
            loaded = library.check(runtime.deserialize_cuda_engine(engine), "loading the engine")
            _check_tensors(library, loaded, request)
            settings = _RuntimeSettings(library, loaded, load_kernels())
            super().__init__(request, gpu.index, lambda: _Context(library, settings, request))
            kernels = settings.compiled_kernels()
        if kernels is not None:
            keep_kernels(kernels)
        # Contexts need their engine, and an engine its runtime, as long as they live.
        self._owners = [runtime, loaded, settings]

    def close(self) -> None:
        """See `pc_engine.backbone.Backbone.close`."""
        super().close()
        with contextlib.suppress(BackendError), cuda_errors("closing the network"), on_device(self._index):
            self._owners.clear()


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
        # By default kernels of any batch size compute until those of this one are compiled: with other last bits than
        # they have then, after numbers were compared and kernels kept.
        specialised = library.trt.DynamicShapesKernelSpecializationStrategy
        self._config.dynamic_shapes_kernel_specialization_strategy = specialised.EAGER
        # A strategy that the library does not take is refused without an error.
        self.captures = self._config.cuda_graph_strategy == strategies.WHOLE_GRAPH_CAPTURE
        self._cache = self._config.create_runtime_cache()
        if self._cache is not None:
            # Kernels of another driver or version are refused, and compiled again.
            if kernels is not None:
                self._cache.deserialize(kernels)
            self._config.set_runtime_cache(self._cache)
        library.log.forget()  # what it said of kernels that it refused

    def create_context(self) -> Any:
        arguments = () if self._config is None else (self._config,)
        context = self._engine.create_execution_context(*arguments)
        return self._library.check(context, "making room for a batch")

    def compiled_kernels(self) -> bytes | None:
        """Return the kernels to keep, None where there are none or no new ones."""
        serialised = None if self._cache is None else self._cache.serialize()
        self._library.log.forget()  # what it said of those that it cannot give
        kernels = None if serialised is None else bytes(serialised)
        return None if kernels == self._known else kernels


class _Context:
    """One context and the taps that it fills: a `pc_engine.backends.lanes.Program`."""

    def __init__(self, library: Library, settings: _RuntimeSettings, request: CompileRequest) -> None:
        import cupy

        self._library = library
        pixels = request.manifest.input
        shape = (request.batch_size, pixels.height, pixels.width, 3)
        self.captures = not settings.captures
        self._context = settings.create_context()
        self._taps = {
            name: cupy.empty((shape[0], *request.manifest.taps[name].shape), cupy.float32) for name in request.taps
        }
        library.check(self._context.set_input_shape(IMAGE, shape), "setting the batch size")
        for name, tap in self._taps.items():
            library.check(self._context.set_tensor_address(name, tap.data.ptr), f"placing '{name}'")

    def execute(self, images: Array, stream: Any) -> Mapping[str, Array]:
        """See `pc_engine.backends.lanes.Program.execute`."""
        check, context = self._library.check, self._context
        check(context.set_tensor_address(IMAGE, images.data.ptr), f"placing '{IMAGE}'")
        check(context.execute_async_v3(stream.ptr), "running the network")
        return self._taps

    def close(self) -> None:
        """See `pc_engine.backends.lanes.Program.close`."""
        del self._context, self._taps


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
