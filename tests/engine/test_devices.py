from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from pc_engine.devices import DeviceError, gpu_reason, require_device
from pc_engine.errors import PcEngineError, UsageError


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_the_cpu_is_always_there(device: str) -> None:
    require_device(device)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "", "cuda:0:1", "cpu:0"])
def test_an_unknown_device_is_wrong_use(device: str) -> None:
    with pytest.raises(UsageError, match="choose auto, cpu, cuda or cuda:NUMBER"):
        require_device(device)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_one_sentence(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it fails
    with pytest.raises(PcEngineError) as caught:
        require_device(device)
    assert str(caught.value) == (
        "The package 'cupy' is needed to run on an NVIDIA GPU: install it with pip install 'pc-engine[gpu]'."
    )
    assert caught.value.exit_code == 2


class _RuntimeError(RuntimeError):
    pass


def cupy_that(answer: int | Exception) -> SimpleNamespace:
    def count() -> int:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return SimpleNamespace(
        cuda=SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=count, CUDARuntimeError=_RuntimeError))
    )


def test_the_driver_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    error = _RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")
    monkeypatch.setitem(sys.modules, "cupy", cupy_that(error))
    assert gpu_reason().startswith("CuPy finds no NVIDIA GPU (CUDA driver version is insufficient)")
    with pytest.raises(DeviceError):
        require_device("cuda")


def test_no_gpu_among_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", cupy_that(0))
    assert gpu_reason() == "This machine has no NVIDIA GPU: use --device cpu."


def test_a_gpu_that_works_is_not_used_silently_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", cupy_that(1))
    assert gpu_reason() == ""
    with pytest.raises(DeviceError, match="on the CPU only"):
        require_device("cuda:0")
