"""cuDNN on an NVIDIA GPU, at fp16: for the cards that TensorRT-RTX does not know, from wheels that install as they are.

Convolutions and matrix products are cuDNN's, each with its bias and ReLU in one kernel (`cudnn_plans`), the first one
where no kernel of this project is faster (`pixel_layers`); what is left of a network is a few kernels of this project
and of CuPy's (`array_graph`). A batch is one CUDA graph.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from pc_engine.backbone import Backbone, CompileRequest, Probe
from pc_engine.backends.array_layers import Convolution, Layer
from pc_engine.backends.cudnn_plans import Kernel, Plan, choose_plans, load_cudnn
from pc_engine.backends.lanes import Lanes
from pc_engine.backends.pixel_layers import OWN, choose_way, convolve_columns, convolve_pixels, with_columns_gathered
from pc_engine.backends.recorded_memory import RecordedMemory
from pc_engine.errors import BackendError, system_reason
from pc_engine.files.storage import FileCache, cache_key
from pc_engine.hardware.cuda import cuda_errors, describe_gpu, device_index, on_device
from pc_engine.hardware.devices import gpu_reason
from pc_engine.kernels import depthwise_convolution
from pc_engine.kernels.array_module import Array

if TYPE_CHECKING:
    import onnx

    from pc_engine.backends.array_graph import ArrayGraph

#: Precisions that it runs: others are ONNX Runtime's and TensorRT's.
PRECISIONS = ("fp16",)
# Matrix units that multiply float16 and the kernels above them begin with Ampere.
_OLDEST_CAPABILITY = (8, 0)
# Where a saved graph keeps the plans of its layers.
_PLANS = "pc_engine.cudnn_plans"


class CudnnBackbone(Lanes):
    """A network in cuDNN.

    Parameters
    ----------
    request
        What was compiled.
    graph
        The network in float16.
    plans
        The plan of each of its layers.

    Raises
    ------
    DeviceMemoryError
        If the GPU's memory does not hold it.
    BackendError
        If cuDNN does not have these plans.
    """

    backend = "cudnn"

    def __init__(self, request: CompileRequest, graph: ArrayGraph, plans: Mapping[str, Plan]) -> None:
        index = device_index(request.device)
        cudnn = load_cudnn()
        with cuda_errors("loading the network"), on_device(index):
            weights = {
                name: _placed((_as_read(layer, plans.get(name)), layer.bias)) for name, layer in graph.layers.items()
            }
        super().__init__(request, index, lambda: _Program(cudnn, graph, plans, weights))


class CudnnBackend:
    """See `pc_engine.backbone.Backend`."""

    name = "cudnn"
    devices: tuple[str, ...] = ("cuda",)

    def probe(self, device: str = "cpu") -> Probe:
        """See `pc_engine.backbone.Backend.probe`."""
        if device == "cpu":
            return Probe(False, "cuDNN runs on NVIDIA GPUs only: use it with --device cuda.")
        reason = gpu_reason()
        if reason:
            return Probe(False, " ".join((reason, *_missing())))
        try:
            gpu = describe_gpu(device)
            cudnn = load_cudnn()
        except BackendError as error:
            return Probe(False, str(error))
        if gpu.capability < _OLDEST_CAPABILITY:
            return Probe(False, f"cuDNN runs networks here on compute capability 8.0 and later, and not on {gpu}.")
        version = f"cuDNN {cudnn.backend_version_string()} (interface {cudnn.__version__}) on {gpu}"
        return Probe(True, f"{version}, at {', '.join(PRECISIONS)}.", version, PRECISIONS)

    def compile(self, request: CompileRequest, save_to: Path | None = None) -> Backbone:
        """See `pc_engine.backbone.Backend.compile`."""
        from pc_engine.graph.half import cast_to_half
        from pc_engine.graph.prepare import open_graph

        if request.precision not in PRECISIONS:
            raise BackendError(f"cuDNN runs {', '.join(PRECISIONS)} here, not {request.precision}.")
        model = open_graph(request.network, request.manifest, request.taps)
        cast_to_half(model)
        graph = _array_graph(request, model)
        cudnn = load_cudnn()
        plans = _choose_plans(cudnn, graph, request.device)
        if save_to is not None:
            entry = model.metadata_props.add()
            entry.key, entry.value = _PLANS, json.dumps({name: asdict(plan) for name, plan in plans.items()})
            save_to.write_bytes(model.SerializeToString())
        return CudnnBackbone(request, graph, plans)

    def load(self, request: CompileRequest, saved: Path) -> Backbone:
        """See `pc_engine.backbone.Backend.load`."""
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        model = onnx.ModelProto()
        try:
            model.ParseFromString(saved.read_bytes())
            text = next(entry.value for entry in model.metadata_props if entry.key == _PLANS)
            plans = {name: Plan(**plan) for name, plan in json.loads(text).items()}
        except OSError as error:
            raise BackendError(f"The network {saved} cannot be read ({system_reason(error)}).") from None
        except (DecodeError, StopIteration, ValueError, TypeError, AttributeError):
            raise BackendError(f"The network {saved} was not saved by this backend: delete it.") from None
        return CudnnBackbone(request, _array_graph(request, model), plans)


def _choose_plans(cudnn: ModuleType, graph: ArrayGraph, device: str) -> dict[str, Plan]:
    """Return the fastest plan of each layer; what was timed on this card before is not timed again."""
    gpu = describe_gpu(device)
    facts = {"gpu": gpu.name, "driver": gpu.driver, "cudnn": cudnn.backend_version(), "interface": cudnn.__version__}
    cache, name = FileCache(), "cudnn-plans-" + cache_key(facts)
    kept = {key: Plan(**plan) for key, plan in (cache.get_json(name) or {}).items()}
    known = dict(kept)
    with cuda_errors("choosing kernels"), on_device(gpu.index), _own_memory(), _Clock() as clock:
        handle = _open_handle(cudnn, clock.stream)
        try:
            plans = choose_plans(cudnn, handle, _for_cudnn(graph), clock.seconds, known)
            for first, layer in graph.layers.items():
                if layer.constant is not None:
                    plans[first] = choose_way(cudnn, handle, layer, plans[first], clock.seconds, known)
        finally:
            cudnn.destroy_handle(handle)
    if known != kept:
        cache.put_json(name, {key: asdict(plan) for key, plan in known.items()})
    return plans


class _Program:
    """The network with the memory of one batch: a `pc_engine.backends.lanes.Program`."""

    captures = True

    def __init__(
        self,
        cudnn: ModuleType,
        graph: ArrayGraph,
        plans: Mapping[str, Plan],
        weights: Mapping[str, tuple[Array, Array]],
    ) -> None:
        import cupy

        self._cudnn, self._graph, self._weights = cudnn, graph, weights
        self._memory = RecordedMemory()
        if _for_cudnn(graph).keys() - plans.keys():
            raise BackendError("The saved network lacks plans for some of its layers: delete it.")
        self._handle = _open_handle(cudnn, cupy.cuda.get_current_stream())
        try:
            self._kernels = {name: self._kernel(layer, plans.get(name)) for name, layer in graph.layers.items()}
        except BaseException:
            cudnn.destroy_handle(self._handle)
            raise

    def execute(self, images: Array, stream: Any) -> Mapping[str, Array]:
        """See `pc_engine.backends.lanes.Program.execute`."""
        self._cudnn.set_stream(handle=self._handle, stream=stream.ptr)
        with stream, self._memory.serve(stream):
            return self._graph.run(images, self._convolve)

    def close(self) -> None:
        """See `pc_engine.backends.lanes.Program.close`."""
        self._kernels.clear()
        self._cudnn.destroy_handle(self._handle)
        self._memory.close()

    def _kernel(self, layer: Layer, plan: Plan | None) -> Callable[[Array, Array, Array], Array]:
        if layer.convolution.is_depthwise:
            return functools.partial(_convolve_depthwise, layer.convolution)
        if plan == OWN:
            return functools.partial(convolve_pixels, layer)
        kernel = Kernel(self._cudnn, self._handle, with_columns_gathered(layer).convolution, plan)
        return kernel if layer.constant is None else convolve_columns(layer, kernel)

    def _convolve(self, name: str, images: Array) -> Array:
        return self._kernels[name](images, *self._weights[name])


class _Clock:
    """Times work on a stream of its own."""

    def __enter__(self) -> _Clock:
        import cupy

        self._cupy = cupy
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.stream.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.__exit__(*error)

    def seconds(self, work: Callable[[], object], times: int) -> float:
        """Return the seconds that one of so many calls of ``work`` takes on the GPU."""
        start, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        work()
        start.record(self.stream)
        for _ in range(times):
            work()
        end.record(self.stream)
        end.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(start, end)) / times / 1e3


def _for_cudnn(graph: ArrayGraph) -> dict[str, Convolution]:
    """Return the layers but for those of single maps, which cuDNN is slow at: it has them for training."""
    return {
        name: with_columns_gathered(layer).convolution
        for name, layer in graph.layers.items()
        if not layer.convolution.is_depthwise
    }


def _as_read(layer: Layer, plan: Plan | None) -> np.ndarray:
    """Return the weights as the layer's kernel reads them: those of single maps by place, (rows, columns, C)."""
    if not layer.convolution.is_depthwise:
        return layer.weights if plan == OWN else with_columns_gathered(layer).weights
    return np.ascontiguousarray(layer.weights[..., 0].transpose(1, 2, 0))


