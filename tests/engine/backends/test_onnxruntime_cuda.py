"""ONNX Runtime's own code for a GPU, on a pretended one whose provider is the CPU's."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pc_engine.backbone import CompileRequest
from pc_engine.backends.onnxruntime import OnnxRuntimeBackend
from pc_engine.errors import BackendError, DeviceMemoryError, UsageError
from pc_engine.manifest import Manifest, NetworkInput, Tap
from pc_engine.manifest_file import write_manifest
from pc_engine.model import load_model
from pc_engine.networks import network_request
from pc_engine.selection.candidates import TOLERANCE, probe_images, tap_difference

BACKEND = OnnxRuntimeBackend()
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@dataclass
class FakeRuntime:
    """An onnxruntime-gpu whose sessions compute on the CPU, from and to the memory of the pretended GPU."""

    gpu: Any
    available: tuple[str, ...] = (CUDA, CPU)
    falls_back: bool = False
    error: str = ""
    settings: list[dict[str, str]] = field(default_factory=list)
    real: Any = onnxruntime

    __version__ = onnxruntime.__version__

    def __getattr__(self, name):
        return getattr(self.real, name)

    def get_available_providers(self):
        return list(self.available)

    def set_default_logger_severity(self, severity):
        assert severity == 4

    def preload_dlls(self):
        print("Failed to load libcublas.so")

    def InferenceSession(self, graph, options, providers, **others):  # noqa: N802
        if providers == [CPU]:
            return self.real.InferenceSession(graph, options, providers=providers, **others)
        ((provider, settings),) = providers
        assert provider == CUDA
        self.settings.append(settings)
        return _Session(self, self.real.InferenceSession(graph, options, providers=[CPU], **others), settings)


class _Session:
    def __init__(self, runtime, session, settings):
        self.runtime, self.session, self.settings = runtime, session, settings

    def get_providers(self):
        return [CPU] if self.runtime.falls_back else [CUDA, CPU]

    def io_binding(self):
        bound = SimpleNamespace(given={}, taken={})

        def bind_input(name, device, index, kind, shape, pointer):
            assert (device, index, kind) == ("cuda", 0, np.uint8)
            bound.given[name] = self.runtime.gpu.memory[pointer]
            assert bound.given[name].shape == tuple(shape)

        def bind_output(name, device, index, kind, shape, pointer):
            assert (device, index, kind) == ("cuda", 0, np.float32)
            bound.taken[name] = self.runtime.gpu.memory[pointer]
            assert bound.taken[name].shape == tuple(shape)

        bound.bind_input, bound.bind_output = bind_input, bind_output
        return bound

    def run_with_iobinding(self, bound):
        if self.runtime.error:
            raise RuntimeError(self.runtime.error)

        def work():
            for name, tap in zip(bound.taken, self.session.run(list(bound.taken), bound.given), strict=True):
                bound.taken[name][...] = tap

        # Without a wait: the backend asks for its own stream, and has to wait for that itself.
        self.runtime.gpu.streams[int(self.settings["user_compute_stream"])].enqueue(work)


@pytest.fixture
def runtime(gpu, monkeypatch):
    fake = FakeRuntime(gpu)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    return fake


@pytest.fixture
def request_(tiny_directory: Path) -> CompileRequest:
    request = network_request(load_model(tiny_directory), ("logits", "conv_last", "gap"), batch_size=4)
    return replace(request, threads=1, device="cuda:0")


@pytest.fixture
def reference(request_):
    return BACKEND.compile(replace(request_, device="cpu"))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("n", [4, 3])
def test_taps_are_the_references_and_stay_on_the_gpu(runtime, request_, reference, precision, n):
    network = BACKEND.compile(replace(request_, precision=precision))
    images = probe_images(64, 64, n)
    taps = network.infer(images)
    assert all(isinstance(tap, sys.modules["cupy"].ndarray) for tap in taps.values())
    found = {name: tap.get() for name, tap in taps.items()}
    assert all(tap.dtype == np.float32 and len(tap) == n for tap in found.values())
    assert tap_difference(found, reference.infer(images)) <= TOLERANCE[precision] / 2
    network.close()


def test_a_users_network_in_fp8_keeps_its_relu(runtime, tmp_path):
    """ONNX Runtime leaves out one before a rounding, as unsigned integers would; these are signed."""
    zero = np.zeros((), ml_dtypes.float8_e4m3fn)
    weights = {"half": np.float32(128), "scale": np.float32(0.5), "zero": zero}
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["pixels", "half"], ["centred"]),
            helper.make_node("Relu", ["centred"], ["cut"]),
            helper.make_node("QuantizeLinear", ["cut", "scale", "zero"], ["levels"]),
            helper.make_node("DequantizeLinear", ["levels", "scale"], ["rounded"]),
            helper.make_node("Flatten", ["rounded"], ["scores"]),
        ],
        "users",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 192])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    taps = {"conv_last": Tap("rounded", (8, 8, 3)), "logits": Tap("scores", (192,))}
    manifest = write_manifest(Manifest("users", NetworkInput("image", 8, 8), taps, ("conv_last",)), tmp_path)
    request = CompileRequest(tmp_path / "model.onnx", manifest, ("conv_last",), "fp32", 4, 1, "cuda:0")
    images = probe_images(8, 8, 4)
    found = BACKEND.compile(request).infer(images)["conv_last"].get()
    np.testing.assert_allclose(found, np.maximum(images.astype(np.float32) - 128, 0), rtol=2**-4)


def test_images_on_the_gpu_stay_there(runtime, gpu, request_, reference):
    network = BACKEND.compile(request_)
    images = probe_images(64, 64, 4)
    gpu.host_to_device = 0
    found = {name: tap.get() for name, tap in network.infer(gpu.array(images)).items()}
    assert gpu.host_to_device == 0
    assert tap_difference(found, reference.infer(images)) < 1e-5


def test_a_session_has_a_stream_of_its_own_and_fp32_is_not_tf32(runtime, request_):
    network = BACKEND.compile(request_)
    assert len(runtime.settings) == network.parallel == 2
    assert len({settings["user_compute_stream"] for settings in runtime.settings}) == 2
    assert all(settings["use_tf32"] == "0" and settings["device_id"] == "0" for settings in runtime.settings)


def test_falling_back_to_the_cpu_without_a_word_is_an_error(runtime, request_):
    runtime.falls_back = True
    with pytest.raises(BackendError, match="would run on the CPU, as it cannot load its CUDA libraries"):
        BACKEND.compile(request_)


def test_a_saved_network_gives_the_same_numbers(runtime, request_, tmp_path):
    request = replace(request_, precision="fp16")
    images = probe_images(64, 64, 4)
    expected = BACKEND.compile(request, save_to=tmp_path / "saved").infer(images)
    for name, tap in BACKEND.load(request, tmp_path / "saved").infer(images).items():
        np.testing.assert_array_equal(tap.get(), expected[name].get())
    with pytest.raises(BackendError, match=r"cannot load .*absent"):
        BACKEND.load(request, tmp_path / "absent")


def test_what_fails_while_running_is_told_apart(runtime, request_):
    network = BACKEND.compile(request_)
    runtime.error = "CUBLAS_STATUS_EXECUTION_FAILED\nmore"
    with pytest.raises(BackendError, match=r"running the network \(CUBLAS_STATUS_EXECUTION_FAILED\)\.$") as caught:
        network.infer(probe_images(64, 64, 4))
    assert type(caught.value) is BackendError
    runtime.error = "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 5"
    with pytest.raises(DeviceMemoryError, match="use a smaller batch size"):
        network.infer(probe_images(64, 64, 4))
    runtime.error = ""
    assert len(network.infer(probe_images(64, 64, 4))["gap"]) == 4


def test_images_that_do_not_fit_are_refused(runtime, request_):
    network = BACKEND.compile(request_)
    with pytest.raises(UsageError, match="got 5"):
        network.infer(probe_images(64, 64, 5))
    with pytest.raises(BackendError, match="The network takes uint8 images"):
        network.infer(probe_images(32, 64, 4))


def test_a_damaged_graph_is_an_error(runtime, request_, tmp_path):
    (tmp_path / "saved").write_bytes(b"damaged")
    with pytest.raises(BackendError, match="ONNX Runtime cannot load"):
        BACKEND.load(request_, tmp_path / "saved")


def test_probe_names_version_and_card(runtime):
    probe = BACKEND.probe("cuda:0")
    assert probe.available
    assert probe.precisions == ("fp32", "fp16")
    assert "NVIDIA H200" in probe.version
    assert probe.version in probe.reason


def test_the_package_for_the_cpu_is_a_reason(runtime):
    runtime.available = (CPU,)
    probe = BACKEND.probe("cuda:0")
    assert (probe.available, probe.precisions) == (False, ())
    assert "pip install onnxruntime-gpu" in probe.reason
    assert BACKEND.probe("cpu").available


def test_a_machine_without_a_gpu_is_a_reason(monkeypatch):
    monkeypatch.setattr("pc_engine.hardware.devices.driver_found", lambda: True)
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "'pc-engine[gpu]'" in BACKEND.probe("cuda").reason


def test_loading_prints_nothing(runtime, request_, capsys):
    BACKEND.compile(request_)
    assert capsys.readouterr() == ("", "")
