from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pc_engine.bench.accuracy.failure_charts import failure_charts


def entry(above: float | None, up_to: float | None, images: int, pointing: float | None = 0.5) -> dict[str, Any]:
    figures: dict[str, Any] = {"above": above, "up_to": up_to, "images": images, "pointing_images": images // 2}
    for name, value in (("right", 0.6), ("too_low", 0.3), ("too_high", 0.1), ("pointing", pointing)):
        known = value is not None
        figures |= {name: value, f"{name}_interval": [0.1, 0.7] if known else None, f"{name}_expected": value}
    return figures


def report(**axes: list[dict[str, Any]]) -> dict[str, Any]:
    analysis = {name: {"bins": axes.get(name, [])} for name in ("scale", "spacing", "class_frequency")}
    return {
        "model": "tiny",
        "data": "blobs",
        "images": 99,
        "folds": None,
        "modes": {mode: {"failure_analysis": analysis} for mode in ("c2p", "p2c", "combined")},
    }


def test_each_curve_that_was_measured_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = failure_charts(
        report(
            scale=[entry(0.1, 0.2, 30), entry(0.2, 0.3, 12, None), entry(0.3, 0.4, 50)],
            spacing=[entry(None, 0.0, 40), entry(2.0, None, 9)],  # too few in one of two
            class_frequency=[entry(None, 0.0, 40), entry(0.05, 0.1, 40)],
        ),
        tmp_path / "new",
    )
    assert [path.name for path in drawn] == ["failures-scale.png", "failures-class-frequency.png"]
    for path in drawn:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            colours = picture.convert("RGB").getcolors(1 << 24)
        assert colours is not None
        assert len(colours) > 20


def test_nothing_measured_draws_nothing(tmp_path: Path) -> None:
    assert failure_charts(report(), tmp_path) == []
    assert list(tmp_path.iterdir()) == []
