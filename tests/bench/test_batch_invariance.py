from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pc_engine.bench.batch_invariance import VARIANTS, Difference, compare_rows, measure
from pc_engine.errors import UsageError
from pc_engine.model import load_model
from pc_engine.pointers import BoxPointer
from pc_engine.result import Result
from pc_engine.sources import iter_images

ROW = Result("a", "ok", None, 200, 100, "p2c", "m", 1, "1", None, 3, "cat", 0.5, (BoxPointer(1, 2, 11, 12, 0.5),))


def test_each_backend_and_variant_is_compared(
    tiny_directory: Path, draw_scene: Callable[..., Image.Image], tmp_path: Path
) -> None:
    for k in range(9):
        draw_scene([(1, 1), (4, 1), (1, 4), (4, 4)][: k % 5]).save(tmp_path / f"{k}.png")
    rows = list(measure(load_model(tiny_directory), list(iter_images([tmp_path])), ["c2p"]))
    runs = {(row["backend"], row["precision"]) for row in rows}
    assert ("onnxruntime", "fp32") in runs
    assert len(rows) == len(runs) * len(VARIANTS)
    for row in rows:
        assert (row["n"], row["failed"]) == (9, 0)
        assert row["from_batches_of_32"]["counts"] == row["from_batches_of_32"]["classes"] == 0


def test_what_differs_is_counted() -> None:
    moved = replace(ROW, pointers=(BoxPointer(1, 2, 11, 14, 0.5),))
    assert compare_rows({"a": moved}, {"a": ROW}) == Difference(counts=0, classes=0, rows=1, shift=2 / 200)
    other = replace(ROW, count=2, class_id=4, pointers=())
    assert compare_rows({"a": other}, {"a": ROW}) == Difference(counts=1, classes=1, rows=1, shift=0.0)
    with pytest.raises(UsageError, match="not of the same images"):
        compare_rows({"b": ROW}, {"a": ROW})
