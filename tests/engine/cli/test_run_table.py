from __future__ import annotations

from dataclasses import replace

import pytest

from pc_engine.cli.run_options import DiskOptions
from pc_engine.cli.run_table import ShownRows, print_run
from pc_engine.result import Result, error_result
from pc_engine.sources.passed_over import PassedOver

NOT_KEPT = DiskOptions(out=None, row_format=None, overlay=False, fresh=False, retry_failed=False, shard=None)


def printed(paths: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    return printed_rows([Result(path, "ok", None, 8, 8, "c2p", "tiny", 1, "1", pointers=()) for path in paths], capsys)


def printed_rows(rows: list[Result], capsys: pytest.CaptureFixture[str], *, stopped: bool = False) -> str:
    shown = ShownRows()
    for row in rows:
        shown.add(row)
    summary = {
        "n": len(rows),
        "failed": 0,
        "counts": {"1": len(rows)},
        "images_per_second": 1.0,
        "seconds": 1.0,
        "model": "tiny",
        "mode": "c2p",
        "backend": "onnxruntime",
        "precision": "fp32",
    }
    print_run(shown, summary, PassedOver(lambda _: True), NOT_KEPT, stopped=stopped)
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


def test_classes_have_a_column_where_a_row_has_one(capsys: pytest.CaptureFixture[str]) -> None:
    counted = Result("a.png", "ok", None, 8, 8, "c2p", "tiny", 1, "1", pointers=())
    failed = error_result("b.png", "It is damaged.", mode="c2p", model="tiny")
    without = printed_rows([counted, failed], capsys)
    assert "class" not in without
    assert "failed: It is damaged." in without
    named = Result("c.png", "ok", None, 8, 8, "p2c", "tiny", 1, "1", class_name="red", class_score=0.9, pointers=())
    many = printed_rows([replace(named, class_name="cheetah, chetah, Acinonyx jubatus")], capsys)
    assert "cheetah, ... (90%)" in many
    shown = printed_rows([counted, failed, named], capsys)
    assert "class" in shown
    assert "red (90%)" in shown


def test_a_run_that_was_stopped_before_its_first_image_does_not_say_that_there_are_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert printed_rows([], capsys).startswith("No images were found")
    assert printed_rows([], capsys, stopped=True) == ""
