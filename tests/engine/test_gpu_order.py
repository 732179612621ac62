"""Whole runs on a pretended GPU on which nothing may be read or written before its turn; see `ordered_gpu.py`."""

from __future__ import annotations

import importlib.util
import re
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pc_engine import Engine, Result
from pc_engine.backbone import CompileRequest
from pc_engine.backends import OnnxRuntimeBackend
from pc_engine.backends.cudnn import CudnnBackend
from pc_engine.backends.lanes import Lanes
from pc_engine.backends.onnxruntime_cuda import OnnxRuntimeCudaBackbone
from pc_engine.decoding.decode import display_image
from pc_engine.decoding.decode_device import AT_ONCE
from pc_engine.errors import DeviceMemoryError
from pc_engine.graph.operators import CHANNELS_FIRST
from pc_engine.model import load_model
from pc_engine.modes import MODES
from pc_engine.networks import network_request
from pc_engine.sources import iter_images

CELLS = [(1, 1), (5, 2), (2, 6), (6, 6), (4, 4)]
BATCH = 4


@pytest.fixture(scope="session")
def ordered_gpu() -> ModuleType:
    name, path = "ordered_gpu", Path(__file__).with_name("ordered_gpu.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def order(ordered_gpu: ModuleType, pretended_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    return ordered_gpu.watch(pretended_gpu, sys.modules["kernels_on_host"], monkeypatch)


@dataclass
class Program:
    """ONNX Runtime's taps on the GPU, always in the same memory, as an engine of TensorRT has them.

    ``fails`` is called by each run and may raise, before the network is queued or afterwards.
    """

    order: Any
    network: Any
    request: CompileRequest
    captures: bool = True
    fails: Callable[[], object] = lambda: None
    after_reading: bool = False
    taps: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cupy: Any = sys.modules["cupy"]
        taps = {name: self.request.manifest.taps[name].shape for name in self.request.taps}
        self.taps = {name: cupy.empty((BATCH, *shape), np.float32) for name, shape in taps.items()}

    def execute(self, images: Any, stream: Any) -> dict[str, Any]:
        if not self.after_reading:
            self.fails()
        self.order.queue("network", [images], self.taps.values(), stream)
        self.fails()
        found = self.network.infer(images.view(np.ndarray))
        for name, place in self.taps.items():
            np.copyto(place.view(np.ndarray), found[name])
        return self.taps

    def close(self) -> None:
        for tap in self.taps.values():
            self.order.on_host(tap, writes=True)


class Network(Lanes):
    """`Lanes`; the first two batches of a run are under way at once."""

    backend = "pretended"

    def meet(self) -> None:
        self.meetings = iter([threading.Barrier(2)] * 2)

    def infer(self, images: Any, into: Any = None) -> Any:
        meeting = next(getattr(self, "meetings", iter(())), None)
        if meeting is not None:
            meeting.wait(120)
        return super().infer(images, into)


@pytest.fixture
def make(order: Any, pretended: Any) -> Callable[..., Network]:
    """Make networks of `Lanes`; those of an engine, too. Their programs are in ``make.programs``."""

    def make_network(request: CompileRequest, save_to: Path | None = None, **settings: Any) -> Network:
        on_cpu = OnnxRuntimeBackend().compile(replace(request, device="cpu", precision="fp32", threads=1), save_to)

        def program() -> Program:
            programs.append(Program(order, on_cpu, request, **(settings or make_network.settings)))
            return programs[-1]

        return Network(request, 0, program)

    programs: list[Program] = []
    make_network.programs, make_network.settings = programs, {}
    pretended.compile = make_network
    pretended.load = lambda request, saved: make_network(request)
    return make_network


@pytest.fixture
def scenes(tmp_path: Path, draw_scene: Callable[..., Image.Image]) -> Path:
    """A folder of eleven scenes, every other one a JPEG, and one file that is no picture."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    for k in range(11):
        draw_scene(CELLS[: k % 6], (160, 120)).save(folder / f"{k:02d}.{('png', 'jpg')[k % 2]}", quality=95)
    (folder / "04-broken.jpg").write_bytes(b"no picture")
    return folder


class Codec:
    """Decodes on streams of its own, which the current one then waits for, to memory that it takes back at once."""

    def __init__(self, order: Any, cupy: Any, *_: int) -> None:
        self.order, self.cupy, self.lock = order, cupy, threading.Lock()
        self.streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]

    def decode(self, data: Sequence[bytes]) -> list[Any]:
        with self.lock:
            self.streams.reverse()
            with self.order.pool(self), self.streams[0]:
                pictures = [self.cupy.asarray(np.asarray(display_image(one).picture)) for one in data]
            self.order.gpu.current().wait_event(self.streams[0].record())
            for memory in map(self.order.memory, pictures):  # of which the other stream takes the next batch's
                memory.place = (self, self.streams[1], memory.place[2])
            return pictures


@pytest.fixture
def on_device(order: Any, resize_on_host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode JPEGs on the GPU."""
    cupy: Any = sys.modules["cupy"]

    def resize(pictures: Any, slots: Any, pixels: Any) -> None:
        order.queue("resize", pictures, [pixels])
        resize_on_host([one.view(np.ndarray) for one in pictures], slots, pixels.view(np.ndarray))

    monkeypatch.setattr("pc_engine.decoding.decode_device.NvImageCodec", lambda *_: Codec(order, cupy))
    monkeypatch.setattr("pc_engine.decoding.decode_device.DeviceResizer", lambda _: resize)


@pytest.fixture
def on_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode on the CPU."""
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)


def open_engine(model: Path, mode: str = "c2p", **options: Any) -> Engine:
    given = {"precision": "fp32", "device": "cuda", "batch_size": BATCH, "workers": 2, **options}
    return Engine(model, mode=mode, backend="pretended", **given)


def run(model: Path, scenes: Path, mode: str = "c2p", runs: int = 2, **options: Any) -> list[Result]:
    with open_engine(model, mode, **options) as engine:
        for _ in range(runs):
            engine.network.meet()
            results = list(engine.run(scenes))
    return results


@pytest.fixture
def expected(tiny_directory: Path, scenes: Path) -> Callable[..., list[tuple[Any, ...]]]:
    def count(mode: str, **options: Any) -> list[tuple[Any, ...]]:
        given = {"backend": "onnxruntime", "device": "cpu", "batch_size": BATCH, **options}
        with Engine(tiny_directory, mode=mode, **given) as engine:
            return told(list(engine.run(scenes)))

    return count


def told(results: list[Result]) -> list[tuple[Any, ...]]:
    return [(row.path, row.error, row.count, row.class_name, len(row.pointers)) for row in results]


JOBS: list[tuple[str, dict[str, Any]]] = [
    *((mode, {}) for mode in MODES),
    ("p2c", {"cluster": "dbscan"}),
    ("p2c", {"classes": 2}),
    ("combined", {"count": 2}),
]


@pytest.mark.parametrize("where", ["on_device", "on_cores"])
@pytest.mark.parametrize(("mode", "options"), JOBS, ids=lambda given: "".join(given))
def test_nothing_is_read_or_written_before_its_turn(
    mode: str,
    options: dict[str, Any],
    where: str,
    tiny_directory: Path,
    scenes: Path,
    order: Any,
    make: Any,
    expected: Any,
    request: Any,
) -> None:
    request.getfixturevalue(where)
    assert told(run(tiny_directory, scenes, mode, **options)) == expected(mode, **options)
    assert order.races == set()
    assert bool(order.done["resize"]) == (where == "on_device") != bool(order.done["to device"])
    assert order.done["network in a graph"] > 0


def test_nothing_is_out_of_turn_when_several_threads_run(
    tiny_directory: Path, scenes: Path, order: Any, make: Any, expected: Any, on_device: None
) -> None:
    with open_engine(tiny_directory, "combined") as engine, order.executor(2) as pool:
        for found in [pool.submit(lambda: told(list(engine.run(scenes)))) for _ in range(3)]:
            assert found.result() == expected("combined")
    assert order.races == set()


def refuse(stream: Any, work: Callable[[], Any]) -> Any:
    raise RuntimeError("no graphs here")


@pytest.mark.parametrize("where", ["on_device", "on_cores"])
def test_nothing_is_out_of_turn_where_kernels_are_started_one_by_one(
    where: str,
    tiny_directory: Path,
    scenes: Path,
    order: Any,
    make: Any,
    expected: Any,
    request: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request.getfixturevalue(where)
    for module in ("recorded_work", "lanes"):
        monkeypatch.setattr(f"pc_engine.backends.{module}.record", refuse)
    assert told(run(tiny_directory, scenes, "combined")) == expected("combined")
    assert order.races == set()
    assert order.done["graph"] == 0


@pytest.mark.parametrize(("where", "most"), [("on_cores", 2 * 5 * 8 * 8), ("on_device", 2 * 64 * 64 * 3)])
def test_nothing_is_out_of_turn_when_batches_are_halved(
    where: str,
    most: int,
    tiny_directory: Path,
    scenes: Path,
    order: Any,
    pretended_gpu: Any,
    make: Any,
    expected: Any,
    request: Any,
) -> None:
    """Taps or pixels of two images fit into the memory that is left, those of a whole batch do not."""
    request.getfixturevalue(where)
    said: list[str] = []
    with open_engine(tiny_directory, "combined", report=said.append) as engine:
        results = list(engine.run(scenes))
        pretended_gpu.largest = most
        assert told(list(engine.run(scenes))) == told(results) == expected("combined")
    assert any("smaller batches" in sentence for sentence in said)
    assert order.races == set()


@pytest.mark.parametrize("after_reading", [False, True])
def test_nothing_is_out_of_turn_behind_a_batch_that_failed_on_its_way(
    after_reading: bool, tiny_directory: Path, scenes: Path, order: Any, make: Any, on_device: None, expected: Any
) -> None:
    """What was queued for it before is waited for: its images and its room on the host are the next one's."""
    left = [0]

    def fail() -> None:
        if left[0]:
            left[0] -= 1
            raise DeviceMemoryError("The GPU ran out of memory.")

    make.settings = {"captures": False, "fails": fail, "after_reading": after_reading}
    with open_engine(tiny_directory) as engine:
        list(engine.run(scenes))
        left[0] = 5
        assert told(list(engine.run(scenes))) == expected("c2p")
    assert left == [0]
    assert order.races == set()


# Each wait of a run, by what its line says, and where it is missed.
WAITS = {
    "self._stream.wait_event(arrived)": "on_cores",
    "lane.done.synchronize()": "on_cores",
    "stream.wait_event(cupy.cuda.get_current_stream().record())": "on_cores",
    "stream.synchronize()": "on_device",
    "self._settle()": "on_device",
    "xp.cuda.get_current_stream().synchronize()": "on_cores",
}


@pytest.mark.parametrize(("wait", "where"), WAITS.items())
def test_a_wait_that_is_left_out_is_noticed(
    wait: str, where: str, tiny_directory: Path, scenes: Path, order: Any, pretended_gpu: Any, make: Any, request: Any
) -> None:
    request.getfixturevalue(where)
    pretended_gpu.free = 4 * AT_ONCE * 160 * 120 * 3  # so that photos are decoded one by one
    order.skip = (wait,)
    run(tiny_directory, scenes, "combined", runs=1)
    assert order.skipped == {wait}
    assert order.races


@pytest.fixture
def lanes(make: Any, tiny_directory: Path) -> Callable[..., Network]:
    asked = network_request(load_model(tiny_directory), ("conv_last", "gap"), batch_size=BATCH)
    return lambda **settings: make(replace(asked, device="cuda:0"), **settings)


def images_on_gpu(n: int) -> Any:
    cupy: Any = sys.modules["cupy"]
    images = cupy.empty((n, 64, 64, 3), np.uint8)
    images[...] = 7  # queued on the current stream, not done
    return images


@pytest.mark.parametrize("left_out", [(), ("lane.stream.wait_event(self._cupy",)])
@pytest.mark.parametrize("n", [BATCH, BATCH - 1])
def test_images_need_only_be_complete_on_the_stream_of_the_caller(
    n: int, left_out: tuple[str, ...], order: Any, lanes: Any
) -> None:
    cupy: Any = sys.modules["cupy"]
    network = lanes()
    order.skip = left_out
    for _ in range(2):
        with cupy.cuda.Stream(non_blocking=True):
            taps = network.infer(images_on_gpu(n))
            taps["gap"] += 1
    assert bool(order.races) == bool(left_out)
    assert order.skipped == set(left_out)
    order.skip = ()
    network.close()


@pytest.mark.parametrize("left_out", [(), ("lane.stream.wait_event(self._cupy",)])
def test_taps_come_to_memory_only_when_those_are_done_with_it_that_had_it_before(
    left_out: tuple[str, ...], order: Any, lanes: Any
) -> None:
    cupy: Any = sys.modules["cupy"]
    network, order.skip = lanes(), left_out
    with cupy.cuda.Stream(non_blocking=True):
        for _ in range(2):
            taps = network.infer(np.zeros((BATCH, 64, 64, 3), np.uint8))
            taps["gap"] += 1
            del taps  # with work under way
    assert bool(order.races) == bool(left_out)


@pytest.mark.parametrize("left_out", [(), ("self._stream.synchronize()",)])
def test_a_network_is_freed_when_all_is_done_that_others_queued(
    left_out: tuple[str, ...], order: Any, lanes: Any
) -> None:
    network = lanes()
    thread = threading.Thread(target=lambda: network.infer(np.zeros((BATCH, 64, 64, 3), np.uint8)))
    thread.start()
    thread.join()
    order.skip = left_out
    network.close()
    assert bool(order.races) == bool(left_out)


class Session:
    """ONNX Runtime's, on the stream that it was given: it queues its outputs, and may fail all the same."""

    def __init__(self, order: Any, stream: int) -> None:
        self.order, self.stream, self.error = order, order.at[stream], ""

    def io_binding(self) -> Any:
        given: list[Any] = []
        taken: list[Any] = []
        return SimpleNamespace(
            given=given,
            taken=taken,
            bind_input=lambda *about: given.append(self.order.at[about[-1]]),
            bind_output=lambda *about: taken.append(self.order.at[about[-1]]),
        )

    def run_with_iobinding(self, binding: Any) -> None:
        self.order.queue("network", binding.given, binding.taken, self.stream)
        if self.error:
            raise RuntimeError(self.error)


@pytest.mark.parametrize(
    "left_out", [(), ("self._stream.synchronize()",), ("self._done.synchronize()",), ("self._stream.wait_event(",)]
)
def test_taps_of_onnx_runtime_are_written_before_anything_else_is_done_with_their_memory(
    left_out: tuple[str, ...], order: Any, tiny_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of a batch that fails: what follows it gets their memory."""
    cupy: Any = sys.modules["cupy"]
    sessions: list[Session] = []

    def open_session(request: Any, graph: bytes, index: int, stream: int) -> Session:
        sessions.append(Session(order, stream))
        return sessions[-1]

    monkeypatch.setattr("pc_engine.backends.onnxruntime_cuda._open_session", open_session)
    asked = network_request(load_model(tiny_directory), ("conv_last", "gap"), batch_size=BATCH)
    network = OnnxRuntimeCudaBackbone(replace(asked, device="cuda:0"), b"")
    images = np.zeros((BATCH, 64, 64, 3), np.uint8)
    order.skip = left_out
    with cupy.cuda.Stream(non_blocking=True):
        sessions[0].error = "Failed to allocate memory for requested buffer of size 5"
        with pytest.raises(DeviceMemoryError):
            network.infer(images)
        sessions[0].error = ""
        for _ in range(2):
            taps = network.infer(images)
            taps["gap"] += 1
            del taps  # with work under way
    assert bool(order.races) == bool(left_out)
    assert order.skipped == set(left_out)


@pytest.mark.parametrize("left_out", [(), ("cupy.cuda.get_current_stream().synchronize()",), "set_stream"])
def test_what_a_network_in_cudnn_is_made_of_is_there_when_its_layers_read_it(
    left_out: Any, order: Any, tiny_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights, which every batch reads; and each layer runs on the stream of its batch."""
    cupy: Any = sys.modules["cupy"]
    streams: dict[int, Any] = {}

    class Kernel:
        def __init__(self, cudnn: Any, handle: int, convolution: Any, plan: Any) -> None:
            self.handle, self.convolution = handle, convolution

        def __call__(self, *given: Any) -> Any:
            result = cupy.empty(self.convolution.result, np.float16)
            result.view(np.ndarray)[...] = 0
            order.queue("cudnn", given, [result], streams[self.handle])
            return result

    def set_stream(handle: int, stream: int) -> None:
        if left_out == "set_stream":
            streams.setdefault(handle, order.default_stream)
        else:
            streams[handle] = order.at[stream]

    order.default_stream = cupy.cuda.Stream()
    cudnn = SimpleNamespace(create_handle=lambda: 1, set_stream=set_stream, destroy_handle=lambda _: None)
    monkeypatch.setattr("pc_engine.backends.cudnn.Kernel", Kernel)
    # Kernels of this project that no other test here compiles.
    monkeypatch.setattr("pc_engine.backends.cudnn.convolve_columns", lambda layer, kernel: kernel)
    monkeypatch.setattr(
        "pc_engine.backends.array_operators.to_planes", lambda maps: maps.astype("f4").transpose(CHANNELS_FIRST).copy()
    )
    monkeypatch.setattr("pc_engine.backends.cudnn.load_cudnn", lambda: cudnn)
    monkeypatch.setattr("pc_engine.backends.cudnn._choose_plans", lambda _, graph, __: dict.fromkeys(graph.layers))
    asked = network_request(load_model(tiny_directory), ("gap", "logits"), batch_size=BATCH)
    order.skip = left_out if isinstance(left_out, tuple) else ()
    network = CudnnBackend().compile(replace(asked, device="cuda:0", precision="fp16"))
    with cupy.cuda.Stream(non_blocking=True):
        for n in (BATCH, BATCH - 1):
            network.infer(np.zeros((n, 64, 64, 3), np.uint8))["gap"][...] += 1
    assert bool(order.races) == bool(left_out)
    assert order.done["graph"] == 3


# What a whole batch takes, once all is recorded: operations of the mode in its graph, those of kernels of this project
# among them, and those queued one by one for what is before and after it.
LAUNCHES = {"c2p": (20, 4, 9), "p2c": (21, 4, 10), "combined": (70, 12, 11)}


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_takes_no_more_launches_and_copies_than_it_did(
    mode: str, tiny_directory: Path, scenes: Path, order: Any, make: Any, on_cores: None
) -> None:
    whole = [image for image in iter_images(scenes) if "broken" not in image.name][: 2 * BATCH]
    with open_engine(tiny_directory, mode) as engine:
        list(engine.run_paths(whole))
        before = order.done.copy()
        list(engine.run_paths(whole))
    took = {name: count / 2 for name, count in (order.done - before).items()}
    assert took["graph"] == 2
    assert took["to host"] == took["to device"] == took["network in a graph"] == 1
    in_graph = {name for name in took if name.endswith(" in a graph")} - {"network in a graph"}
    kernels = {name for name in in_graph if re.search("_f32|_f64", name)}
    alone = took.keys() - in_graph - {"network in a graph", "graph"}
    found = [sum(took[name] for name in names) for names in (in_graph, kernels, alone)]
    # NumPy does in two steps some of what CuPy does in one, and not in each version the same.
    for count, at_most in zip(found, LAUNCHES[mode], strict=True):
        assert 0 < count <= 1.2 * at_most
