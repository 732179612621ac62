"""What helps say in words, because importing it would take long, is what the code does."""

from __future__ import annotations

import re

import pytest

from pc_engine.bench.lego.tables import STEPS
from pc_engine.bench.lego.train import TrainSettings
from pc_engine.bench.throughput import ThroughputSettings
from pc_engine.calibration import DEFAULT_LIMIT
from pc_engine.decoding.isolated_decoder import IMAGE_SECONDS


@pytest.mark.parametrize(
    ("command", "option", "expected"),
    [
        ("run", "--image-seconds", f"if omitted, {IMAGE_SECONDS:.0f}."),
        ("build", "--images", f"if omitted, {DEFAULT_LIMIT}."),
        ("lego train", "--steps", f"if omitted, {TrainSettings.steps:,}, "),
        ("lego tables", "--steps", f"if omitted, {STEPS:,}."),
        ("bench throughput", "--n", f"if omitted, {ThroughputSettings.n}, "),
        ("bench isolation", "--n", f"if omitted, {ThroughputSettings.n}."),
        *(
            (f"bench {name}", "--repeats", f"if omitted, {ThroughputSettings.repeats}")
            for name in ("throughput", "peers")
        ),
    ],
)
def test_a_help_names_the_value_of_an_option_that_is_left_out(pc_engine, command, option, expected):
    shown = pc_engine(*command.split(), "--help").out
    help_of_option = re.search(rf"\n  {option} .*?(?=\n  -|\Z)", shown, re.DOTALL)
    assert expected in " ".join(help_of_option[0].split()) + " "


def test_commands_word_the_same_option_in_one_way(pc_engine):
    """The folder of a run, and what evaluate and bench ablation share."""
    of_run = {_line(pc_engine(name, "--help").out, "RUN <path>") for name in ("report", "review", "convert", "status")}
    assert len(of_run) == 1
    for option in ("--mode", "--folds", "--aim", "--max-count", "--seed"):
        both = {_line(pc_engine(*name, "--help").out, option) for name in (("evaluate",), ("bench", "ablation"))}
        assert len(both) == 1, option


def _line(shown, beginning):
    found = re.search(rf"\n  {re.escape(beginning)} .*?(?=\n  -|\n\n|\Z)", shown, re.DOTALL)
    return " ".join(found[0].split())