def _convolve_depthwise(convolution: Convolution, images: Array, weights: Array, bias: Array) -> Array:
    return depthwise_convolution(
        images, weights, bias, stride=convolution.stride, pads=convolution.pads, bounds=convolution.bounds
    )


@contextlib.contextmanager
def _own_memory() -> Iterator[None]:
    """Allocate from a pool that is given back at the end: what kernels are timed on is large."""
    import cupy

    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        yield
    pool.free_all_blocks()


def _array_graph(request: CompileRequest, model: onnx.ModelProto) -> ArrayGraph:
    from pc_engine.backends.array_graph import ArrayGraph

    with cuda_errors("loading the network"), on_device(device_index(request.device)):
        return ArrayGraph(model, request.batch_size, "cuDNN", _place)


def _place(array: Any) -> Array:
    import cupy

    placed = cupy.asarray(array)
    cupy.cuda.get_current_stream().synchronize()  # it is read on the lanes' streams
    return placed


def _placed(arrays: tuple[Any, Any]) -> tuple[Array, Array]:
    return _place(arrays[0]), _place(arrays[1])


def _open_handle(cudnn: ModuleType, stream: Any) -> Any:
    handle = cudnn.create_handle()
    cudnn.set_stream(handle=handle, stream=stream.ptr)
    return handle


def _missing() -> list[str]:
    """Return a sentence on cuDNN if it is missing, too, so that nobody installs one thing to be told of the next."""
    try:
        load_cudnn()
    except BackendError as error:
        return [str(error)]
    return []
