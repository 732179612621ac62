from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pc_engine.bench.decoding import VARIANTS, enlarged, measure_decoding
from pc_engine.cli import app
from pc_engine.decoding.decode import JPEG_OVERSAMPLING
from pc_engine.engine import Engine
from pc_engine.errors import UsageError


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Three photos of white blobs on black and a file that is none."""
    paths = [tmp_path / f"{k}.jpg" for k in range(3)]
    for k, path in enumerate(paths):
        pixels = np.zeros((96, 128, 3), np.uint8)
        pixels[20:40, 20 : 40 + 10 * k] = 255
        Image.fromarray(pixels).save(path)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"none")
    return [*paths, broken]


def test_every_variant_is_compared_with_the_full_picture(photos: list[Path], tiny_directory: Path) -> None:
    with Engine(tiny_directory, mode="combined", backend="onnxruntime", precision="fp32", batch_size=2) as engine:
        report = measure_decoding(photos, engine).to_dict()
    assert json.loads(json.dumps(report)) == json.loads(json.dumps(report, allow_nan=False))
    assert (report["n"], report["enlarged"], report["in_use"]) == (3, 1, JPEG_OVERSAMPLING)
    assert [row["oversampling"] for row in report["variants"]] == list(VARIANTS)
    assert VARIANTS[0] is None
    assert (report["variants"][0]["same_class"], report["variants"][0]["same_count"]) == (1.0, 1.0)
    assert all(row["ms"] > 0 and 0 <= row["same_count"] <= 1 for row in report["variants"])


def test_a_mode_without_classes_has_none_to_compare(photos: list[Path], tiny_directory: Path) -> None:
    with Engine(tiny_directory, mode="c2p", backend="onnxruntime", precision="fp32") as engine:
        report = measure_decoding(photos, engine)
    assert [row.same_class for row in report.variants] == [None] * len(VARIANTS)


def test_enlarged_photos_exist_for_the_block(photos: list[Path]) -> None:
    with enlarged(photos[:2], 3) as copies:
        assert len(copies) == 2
        for copy in copies:
            with Image.open(copy) as picture:
                assert picture.size == (384, 288)
    assert not any(copy.exists() for copy in copies)
    with enlarged(photos[:2], 1) as same:
        assert same == photos[:2]


def test_photos_are_not_made_larger_than_a_run_reads(photos: list[Path]) -> None:
    for times in (300, 1_000_000):
        with pytest.raises(UsageError, match=r"times larger, .*: lower --enlarge"), enlarged(photos[:1], times):
            pass


def test_the_command_prints_a_row_for_each_variant(photos: list[Path], tiny_directory: Path) -> None:
    arguments = ["bench", "decoding", str(photos[0]), "--model", str(tiny_directory), "--backend", "onnxruntime"]
    done = CliRunner().invoke(app, [*arguments, "--enlarge", "2"])
    assert done.exit_code == 0, done.output
    assert "made 2 times larger" in done.output
    assert done.output.count("x the network's size") == len(VARIANTS) - 1
