from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pc_engine.backbone import CompileRequest
from pc_engine.backends.onnxruntime import OnnxRuntimeBackend
from pc_engine.errors import BackendError, UsageError
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


def test_too_many_images_and_images_of_another_size_are_errors(request_: CompileRequest) -> None:
    network = BACKEND.compile(request_)
    with pytest.raises(UsageError, match="got 5"):
        network.infer(probe_images(64, 64, 5))
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
