"""A GPU for whole runs: the kernels' own source, run on the host, behind a CuPy whose every copy is counted.

`backends/conftest.py` has another one, for the backends' code, with streams that are as lazy as real ones.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pc_engine.backbone import Backbone, CompileRequest, Probe
from pc_engine.backends import BACKENDS, OnnxRuntimeBackend

_KERNELS_ON_HOST = Path(__file__).parents[1] / "kernels" / "cuda" / "conftest.py"


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Ten photos, each of a brightness of its own."""
    paths = [tmp_path / f"{k}.png" for k in range(10)]
    for k, path in enumerate(paths):
        Image.new("RGB", (20 + k, 30), (100 + 10 * k,) * 3).save(path)
    return paths


@pytest.fixture
def first_at_once() -> Callable[[int], Callable[[], AbstractContextManager[None]]]:
    """Return ``first(n)``: the first ``n`` threads that enter what it makes are inside at once, whichever is slow.

    The first of them leaves last. Those that come later go through.
    """

    def first(n: int) -> Callable[[], AbstractContextManager[None]]:
        numbers, all_inside, left = itertools.count(), threading.Barrier(n), threading.Semaphore(0)

        @contextmanager
        def inside() -> Iterator[None]:
            number = next(numbers)
            if number < n:
                all_inside.wait(120)
            try:
                yield
            finally:
                if number == 0:
                    for _ in range(n - 1):
                        assert left.acquire(timeout=120)
                else:
                    left.release()

        return inside

    return first


@pytest.fixture(scope="session")
def resize_on_host() -> Callable[[Any, Any, Any], None]:
    """What `DeviceResizer` does, by Pillow: of each image the rows first, then the columns."""

    def resize(images: Any, slots: Any, pixels: Any) -> None:
        height, width = pixels.shape[1:3]
        for image, slot in zip(images, slots, strict=True):
            picture = Image.fromarray(np.asarray(image))
            for size in ((width, picture.height), (width, height)):
                picture = picture.resize(size, Image.Resampling.BILINEAR)
            pixels[slot] = np.asarray(picture)

    return resize


@pytest.fixture
def crashing_decoder(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a function that decodes, but for files that end with a mark: with these it crashes, hangs or the like."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "decode_functions")
    return "crashing_decoder:decode"


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int, text: str = "") -> None:
        super().__init__(text or f"cudaError{status}")
        self.status = status


class OutOfMemoryError(MemoryError):
    pass


def _load_kernels_on_host() -> ModuleType:
    name = "kernels_on_host"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, _KERNELS_ON_HOST)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


class Stream:
    def __init__(self, gpu: PretendedGpu, *, non_blocking: bool) -> None:
        self.gpu, self.non_blocking = gpu, non_blocking

    def __enter__(self) -> Stream:
        self.gpu.stack().append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.gpu.stack().pop()

    def synchronize(self) -> None: ...


@dataclass
class PretendedGpu:
    """What happened on the GPU, and what it has.

    Attributes
    ----------
    to_host, to_device
        Copies of arrays that CuPy was asked for.
    launched
        Thread and stream of each kernel.
    launched_on
        The GPUs that were the current one then.
    device_exit
        Raised when a device is left that was made current.
    largest
        Most values in an array; a larger one does not fit into the memory.
    free
        Bytes of its memory that nothing uses.
    has_pools
        Whether CUDA has a pool of its own there.
    kept, trimmed
        What that was told: attributes by pool and number, and pools with the bytes they were cut to.
    """

    name: str = "NVIDIA H200"
    count: int = 1
    driver: int = 13000
    to_host: int = 0
    to_device: int = 0
    freed: int = 0
    launched: list[tuple[str, Stream]] = field(default_factory=list)
    launched_on: set[int] = field(default_factory=set)
    device_exit: Exception | None = None
    largest: int | None = None
    free: int = 8 << 30
    has_pools: bool = True
    kept: dict[tuple[int, int], int] = field(default_factory=dict)
    trimmed: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.local, self.lock = threading.local(), threading.Lock()
        self.default = Stream(self, non_blocking=False)

    def stack(self) -> list[Stream]:
        if not hasattr(self.local, "stack"):
            self.local.stack = []
        return self.local.stack

    def current(self) -> Stream:
        return self.stack()[-1] if self.stack() else self.default

    def device(self, index: int = 0) -> Any:
        assert index < self.count
        gpu = self

        class Device:
            id = index

            def __enter__(self) -> None:
                self.before = getattr(gpu.local, "index", 0)
                gpu.local.index = index

            def __exit__(self, *_: object) -> None:
                gpu.local.index = self.before
                if gpu.device_exit is not None:
                    raise gpu.device_exit

        return Device()


