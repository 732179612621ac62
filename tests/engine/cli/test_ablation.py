from __future__ import annotations

import pytest

from pc_engine.cli.ablation import _gain


@pytest.mark.parametrize(
    ("counts", "labels", "shown"),
    [(0, 0, "no count changes"), (20, 0, "no label changes"), (20, 2, "+0.0 [-8.8, +8.8]")],
)
def test_a_gain_that_cannot_be_is_given_no_interval(counts: int, labels: int, shown: str) -> None:
    gain = {"mean": {"gain": 0.0, "interval": [-0.0875, 0.0875]}}
    assert _gain({"counts_changed": counts, "labels_changed": labels, "gain": gain}) == shown
