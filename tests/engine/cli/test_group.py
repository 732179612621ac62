import re
import shlex

import pytest

from pc_engine.cli.group import first_sentence


def test_the_list_of_commands_cuts_no_sentence_off(pc_engine):
    for group in ((), ("bench",), ("lego",)):
        shown = pc_engine(*group, "--help").out
        assert "..." not in shown.partition("Commands:")[2]
    listed = re.sub(r"\s+", " ", pc_engine("--help").out)
    assert "run Count the objects in every image of SOURCE and point at each." in listed


def test_a_first_sentence_may_go_over_lines():
    assert (
        first_sentence("One thing,\n    and another: all of it. More.\n\n    And more.")
        == "One thing, and another: all of it."
    )
    assert first_sentence("Only one.") == "Only one."


def test_a_group_alone_lists_its_commands(pc_engine):
    for group, command in (((), "convert"), (("lego",), "make"), (("bench",), "throughput")):
        outcome = pc_engine(*group)
        assert outcome.code == 2
        assert command in outcome.out + outcome.err


def test_photos_without_a_command_are_answered_with_the_one_for_them(pc_engine, tmp_path):
    (tmp_path / "my photos").mkdir()
    outcome = pc_engine(tmp_path / "my photos", "--out", "run")
    assert outcome.code == 2
    assert outcome.err.endswith(
        f"is no command; to count in it: pc-engine run {shlex.quote(f'{tmp_path}/my photos')}\n"
    )


def test_a_table_without_a_command_is_answered_with_the_one_that_takes_it(pc_engine, tmp_path):
    (tmp_path / "counts.csv").write_text("path,count\na.jpg,1\n")
    outcome = pc_engine(tmp_path / "counts.csv")
    assert outcome.code == 2
    assert outcome.err.endswith(f"pc-engine run {shlex.quote(f'@{tmp_path}/counts.csv')}\n")


def test_a_mistyped_command_is_answered_with_the_one_that_was_meant(pc_engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "statsu").mkdir()
    outcome = pc_engine("statsu")
    assert outcome.code == 2
    assert "Did you mean 'status'?" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("run",), "Missing argument 'SOURCE'. 'pc-engine run -h' says what it takes."),
        (("run", "x", "--forma", "jsonl"), "No such option: --forma"),
        (("lego", "make", "x", "--n", "many"), "--n is 'many', expected a whole number. 'pc-engine lego make -h' says"),
        (("run", "x", "--workers", "2.5"), "--workers is '2.5', expected a whole number. 'pc-engine run -h' says"),
        (("run", "x", "--workers", "9" * 5000), f"--workers is '{'9' * 59}, expected a whole number."),
        (("run", "x", "--image-seconds", "1s"), "--image-seconds is '1s', expected a number. 'pc-engine run -h' says"),
        (("statsu",), "No such command 'statsu'. Did you mean 'status'? 'pc-engine -h' says what it takes."),
        (("--nothing",), "No such option: --nothing"),
    ],
)
def test_what_is_wrong_with_a_command_line_is_said_in_one_line(pc_engine, arguments, expected):
    outcome = pc_engine(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"pc-engine: {expected}")
    assert outcome.err.count("\n") == 1
    assert re.search(r"'pc-engine[a-z ]* -h' says what it takes\.\n$", outcome.err)
