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
    asked: dict[str, list[Any]] = {"decoder": [], "decode": [], "flags": []}

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
    device = SimpleNamespace(use=lambda: None)
    cupy.cuda = SimpleNamespace(Device=lambda _: device, Stream=lambda non_blocking: stream)
    for name, module in (("cupy", cupy), ("nvidia", package), ("nvidia.nvimgcodec", library)):
        monkeypatch.setitem(sys.modules, name, module)
    driver = SimpleNamespace(
        cuInit=lambda _: 0,
        cuDeviceGet=lambda device, index: 0,
        cuDevicePrimaryCtxSetFlags_v2=lambda device, flags: asked["flags"].append(flags) or 0,
    )
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
        assert codec["flags"] == ([4] if way.sleeps else [])
        (files, first), (_, second) = codec["decode"]
        assert (files[0] == ("parsed", b"one")) == way.parsed
        assert (first, second) == (None, ["picture 1", "picture 1"] if way.reuses else None)


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