def _strict_ufunc(host: ModuleType) -> Callable[..., Any]:
    """What ufuncs do with `HostArray`: as in CuPy, it does not mix with arrays of the host."""

    def call(self: Any, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        for array in (*inputs, *(out or ())):
            if isinstance(array, np.ndarray) and not isinstance(array, host.HostArray) and array.ndim:
                raise TypeError(f"an array of the device met one of the host, of shape {array.shape}")
        if out is not None:
            kwargs["out"] = tuple(host._bare(array) for array in out)
        with np.errstate(all="ignore"):  # a device warns of nothing
            found = getattr(ufunc, method)(*map(host._bare, inputs), **kwargs)
        if out is not None:
            return out[0]
        return np.asarray(found).view(host.HostArray)

    return call


def _make_cupy(gpu: PretendedGpu, host: ModuleType, folder: Path) -> ModuleType:
    class Cupy(host.HostCupy):  # type: ignore[name-defined, misc]
        __version__ = "14.2.0"

        def asarray(self, values: Any, dtype: Any = None) -> Any:
            gpu.to_device += not isinstance(values, host.HostArray)
            array = values if isinstance(values, host.HostArray) else np.array(values)
            return array.astype(dtype or array.dtype, copy=False).view(host.HostArray)

        def empty(self, shape: Any, dtype: Any = float) -> Any:
            if gpu.largest is not None and np.prod(shape) > gpu.largest:
                raise OutOfMemoryError(f"Out of memory allocating {np.prod(shape):,} values")
            return super().empty(shape, dtype)

        def __getattr__(self, name: str) -> Any:
            if name in ("argpartition", "argsort", "lexsort", "partition", "sort", "unique"):
                raise AssertionError(f"cupy.{name} is Thrust's, which waits for the stream")
            return super().__getattr__(name)

        def RawModule(self, **given: Any) -> Any:  # noqa: N802 (CuPy's name)
            with gpu.lock:
                module = super().RawModule(**given)
            return SimpleNamespace(get_function=lambda name: _Kernel(gpu, module.get_function(name)))

    cupy: Any = Cupy(folder)
    cupy.cuda.runtime.CUDARuntimeError = CUDARuntimeError
    cupy.cuda.runtime.getDeviceCount = lambda: gpu.count
    cupy.cuda.runtime.getDeviceProperties = lambda _: {"name": gpu.name.encode(), "major": 9, "minor": 0}
    cupy.cuda.runtime.driverGetVersion = lambda: gpu.driver
    cupy.cuda.runtime.memGetInfo = lambda: (gpu.free, 80 << 30)
    of_kernels = cupy.cuda.runtime.deviceGetAttribute
    cupy.cuda.runtime.cudaDevAttrMemoryPoolsSupported = 115
    cupy.cuda.runtime.deviceGetAttribute = lambda attribute, index: (
        gpu.has_pools if attribute == 115 else of_kernels(attribute, index)
    )
    cupy.cuda.runtime.deviceGetDefaultMemPool = lambda index: index
    cupy.cuda.runtime.memPoolTrimTo = lambda pool, size: gpu.trimmed.append((pool, size))
    cupy.cuda.runtime.memPoolSetAttribute = lambda pool, name, size: gpu.kept.update({(pool, name): size})
    cupy.cuda.runtime.cudaMemPoolAttrReleaseThreshold = 4
    cupy.cuda.driver = SimpleNamespace(CUDADriverError=CUDARuntimeError)
    cupy.cuda.memory = SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
    cupy.cuda.nvrtc = SimpleNamespace(getVersion=lambda: (13, 0))
    cupy.cuda.Device, cupy.cuda.get_current_stream = gpu.device, gpu.current
    cupy.cuda.Stream = lambda non_blocking=False: Stream(gpu, non_blocking=non_blocking)
    for pool in ("get_default_memory_pool", "get_default_pinned_memory_pool"):
        setattr(cupy, pool, lambda: SimpleNamespace(free_all_blocks=lambda: setattr(gpu, "freed", gpu.freed + 1)))
    return cupy


class _Kernel:
    """A kernel of the host's, one at a time: what threads of a block share is static there."""

    def __init__(self, gpu: PretendedGpu, kernel: Any) -> None:
        self.gpu, self.kernel = gpu, kernel

    def __call__(self, grid: Any, block: Any, arguments: Any, *, shared_mem: int) -> None:
        self.kernel.max_dynamic_shared_size_bytes = self.max_dynamic_shared_size_bytes
        with self.gpu.lock:
            self.gpu.launched.append((threading.current_thread().name, self.gpu.current()))
            self.gpu.launched_on.add(getattr(self.gpu.local, "index", 0))
            self.kernel(grid, block, arguments, shared_mem=shared_mem)

    max_dynamic_shared_size_bytes = 48 << 10


class PretendedRecording:
    """Work that is done again where a GPU would repeat it: there is nothing to record on the host.

    `backends/test_recorded_work.py` has what is recorded.
    """

    def __init__(self, work: Callable[[Any], Any], inputs: Any) -> None:
        self.work, self.inputs = work, {name: array.copy() for name, array in inputs.items()}
        work(self.inputs)

    def __call__(self, inputs: Any) -> Any:
        for name, place in self.inputs.items():
            if inputs[name] is not place:
                place[...] = inputs[name]
        return self.work(self.inputs)

    def close(self) -> None: ...


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch, compiled_kernels: Path) -> PretendedGpu:
    """A machine with one GPU and CuPy."""
    host = _load_kernels_on_host()
    host.require_compiler()
    gpu = PretendedGpu()

    def get(self: Any) -> np.ndarray:
        gpu.to_host += 1
        return self.view(np.ndarray).copy()

    def counted(convert: Callable[..., Any]) -> Callable[..., Any]:
        def call(values: Any, *args: Any, **kwargs: Any) -> Any:
            gpu.to_host += isinstance(values, host.HostArray)
            return convert(values, *args, **kwargs)

        return call

    monkeypatch.setattr(host.HostArray, "get", get)
    # CuPy's arrays refuse these, and the host's way to look at them would go unnoticed.
    for name in ("array", "asarray"):
        monkeypatch.setattr(np, name, counted(getattr(np, name)))
    monkeypatch.setattr(host.HostArray, "__array_ufunc__", _strict_ufunc(host), raising=False)
    monkeypatch.setitem(sys.modules, "cupy", _make_cupy(gpu, host, compiled_kernels))
    monkeypatch.setattr("pc_engine.selection.device_choice.driver_found", lambda: True)
    monkeypatch.setattr("pc_engine.mode_run.RecordedWork", PretendedRecording)
    return gpu


