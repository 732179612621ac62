"""How time is taken on a GPU, on a pretended one: in which order things are queued, and what a failure costs."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pc_engine.bench.gpu import device as gpu_device
from pc_engine.bench.gpu.device import CudaMeter, matrix_rates, torch_reaches
from pc_engine.errors import DeviceLostError


class Result:
    """What a kernel returns."""


class PretendedCupy:
    """What `CudaMeter` calls of CuPy; ``queued`` has it in its order, ``seconds`` is what stretches take."""

    def __init__(self, seconds: float) -> None:
        self.queued: list[str] = []
        self.seconds = seconds

    def module(self) -> ModuleType:
        module: Any = ModuleType("cupy")
        event = SimpleNamespace(record=lambda: self.queued.append("event"), synchronize=lambda: None)
        module.cuda = SimpleNamespace(
            Device=lambda _=0: SimpleNamespace(use=lambda: None),
            Event=lambda: event,
            get_elapsed_time=lambda start, end: 1e3 * self.seconds,
            runtime=SimpleNamespace(deviceGetPCIBusId=lambda index: f"0000:{index + 5:02}:00.0"),
        )
        module.RawKernel = lambda source, name: lambda *_: self.queued.append(name)
        module.get_default_memory_pool = lambda: SimpleNamespace(free_all_blocks=lambda: None)
        return module

    def stretches(self) -> list[list[str]]:
        """What was queued up to each second event."""
        found, last = [], 0
        ends = [k for k, what in enumerate(self.queued) if what == "event"][1::2]
        for end in ends:
            found.append(self.queued[last : end + 1])
            last = end + 1
        return found


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> PretendedCupy:
    pretended = PretendedCupy(seconds=1e-3)
    monkeypatch.setitem(sys.modules, "cupy", pretended.module())
    return pretended


def test_short_kernels_wait_until_all_are_queued(cupy: PretendedCupy) -> None:
    """Else the first is over before the second is started, and the host's rate is what is measured."""
    CudaMeter("cuda:0").seconds(lambda: cupy.queued.append("work"), queued=True)
    *_, last = cupy.stretches()
    calls = last.count("work")
    assert 1 < calls <= 64
    assert last == ["wait_for_the_host", "event", *["work"] * calls, "event"]


def test_results_of_short_kernels_are_not_kept(cupy: PretendedCupy) -> None:
    """64 of a convolution's would fill a card, and the host would be timed while it asks for their memory."""
    alive: weakref.WeakSet[Result] = weakref.WeakSet()
    most = 0

    def work() -> Result:
        nonlocal most
        result = Result()
        alive.add(result)
        most = max(most, len(alive))
        return result

    CudaMeter("cuda:0").seconds(work, queued=True)
    assert most <= 2


def test_others_start_at_once_and_as_often_as_takes_a_while(cupy: PretendedCupy) -> None:
    meter = CudaMeter("cuda:0")
    for least, calls in ((0.2, 28), (2.0, 285)):
        meter.seconds(lambda: cupy.queued.append("work"), least=least)
        assert cupy.stretches()[-1] == ["event", *["work"] * calls, "event"]
    assert "wait_for_the_host" not in cupy.queued


def test_what_waits_is_a_kernel() -> None:
    core = pytest.importorskip("cuda.core")
    program = core.Program(gpu_device._WAIT, "c++", core.ProgramOptions(std="c++17", arch="sm_90"))
    assert program.compile("cubin").code


def test_a_sample_that_cannot_be_made_costs_its_row(host_meter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    make = torch.randint

    def no_memory(*sizes: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "randint", no_memory)
    rows = {row["precision"]: row for row in matrix_rates(host_meter, 64)}
    assert rows["int8"]["reason"] == "OutOfMemoryError: CUDA out of memory."
    assert list(rows) == ["fp32", "fp16", "bf16", "int8", "fp8"]
    monkeypatch.setattr(torch, "randint", make)
    monkeypatch.delattr(torch, "float8_e4m3fn")
    assert "float8_e4m3fn" in {row["precision"]: row for row in matrix_rates(host_meter, 64)}["fp8"]["reason"]


def test_a_product_that_is_called_otherwise_costs_its_row(host_meter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's products of 8 bits are none of its public functions: what they are given may change."""
    torch = pytest.importorskip("torch")

    def refuse(*_: Any, **__: Any) -> Any:
        raise ValueError("scale_a must be of another shape")

    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    rows = {row["precision"]: row for row in matrix_rates(host_meter, 64)}
    assert rows["fp8"]["reason"] == "ValueError: scale_a must be of another shape"
    assert rows["fp32"]["tera_ops"] > 0


def test_a_gpu_that_is_lost_meanwhile_is_no_row(host_meter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class CUDARuntimeError(RuntimeError):
        status = 700

    def lose(_: object, **__: object) -> float:
        raise CUDARuntimeError("cudaErrorIllegalAddress")

    monkeypatch.setattr(host_meter, "seconds", lose)
    with pytest.raises(DeviceLostError):
        list(matrix_rates(host_meter, 8))


def test_a_pytorch_for_the_cpu_alone_leaves_the_products_to_cupy(
    host_meter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the development extra brings it from some indexes: it says so by an AssertionError."""
    torch = pytest.importorskip("torch")

    def empty(*_: Any, device: str) -> Any:
        if device.startswith("cuda"):
            raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(torch, "empty", empty)
    assert (torch_reaches("cpu"), torch_reaches("cuda:0")) == (True, False)
    monkeypatch.setattr(host_meter, "name", "cuda:0", raising=False)
    rows = list(matrix_rates(host_meter, 8))
    assert [row["precision"] for row in rows] == ["fp32", "fp16"]
    assert all(row["tera_ops"] > 0 for row in rows)


def test_no_memory_for_a_product_of_cupy_costs_its_row(host_meter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(array: Any) -> Any:
        raise MemoryError("Out of memory allocating 268,435,456 bytes")  # CuPy's error is one

    monkeypatch.setattr(host_meter, "place", no_memory)
    monkeypatch.setattr(gpu_device, "is_installed", lambda _: False)
    assert ["Out of memory" in row["reason"] for row in matrix_rates(host_meter, 8)] == [True, True]


def test_products_take_as_long_as_networks_do(host_meter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under its power limit a card slows down, and a share of a rate before that would be too small."""
    taken: list[float] = []

    def seconds(work: Callable[[], object], *, least: float = 0.2, queued: bool = False) -> float:
        taken.append(least)
        return 1.0

    monkeypatch.setattr(host_meter, "seconds", seconds)
    monkeypatch.setattr(gpu_device, "is_installed", lambda _: False)
    list(matrix_rates(host_meter, 8))
    assert taken == [2.0, 2.0]


def test_nvidia_smi_is_asked_for_the_card_that_cuda_means(cupy: PretendedCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        asked.append(command)
        return SimpleNamespace(stdout="NVIDIA H200, 580\n")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("shutil.which", lambda name: name)
    assert "NVIDIA H200, 580" in (gpu_device._nvidia_smi("cuda:1") or "")
    assert asked[0][-1] == "--id=0000:06:00.0"
