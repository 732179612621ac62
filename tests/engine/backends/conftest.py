"""A GPU made of NumPy: enough of CuPy and of TensorRT to run the backends' own code, and to let each call fail.

Streams are lazy, as on a GPU: what is enqueued runs only when something waits for it, in the order that events give. So
a wait that is left out shows as wrong numbers. An "engine" is the ONNX graph it was built from, run by ONNX Runtime.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any, Self

import numpy as np
import onnx
import onnxruntime
import pytest

from pc_engine.backends import tensorrt_library

_ALIGNMENT = 256


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int, text: str = "") -> None:
        super().__init__(text or f"cudaError{status}")
        self.status = status


class CUDADriverError(CUDARuntimeError):
    pass


class DeviceOutOfMemoryError(MemoryError):
    pass


class DeviceArray:
    """Memory of the pretended GPU. Reading it from the host takes `get`, which waits for nothing."""

    def __init__(self, gpu: FakeGpu, values: np.ndarray) -> None:
        self.gpu, self.values = gpu, values
        gpu.memory[self.data.ptr] = values

    shape = property(lambda self: self.values.shape)
    dtype = property(lambda self: self.values.dtype)
    nbytes = property(lambda self: self.values.nbytes)
    device = SimpleNamespace(id=0)
    flags = property(lambda self: SimpleNamespace(c_contiguous=self.values.flags.c_contiguous))

    @property
    def data(self) -> Pointer:
        return Pointer(self.gpu, self.values.ctypes.data)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: Any) -> DeviceArray:
        return DeviceArray(self.gpu, self.values[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        source = value.values if isinstance(value, DeviceArray) else value
        self.gpu.current().enqueue(lambda: self.values.__setitem__(key, source))

    def get(self) -> np.ndarray:
        return self.values.copy()


@dataclass
class Pointer:
    gpu: FakeGpu
    ptr: int

    def copy_from_host_async(self, source: int, size: int, stream: Stream) -> None:
        self.gpu.host_to_device += 1
        stream.enqueue(lambda: ctypes.memmove(self.ptr, source, size))

    def copy_from_device_async(self, source: Pointer, size: int, stream: Stream) -> None:
        stream.enqueue(lambda: ctypes.memmove(self.ptr, source.ptr, size))


class Stream:
    def __init__(self, gpu: FakeGpu, non_blocking: bool = False) -> None:
        self.gpu, self.non_blocking = gpu, non_blocking
        self.ptr = next(gpu.handles)
        gpu.streams[self.ptr] = self
        self.done = 0
        self.queue: list[Callable[[], object]] = []
        self.captured: list[Callable[[], object]] | None = None
        self.broken = False

    def enqueue(self, work: Callable[[], object]) -> None:
        if self.broken:
            raise CUDARuntimeError(901, "cudaErrorStreamCaptureInvalidated: a failed capture was on this stream")
        (self.queue if self.captured is None else self.captured).append(work)

    def run_until(self, position: int) -> None:
        with self.gpu.running:
            while self.done < position:
                self.done += 1
                self.queue[self.done - 1]()

    def synchronize(self) -> None:
        self.gpu.fail("stream.synchronize")
        self.refuse_while_recorded("cudaErrorStreamCaptureUnsupported")
        self.run_until(len(self.queue))

    def refuse_while_recorded(self, why: str) -> None:
        """Waiting for what is only recorded ends the recording, too."""
        if self.captured is not None:
            self.broken = True
            raise CUDARuntimeError(900, why)

    def record(self, event: Event | None = None) -> Event:
        event = event or Event(self.gpu)
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        stream, position = event.stream, event.position
        self.enqueue(lambda: stream.run_until(position))

    def begin_capture(self) -> None:
        self.gpu.fail("begin_capture")
        if self is self.gpu.default:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self.captured = []

    def is_capturing(self) -> bool:
        return self.captured is not None

    def end_capture(self) -> Graph:
        captured, self.captured = self.captured, None
        try:
            self.gpu.fail("end_capture")
            if self.broken:
                raise CUDARuntimeError(901, "cudaErrorStreamCaptureInvalidated")
        except CUDARuntimeError:
            self.broken = True
            raise
        assert captured is not None
        return Graph(self.gpu, captured)

    def __enter__(self) -> Self:
        self.gpu.local.stack = [*getattr(self.gpu.local, "stack", []), self]
        return self

    def __exit__(self, *_: object) -> None:
        self.gpu.local.stack.pop()


class Event:
    def __init__(self, gpu: FakeGpu, block: bool = False, disable_timing: bool = False) -> None:
        self.gpu, self.block = gpu, block

    def record(self, stream: Stream | None = None) -> None:
        self.stream = stream or self.gpu.current()
        self.position = len(self.stream.queue)

    def synchronize(self) -> None:
        self.gpu.fail("synchronize")
        self.stream.refuse_while_recorded("cudaErrorCapturedEvent")
        self.stream.run_until(self.position)


@dataclass
class Graph:
    gpu: FakeGpu
    captured: list[Callable[[], object]]

    def launch(self, stream: Stream) -> None:
        self.gpu.graph_launches += 1
        self.gpu.on_launch(stream)
        for work in self.captured:
            stream.enqueue(work)


@dataclass
class FakeGpu:
    """The pretended GPU. ``faults`` has the error of a call by its name, raised each time."""

    capability: tuple[int, int] = (9, 0)
    name: str = "NVIDIA H200"
    count: int = 1
    faults: dict[str, Exception] = field(default_factory=dict)
    memory: dict[int, np.ndarray] = field(default_factory=dict)
    streams: dict[int, Stream] = field(default_factory=dict)
    handles: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    local: threading.local = field(default_factory=threading.local)
    running: Any = field(default_factory=threading.RLock)
    graph_launches: int = 0
    host_to_device: int = 0
    freed: int = 0
    largest_allocation: int | None = None
    on_launch: Callable[[Stream], object] = lambda _: None

    def __post_init__(self) -> None:
        self.default = Stream(self)

    def fail(self, call: str) -> None:
        if call in self.faults:
            raise self.faults[call]

    def current(self) -> Stream:
        stack = getattr(self.local, "stack", [])
        return stack[-1] if stack else self.default

    def allocate(self, shape: Any, dtype: Any) -> DeviceArray:
        self.fail("allocate")
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if self.largest_allocation is not None and size > self.largest_allocation:
            raise DeviceOutOfMemoryError(f"Out of memory allocating {size:,} bytes")
        room = np.empty(size + _ALIGNMENT, np.uint8)
        offset = -room.ctypes.data % _ALIGNMENT
        values = room[offset : offset + size].view(dtype).reshape(shape)
        values.view(np.uint8)[...] = 0xAB  # what nothing was written to is not mistaken for a result
        return DeviceArray(self, values)

    def array(self, values: np.ndarray) -> DeviceArray:
        array = self.allocate(values.shape, values.dtype)
        array.values[...] = values
        return array

    def zeros(self, shape: Any, dtype: Any) -> DeviceArray:
        array = self.allocate(shape, dtype)
        array[...] = 0
        return array

    def free_all_blocks(self) -> None:
        self.freed += 1

    def cupy(self) -> ModuleType:
        module: Any = ModuleType("cupy")
        module.ndarray, module.float32, module.uint8 = DeviceArray, np.float32, np.uint8
        module.empty, module.zeros = self.allocate, self.zeros
        module.asarray = lambda source: source.array if hasattr(source, "array") else source
        for pool in ("get_default_memory_pool", "get_default_pinned_memory_pool"):
            setattr(module, pool, lambda: SimpleNamespace(free_all_blocks=self.free_all_blocks))
        module.from_dlpack = lambda source: source.array
        runtime = SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            getDeviceCount=lambda: self.count,
            getDeviceProperties=lambda _: {
                "name": self.name.encode(),
                "major": self.capability[0],
                "minor": self.capability[1],
            },
            driverGetVersion=lambda: 13000,
            deviceGetAttribute=lambda attribute, index: 0,  # it has no pool of CUDA's own
            cudaDevAttrMemoryPoolsSupported=115,
        )
        module.cuda = SimpleNamespace(
            runtime=runtime,
            driver=SimpleNamespace(CUDADriverError=CUDADriverError),
            memory=SimpleNamespace(OutOfMemoryError=DeviceOutOfMemoryError),
            Device=self.device,
            Stream=lambda non_blocking=False: Stream(self, non_blocking),
            Event=functools.partial(Event, self),
            get_current_stream=self.current,
        )
        return module

    def cupyx(self) -> ModuleType:
        module: Any = ModuleType("cupyx")
        module.empty_pinned = lambda shape, dtype: np.empty(shape, dtype)
        return module

    def device(self, index: int = 0) -> Any:
        assert index < self.count
        return _Device(self, index)


@dataclass
class _Device:
    gpu: FakeGpu
    id: int

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.gpu.fail("leave device")  # as every call does on a GPU that was lost


class Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    pass


class DataType(enum.Enum):
    FLOAT, HALF, UINT8 = range(3)


_TYPES = {onnx.TensorProto.FLOAT: DataType.FLOAT, onnx.TensorProto.UINT8: DataType.UINT8}


@dataclass
class FakeTensorRt:
    """A TensorRT module. ``faults`` maps the name of a call to what the logger says while it gives None or False."""

    gpu: FakeGpu
    version: str = "11.4.0.106"
    rtx: bool = False
    faults: dict[str, str] = field(default_factory=dict)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    executions: int = 0
    flags: set[str] = field(default_factory=lambda: {"TF32"})
    timings: bytes = b"measured"
    refused: bytes = b""

    def give(self, call: str, result: Any, failed: Any = None, argument: Any = None) -> Any:
        self.calls.append((call, argument))
        if call in self.faults:
            if self.faults[call]:
                self.logger.log(Severity.ERROR, self.faults[call])
            return failed
        return result

    def construct(self, call: str, result: Any) -> Any:
        """Give a new object, or fail as the real bindings do: not by None."""
        if self.give(call, result) is None:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return result

    def called(self, call: str) -> list[Any]:
        return [argument for name, argument in self.calls if name == call]

    def module(self) -> ModuleType:
        module: Any = ModuleType("tensorrt_rtx" if self.rtx else "tensorrt")
        module.__version__ = self.version
        module.ILogger, module.DataType = ILogger, DataType
        module.BuilderFlag = SimpleNamespace(TF32="TF32")
        module.Builder, module.Runtime = self._builder, self._runtime
        module.OnnxParser = lambda network, logger: self.construct("OnnxParser", _Parser(self, network))
        if self.rtx:
            module.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
            module.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(LAZY="lazy", EAGER="eager")
            module.ComputeCapability = SimpleNamespace(CURRENT="current", SM75="sm75", SM89="sm89")
        return module

    def _builder(self, logger: Any) -> Any:
        self.logger = logger
        return self.construct(
            "Builder",
            SimpleNamespace(
                create_network=lambda flags: self.give("create_network", _Network(self), argument=flags),
                create_builder_config=lambda: self.give("create_builder_config", _Config(self)),
                create_optimization_profile=lambda: self.give("create_optimization_profile", _Profile(self)),
                build_serialized_network=lambda network, config: self.give(
                    "build_serialized_network", network.content, argument=config
                ),
            ),
        )

    def _runtime(self, logger: Any) -> Any:
        self.logger = logger

        def deserialize(content: Any) -> Any:
            return self.give(
                "deserialize_cuda_engine",
                None if "deserialize_cuda_engine" in self.faults else _Engine(self, bytes(content)),
            )

        return self.construct("Runtime", SimpleNamespace(deserialize_cuda_engine=deserialize))


@dataclass
class _Network:
    trt: FakeTensorRt
    content: bytes = b""

    @property
    def num_inputs(self) -> int:
        return len(self._inputs())

    def get_input(self, k: int) -> Any:
        return _Input(self.trt, self._inputs()[k])

    def _inputs(self) -> Any:
        return onnx.load_from_string(self.content).graph.input


@dataclass
class _Input:
    trt: FakeTensorRt
    value: Any

    name = property(lambda self: self.value.name)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(dim.dim_value or -1 for dim in self.value.type.tensor_type.shape.dim)

    @shape.setter
    def shape(self, sizes: tuple[int, ...]) -> None:
        self.trt.give("input shape", None, argument=sizes)


@dataclass
class _Parser:
    trt: FakeTensorRt
    network: _Network
    num_errors: int = 0

    def parse(self, content: bytes) -> bool:
        self.network.content = content
        if "parse" in self.trt.faults:
            self.num_errors = 1
        return bool(self.trt.give("parse", True, False))

    def get_error(self, k: int) -> Any:
        return SimpleNamespace(
            desc=lambda: self.trt.faults["parse"], node_operator=lambda: "Conv", node_name=lambda: "first"
        )


@dataclass
class _Profile:
    trt: FakeTensorRt

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> Any:
        return self.trt.give("set_shape", None, False, argument=(name, shapes))


@dataclass
class _Config:
    trt: FakeTensorRt
    num_compute_capabilities: int = 0

    def clear_flag(self, flag: str) -> None:
        self.trt.flags.discard(flag)

    def add_optimization_profile(self, profile: _Profile) -> int:
        return int(self.trt.give("add_optimization_profile", 0, -1))

    def set_compute_capability(self, capability: str, index: int) -> bool:
        return bool(self.trt.give("set_compute_capability", True, False, argument=capability))

    def create_timing_cache(self, content: bytes) -> Any:
        return self.trt.give("create_timing_cache", SimpleNamespace(content=content), argument=content)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        accepted = not self.trt.refused or cache.content != self.trt.refused
        return bool(self.trt.give("set_timing_cache", accepted, False, argument=cache.content))

    def get_timing_cache(self) -> Any:
        return self.trt.give("get_timing_cache", SimpleNamespace(serialize=lambda: self.trt.timings))


class _Engine:
    def __init__(self, trt: FakeTensorRt, content: bytes) -> None:
        self.trt = trt
        graph = onnx.load_from_string(content).graph
        self.values = [*graph.input, *graph.output]
        self.names = [value.name for value in self.values]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        # As it stands: at fp8 some rewritings leave a ReLU out, and others misread scales in float16.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    num_io_tensors = property(lambda self: len(self.values))

    def get_tensor_name(self, k: int) -> str:
        return self.names[k]

    def get_tensor_dtype(self, name: str) -> DataType:
        return _TYPES[self._value(name).type.tensor_type.elem_type]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(dim.dim_value or -1 for dim in self._value(name).type.tensor_type.shape.dim)

    def _value(self, name: str) -> Any:
        return self.values[self.names.index(name)]

    def create_runtime_config(self) -> Any:
        trt = self.trt
        cache = SimpleNamespace(
            deserialize=lambda content: trt.give("deserialize_kernels", True, False, argument=content),
            serialize=lambda: trt.give("serialize_kernels", b"kernels"),
        )
        config = _RuntimeConfig(
            trt,
            dynamic_shapes_kernel_specialization_strategy="lazy",
            create_runtime_cache=lambda: trt.give("create_runtime_cache", cache),
            set_runtime_cache=lambda _: True,
        )
        return trt.give("create_runtime_config", config)

    def create_execution_context(self, *config: Any) -> Any:
        return self.trt.give("create_execution_context", _Context(self.trt, self), argument=config)


class _RuntimeConfig(SimpleNamespace):
    def __init__(self, trt: FakeTensorRt, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.trt, self.strategy = trt, "disabled"

    @property
    def cuda_graph_strategy(self) -> str:
        return self.strategy

    @cuda_graph_strategy.setter
    def cuda_graph_strategy(self, strategy: str) -> None:
        self.strategy = self.trt.give("cuda_graph_strategy", strategy, failed=self.strategy)


class _Context:
    def __init__(self, trt: FakeTensorRt, engine: _Engine) -> None:
        self.trt, self.engine = trt, engine
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return bool(self.trt.give("set_input_shape", True, False))

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % _ALIGNMENT == 0
        self.addresses[name] = address
        return bool(self.trt.give(f"set_tensor_address {name}", True, False, argument=address))

    def execute_async_v3(self, stream: int) -> bool:
        gpu = self.trt.gpu
        addresses = dict(self.addresses)
        memory = {name: gpu.memory[address] for name, address in addresses.items()}
        assert memory["image"].shape == self.shape
        taps = self.engine.names[1:]

        def work() -> None:
            self.trt.executions += 1
            for name, tap in zip(taps, self.engine.session.run(taps, {"image": memory["image"]}), strict=True):
                memory[name][...] = tap

        if "execute_async_v3" not in self.trt.faults:
            gpu.streams[stream].enqueue(work)
        if gpu.streams[stream].captured is not None:
            return bool(self.trt.give("execute while capturing", True, False))
        return bool(self.trt.give("execute_async_v3", True, False))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """A machine with one H200, as far as CuPy can tell."""
    fake = FakeGpu()
    monkeypatch.setitem(sys.modules, "cupy", fake.cupy())
    monkeypatch.setitem(sys.modules, "cupyx", fake.cupyx())
    # A cache of its own: real libraries loaded before keep their one logger.
    fresh = functools.cache(tensorrt_library.load_library.__wrapped__)
    monkeypatch.setattr(tensorrt_library, "load_library", fresh)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    return fake


@pytest.fixture
def trt(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    """TensorRT on that machine."""
    fake = FakeTensorRt(gpu)
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module())
    return fake


@pytest.fixture
def rtx(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    """TensorRT-RTX on that machine, with a card it is made for."""
    gpu.capability, gpu.name = (8, 9), "NVIDIA GeForce RTX 4090"
    fake = FakeTensorRt(gpu, version="1.7.1.116", rtx=True)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake.module())
    return fake
