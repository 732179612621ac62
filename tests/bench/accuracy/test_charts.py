from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pc_engine.bench.accuracy import charts
from pc_engine.bench.accuracy.charts import confusion_chart, count_chart, pointing_chart
from pc_engine.bench.accuracy.counting import PUBLISHED, count_accuracy
from pc_engine.bench.accuracy.pointing import PUBLISHED_POINTING, TABLE_RATIOS, pointing_accuracy
from pc_engine.bench.accuracy.truth import Truth
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
    pointing = pointing_accuracy(Truth([image] * pointed), [row] * pointed)
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


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Return ``drawn(chart, report)``: the figure that a chart draws, instead of a file."""
    pytest.importorskip("matplotlib")

    def drawn(chart: Callable[[Any, Path], None], shown: dict[str, Any]) -> Any:
        figures: list[Any] = []
        with monkeypatch.context() as patched:
            patched.setattr(charts, "save_chart", lambda figure, _: figures.append(figure))
            chart(shown, tmp_path / "chart.png")
        (figure,) = figures
        return figure

    return drawn


MODES = [("c2p",), ("c2p", "p2c", "combined")]


@pytest.mark.parametrize("modes", MODES)
def test_bars_are_as_high_as_the_accuracy_of_each_label(drawn: Any, modes: tuple[str, ...]) -> None:
    (axes,) = drawn(count_chart, report(modes)).axes
    found = report(modes)["modes"]["c2p"]["count_accuracy"]
    assert [text.get_text() for text in axes.get_xticklabels()] == [*DEFAULT_LABELS, "mean"]
    bars = [container for container in axes.containers if hasattr(container, "patches")]
    assert [container.get_label() for container in bars] == list(modes)
    # No image shows 0 or 3.
    assert [[patch.get_height() for patch in container] for container in bars] == [
        [found[name] for name in ("1", "2", "4+", "mean")]
    ] * len(modes)
    marks = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert marks["P2C (paper), on SOS"] == [share / 100 for share in PUBLISHED["P2C (paper)"]]


@pytest.mark.parametrize("modes", MODES)
def test_a_matrix_of_each_mode_has_its_images_as_numbers(drawn: Any, modes: tuple[str, ...]) -> None:
    panels = drawn(confusion_chart, report(modes)).axes
    assert [axes.get_title() for axes in panels] == list(modes)
    rows = report(modes)["modes"]["c2p"]["confusion"]["rows_true"]
    for axes in panels:
        assert [text.get_text() for text in axes.texts] == [str(n) for row in rows for n in row]


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("boxes", [True, False])
def test_curves_are_of_the_modes_that_were_asked_to_point(drawn: Any, modes: tuple[str, ...], boxes: bool) -> None:
    shown = report(modes, boxes=boxes)
    for axes, overlap in zip(
        drawn(pointing_chart, shown).axes, ("containment", "intersection_over_union"), strict=True
    ):
        curves = {line.get_label(): list(line.get_ydata()) for line in axes.lines if line.get_label() in modes}
        assert curves == {mode: shown["modes"][mode]["pointing_curve"][overlap][:-1] for mode in modes if boxes}


def test_a_chart_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for chart in CHARTS:
        chart(report(("c2p",)), tmp_path / "new" / "chart.png")
        with Image.open(tmp_path / "new" / "chart.png") as picture:
            assert picture.format == "PNG"


def test_the_marks_beside_the_curve_say_which_counts_they_are_of(drawn: Any) -> None:
    figure = drawn(pointing_chart, report(("c2p",)))
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "P2C (paper), Table 2, mean of 1 to 3" in shown


def test_pointing_of_a_single_image_is_drawn_without_its_interval(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    alone = {**report(("c2p",)), "modes": {"c2p": figures(boxes=True, pointed=1)}}
    pointing_chart(alone, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").exists()
