from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pc_engine.bench.accuracy.shared_failures import shared_failures
from pc_engine.bench.accuracy.truth import Truth
from pc_engine.datasets import LabelledImage
from pc_engine.result import Result, error_result


def rows_of(counts: list[int | None]) -> list[Result]:
    return [
        error_result(f"{place}.png", "no picture", mode="c2p", model="tiny")
        if count is None
        else Result(f"{place}.png", "ok", None, 8, 8, "c2p", "tiny", count, str(count))
        for place, count in enumerate(counts)
    ]


def shared(true: list[int], **found: list[int | None]) -> list[dict[str, Any]]:
    truth = Truth([LabelledImage(Path(f"{place}.png"), count) for place, count in enumerate(true)])
    return shared_failures(truth, {mode: rows_of(counts) for mode, counts in found.items()})


def test_what_all_modes_count_wrong_beside_what_independent_ones_would() -> None:
    true = [1, 1, 1, 1, 2, 2, 4]
    first = [2, 2, 1, 1, 2, 3, 9]  # an open-ended label is right for any count above
    second = [3, 1, 2, 1, 1, 1, 4]
    both, every = shared(true, c2p=first, p2c=second, combined=[1, 1, 1, 1, 2, 3, 3])
    assert (both["modes"], both["images"]) == (["c2p", "p2c"], 7)
    assert both["wrong"] == pytest.approx({"1": 1 / 4, "2": 1 / 2, "4+": 0, "mean": 1 / 4, "overall": 2 / 7})
    independent = {"1": 1 / 2 * 1 / 2, "2": 1 / 2 * 1, "4+": 0}
    overall = (4 * independent["1"] + 2 * independent["2"]) / 7
    assert both["independent"] == pytest.approx({**independent, "mean": 1 / 4, "overall": overall})
    assert (every["modes"], every["images"]) == (["c2p", "p2c", "combined"], 7)
    assert every["wrong"] == pytest.approx({"1": 0, "2": 1 / 2, "4+": 0, "mean": 1 / 6, "overall": 1 / 7})
    assert every["independent"]["1"] == 0
    for each in (both, every):
        for name, (low, high) in each["wrong_interval"].items():
            assert 0 <= low <= each["wrong"][name] <= high <= 1
            assert low < high


def test_two_modes_are_one_group_and_one_is_none() -> None:
    assert [each["modes"] for each in shared([1, 2], c2p=[1, 1], p2c=[1, 1])] == [["c2p", "p2c"]]
    assert shared([1, 2], c2p=[1, 1]) == []


def test_images_that_a_mode_could_not_read_take_no_part() -> None:
    (both,) = shared([1, 1, 2], c2p=[2, None, 1], p2c=[2, 2, 1])
    assert both["images"] == 2
    assert both["wrong"]["overall"] == 1
    assert shared([1, 2], c2p=[None, 1], p2c=[2, None]) == []
