from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pc_engine.backbone import CompileRequest
from pc_engine.backends.onnxruntime import OnnxRuntimeBackend, padded
from pc_engine.errors import BackendError, UsageError
from pc_engine.manifest import Manifest, NetworkInput, Tap
from pc_engine.manifest_file import write_manifest
from pc_engine.model import load_model
from pc_engine.networks import network_request
from pc_engine.selection.candidates import probe_images

BACKEND = OnnxRuntimeBackend()


@pytest.fixture
def request_(tiny_directory: Path) -> CompileRequest:
    taps = ("logits", "conv_last", "gap")
    return replace(network_request(load_model(tiny_directory), taps, batch_size=4), threads=1)


@pytest.mark.parametrize(("exact", "precisions"), [(True, ("fp32", "int8")), (False, ("fp32",))])
def test_probe_says_what_runs(monkeypatch: pytest.MonkeyPatch, exact: bool, precisions: tuple[str, ...]) -> None:
    monkeypatch.setattr("pc_engine.backends.onnxruntime.adds_bytes_exactly", lambda: exact)
    probe = BACKEND.probe()
    assert probe.available
    assert probe.precisions == precisions
    assert probe.version in probe.reason
    # Windows does not say what the processor has.
    assert ("no VNNI instructions are known here" in probe.reason) is not exact


def test_a_package_that_is_absent_is_a_reason_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    probe = BACKEND.probe()
    assert not probe.available
    assert probe.precisions == ()
    assert "pip install onnxruntime" in probe.reason


def test_taps_come_by_name_with_a_row_for_each_image(request_: CompileRequest) -> None:
    network = BACKEND.compile(request_)
    images = probe_images(64, 64, 3)
    taps = network.infer(images)
    assert list(taps) == ["logits", "conv_last", "gap"]
    assert [tap.shape for tap in taps.values()] == [(3, 3), (3, 5, 8, 8), (3, 5)]
    assert all(tap.dtype == np.float32 for tap in taps.values())
    np.testing.assert_allclose(taps["conv_last"].mean(axis=(2, 3)), taps["gap"], rtol=1e-5)
    # A cell's red value is the mean of its 8 x 8 pixels above the dark ground.
    red = images[..., 0].reshape(3, 8, 8, 8, 8).mean(axis=(2, 4)) / 255
    np.testing.assert_allclose(taps["conv_last"][:, 0], np.maximum(red - 0.3, 0), atol=1e-5)


def test_an_image_does_not_depend_on_those_that_come_with_it(request_: CompileRequest) -> None:
    network = BACKEND.compile(request_)
    images = probe_images(64, 64, 4)
    together = network.infer(images)
    for n in range(4):
        alone = network.infer(images[n : n + 1])
        for name, tap in alone.items():
            np.testing.assert_array_equal(tap[0], together[name][n])


def test_taps_are_the_callers_own(request_: CompileRequest) -> None:
    network = BACKEND.compile(request_)
    first = network.infer(probe_images(64, 64, 4, seed=1))
    before = {name: tap.copy() for name, tap in first.items()}
    second = network.infer(probe_images(64, 64, 4, seed=2))
    for name, tap in first.items():
        np.testing.assert_array_equal(tap, before[name])
        assert not np.array_equal(tap, second[name])
        tap[:] = 0  # writable


def test_a_saved_network_gives_the_same_numbers(request_: CompileRequest, tmp_path: Path) -> None:
    images = probe_images(64, 64, 4)
    expected = BACKEND.compile(request_, save_to=tmp_path / "saved").infer(images)
    for name, tap in BACKEND.load(request_, tmp_path / "saved").infer(images).items():
        np.testing.assert_allclose(tap, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"damaged", None])
def test_a_damaged_or_missing_file_cannot_be_loaded(
    request_: CompileRequest, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "saved").write_bytes(content)
    with pytest.raises(BackendError, match="ONNX Runtime cannot load") as caught:
        BACKEND.load(request_, tmp_path / "saved")
    assert "\n" not in str(caught.value)


def test_a_short_batch_is_filled_with_black_images() -> None:
    images = np.full((2, 4, 5, 3), 7, np.uint8)
    filled = padded(images, 5)
    assert (filled.shape, filled.dtype) == ((5, 4, 5, 3), np.uint8)
    np.testing.assert_array_equal(filled[:2], images)
    assert not filled[2:].any()


def test_a_full_batch_is_passed_on_uncopied() -> None:
    images = np.zeros((3, 4, 4, 3), np.uint8)
    assert padded(images, 3) is images


