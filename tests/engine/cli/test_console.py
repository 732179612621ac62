"""What is shown while a command works."""

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pc_engine.cli import console
from pc_engine.cli.console import (
    Bars,
    _Rate,
    kept_in,
    number_of_images,
    print_line,
    print_skipped,
    print_table,
    progress,
)


def test_the_rate_is_that_of_what_this_run_does() -> None:
    column, now = _Rate(), [0.0]

    def shown(at: float, completed: float) -> str:
        now[0] = at
        task: Any = SimpleNamespace(id=1, get_time=lambda: now[0], completed=completed, fields={"unit": "images"})
        return column.render(task).plain

    assert shown(0.0, 0) == ""
    assert shown(5.0, 0) == ""  # the network is being loaded
    assert shown(5.1, 1000) == ""  # rows that were there, all at once
    assert shown(5.2, 1064) == ""
    assert shown(7.1, 1100) == "50.0 images/s"
    assert shown(9.1, 1200) == "50.0 images/s"
    assert shown(9.2, 0) == ""  # another piece of work
    assert shown(9.3, 10) == ""
    assert shown(11.3, 30) == "10.0 images/s"


def test_one_image_is_no_plural() -> None:
    assert [number_of_images(n) for n in (0, 1, 2_000)] == ["0 images", "1 image", "2,000 images"]


def test_the_title_of_a_narrow_table_is_in_one_piece(capsys: pytest.CaptureFixture[str]) -> None:
    folder = "a folder of a long name/" * 8
    print_table(folder, ("image",), [("a.jpg",)])
    assert capsys.readouterr().out.startswith(f"{folder}\n")


def test_what_no_terminal_and_no_file_can_hold_is_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with kept_in(tmp_path / "tables.txt", quiet=True):
        print_table("a\x1b[2J", ("image",), [("\udce9.jpg",)])
        print_line("\udce9")
    kept = (tmp_path / "tables.txt").read_text(encoding="utf-8")
    assert "a\\x1b[2J" in kept
    assert "\\udce9.jpg" in kept
    assert kept.endswith("\n\\udce9\n")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("encoding", "line"), [("ascii", "-"), ("cp1252", "-"), ("utf-8", "━")])
def test_tables_that_are_kept_have_lines_that_the_screen_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, line: str
) -> None:
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding, "backslashreplace", write_through=True))
    with kept_in(tmp_path / "tables.txt", quiet=False):
        print_table("a", ("image",), [("a.jpg",)])
    shown = stream.getvalue().decode(encoding)
    assert "\\u" not in shown
    assert line in shown
    assert (tmp_path / "tables.txt").read_text(encoding="utf-8") == shown
    with kept_in(tmp_path / "tables.txt", quiet=True):
        print_table("a", ("image",), [("a.jpg",)])
    assert "━" in (tmp_path / "tables.txt").read_text(encoding="utf-8")


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with progress("c2p", quiet=False) as tracker:
        tracker.advance(1000)  # rows that were there, all at once
        for now[0] in (30.0, 59.0, 60.0):
            tracker.advance(200)
        tracker.set_total(5000)
        now[0] = 100.0
        tracker.advance(100)
        now[0] = 120.0
        tracker.advance(500)
        tracker.restart("SVM", 0, 40, "fits")
        for now[0], done in ((150.0, 10), (180.0, 30)):
            tracker.restart("SVM", done, 40, "fits")
    assert capsys.readouterr().err.splitlines() == [
        "c2p: 1,600 images, 10.0 images/s",
        "c2p: 2,200 of 5,000 images, 10.0 images/s",
        "SVM: 30 of 40 fits, 0.5 fits/s",
    ]


def test_bars_of_a_log_get_a_line_each_whatever_they_are_called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with Bars(quiet=False) as display:
        lesson = display.add_task("training", total=500)
        for step in range(1, 241):
            now[0] = step / 2
            display.update(lesson, advance=1, description=f"training, loss {1 / step:.2f}")
        scenes = display.add_task("making scenes", total=None)
        display.update(scenes, completed=5)
        now[0] = 240.0
        display.update(scenes, completed=65)
        now[0] = 300.0
        display.update(scenes, completed=68)
    assert capsys.readouterr().err.splitlines() == [
        "training, loss 0.01: 120 of 500 steps, 2.0 steps/s",
        "training, loss 0.00: 240 of 500 steps, 2.0 steps/s",
        "making scenes: 65 steps, 0.5 steps/s",
        "making scenes: 68 steps, 3.0 steps/min",
    ]


def test_a_quiet_command_logs_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_LINES", 0.0)
    with progress("c2p", quiet=True) as tracker:
        tracker.advance(5)
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(os.name != "posix", reason="a pipe that nobody reads is told of otherwise there")
@pytest.mark.parametrize("log", ["/dev/full", "a pipe"])
def test_a_log_that_cannot_be_written_ends_nothing(log: str) -> None:
    if log == "a pipe":
        reader, writer = os.pipe()
        os.close(reader)
    elif os.path.exists(log):
        writer = os.open(log, os.O_WRONLY)
    else:
        pytest.skip("there is no disk that is always full")
    program = "from pc_engine.cli.console import remark; say = remark(False); say('one'); say('two'); print('done')"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=writer, check=False)
    os.close(writer)
    assert (done.returncode, done.stdout.split()) == (0, [b"done"])


def test_control_characters_of_others_are_shown_and_start_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.remark(False)("the class '\x1b[2Jdog' is none\nof the network's")
    print_line("a\x07b\nc")
    print_skipped([("a\npc-engine: all is well.jpg", "there is no such file")])
    shown = capsys.readouterr()
    assert shown.err == "the class '\\x1b[2Jdog' is none\\nof the network's\n"
    assert shown.out.splitlines() == [
        "a\\x07b\\nc",
        "1 item was skipped:",
        "  a\\npc-engine: all is well.jpg: there is no such file",
    ]
