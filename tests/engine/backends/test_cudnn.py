"""cuDNN's own code on a pretended GPU whose kernels are NumPy, and on a real one where there is one."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper

from pc_engine.backbone import CompileRequest
from pc_engine.backends import pixel_layers
from pc_engine.backends.array_layers import Convolution
from pc_engine.backends.cudnn import CudnnBackend
from pc_engine.backends.cudnn_plans import Kernel, Plan, choose_plan
from pc_engine.backends.onnxruntime import OnnxRuntimeBackend
from pc_engine.catalogue import EMBEDDED_DIRECTORY
from pc_engine.errors import BackendError, DeviceMemoryError
from pc_engine.export import Cooccurrence, LiteSpec, export_efficientnet_lite
from pc_engine.export.cooccurrence import append_cooccurrence
from pc_engine.kernels import pixel_convolution
from pc_engine.manifest import Manifest, NetworkInput, Tap
from pc_engine.model import load_model
from pc_engine.networks import network_request
from pc_engine.selection.candidates import TOLERANCE, probe_images, tap_difference
from pc_engine.selection.selection import open_backbone

BACKEND = CudnnBackend()
UNRECORDED = "No CUDA graph could be captured, so kernels are started one by one (no graphs here)."


class CUDARuntimeError(RuntimeError):
    status = 900


class OutOfMemoryError(MemoryError):
    pass


class DeviceArray(np.ndarray):
    """NumPy's memory as CuPy shows the GPU's."""

    device = SimpleNamespace(id=0)

    @property
    def data(self) -> Any:
        place = self.__array_interface__["data"][0]

        def copy(source: Any, size: int, stream: Any = None) -> None:
            ctypes.memmove(place, getattr(source, "ptr", source), size)

        return SimpleNamespace(ptr=place, copy_from_host_async=copy, copy_from_device_async=copy)

    def get(self) -> np.ndarray:
        return self.view(np.ndarray).copy()


@dataclass
class Gpu:
    """What the pretended GPU has done, and what it is to refuse."""

    capability: tuple[int, int] = (9, 0)
    version: int = 91900
    clock: float = 0.0
    runs: dict[str, int] = field(default_factory=dict)
    handles: set[int] = field(default_factory=set)
    streams: dict[int, int] = field(default_factory=dict)
    refuse_clips: bool = False
    refuse_all: bool = False
    fail: str = ""
    names: tuple[str, ...] = ("slow", "broken", "fast", "slower")
    memory: int | None = None
    workspaces: dict[str, int] = field(default_factory=dict)

    def cupy(self) -> ModuleType:
        return _Cupy(self)

    def cudnn(self) -> ModuleType:
        module: Any = ModuleType("cudnn")
        module.__version__ = "1.25.0"
        module.backend_version = lambda: self.version
        module.backend_version_string = lambda: "9.19.0"
        module.data_type = SimpleNamespace(HALF="half", FLOAT="float")
        module.heur_mode = SimpleNamespace(A="A", FALLBACK="FALLBACK")
        module.cudnnGraphNotSupportedError = _NotSupportedError
        module.pygraph = lambda **settings: _Graph(self, settings)

        def create_handle() -> int:
            self.handles.add(len(self.handles) + 1)
            return len(self.handles)

        module.create_handle = create_handle
        module.destroy_handle = self.handles.discard
        module.set_stream = lambda handle, stream: self.streams.update({handle: stream})
        return module


class _NotSupportedError(Exception):
    pass


class _Cupy(ModuleType):
    ndarray = DeviceArray

    def __init__(self, gpu: Gpu) -> None:
        super().__init__("numpy posing as cupy")
        self.gpu = gpu

        def event(**_: Any) -> Any:
            made = SimpleNamespace(at=0.0, synchronize=lambda: None)
            made.record = lambda stream=None: setattr(made, "at", gpu.clock)
            return made

        class Stream(contextlib.nullcontext):
            ptr = 7

            def __init__(self, non_blocking: bool = False) -> None:
                super().__init__()

            def synchronize(self) -> None: ...

            def wait_event(self, event: Any) -> None: ...

            def record(self, event: Any = None) -> Any: ...

            def begin_capture(self) -> None:
                raise CUDARuntimeError("no graphs here")

        class Device(contextlib.nullcontext):  # type: ignore[type-arg]
            id = 0

            def __init__(self, index: int = 0) -> None:
                super().__init__()

        pool = SimpleNamespace(malloc=None, free_all_blocks=lambda: None)
        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError,
                getDeviceCount=lambda: 1,
                cudaDevAttrMemoryPoolsSupported=115,
                deviceGetAttribute=lambda attribute, index: 0,
                driverGetVersion=lambda: 13000,
                getDeviceProperties=lambda _: {
                    "name": b"NVIDIA H200",
                    "major": gpu.capability[0],
                    "minor": gpu.capability[1],
                },
            ),
            driver=SimpleNamespace(CUDADriverError=CUDARuntimeError),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            Device=Device,
            Stream=Stream,
            Event=event,
            get_current_stream=Stream,
            get_elapsed_time=lambda start, end: 1e3 * (end.at - start.at),
            MemoryPool=lambda allocator=None: pool,
            using_allocator=lambda _: contextlib.nullcontext(),
        )
        self.get_default_memory_pool = self.get_default_pinned_memory_pool = lambda: pool

    def empty(self, shape: Any, dtype: Any = float) -> DeviceArray:
        made = np.empty(shape, dtype)
        if self.gpu.memory is not None and made.nbytes > self.gpu.memory:
            raise OutOfMemoryError("Out of memory")
        made.view(np.uint8)[...] = 0xAB
        return made.view(DeviceArray)

    def asarray(self, values: Any, dtype: Any = None) -> DeviceArray:
        return values if isinstance(values, DeviceArray) else np.array(values, dtype).view(DeviceArray)

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return found

        def function(*arguments: Any, **settings: Any) -> Any:
            result = found(*arguments, **settings)
            return result.view(DeviceArray) if isinstance(result, np.ndarray) else result

        return function


@dataclass(eq=False)
class _Tensor:
    dim: list[int] | None = None
    stride: list[int] | None = None
    kind: str = ""

    def set_output(self, output: bool) -> _Tensor:
        assert output
        return self

    def set_data_type(self, kind: str) -> _Tensor:
        self.kind = kind
        return self

    def set_dim(self, dim: list[int]) -> _Tensor:
        self.dim = dim
        return self

    def set_stride(self, stride: list[int]) -> _Tensor:
        self.stride = stride
        return self

    def at(self, place: int) -> np.ndarray:
        """The tensor (N, C, H, W) in memory."""
        assert self.kind == "half"
        assert self.dim is not None
        assert self.stride is not None
        n, channels, height, width = self.dim
        raw = (ctypes.c_uint16 * int(np.prod(self.dim))).from_address(place)
        array = np.frombuffer(raw, np.float16).reshape(n, height, width, channels).transpose(0, 3, 1, 2)
        strides = [step // 2 for step in array.strides]
        assert all(a == b for a, b, size in zip(strides, self.stride, self.dim, strict=True) if size > 1)
        return array


class _Graph:
    def __init__(self, gpu: Gpu, settings: dict[str, Any]) -> None:
        assert settings["io_data_type"] == "half"
        assert settings["compute_data_type"] == settings["intermediate_data_type"] == "float"
        self.gpu, self.bounds, self.built = gpu, None, set()

    def tensor(self, *, name: str, dim: list[int], stride: list[int], data_type: str) -> _Tensor:
        return _Tensor(dim, stride, data_type)

    def conv_fprop(self, *, image: _Tensor, weight: _Tensor, **settings: Any) -> _Tensor:
        self.image, self.weight, self.settings = image, weight, settings
        return _Tensor()

    def bias(self, *, name: str, input: _Tensor, bias: _Tensor) -> _Tensor:  # noqa: A002 (cuDNN's name)
        self.added = self.result = bias
        self.result = _Tensor()
        return self.result

    def relu(self, *, name: str, input: _Tensor, lower_clip: float = 0.0, upper_clip: float = np.inf) -> _Tensor:  # noqa: A002
        assert input is self.result
        if self.gpu.refuse_clips and np.isfinite(upper_clip):
            raise _NotSupportedError("no clips")
        self.bounds = (lower_clip, upper_clip)
        self.result = _Tensor()
        return self.result

    def validate(self) -> None: ...

    build_operation_graph = validate

    def create_execution_plans(self, modes: list[str]) -> None:
        assert modes == ["A", "FALLBACK"]

    def check_support(self) -> None:
        if self.gpu.refuse_all:
            raise _NotSupportedError("No valid engine configs\nat all")

    def get_execution_plan_count(self) -> int:
        return len(self.gpu.names)

    def get_plan_name_at_index(self, index: int) -> str:
        return self.gpu.names[index]

    def build_plan_at_index(self, index: int) -> None:
        if self.gpu.names[index] == "broken":
            raise RuntimeError("CUDNN_STATUS_NOT_SUPPORTED")
        self.built.add(index)

    def get_workspace_size_plan_at_index(self, index: int) -> int:
        return self.gpu.workspaces.get(self.gpu.names[index], 16)

    def execute_plan_at_index(self, pack: dict[_Tensor, int], workspace: int, index: int, handle: int) -> None:
        gpu, name = self.gpu, self.gpu.names[index]
        assert index in self.built
        assert workspace
        assert gpu.streams[handle]
        if gpu.fail:
            raise RuntimeError(gpu.fail)
        gpu.clock += {"slow": 2.0, "fast": 1.0, "slower": 5.0}.get(name, 1.5)
        gpu.runs[name] = gpu.runs.get(name, 0) + 1
        image, weight, bias = (t.at(pack[t]).astype(np.float32) for t in (self.image, self.weight, self.added))
        (top, left), (bottom, right) = self.settings["pre_padding"], self.settings["post_padding"]
        padded = np.pad(image, ((0, 0), (0, 0), (top, bottom), (left, right)))
        (down, across), dilation = self.settings["stride"], self.settings["dilation"]
        reach = [step * (extent - 1) + 1 for step, extent in zip(dilation, weight.shape[2:], strict=True)]
        windows = sliding_window_view(padded, reach, axis=(2, 3))[
            :, :, ::down, ::across, :: dilation[0], :: dilation[1]
        ]
        sums = np.einsum("ncyxrs,fcrs->nfyx", windows, weight, optimize=True) + bias
        self.result.at(pack[self.result])[...] = sums if self.bounds is None else np.clip(sums, *self.bounds)


@pytest.fixture
def gpu(monkeypatch):
    made = Gpu()
    monkeypatch.setitem(sys.modules, "cupy", made.cupy())
    cupyx: Any = ModuleType("cupyx")
    cupyx.empty_pinned = np.empty
    monkeypatch.setitem(sys.modules, "cupyx", cupyx)
    monkeypatch.setitem(sys.modules, "cudnn", made.cudnn())
    return made


@pytest.fixture
def lego():
    model = load_model(EMBEDDED_DIRECTORY)
    request = network_request(model, tuple(model.manifest.taps), batch_size=3)
    return replace(request, device="cuda:0", precision="fp16")


@pytest.fixture
def small(tiny_directory):
    """A request for a network that is run in no time."""
    model = load_model(tiny_directory)
    request = network_request(model, tuple(model.manifest.taps), batch_size=3)
    return replace(request, device="cuda:0", precision="fp16")


def on_host(taps):
    return {name: tap.get() for name, tap in taps.items()}


@pytest.fixture
def expected(lego):
    images = probe_images(128, 128, 3)
    return images, OnnxRuntimeBackend().compile(replace(lego, device="cpu", precision="fp32")).infer(images)


def test_taps_of_the_pretended_gpu_are_the_references(gpu, lego, expected):
    images, taps = expected
    network = BACKEND.compile(lego)
    assert network.remarks == (UNRECORDED,)
    assert tap_difference(on_host(network.infer(images)), taps) < TOLERANCE["fp16"] / 2
    short = on_host(network.infer(images[:2]))
    assert tap_difference(short, {name: tap[:2] for name, tap in taps.items()}) < TOLERANCE["fp16"] / 2
    network.close()
    assert not gpu.handles


def test_inverted_residuals_of_the_pretended_gpu_are_the_references(gpu, tmp_path):
    """Convolutions of 3 and 5 cells a map, over two cells with more zeros behind than before, and ReLU6."""
    export_efficientnet_lite(LiteSpec("small", 0.25, 0.5, 64), "random:0", tmp_path / "small")
    model = load_model(tmp_path / "small")
    request = network_request(model, tuple(model.manifest.taps), batch_size=3)
    images = probe_images(64, 64, 3)
    wanted = OnnxRuntimeBackend().compile(replace(request, device="cpu", precision="fp32")).infer(images)
    network = BACKEND.compile(replace(request, device="cuda:0", precision="fp16"))
    assert tap_difference(on_host(network.infer(images)), wanted) < TOLERANCE["fp16"]
    network.close()


@pytest.fixture
def of_single_maps(tmp_path):
    """A request for a network with a convolution of single maps, as in MobileNet."""
    return network_that_begins_with(tmp_path, filters=3, groups=3)


@pytest.fixture
def of_pixels(tmp_path):
    """A request for a network whose first convolution has a kernel from pixels on."""
    return network_that_begins_with(tmp_path, filters=8, groups=1)


def network_that_begins_with(tmp_path, *, filters, groups):
    rng = np.random.default_rng(0)
    stored = {"w": (filters, 3 // groups, 3, 3), "b": (filters,), "mix": (8, filters, 1, 1), "fc": (8, 5)}
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w", "b"], ["sums"], group=groups, pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["sums"], ["maps"]),
        helper.make_node("Conv", ["maps", "mix"], ["conv_last"]),
        helper.make_node("GlobalAveragePool", ["conv_last"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["row"]),
        helper.make_node("MatMul", ["row", "fc"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 12, 12, 3])
    taps = {"conv_last": (8, 6, 6), "logits": (5,)}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]) for name, shape in taps.items()]
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in stored.items()}
    weights["w"] /= 128  # pixels to about 1, so that float16 has room for products of maps
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "single", [image], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, tmp_path / "model.onnx")
    shapes = {name: Tap(name, shape) for name, shape in taps.items()}
    manifest = Manifest("single", NetworkInput("image", 12, 12), shapes, count_features=())
    return CompileRequest(tmp_path / "model.onnx", manifest, tuple(taps), "fp16", 3, 1, device="cuda:0")


@pytest.fixture
def with_cooccurrence(of_single_maps):
    """The same with co-occurrence of its last maps."""
    model = onnx.load(of_single_maps.network)
    taps = dict(of_single_maps.manifest.taps)
    for wanted in (Cooccurrence("conv_last", 0), Cooccurrence("conv_last", 2)):
        taps[wanted.name] = Tap(wanted.name, (append_cooccurrence(model, wanted),))
    onnx.save(model, of_single_maps.network)
    return replace(of_single_maps, manifest=replace(of_single_maps.manifest, taps=taps), taps=tuple(taps))


def assert_cooccurrence_is_the_references(request, *, remarks):
    images = probe_images(12, 12, 3)
    network = BACKEND.compile(request)
    assert network.remarks == remarks
    taps = OnnxRuntimeBackend().compile(replace(request, device="cpu", precision="fp32")).infer(images)
    assert tap_difference(on_host(network.infer(images)), taps) < TOLERANCE["fp16"]
    network.close()


def test_cooccurrence_is_the_references(gpu, with_cooccurrence):
    assert_cooccurrence_is_the_references(with_cooccurrence, remarks=(UNRECORDED,))


def test_convolutions_of_single_maps_are_not_left_to_cudnn(gpu, of_single_maps):
    images = probe_images(12, 12, 3)
    on_cpu = replace(of_single_maps, device="cpu", precision="fp32")
    network = BACKEND.compile(of_single_maps)
    gpu.runs.clear()
    found = on_host(network.infer(images))
    assert sum(gpu.runs.values()) == 2  # one convolution, one product
    assert tap_difference(found, OnnxRuntimeBackend().compile(on_cpu).infer(images)) < TOLERANCE["fp16"] / 2


@pytest.mark.parametrize(("seconds", "own"), [(0.5, True), (1.5, False)])
def test_the_first_layer_is_run_in_the_faster_way(gpu, of_pixels, tmp_path, monkeypatch, seconds, own):
    calls = []

    def convolve(*arguments, **settings):
        gpu.clock += seconds
        calls.append(arguments[0].shape)
        return pixel_convolution(*arguments, **settings)

    monkeypatch.setattr(pixel_layers, "pixel_convolution", convolve)
    images = probe_images(12, 12, 3)
    taps = OnnxRuntimeBackend().compile(replace(of_pixels, device="cpu", precision="fp32")).infer(images)
    BACKEND.compile(of_pixels, save_to=tmp_path / "saved").close()
    timed = len(calls)
    assert timed > 0
    for network in (BACKEND.compile(of_pixels), BACKEND.load(of_pixels, tmp_path / "saved")):
        gpu.runs.clear()
        before = len(calls)
        assert tap_difference(on_host(network.infer(images)), taps) < TOLERANCE["fp16"] / 2
        assert calls[before:] == [(3, 12, 12, 3)] * own
        assert sum(gpu.runs.values()) == 3 - own
        network.close()
    assert (len(calls) > timed) is own


def test_the_fastest_plan_that_works_is_taken(gpu, small):
    network = BACKEND.compile(small)
    gpu.runs.clear()
    network.infer(probe_images(64, 64, 3))
    assert gpu.runs == {"fast": 3}


def test_a_plan_that_works_in_more_memory_than_there_is_is_left_out(gpu, small):
    gpu.memory, gpu.workspaces["fast"] = 1 << 30, 1 << 31
    network = BACKEND.compile(small)
    gpu.runs.clear()
    network.infer(probe_images(64, 64, 3))
    assert gpu.runs == {"slow": 3}


def test_if_no_plan_gets_the_memory_it_works_in_that_is_the_error(gpu, small):
    gpu.memory, gpu.workspaces = 1 << 30, dict.fromkeys(gpu.names, 1 << 31)
    with pytest.raises(DeviceMemoryError, match="no memory left for slower: use a smaller batch size"):
        BACKEND.compile(small)


def test_convolutions_are_timed_once_for_a_card(gpu, small):
    BACKEND.compile(small).close()
    first = dict(gpu.runs)
    assert first["slow"] > 0
    gpu.runs.clear()
    BACKEND.compile(replace(small, taps=("logits",))).close()
    assert gpu.runs.keys() == {"fast"}
    gpu.version += 1
    BACKEND.compile(small).close()
    assert gpu.runs["slow"] == first["slow"]


def test_a_plan_far_slower_than_another_is_not_timed_on(gpu):
    handle = sys.modules["cudnn"].create_handle()
    sys.modules["cudnn"].set_stream(handle, 1)
    timed: list[int] = []

    def time(run, times):
        before = gpu.clock
        run()
        timed.append(times)
        return gpu.clock - before

    assert choose_plan(sys.modules["cudnn"], handle, Convolution((1, 4, 4, 8), 8), time) == Plan(2, "fast")
    assert timed == [1, 5, 1, 5, 1]


def test_a_saved_network_runs_without_timing(gpu, lego, expected, tmp_path):
    images, taps = expected
    BACKEND.compile(lego, save_to=tmp_path / "saved").close()
    gpu.runs.clear()
    network = BACKEND.load(lego, tmp_path / "saved")
    assert gpu.runs.keys() == {"fast"}
    assert tap_difference(on_host(network.infer(images)), taps) < TOLERANCE["fp16"] / 2
    gpu.names = ("slow", "fast", "other")
    with pytest.raises(BackendError, match="has other kernels for"):
        BACKEND.load(lego, tmp_path / "saved")


def test_a_plan_that_is_not_on_offer_any_more_is_timed_again(gpu, small):
    BACKEND.compile(small).close()
    gpu.names = ("slow", "quick", "other")
    gpu.runs.clear()
    BACKEND.compile(small).close()
    assert {"slow", "quick"} <= gpu.runs.keys()  # timed
    gpu.runs.clear()
    BACKEND.compile(small).close()
    assert len(gpu.runs) == 1  # kept


@pytest.mark.parametrize("damage", [lambda content: content[:100], lambda content: b"", lambda content: b"\xff" * 64])
def test_a_damaged_file_is_an_error(gpu, small, tmp_path, damage):
    BACKEND.compile(small, save_to=tmp_path / "saved").close()
    (tmp_path / "saved").write_bytes(damage((tmp_path / "saved").read_bytes()))
    with pytest.raises(BackendError, match="was not saved by this backend"):
        BACKEND.load(small, tmp_path / "saved")
    with pytest.raises(BackendError, match="cannot be read"):
        BACKEND.load(small, tmp_path / "absent")


def test_a_network_without_plans_is_no_saved_one(gpu, lego, tmp_path):
    (tmp_path / "saved").write_bytes((EMBEDDED_DIRECTORY / "model.onnx").read_bytes())
    with pytest.raises(BackendError, match="was not saved by this backend"):
        BACKEND.load(lego, tmp_path / "saved")
    BACKEND.compile(replace(lego, taps=("logits",)), save_to=tmp_path / "saved").close()
    model = onnx.load(tmp_path / "saved")
    model.metadata_props[0].value = "{}"
    onnx.save(model, tmp_path / "saved")
    with pytest.raises(BackendError, match="lacks plans for some of its layers"):
        BACKEND.load(replace(lego, taps=("logits",)), tmp_path / "saved")


@pytest.mark.parametrize("refuse", [False, True])
def test_a_ceiling_is_kept_whoever_applies_it(gpu, refuse):
    gpu.refuse_clips = refuse
    cudnn = sys.modules["cudnn"]
    handle = cudnn.create_handle()
    cudnn.set_stream(handle, 1)
    layer = Convolution((2, 4, 4, 8), 8, relu=True, ceiling=6.0)
    plan = choose_plan(cudnn, handle, layer, lambda run, times: (run(), 1.0)[1])
    assert plan.clips_itself is not refuse
    cupy = sys.modules["cupy"]
    images = cupy.asarray(np.linspace(-9, 9, 256).reshape(2, 4, 4, 8), np.float16)
    weights = cupy.asarray(np.eye(8).reshape(8, 1, 1, 8), np.float16)
    found = Kernel(cudnn, handle, layer, plan)(images, weights, cupy.asarray(np.zeros(8), np.float16))
    np.testing.assert_array_equal(found.get(), np.clip(images.get(), 0, 6))


def test_failures_are_errors_of_one_sentence(gpu, small):
    network = BACKEND.compile(small)
    images = probe_images(64, 64, 3)
    gpu.fail = "CUDNN_STATUS_EXECUTION_FAILED\nand more"
    with pytest.raises(BackendError, match=r"cuDNN failed while running .* \(CUDNN_STATUS_EXECUTION_FAILED\)\.$"):
        network.infer(images)
    gpu.fail = ""
    assert len(network.infer(images)["gap"]) == 3
    gpu.version += 1
    gpu.refuse_all = True
    with pytest.raises(BackendError, match=r"cuDNN has no kernel for .* \(No valid engine configs\)\.$"):
        BACKEND.compile(small)
    gpu.refuse_all, gpu.names = False, ("broken",)
    with pytest.raises(BackendError, match="CUDNN_STATUS_NOT_SUPPORTED"):
        BACKEND.compile(small)


def test_memory_that_it_does_not_get_is_told_apart(gpu, small):
    gpu.memory = 1000
    with pytest.raises(DeviceMemoryError, match="use a smaller batch size"):
        BACKEND.compile(small)


def test_memory_that_cudnn_itself_does_not_get_is_told_apart(gpu, small, monkeypatch):
    network = BACKEND.compile(small)
    gpu.fail = "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"
    with pytest.raises(DeviceMemoryError, match="use a smaller batch size"):
        network.infer(probe_images(64, 64, 3))
    gpu.version += 1
    with pytest.raises(DeviceMemoryError, match="use a smaller batch size"):
        BACKEND.compile(small)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"fail": "CUDNN_STATUS_ALLOC_FAILED"}, DeviceMemoryError),  # its first run
        ({"names": ("other",)}, BackendError),  # a layer's plan
        ({"version": 91901, "refuse_all": True}, BackendError),
    ],
)
def test_a_network_that_cannot_be_loaded_leaves_no_handle_behind(gpu, small, tmp_path, changed, error):
    """One that does not fit is tried again for smaller batches, and each handle has memory of the GPU."""
    BACKEND.compile(small, save_to=tmp_path / "saved").close()
    assert not gpu.handles
    for name, value in changed.items():
        setattr(gpu, name, value)
    with pytest.raises(error):
        BACKEND.load(small, tmp_path / "saved")
    assert not gpu.handles


def test_precisions_that_it_does_not_run_are_refused(gpu, lego):
    with pytest.raises(BackendError, match="cuDNN runs fp16 here, not fp32"):
        BACKEND.compile(replace(lego, precision="fp32"))


def test_it_can_be_asked_for_by_name(gpu, lego, expected):
    images, taps = expected
    for _ in range(2):  # compiled, then from the cache
        network = open_backbone(lego, "cudnn", "auto")
        assert (network.backend, network.request.precision) == ("cudnn", "fp16")
        assert tap_difference(on_host(network.infer(images)), taps) < TOLERANCE["fp16"]
        network.close()


def test_probe_names_versions_and_card(gpu):
    probe = BACKEND.probe("cuda:0")
    assert probe.available
    assert probe.precisions == ("fp16",)
    assert "cuDNN 9.19.0 (interface 1.25.0) on NVIDIA H200" in probe.version
    assert probe.version in probe.reason


def test_what_is_missing_is_a_reason(gpu, monkeypatch):
    assert "--device cuda" in BACKEND.probe("cpu").reason
    gpu.capability = (7, 5)
    assert "compute capability 8.0 and later" in BACKEND.probe("cuda").reason
    gpu.version = 8900
    assert "cuDNN 8900 is too old" in BACKEND.probe("cuda").reason
    broken: Any = ModuleType("cudnn")
    monkeypatch.setitem(sys.modules, "cudnn", broken)
    assert "cuDNN cannot be loaded" in BACKEND.probe("cuda").reason
    monkeypatch.setitem(sys.modules, "cudnn", None)
    assert "cuDNN's Python interface is not installed" in BACKEND.probe("cuda").reason
    monkeypatch.setattr("pc_engine.hardware.devices.driver_found", lambda: True)
    monkeypatch.setitem(sys.modules, "cupy", None)
    reason = BACKEND.probe("cuda").reason
    assert "The package 'cupy' is needed" in reason
    assert "'pc-engine[cudnn]'" in reason


@pytest.fixture
def on_a_gpu():
    """Skips where there is no GPU with cuDNN."""
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("CuPy is not installed")
    probe = BACKEND.probe("cuda:0")
    if not probe.available:
        pytest.skip(probe.reason)


@pytest.mark.gpu
def test_taps_are_the_references(on_a_gpu, lego, expected, tmp_path):
    images, taps = expected
    network = BACKEND.compile(lego, save_to=tmp_path / "saved")
    assert network.remarks == ()
    assert tap_difference(on_host(network.infer(images)), taps) < TOLERANCE["fp16"] / 2
    network.close()
    again = BACKEND.load(lego, tmp_path / "saved")
    assert tap_difference(on_host(again.infer(images)), taps) < TOLERANCE["fp16"] / 2
    again.close()


@pytest.mark.gpu
def test_batches_in_flight_do_not_mix(on_a_gpu, lego, expected):
    import cupy

    images, _ = expected
    network = BACKEND.compile(lego)
    alone = on_host(network.infer(images))

    def run(k):
        batch = np.roll(images, k, axis=0)[: 3 - k % 3]
        return k, on_host(network.infer(cupy.asarray(batch) if k % 2 else batch))

    with ThreadPoolExecutor(4) as pool:
        for k, found in pool.map(run, range(24)):
            for name, tap in found.items():
                np.testing.assert_array_equal(tap, np.roll(alone[name], k, axis=0)[: 3 - k % 3])
    network.close()


@pytest.mark.gpu
def test_pixels_that_are_scaled_in_the_graph(on_a_gpu, tiny_directory):
    model = load_model(tiny_directory)
    request = network_request(model, tuple(model.manifest.taps), batch_size=4)
    images = probe_images(64, 64, 4)
    network = BACKEND.compile(replace(request, device="cuda:0", precision="fp16"))
    taps = OnnxRuntimeBackend().compile(request).infer(images)
    assert tap_difference(on_host(network.infer(images)), taps) < TOLERANCE["fp16"]


@pytest.mark.gpu
def test_a_first_layer_from_pixels_on_is_the_references(on_a_gpu, of_pixels):
    images = probe_images(12, 12, 3)
    network = BACKEND.compile(of_pixels)
    assert network.remarks == ()
    taps = OnnxRuntimeBackend().compile(replace(of_pixels, device="cpu", precision="fp32")).infer(images)
    assert tap_difference(on_host(network.infer(images)), taps) < TOLERANCE["fp16"] / 2
    network.close()


@pytest.mark.gpu
def test_cooccurrence_is_recorded_with_the_network(on_a_gpu, with_cooccurrence):
    assert_cooccurrence_is_the_references(with_cooccurrence, remarks=())
