"""What the acceptance on a GPU writes down, and what it makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pc_engine.bench.gpu.report import (
    JSON_FILE,
    TEXT_FILE,
    Goal,
    Section,
    as_text,
    goals,
    read_sections,
    spread,
    table,
    write_sections,
)
from pc_engine.errors import DataError, UsageError


def reached(sections: dict[str, Section], words: str) -> Goal:
    [goal] = [goal for goal in goals(sections) if words in goal.goal]
    return goal


def network(**values: object) -> dict[str, object]:
    return {"model": "vgg16", "precision": "fp16", "images_per_s": 21_000.0, "share_of_matrix": 0.82, **values}


def test_sections_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = ({"what": "a", "images_per_s": 3.5, "within": True, "reason": None},)
    sections = {
        "network": Section("network", "done", "", 12.5, rows, {"gpu": "NVIDIA H200"}),
        "peers": Section("peers", "skipped", "The package 'torch' is missing."),
    }
    write_sections(tmp_path / "new", sections)
    assert read_sections(tmp_path / "new") == sections
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [JSON_FILE, TEXT_FILE]
    text = (tmp_path / "new" / TEXT_FILE).read_text()
    assert "NVIDIA H200" in text
    assert "peers: skipped, 0 s. The package 'torch' is missing." in text


def test_no_report_is_an_empty_one_and_a_broken_one_is_said(tmp_path: Path) -> None:
    assert read_sections(tmp_path) == {}
    for content in ("{", json.dumps({"parts": {"a": {"nothing": 1}}}), json.dumps([])):
        (tmp_path / JSON_FILE).write_text(content)
        with pytest.raises(DataError, match="not a report of this command"):
            read_sections(tmp_path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_sections(tmp_path / "file" / "below", {})


def test_goals_take_the_fastest_fp16_network() -> None:
    rows = (
        network(images_per_s=30_000.0, share_of_matrix=0.9, precision="int8"),
        network(images_per_s=15_000.0, share_of_matrix=0.6),
        network(),
        {"model": "vgg16", "backend": "onnxruntime", "reason": "not there"},
    )
    sections = {"network": Section("network", rows=rows)}
    rate = reached(sections, "vgg16 fp16 network, images/s")
    assert (rate.reached, rate.met) == (21_000.0, True)
    share = reached(sections, "vgg16 fp16 network, share")
    assert (share.reached, share.met) == (0.82, True)
    assert reached(sections, "vgg19 fp16 network, images/s").met is None


def test_what_follows_the_network_is_put_beside_its_time() -> None:
    modes = Section("modes", rows=({"model": "vgg16", "us_per_image": 1.0}, {"model": "vgg16", "us_per_image": 4.0}))
    sections = {"network": Section("network", rows=(network(images_per_s=10_000.0),)), "modes": modes}
    goal = reached(sections, "vgg16, slowest mode")
    assert goal.reached == pytest.approx(0.04)
    assert goal.met is True
    assert reached({"modes": modes}, "vgg16, slowest mode").met is None


def test_goals_take_the_worst_of_runs_counts_and_copies() -> None:
    sections = {
        "run": Section("run", rows=({"model": "vgg16", "ratio": 0.9}, {"model": "vgg16", "ratio": 0.7})),
        "parity": Section(
            "parity",
            rows=(
                {"precision": "fp32", "same_counts": 1.0},
                {"precision": "fp16", "same_counts": 0.99},
                {"precision": "int8", "same_counts": 0.5},
                {"precision": "fp16", "difference": 0.1},
            ),
        ),
        "traffic": Section(
            "traffic",
            rows=(
                {"direction": "device to host", "copies_per_batch": 1.0},
                {"direction": "device to host", "copies_per_batch": 2.0},
                {"direction": "host to device", "copies_per_batch": 9.0},
            ),
        ),
    }
    assert reached(sections, "vgg16 files to results").reached == 0.7
    assert reached(sections, "fp32 count").reached == 0.99
    assert reached(sections, "copies from device").reached == 2.0
    assert not any(goal.met for goal in goals(sections))


def test_exactly_one_copy_a_batch_is_what_is_wanted() -> None:
    for copies, met in ((0.0, False), (1.0, True), (1.125, False)):
        rows = ({"direction": "device to host", "copies_per_batch": copies},)
        assert reached({"traffic": Section("traffic", rows=rows)}, "copies from device").met is met


def test_tables_have_every_column_that_occurs_and_numbers_to_the_right() -> None:
    lines = table([{"what": "a", "rate": 12345.678}, {"what": "long name", "within": False}]).splitlines()
    assert lines[0].split() == ["what", "rate", "within"]
    assert lines[2].split() == ["a", "12,345.7", "-"]
    assert lines[3].split() == ["long", "name", "-", "NO"]
    assert table([]).strip() == "nothing"


def test_text_names_what_was_not_measured() -> None:
    assert as_text({}).count("not measured") == len(goals({}))


def test_spread_is_relative_to_the_median() -> None:
    assert spread([9.0, 10.0, 12.0]) == pytest.approx(0.3)
