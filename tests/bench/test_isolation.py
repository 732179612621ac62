from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pc_engine.bench.isolation import measure_isolation
from pc_engine.bench.photos import photos_of
from pc_engine.bench.throughput import ThroughputSettings
from pc_engine.decoding.isolated_decoder import IsolatedDecoder
from pc_engine.errors import PcEngineError

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
    settings = ThroughputSettings(str(tiny_directory), "c2p", "onnxruntime", "fp32", 2, 1, n=2, repeats=1)
    with photos_of("random:2") as photos, pytest.raises(PcEngineError, match="other pixels than threads"):
        measure_isolation(photos, settings)
