"""Rows to convert, made by hand and at random."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from pc_engine.converters import Conversion, ConversionSettings, convert
from pc_engine.pointers import BoxPointer, EllipsePointer, Pointer
from pc_engine.result import Result, error_result
from pc_engine.runs.writers import PartitionWriter

CLASSES = {3: "goldfish, Carassius auratus", 7: "crane", 9: "crane", 12: 'bell "cote" & <co>'}


@pytest.fixture(scope="session")
def make_row() -> Callable[..., dict[str, Any]]:
    """Return ``make(path, *pointers, size=(w, h), class_id=None)``, the row of an image with these pointers."""

    def make(
        path: str, *pointers: Pointer, size: tuple[int, int] = (64, 48), class_id: int | None = None, **columns: Any
    ) -> dict[str, Any]:
        result = Result(
            path=path,
            status="ok",
            error=None,
            width=size[0],
            height=size[1],
            mode="c2p" if class_id is None else "p2c",
            model="tiny",
            count=len(pointers),
            count_label=str(len(pointers)),
            class_id=class_id,
            class_name=None if class_id is None else CLASSES[class_id],
            class_score=None if class_id is None else 0.75,
            pointers=pointers,
        )
        return {**result.to_dict(), **columns}

    return make


@pytest.fixture(scope="session")
def write_rows() -> Callable[[Path, Iterable[dict[str, Any]]], Path]:
    """Return ``write(directory, rows)``, which makes a run directory of them."""

    def write(directory: Path, rows: Iterable[dict[str, Any]]) -> Path:
        directory.mkdir()
        with PartitionWriter(directory, "jsonl") as writer:
            for row in rows:
                writer.write(Result.from_dict(row))
        return directory

    return write


@pytest.fixture(scope="session")
def failed_row() -> dict[str, Any]:
    return error_result("photos/broken.jpg", "It is broken.", mode="c2p", model="tiny").to_dict()


@pytest.fixture(scope="session")
def save() -> Callable[..., Conversion]:
    """Return ``save(rows, to, out, fresh=False, **settings)``, which converts a list of rows."""

    def save(rows: Iterable[dict[str, Any]], to: str, out: Path, *, fresh: bool = False, **settings: Any) -> Conversion:
        return convert(lambda: iter(rows), to, out, ConversionSettings(**settings), fresh=fresh)

    return save


@pytest.fixture(scope="session")
def two_modes(make_row: Callable[..., dict[str, Any]], failed_row: dict[str, Any]) -> SimpleNamespace:
    """Rows of a run with ellipses and of one with boxes, each with an empty picture and one that failed."""
    first, second = EllipsePointer(20.25, 10.5, 5, 4, 0.75), EllipsePointer(50, 40, 30, 2.5, 0.25)
    ellipses = [make_row("photos/a.jpg", first, second), make_row("photos/b/a.jpg"), failed_row]
    boxes = [
        make_row("photos/a.jpg", BoxPointer(0, 1, 15.5, 20.25, 0.6), BoxPointer(30, 30, 64, 48, 0.4), class_id=3),
        make_row("photos/b/a.jpg", class_id=7),
        make_row("photos/b/c.png", BoxPointer(1, 2, 3, 4, 1.0), class_id=12, size=(4, 5)),
        failed_row,
    ]
    return SimpleNamespace(ellipses=ellipses, boxes=boxes)


def _pointer(draw: st.DrawFn, kind: str, width: int, height: int) -> Pointer:
    def within(low: float, high: float) -> float:
        return draw(st.floats(low, high, width=32))

    score = draw(st.floats(0, 1, width=32))
    if kind == "ellipse":
        return EllipsePointer(within(0, width), within(0, height), within(0, width), within(0, height), score)
    x, y = sorted((within(0, width), within(0, width))), sorted((within(0, height), within(0, height)))
    return BoxPointer(x[0], y[0], x[1], y[1], score)


@pytest.fixture(scope="session")
def random_rows(make_row: Callable[..., dict[str, Any]]) -> Callable[..., st.SearchStrategy[list[dict[str, Any]]]]:
    """Return ``strategy(kind, longest=6000)`` of the rows of a run with one kind of pointers; ``longest`` in pixels."""

    def strategy(kind: str, longest: int = 6000) -> st.SearchStrategy[list[dict[str, Any]]]:
        @st.composite
        def rows(draw: st.DrawFn) -> list[dict[str, Any]]:
            made = []
            for number in range(draw(st.integers(1, 3))):
                size = (draw(st.integers(1, longest)), draw(st.integers(1, longest)))
                pointers = [_pointer(draw, kind, *size) for _ in range(draw(st.integers(0, 4)))]
                class_id = None if kind == "ellipse" else draw(st.sampled_from(sorted(CLASSES)))
                made.append(make_row(f"photos/{number}.png", *pointers, size=size, class_id=class_id))
            return made

        return rows()

    return strategy


@pytest.fixture(scope="session")
def draw_photos() -> Callable[[Path, Iterable[dict[str, Any]]], Path]:
    """Return ``draw(folder, rows)``, which writes black pictures of the rows' sizes below ``folder / "photos"``."""

    def draw(folder: Path, rows: Iterable[dict[str, Any]]) -> Path:
        for row in rows:
            if row["status"] == "ok":
                path = folder / row["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("1", (row["width"], row["height"])).save(path)
        return folder / "photos"

    return draw


@pytest.fixture(scope="session")
def corners() -> Callable[[dict[str, Any]], np.ndarray]:
    """Return ``corners(row)``: the boxes (K, 4) around its pointers, within the picture."""

    def corners(row: dict[str, Any]) -> np.ndarray:
        boxes = [
            (p["x0"], p["y0"], p["x1"], p["y1"])
            if p["kind"] == "box"
            else (p["x"] - p["rx"], p["y"] - p["ry"], p["x"] + p["rx"], p["y"] + p["ry"])
            for p in row["pointers"]
        ]
        return np.array(boxes).reshape(-1, 4).clip(0, [row["width"], row["height"]] * 2)

    return corners


@pytest.fixture(scope="session")
def label() -> Callable[[dict[str, Any], list[dict[str, Any]]], str]:
    """Return ``label(row, rows)``: what the objects of a row are called among all rows."""

    def label(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
        if row["class_id"] is None:
            return "object"
        same = {other["class_id"] for other in rows if other["class_name"] == row["class_name"]}
        return row["class_name"] if len(same) == 1 else f"{row['class_name']} ({row['class_id']})"

    return label
