"""Ways to decode on a GPU, on a pretended one: what each asks for, and what a failure costs."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pc_engine.bench.gpu import decoding_ways
from pc_engine.bench.gpu.decoding_ways import WAYS, Way, decoding_rate, ways_rows
from pc_engine.errors import BackendError


@pytest.fixture
def codec(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What nvImageCodec and CUDA were asked for, in order."""
    asked: dict[str, list[Any]] = {"decoder": [], "decode": [], "cuda": []}

    class Decoder:
        def __init__(self, **settings: Any) -> None:
            asked["decoder"].append(settings)

        def decode(self, files: list[Any], **options: Any) -> list[Any]:
            asked["decode"].append((files, options["images"]))
            return [None if file == b"bad" else f"picture {len(asked['decode'])}" for file in files]

    library: Any = ModuleType("nvidia.nvimgcodec")
    library.Decoder, library.CodeStream = Decoder, lambda data: ("parsed", data)
    library.DecodeParams = library.ColorSpec = SimpleNamespace(SRGB=None)
    library.DecodeParams = lambda **_: None
    package: Any = ModuleType("nvidia")
    package.nvimgcodec = library
    cupy: Any = ModuleType("cupy")
    stream = SimpleNamespace(ptr=7, synchronize=lambda: None)
    device = SimpleNamespace(use=lambda: asked["cuda"].append("used"))
    cupy.cuda = SimpleNamespace(Device=lambda _: device, Stream=lambda non_blocking: stream)
    for name, module in (("cupy", cupy), ("nvidia", package), ("nvidia.nvimgcodec", library)):
        monkeypatch.setitem(sys.modules, name, module)
    flags = [0]

    def set_flags(device: Any, given: int) -> int:
        flags[0] = given
        asked["cuda"].append(given)
        return 0

    def get_state(device: Any, found: Any, active: Any) -> int:
        found._obj.value, active._obj.value = flags[0], 1
        return 0

    driver = SimpleNamespace(
        cuInit=lambda _: 0,
        cuDeviceGet=lambda device, index: 0,
        cuDevicePrimaryCtxSetFlags_v2=set_flags,
        cuDevicePrimaryCtxRetain=lambda context, device: asked["cuda"].append("made") or 0,
        cuDevicePrimaryCtxGetState=get_state,
    )
    monkeypatch.setattr(decoding_ways, "keep_memory_of_pictures", lambda: asked["cuda"].append("kept"))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: driver)
    monkeypatch.setattr(decoding_ways, "wall_rate", lambda work: (float(work() + work()), [1.0, 1.0]))
    return asked


def test_each_way_asks_for_what_it_says(codec: dict[str, list[Any]]) -> None:
    for way in WAYS:
        for asked in codec.values():
            asked.clear()
        assert decoding_rate(way, 0, [b"one", b"two"]) == {"images_per_s": 4.0, "spread": 0.0}
        [settings] = codec["decoder"]
        assert settings["options"].split() == [":fancy_upsampling=1", *way.options.split()]
        assert settings["max_num_cpu_threads"] == way.threads or not way.threads
        # Ahead of all use, which would make the context without; and memory is kept as in a run.
        assert codec["cuda"] == [*([4, "made"] if way.sleeps else []), "used", "kept"]
        (files, first), (_, second) = codec["decode"]
        assert (files[0] == ("parsed", b"one")) == way.parsed
        assert (first, second) == (None, ["picture 1", "picture 1"] if way.reuses else None)


def test_threads_that_do_not_sleep_after_all_are_no_rate(
    codec: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes.CDLL(""), "cuDevicePrimaryCtxSetFlags_v2", lambda device, flags: 0)
    with pytest.raises(BackendError, match="told otherwise"):
        decoding_rate(Way("any", sleeps=True), 0, [b"one"])
    monkeypatch.setattr(ctypes.CDLL(""), "cuDevicePrimaryCtxRetain", lambda context, device: 2)
    with pytest.raises(BackendError, match=r"\(error 2\)"):
        decoding_rate(Way("any", sleeps=True), 0, [b"one"])


def test_files_that_are_refused_are_no_rate(codec: dict[str, list[Any]]) -> None:
    with pytest.raises(BackendError, match="refused some"):
        decoding_rate(Way("any"), 0, [b"one", b"bad"])


def test_a_way_that_fails_costs_its_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers = iter([SimpleNamespace(returncode=1, stderr="Traceback\nRuntimeError: no such option\n", stdout="")])

    def run(command: list[str], **options: Any) -> Any:
        assert command[1:] == ["-m", "pc_engine.bench.gpu.decoding_ways"]
        return next(answers, SimpleNamespace(returncode=0, stderr="", stdout='noise\n{"images_per_s": 5.0}\n'))

    monkeypatch.setattr(subprocess, "run", run)
    first, *others = ways_rows("cuda:0", [tmp_path / "a.jpg"])
    assert first["reason"] == "RuntimeError: no such option"
    assert [row["images_per_s"] for row in others] == [5.0] * (len(WAYS) - 1)
    assert first["batch"] == 1
