from __future__ import annotations

import pytest

from pc_engine.cli.run_table import ShownRows, print_run
from pc_engine.result import Result
from pc_engine.sources.passed_over import PassedOver


def printed(paths: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    shown = ShownRows()
    for path in paths:
        shown.add(Result(path, "ok", None, 8, 8, "c2p", "tiny", 1, "1", pointers=()))
    summary = {
        "n": len(paths),
        "failed": 0,
        "counts": {"1": len(paths)},
        "images_per_second": 1.0,
        "seconds": 1.0,
        "model": "tiny",
        "mode": "c2p",
        "backend": "onnxruntime",
        "precision": "fp32",
    }
    print_run(shown, summary, PassedOver(lambda _: True), None, overlay=False)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "paths",
    [
        ["https://h.org/d/a.jpg", "https://h.org/d/b.jpg"],
        ["s3://bucket/x/a.jpg"],
        ["zip://c.png::z/p.zip"],
        ["photos/a.jpg", "tar://b.jpg::photos/s.tar"],
    ],
)
def test_addresses_are_shown_whole(paths: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(paths, capsys)
    for path in paths:
        assert f" {path} " in shown


def test_the_folder_that_photos_share_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(["photos/in/a.jpg", "photos/b.jpg"], capsys)
    assert shown.count("photos") == 1
    assert " in/a.jpg " in shown
    assert " b.jpg " in shown
