from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pc_engine.backbone import PRECISIONS
from pc_engine.bench import sweep
from pc_engine.bench.sweep import sweep_throughput
from pc_engine.bench.throughput import ThroughputSettings
from pc_engine.selection.execution import Execution

pytestmark = pytest.mark.usefixtures("peak_measured_once")


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{k}.jpg" for k in range(4)]
    for k, path in enumerate(paths):
        Image.new("RGB", (70, 60), (60 * k,) * 3).save(path)
    return paths


@pytest.fixture
def settings(tiny_directory: Path) -> ThroughputSettings:
    return ThroughputSettings(str(tiny_directory), execution=Execution("onnxruntime"), workers=1, n=4, repeats=1)


def test_it_goes_through_what_is_left_open(photos: list[Path], settings: ThroughputSettings) -> None:
    rows = sweep_throughput(photos, replace(settings, execution=Execution("onnxruntime", "fp32")))
    assert [(row["precision"], row["batch_size"], row["workers"]) for row in rows] == [
        ("fp32", size, 1) for size in sweep._BATCH_SIZES
    ]
    assert all(row["ratio"] == row["end_to_end_ips"] / row["network_ips"] for row in rows)


def test_what_fails_keeps_its_row(photos: list[Path], settings: ThroughputSettings) -> None:
    # ONNX Runtime runs no bf16 on a CPU.
    execution = Execution("onnxruntime", "bf16", batch_size=4)
    (failed,) = sweep_throughput(photos, replace(settings, execution=execution))
    assert "bf16" in failed["error"]
    assert failed["batch_size"] == 4


def test_it_takes_the_precisions_that_run_here() -> None:
    native = sweep._native_precisions(Execution(device="cpu"))
    assert native[0] == "fp32"
    assert set(native) <= set(PRECISIONS)
    assert "fp32" in sweep._native_precisions(Execution("onnxruntime", device="cpu"))
