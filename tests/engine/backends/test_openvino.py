from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from pc_engine.backbone import PRECISIONS, CompileRequest
from pc_engine.backends.onnxruntime import OnnxRuntimeBackend
from pc_engine.backends.openvino import OpenVinoBackend
from pc_engine.errors import BackendError, UsageError
from pc_engine.manifest import NETWORK_FILE
from pc_engine.manifest_file import write_manifest
from pc_engine.model import load_model
from pc_engine.networks import network_request
from pc_engine.selection.candidates import TOLERANCE, probe_images, tap_difference

pytest.importorskip("openvino", reason="OpenVINO is not installed on this platform")

BACKEND = OpenVinoBackend()


@pytest.fixture
def request_(tiny_directory: Path) -> CompileRequest:
    taps = ("logits", "conv_last", "gap", "conv_prev")
    return replace(network_request(load_model(tiny_directory), taps, batch_size=4), threads=1)


def test_probe_says_what_runs() -> None:
    probe = BACKEND.probe()
    assert probe.available
    assert probe.precisions[0] == "fp32"
    assert set(probe.precisions) <= set(PRECISIONS)
    assert probe.version in probe.reason


def test_a_package_that_is_absent_is_a_reason_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    probe = BACKEND.probe()
    assert not probe.available
    assert probe.precisions == ()
    assert "pip install openvino" in probe.reason


@pytest.mark.parametrize("precision", PRECISIONS)
def test_compiled_and_loaded_networks_give_the_references_numbers(
    request_: CompileRequest, tmp_path: Path, precision: str
) -> None:
    if precision not in BACKEND.probe().precisions:
        pytest.skip(f"this processor does not multiply {precision} natively")
    images = probe_images(64, 64, 4)
    reference = OnnxRuntimeBackend().compile(request_).infer(images)
    request = replace(request_, precision=precision)
    networks = (BACKEND.compile(request, save_to=tmp_path / "saved"), BACKEND.load(request, tmp_path / "saved"))
    for network in networks:
        taps = network.infer(images)
        assert list(taps) == list(reference)
        assert all(tap.dtype == np.float32 for tap in taps.values())
        assert tap_difference(taps, reference) <= TOLERANCE[precision]
        network.close()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_short_batch_has_a_row_for_each_image_and_the_same_numbers(request_: CompileRequest, n: int) -> None:
    network = BACKEND.compile(request_)
    images = probe_images(64, 64, 4)
    together = network.infer(images)
    for name, tap in network.infer(images[:n]).items():
        assert tap.shape == (n, *together[name].shape[1:])
        np.testing.assert_array_equal(tap, together[name][:n])


@pytest.mark.parametrize("n", [0, 5])
def test_a_batch_of_another_size_is_refused(request_: CompileRequest, n: int) -> None:
    with pytest.raises(UsageError, match=f"got {n}"):
        BACKEND.compile(request_).infer(np.zeros((n, 64, 64, 3), np.uint8))


def test_images_that_are_not_contiguous_are_taken(request_: CompileRequest) -> None:
    network = BACKEND.compile(request_)
    wide = probe_images(64, 128, 4)
    view = wide[:, :, ::2]
    np.testing.assert_array_equal(network.infer(view)["gap"], network.infer(view.copy())["gap"])


def test_taps_are_the_callers_own(request_: CompileRequest) -> None:
    network = BACKEND.compile(request_)
    first = network.infer(probe_images(64, 64, 4, seed=1))
    before = {name: tap.copy() for name, tap in first.items()}
    network.infer(probe_images(64, 64, 4, seed=2))
    for name, tap in first.items():
        np.testing.assert_array_equal(tap, before[name])
        tap[:] = 0  # writable


@pytest.mark.parametrize("content", [b"", b"damaged"])
def test_a_damaged_file_cannot_be_loaded(request_: CompileRequest, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "saved").write_bytes(content)
    with pytest.raises(BackendError, match="OpenVINO cannot load") as caught:
        BACKEND.load(request_, tmp_path / "saved")
    assert "\n" not in str(caught.value)


def test_images_of_another_size_are_an_error(request_: CompileRequest) -> None:
    with pytest.raises(BackendError, match="OpenVINO failed"):
        BACKEND.compile(request_).infer(probe_images(32, 64, 4))


_FIRST_BATCHES = """
import faulthandler, sys, threading
faulthandler.dump_traceback_later(600, exit=True)
from pathlib import Path
from pc_engine.backends.openvino import OpenVinoBackend
from pc_engine.selection.candidates import probe_images
from pc_engine.networks import network_request
from pc_engine.model import load_model
network = OpenVinoBackend().compile(network_request(load_model(Path(sys.argv[1])), ("gap",), batch_size=4))
sys.setswitchinterval(1e-6)
images, together = probe_images(64, 64, 4), threading.Barrier(4)
def run():
    together.wait()
    network.infer(images)
threads = [threading.Thread(target=run) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_the_first_batches_do_not_wait_for_each_other_for_ever(tiny_directory: Path) -> None:
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", _FIRST_BATCHES, str(tiny_directory)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


_TWO_NETWORKS = """
import faulthandler, os, signal, sys
from pc_engine import Engine
if sys.argv[1] == "faulthandler":
    faulthandler.enable()
first, second = (Engine("lego", backend="openvino", precision="fp32") for _ in range(2))
for engine in (first, second):
    list(engine.run("demo:"))
    engine.close()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there is no such signal here")
@pytest.mark.parametrize("stack", ["none", "faulthandler"])
def test_a_signal_can_be_handled_after_networks_were_closed_in_the_order_they_were_opened(stack: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _TWO_NETWORKS, stack], capture_output=True, text=True, timeout=600, check=False
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_taps_that_a_dropout_or_an_identity_hands_on_keep_their_names(
    tiny_directory: Path, request_: CompileRequest, tmp_path: Path
) -> None:
    """OpenVINO gives such a tensor the name of what comes out, which is the same."""
    network = onnx.load(tiny_directory / NETWORK_FILE)
    for operator, tensor in (("Dropout", "second_relu"), ("Identity", "pooled")):
        at = next(k for k, node in enumerate(network.graph.node) if tensor in node.input)
        network.graph.node[at].input[0] = f"{tensor}_handed_on"
        network.graph.node.insert(at, helper.make_node(operator, [tensor], [f"{tensor}_handed_on"]))
    onnx.save(network, tmp_path / NETWORK_FILE)
    manifest = write_manifest(request_.manifest, tmp_path)
    request = replace(request_, network=tmp_path / NETWORK_FILE, manifest=manifest)
    images = probe_images(64, 64, 4)
    expected = OnnxRuntimeBackend().compile(request).infer(images)
    for backbone in (BACKEND.compile(request, save_to=tmp_path / "saved"), BACKEND.load(request, tmp_path / "saved")):
        found = backbone.infer(images)
        assert list(found) == list(expected)
        assert tap_difference(found, expected) < TOLERANCE["fp32"]
