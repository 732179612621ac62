from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from pc_engine.errors import UsageError
from pc_engine.hardware import devices
from pc_engine.hardware.devices import check_device_name, gpu_reason, gpu_requirements, not_started, open_gpus


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_devices_have_these_names(device: str) -> None:
    check_device_name(device)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "", "cuda:0:1", "cpu:0", "auto\n"])
def test_an_unknown_device_is_wrong_use(device: str) -> None:
    with pytest.raises(UsageError, match="choose auto, cpu, cuda or cuda:NUMBER"):
        check_device_name(device)


@pytest.mark.parametrize(
    ("asked", "chosen", "expected"),
    [("auto", "cuda:0", 3), ("cuda", "cuda:0", 3), ("cuda:1", "cuda:1", 0), ("auto", "cpu", 0)],
)
def test_gpus_are_open_where_none_is_named(
    asked: str, chosen: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "gpu_count", lambda: 3)
    assert open_gpus(asked, chosen) == expected


def test_without_a_driver_nothing_else_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it fails
    monkeypatch.setattr(devices, "driver_found", lambda: False)
    assert gpu_reason().startswith("No NVIDIA driver was found")
    assert "cupy" not in gpu_reason()


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it fails
    monkeypatch.setattr(devices, "driver_found", lambda: True)
    assert gpu_reason() == (
        "The package 'cupy' is needed to run on an NVIDIA GPU: install it with pip install 'pc-engine[gpu]'."
    )


class _RuntimeError(RuntimeError):
    status = 35


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


def test_a_process_that_was_forked_from_one_with_a_gpu_is_told_how_to_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """No driver is missing there, which is what it would be told to install."""
    error = _RuntimeError("cudaErrorInitializationError: initialization error")
    error.status = 3
    monkeypatch.setitem(sys.modules, "cupy", cupy_that(error))
    assert gpu_reason() == not_started("cudaErrorInitializationError: initialization error")
    assert "'spawn' or 'forkserver'" in gpu_reason()


def test_no_gpu_among_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", cupy_that(0))
    assert gpu_reason() == "This machine has no NVIDIA GPU: use --device cpu."


def test_a_gpu_that_is_there_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", cupy_that(1))
    assert gpu_reason() == ""


def test_a_driver_is_found_by_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_DRIVER", "libpc-engine-has-no-such-library.so.1")
    assert not devices.driver_found()
    monkeypatch.setattr(devices, "_DRIVER", None)  # this program itself, which can be loaded for sure
    assert devices.driver_found()


def works() -> dict[str, bool]:
    requirements = gpu_requirements()
    assert all(requirement.reason.endswith(".") for requirement in requirements)
    return {requirement.name: requirement.works for requirement in requirements}


def test_everything_that_is_missing_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "driver_found", lambda: False)
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert works() == {"driver": False, "cupy": False, "nvrtc": False}


def test_cupy_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def version() -> tuple[int, int]:
        raise RuntimeError('Failure finding "libnvrtc.so.13"')

    cupy = SimpleNamespace(__version__="14.2.0", cuda=SimpleNamespace(nvrtc=SimpleNamespace(getVersion=version)))
    monkeypatch.setattr(devices, "driver_found", lambda: True)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert works() == {"driver": True, "cupy": True, "nvrtc": False}
    assert 'Failure finding "libnvrtc.so.13"' in gpu_requirements()[-1].reason
    cupy.cuda.nvrtc.getVersion = lambda: (13, 0)
    assert works() == {"driver": True, "cupy": True, "nvrtc": True}
