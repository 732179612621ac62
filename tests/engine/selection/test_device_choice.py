from __future__ import annotations

import sys
from typing import Any

import pytest

from pc_engine.errors import DeviceError, UsageError
from pc_engine.selection import device_choice
from pc_engine.selection.device_choice import choose_device
from pc_engine.selection.execution import Execution


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_a_driver_the_cpu_is_taken_and_cupy_not_imported(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_choice, "driver_found", lambda: False)
    monkeypatch.setattr(device_choice, "gpu_reason", lambda: pytest.fail("CuPy was asked"))
    said: list[str] = []
    assert choose_device(Execution(device=device), said.append) == "cpu"
    assert said == []


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_one_sentence(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it fails
    monkeypatch.setattr("pc_engine.hardware.devices.driver_found", lambda: False)
    with pytest.raises(DeviceError) as caught:
        choose_device(Execution(device=device))
    assert str(caught.value).startswith("No NVIDIA driver was found (")
    assert str(caught.value).endswith("): install it if there is a GPU, or use --device cpu.")
    assert caught.value.exit_code == 2


def test_an_unknown_device_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="no device 'gpu'"):
        choose_device(Execution(device="gpu"))


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_the_gpu_is_taken_where_a_backend_runs_on_it(device: str, pretended: Any) -> None:
    said: list[str] = []
    assert choose_device(Execution(device=device), said.append) == "cuda:0"
    assert choose_device(Execution("pretended", "fp16", device), said.append) == "cuda:0"
    assert said == []


def test_auto_counts_devices_and_does_not_go_by_imports(pretended_gpu: Any, pretended: Any) -> None:
    pretended_gpu.count = 0
    said: list[str] = []
    assert choose_device(Execution(device="auto"), said.append) == "cpu"
    assert said == ["The run uses the CPU. This machine has no NVIDIA GPU: use --device cpu."]


def test_auto_says_that_a_gpu_is_left_out_for_want_of_a_backend(pretended: Any) -> None:
    pretended.missing = "pretended is not installed."
    said: list[str] = []
    assert choose_device(Execution(device="auto"), said.append) == "cpu"
    assert len(said) == 1
    assert "No backend runs on the GPU here as asked for; 'pc-engine doctor' says" in said[0]
    with pytest.raises(DeviceError, match="No backend runs on the GPU here") as caught:
        choose_device(Execution(device="cuda"))
    assert caught.value.exit_code == 2


def test_auto_takes_the_device_of_what_is_asked_for_by_name(pretended: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    assert choose_device(Execution("onnxruntime"), said.append) == "cpu"
    assert said == []
    assert choose_device(Execution(precision="bf16"), said.append) == "cpu"
    assert len(said) == 1
    # And one that runs on GPUs only says itself what it lacks.
    monkeypatch.setattr(device_choice, "driver_found", lambda: False)
    assert choose_device(Execution("pretended")) == "cuda:0"


def test_a_gpu_beyond_those_there_are_is_wrong_use(pretended_gpu: Any, pretended: Any) -> None:
    pretended_gpu.count = 2
    assert choose_device(Execution(device="cuda:1")) == "cuda:1"
    with pytest.raises(DeviceError, match="no GPU 2 here, the machine has 2: use cuda:0 to cuda:1") as caught:
        choose_device(Execution(device="cuda:2"))
    assert caught.value.exit_code == 2
