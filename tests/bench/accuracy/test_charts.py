from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pc_engine.bench.accuracy import charts
from pc_engine.bench.accuracy.charts import confusion_chart, count_chart, pointing_chart
from pc_engine.bench.accuracy.counting import PUBLISHED, count_accuracy
from pc_engine.bench.accuracy.pointing import PUBLISHED_POINTING, TABLE_RATIOS, pointing_accuracy
from pc_engine.datasets import Box, LabelledImage
from pc_engine.fitted.counter import DEFAULT_LABELS
from pc_engine.pointers import BoxPointer
from pc_engine.result import Result

CHARTS = (count_chart, confusion_chart, pointing_chart)


def figures(*, boxes: bool, pointed: int = 3) -> dict[str, Any]:
    image = LabelledImage(Path("a.png"), 1, boxes=(Box(0, 0, 10, 10),) if boxes else ())
    pointer = BoxPointer(4, 0, 14, 10, 1.0)
    row = Result("a.png", "ok", None, 20, 20, "c2p", "tiny", 1, "1", pointers=(pointer,))
    counts = count_accuracy([1, 2, 2, 5], [1, 2, 1, 4], DEFAULT_LABELS, 0)
    pointing = pointing_accuracy([image] * pointed, [row] * pointed, DEFAULT_LABELS, 0)
    return {**counts.to_dict(), **pointing.to_dict()}


def report(modes: tuple[str, ...], *, boxes: bool = True) -> dict[str, Any]:
    return {
        "data": "blobs",
        "model": "tiny",
        "images": 4,
        "folds": {"k": 5},
        "modes": {mode: figures(boxes=boxes) for mode in modes},
        "published": {
            "count_accuracy": PUBLISHED,
            "pointing": {name: {str(r): table[r] for r in TABLE_RATIOS} for name, table in PUBLISHED_POINTING.items()},
        },
    }


@pytest.mark.parametrize("modes", [("c2p",), ("c2p", "p2c", "combined")])
@pytest.mark.parametrize("boxes", [True, False])
def test_charts_are_pictures_whatever_was_measured(tmp_path: Path, modes: tuple[str, ...], boxes: bool) -> None:
    pytest.importorskip("matplotlib")
    for chart in CHARTS:
        chart(report(modes, boxes=boxes), tmp_path / "new" / "chart.png")
        with Image.open(tmp_path / "new" / "chart.png") as picture:
            assert picture.format == "PNG"
            assert picture.width > 400
            colours = picture.convert("RGB").getcolors(1 << 24)
        assert colours is not None
        assert len(colours) > 20


def test_the_marks_beside_the_curve_say_which_counts_they_are_of(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("matplotlib")
    drawn = []
    monkeypatch.setattr(charts, "save_chart", lambda figure, _: drawn.append(figure))
    pointing_chart(report(("c2p",)), tmp_path / "chart.png")
    shown = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert "P2C (paper), Table 2, mean of 1 to 3" in shown


def test_pointing_of_a_single_image_is_drawn_without_its_interval(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    alone = {**report(("c2p",)), "modes": {"c2p": figures(boxes=True, pointed=1)}}
    pointing_chart(alone, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").exists()