def test_no_images_or_too_many_and_images_of_another_size_are_errors(request_: CompileRequest) -> None:
    network = BACKEND.compile(request_)
    for n in (0, 5):
        with pytest.raises(UsageError, match=f"A batch holds 1 to 4 images, got {n}"):
            network.infer(probe_images(64, 64, 5)[:n])
    with pytest.raises(BackendError, match="ONNX Runtime failed"):
        network.infer(probe_images(32, 64, 4))


def test_only_what_the_taps_need_is_computed(request_: CompileRequest, tmp_path: Path) -> None:
    BACKEND.compile(replace(request_, taps=("conv_prev",)), save_to=tmp_path / "part")
    BACKEND.compile(request_, save_to=tmp_path / "whole")
    assert b"logit_weights" in (tmp_path / "whole").read_bytes()
    assert b"logit_weights" not in (tmp_path / "part").read_bytes()


def test_compiling_is_silent(tiny_directory: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pc_engine.networks import network_request;"
        "from pc_engine.model import load_model;"
        "from pc_engine.backends.onnxruntime import OnnxRuntimeBackend as B;"
        "r = network_request(load_model(Path(sys.argv[1])), ('logits',), batch_size=1);"
        "B().compile(r, save_to=Path(sys.argv[2])).close(); B().load(r, Path(sys.argv[2])).close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_directory), str(tmp_path / "saved")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("where", ["stored", "constant", "named", "cast", "branch"])
@pytest.mark.parametrize("cut_off", ["Relu", "Clip"])
def test_a_users_network_in_fp8_keeps_its_activation_functions_wherever_the_type_is_named(
    cut_off: str, where: str, tmp_path: Path
) -> None:
    """ONNX Runtime leaves out what cuts off at 0 before a rounding, as unsigned integers would; these are signed."""
    low, high = (numpy_helper.from_array(np.float32(value), name) for name, value in (("low", 0), ("high", 2)))
    stored = [low, high, numpy_helper.from_array(np.float32(1 / 448), "scale")]
    zero = numpy_helper.from_array(np.zeros((), ml_dtypes.float8_e4m3fn), "zero")
    before, attributes, names = [], {}, ["scale", "zero"]
    if where in ("stored", "branch"):
        stored.append(zero)
    elif where == "constant":
        before.append(helper.make_node("Constant", [], ["zero"], value=zero))
    elif where == "named":
        attributes, names = {"output_dtype": TensorProto.FLOAT8E4M3FN}, ["scale"]
    else:
        before.append(helper.make_node("Cast", ["low"], ["zero"], to=TensorProto.FLOAT8E4M3FN))
    nodes = [
        *before,
        helper.make_node(cut_off, ["centred", "low", "high"][: 1 if cut_off == "Relu" else 3], ["cut"]),
        helper.make_node("QuantizeLinear", ["cut", *names], ["levels"], **attributes),
        helper.make_node("DequantizeLinear", ["levels", *names], ["rounded"]),
    ]
    if where == "branch":
        nodes = [helper.make_node("If", ["always"], ["rounded"], **_branches(nodes, stored.pop()))]
        stored.append(numpy_helper.from_array(np.array(True), "always"))
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["pixels", "share"], ["shares"]),
            helper.make_node("Sub", ["shares", "half"], ["centred"]),
            *nodes,
            helper.make_node("Flatten", ["rounded"], ["scores"]),
        ],
        "users",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 192])],
        [
            *stored,
            numpy_helper.from_array(np.float32(1 / 255), "share"),
            numpy_helper.from_array(np.float32(0.5), "half"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    taps = {"conv_last": Tap("rounded", (8, 8, 3)), "logits": Tap("scores", (192,))}
    manifest = Manifest("users", NetworkInput("image", 8, 8), taps, ("conv_last",))
    request = CompileRequest(
        tmp_path / "model.onnx", write_manifest(manifest, tmp_path), ("conv_last",), "fp32", batch_size=4, threads=1
    )
    images = probe_images(8, 8, 4)
    expected = np.maximum(images / np.float32(255) - np.float32(0.5), 0)
    found = BACKEND.compile(request).infer(images)["conv_last"]
    np.testing.assert_allclose(found, expected, rtol=2**-4, atol=2**-9 / 448)


def _branches(nodes: list[onnx.NodeProto], zero: TensorProto) -> dict[str, onnx.GraphProto]:
    given = [helper.make_tensor_value_info("rounded", TensorProto.FLOAT, None)]
    return {f"{name}_branch": helper.make_graph(nodes, name, [], given, [zero]) for name in ("then", "else")}
