from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pc_engine.bench.isolation import measure_isolation
from pc_engine.bench.photos import photos_of
from pc_engine.bench.throughput import ThroughputSettings
from pc_engine.decoding.isolated_decoder import IsolatedDecoder
from pc_engine.errors import PcEngineError
from pc_engine.selection.execution import Execution

FAST = Execution("onnxruntime", "fp32", batch_size=2)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def test_nothing_is_timed_where_processes_give_other_rows(
    tiny_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = IsolatedDecoder.decode

    def other(self: IsolatedDecoder, *arguments: Any) -> Any:
        image = original(self, *arguments)
        image.pixels[:] = 255
        return image

    monkeypatch.setattr(IsolatedDecoder, "decode", other)
    settings = ThroughputSettings(str(tiny_directory), execution=FAST, workers=1, n=2, repeats=1)
    with (
        photos_of("random:2") as photos,
        pytest.raises(PcEngineError, match="pixels that differ from those of threads"),
    ):
        measure_isolation(photos, settings)


def test_the_cpu_is_taken_where_there_is_a_gpu(
    make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def choose(execution: Execution, *_: Any) -> str:
        asked.append(execution.device)
        return "cpu"

    monkeypatch.setattr("pc_engine.networks.choose_device", choose)
    # Once to balance a random counter, once to measure.
    bare = make_model(tmp_path / "bare", counter=None)
    settings = ThroughputSettings(str(bare), execution=FAST, workers=1, n=2, repeats=1)
    with photos_of("random:2") as photos:
        measure_isolation(photos, settings)
    assert asked == ["cpu", "cpu"]
