from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pc_engine.pointers import BoxPointer, pointer_row
from pc_engine.report.figures import FigureCollector, run_facts
from pc_engine.result import Result, error_result
from pc_engine.runs.run_state import lock_run


def counted(count: int, label: str | None = None, **values: Any) -> dict[str, Any]:
    label = label or str(count)
    scores = {values.get("count_label_found", label): 1.0}
    result = Result(f"{count}.jpg", "ok", None, 9, 9, values.pop("mode", "c2p"), "tiny", count, label, scores)
    return {**result.to_dict(), **values}


def failed(path: str, error: str) -> dict[str, Any]:
    return error_result(path, error, mode="c2p", model="tiny").to_dict()


def figures(*rows: dict[str, Any]) -> dict[str, Any]:
    collector = FigureCollector()
    for row in rows:
        collector.add(row)
    return collector.figures({})


def test_the_histogram_has_every_count_up_to_the_largest_and_an_open_bar() -> None:
    reviewed = counted(4, "4", reviewed=True, count_found=4, count_label_found="4+")
    found = figures(counted(0), counted(2), counted(2), counted(4, "4+"), reviewed)
    assert [(bar["label"], bar["n"]) for bar in found["counts"]] == [
        *(("0", 1), ("1", 0), ("2", 2), ("3", 0), ("4", 1), ("4+", 1))
    ]
    assert (found["images"], found["failed"], found["reviewed"]) == (5, 0, 1)


def test_how_often_the_run_was_right_is_known_of_what_was_reviewed() -> None:
    found = figures(
        counted(3, reviewed=True, count_found=3, count_label_found="3"),
        counted(3, reviewed=True, count_found=2, count_label_found="2"),
        # "At least 4" is right.
        counted(6, "4+", reviewed=True, count_found=4, count_label_found="4+"),
        counted(2),
    )
    assert (found["reviewed"], found["right"]) == (3, 2)


def test_a_count_that_c2p_was_told_is_no_open_bar() -> None:
    found = figures(*(counted(n, "4+", count_scores=None) for n in (4, 6, 6)))
    assert [(bar["label"], bar["n"]) for bar in found["counts"] if bar["n"]] == [("4", 1), ("6", 2)]


def test_in_a_mode_that_counts_on_no_bar_is_open() -> None:
    found = figures(counted(5, "4+", mode="p2c"), counted(1, mode="p2c"))
    assert [bar["label"] for bar in found["counts"] if bar["n"]] == ["1", "5"]


def test_large_counts_share_the_last_bar() -> None:
    found = figures(counted(1), *(counted(n, "4+", mode="p2c") for n in (30, 900)))
    assert len(found["counts"]) == 25
    assert found["counts"][-1] == {"label": "24 or more", "from": 24, "to": None, "n": 2}


def test_an_image_of_several_classes_is_one_of_each() -> None:
    """As the filter by class shows it."""
    boxes = [BoxPointer(0.0, 0.0, 9.0, 9.0, 0.5, class_id=k, class_name=name) for k, name in ((3, "fish"), (7, "cat"))]
    of_both = [pointer_row(box) for box in (*boxes, boxes[1])]
    fish = {"class_id": 3, "class_name": "fish"}
    found = figures(counted(1, **fish, pointers=of_both[:1]), counted(3, **fish, pointers=of_both))
    assert found["classes"] == [{"name": "fish", "n": 2}, {"name": "cat", "n": 1}]


def test_failures_that_differ_in_numbers_only_are_one_reason() -> None:
    found = figures(
        *(failed(f"{n}.jpg", f"It has {n},000 x 20 pixels.") for n in range(5)), failed("e.jpg", "The file is empty.")
    )
    first, second = found["failures"]
    assert (first["n"], first["reason"], len(first["examples"])) == (5, "It has 0,000 x 20 pixels.", 3)
    assert second == {
        "reason": "The file is empty.",
        "n": 1,
        "examples": [{"path": "e.jpg", "error": "The file is empty."}],
    }
    assert found["counts"] == []


def test_reasons_beyond_the_shown_ones_are_summed() -> None:
    found = figures(*(failed("a.jpg", "x" * n) for n in range(1, 41)))
    assert len(found["failures"]) == 31
    assert found["failures"][-1]["n"] == 10


def test_classes_are_ranked() -> None:
    rows = [counted(1, class_name=f"class {n % 25}", class_id=n % 25) for n in range(60)]
    found = figures(*rows)
    assert len(found["classes"]) == 20
    assert found["classes"][0]["n"] == 3
    assert found["other_classes"] == 5


def test_nothing_is_known_of_a_run_without_rows() -> None:
    assert figures()["images"] == 0


def test_facts_of_shards_are_put_together(tmp_path: Path) -> None:
    assert run_facts(tmp_path) == {}
    for shard, state in ((0, "finished"), (1, "running")):
        facts = {
            "backend": "openvino",
            "state": state,
            "total": 10,
            "seconds": 2.0 + shard,
            "images_per_second": 5.5,
            "stages": {"decode": 1.0, "network": 1.5},
        }
        (tmp_path / f"run-{shard}-of-2.json").write_text(json.dumps(facts))
    assert run_facts(tmp_path) == {
        "backend": "openvino",
        "precision": None,
        "device": None,
        "state": "interrupted",
        "total": 20,
        "seconds": 3.0,
        "images_per_second": 11.0,
        "stages": {"decode": 2.0, "network": 3.0},
    }


def test_a_run_is_going_on_only_while_a_process_writes_it(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"state": "running", "total": 9}')
    lock = lock_run(tmp_path)
    try:
        assert run_facts(tmp_path)["state"] == "running"
    finally:
        lock.release()
    assert run_facts(tmp_path)["state"] == "interrupted"  # it was killed


def test_a_total_that_cannot_be_right_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "run-1-of-2.json").write_text('{"state": "finished", "shard": [1, 2], "total": 9}')
    facts = run_facts(tmp_path)
    assert (facts["state"], facts["total"]) == ("interrupted", None)
    assert figures(counted(1))["total"] is None
    collector = FigureCollector()
    for n in range(3):
        collector.add(counted(n))
    assert collector.figures({"total": 3})["total"] == 3
    assert collector.figures({"total": 2})["total"] is None


def test_odd_values_of_a_run_file_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"seconds": NaN, "images_per_second": "many", "stages": {"decode": Infinity}}')
    facts = run_facts(tmp_path)
    assert (facts["images_per_second"], facts["total"], facts["stages"]) == (None, None, {})
    json.dumps(facts, allow_nan=False)
    stages = {"decode": 2, "net\ud800work": 1}
    odd = {"backend": "\ud800", "precision": float("nan"), "device": ["cpu"], "total": -1, "stages": stages}
    (tmp_path / "run.json").write_text(json.dumps(odd))
    facts = run_facts(tmp_path)
    assert (facts["backend"], facts["precision"], facts["device"], facts["total"]) == ("\\ud800", None, None, None)
    assert facts["stages"] == {"decode": 2, "net\\ud800work": 1}
    json.dumps(facts, allow_nan=False, ensure_ascii=False).encode()
    (tmp_path / "run.json").write_text("{")
    assert run_facts(tmp_path) == {}