@dataclass
class PretendedBackbone:
    """ONNX Runtime's taps, on the GPU. What differs from it is for `PretendedBackend` to say."""

    request: CompileRequest
    network: Backbone
    fake: PretendedBackend
    backend: str = "pretended"
    remarks: tuple[str, ...] = ()

    @property
    def parallel(self) -> int:
        return self.fake.parallel

    def infer(self, images: np.ndarray, into: Any = None) -> dict[str, Any]:
        with self.fake.lock:
            self.fake.sizes.append(len(images))
            self.fake.streams.append(sys.modules["cupy"].cuda.get_current_stream())  # type: ignore[attr-defined]
            self.fake.running += 1
            self.fake.most_at_once = max(self.fake.most_at_once, self.fake.running)
        try:
            with self.fake.inside():
                self.fake.before(len(images))
                taps = self.network.infer(images)
        finally:
            with self.fake.lock:
                self.fake.running -= 1
        host = sys.modules["kernels_on_host"]
        said = {name: np.array(self.fake.distort(tap)).view(host.HostArray) for name, tap in taps.items()}
        if into is None:
            return said
        self.fake.filled += 1
        for name, place in into.items():
            place[...] = said[name]
        return {**said, **into}

    def close(self) -> None:
        self.fake.closed += 1
        self.network.close()


@dataclass
class PretendedBackend:
    """A backend for the pretended GPU.

    ``before`` is called with the size of each batch and may raise, while ``inside`` is entered; ``distort`` changes the
    taps. ``filled`` counts the batches whose taps went to where the caller wanted them.
    """

    name: str = "pretended"
    devices: tuple[str, ...] = ("cuda",)
    precisions: tuple[str, ...] = ("fp32", "fp16")
    missing: str = ""
    parallel: int = 2
    inside: Callable[[], AbstractContextManager[object]] = nullcontext
    before: Callable[[int], object] = lambda _: None
    at_compile: Callable[[CompileRequest], object] = lambda _: None
    distort: Callable[[np.ndarray], np.ndarray] = lambda tap: tap
    sizes: list[int] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    compiled: list[CompileRequest] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    filled: int = 0
    running: int = 0
    most_at_once: int = 0
    loaded: int = 0
    closed: int = 0

    def probe(self, device: str = "cpu") -> Probe:
        if device == "cpu":
            return Probe(False, "pretended runs on GPUs only.")
        return Probe(not self.missing, self.missing or "works", "1", () if self.missing else self.precisions)

    def compile(self, request: CompileRequest, save_to: Path | None = None) -> PretendedBackbone:
        assert request.device.startswith("cuda:")
        self.compiled.append(request)
        self.at_compile(request)
        return PretendedBackbone(request, OnnxRuntimeBackend().compile(_on_cpu(request), save_to), self)

    def load(self, request: CompileRequest, saved: Path) -> PretendedBackbone:
        self.loaded += 1
        self.at_compile(request)
        return PretendedBackbone(request, OnnxRuntimeBackend().load(_on_cpu(request), saved), self)


def _on_cpu(request: CompileRequest) -> CompileRequest:
    return replace(request, device="cpu", precision="fp32", threads=1)


@pytest.fixture
def pretended(pretended_gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch) -> PretendedBackend:
    """The only backend of that machine that runs on its GPU."""
    backend = PretendedBackend()
    on_cpu = {name: other for name, other in BACKENDS.items() if name == "onnxruntime"}
    monkeypatch.setattr(on_cpu["onnxruntime"], "devices", ("cpu",), raising=False)
    known = {**on_cpu, "pretended": backend}
    for module in ("candidates", "device_choice", "execution", "selection"):
        monkeypatch.setattr(f"pc_engine.selection.{module}.BACKENDS", known)
    monkeypatch.setattr("pc_engine.cli.doctor.BACKENDS", known)
    return backend


@pytest.fixture(autouse=True)
def pillows_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put Pillow's limit on pixels, one for the whole process, back after a test that lifts it."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
