"""What the commands print: tables and JSON on stdout; progress and remarks on stderr.

Text is printed as it is: `pc_engine.cli.main` tells both streams to escape what they cannot hold.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from pc_engine.cli.streams import let_go
from pc_engine.errors import DataError
from pc_engine.say import Say
from pc_engine.shown_text import for_terminal, number_of

# A shell without a terminal may say 0, at which Rich prints nothing at all; at a few, it leaves out whole columns.
_NARROWEST = 20
if (_width := os.environ.get("COLUMNS", "")).isdecimal() and int(_width) < _NARROWEST:
    del os.environ["COLUMNS"]


class _Remarks(Console):
    """A console whose remarks are lost where nobody reads them any more; Rich would end the command, and its output."""

    def on_broken_pipe(self) -> None:
        let_go(sys.stderr)


_out = Console(highlight=False)
_err = _Remarks(stderr=True, highlight=False)

_STDERR = 2
# Where progress goes to a log, a line now and then.
_SECONDS_BETWEEN_LINES = 60.0
# A lower rate a second is told a minute.
_SLOW = 0.1
# What bars count where they do not say.
_UNIT = "steps"
# A rate of less time than this says nothing.
_SECONDS_TO_TELL = 1.0
_CLEAR_LINE = "\r\x1b[2K"
_SHOWN_SKIPPED = 5
#: Columns of text that goes to a file.
_FILE_WIDTH = 120
_ANY_WIDTH = 100_000


def remark(quiet: bool) -> Say:
    """Return what prints a sentence for the user on stderr, or discards it if ``quiet``."""

    def show(sentence: str) -> None:
        if not quiet:
            try:
                _err.print(for_terminal(sentence), markup=False, soft_wrap=True)
            except OSError:  # a log on a full disk is no reason to end
                let_go(sys.stderr)

    return show


def remark_at_once(quiet: bool) -> Say:
    """Return `remark` for a signal's handler: by one system call, as the code that it interrupts may hold a lock."""

    def show(sentence: str) -> None:
        if not quiet:
            with suppress(OSError):
                # In the place of a bar, which is drawn anew below.
                start = _CLEAR_LINE if os.isatty(_STDERR) else ""
                os.write(_STDERR, f"{start}{sentence}\n".encode())

    return show


def print_json(value: Any) -> None:
    """Print one JSON object."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=True)
    sys.stdout.write("\n")


def print_answer(
    answer: Any,
    table: Callable[[Any], object],
    *,
    quiet: bool,
    as_json: bool,
    notes: Iterable[str] = (),
    store: Callable[[], object] = lambda: None,
) -> None:
    """Print an answer, as JSON or by its ``table``, then ``store`` it: what took hours is not lost where one fails.

    ``notes`` on it are those that its table has, and are remarks beside JSON.
    """
    try:
        if as_json:
            print_json(answer)
            for note in notes:
                remark(quiet)(note)
        elif not quiet:
            table(answer)
    finally:
        store()


def print_line(text: str = "") -> None:
    """Print a line on stdout."""
    _out.print(for_terminal(text), markup=False, soft_wrap=True)


def number_of_images(n: int) -> str:
    """Return "1 image" or "2,000 images"."""
    return number_of(n, "image")


def percent(share: float | None) -> str:
    """Return a share as tables have it, in hundredths; a dash where there is none."""
    return "-" if share is None else f"{100 * share:.0f}"


def percents(interval: Sequence[float] | None) -> str:
    """Return an interval of shares as tables have it."""
    return "-" if interval is None else "-".join(map(percent, interval))


def print_table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; a column whose name starts with ``>`` is aligned right, one with ``=`` not folded."""
    table, rows = Table(), list(rows)
    for place, name in enumerate(columns):
        justify: Literal["left", "right"] = "right" if name.startswith(">") else "left"
        # Unless it would leave the others no room.
        whole = name.startswith("=") and max((len(row[place]) for row in rows), default=0) <= _out.width // 2
        table.add_column(name.lstrip(">="), justify=justify, overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(*(Text(for_terminal(value)) for value in row))
    # Numbers and ranges that are folded can hardly be read: the space around them goes first.
    if Measurement.get(_out, _out.options.update_width(_ANY_WIDTH), table).maximum > _out.width:
        table.padding = 0
    if title is not None:
        # By itself, as a table's own title is folded to its width.
        _out.print(Text(for_terminal(title), style="italic"), soft_wrap=True)
    _out.print(table)


@contextmanager
def kept_in(path: Path, *, quiet: bool) -> Iterator[None]:
    """Write what is printed on stdout meanwhile to ``path``; unless ``quiet`` print it at the end as well."""
    global _out
    shown, text = _out, _Kept()
    text.encoding = "utf-8" if quiet else sys.stdout.encoding
    _out = Console(file=text, width=_FILE_WIDTH, highlight=False, color_system=None, force_terminal=False)
    try:
        yield
    finally:
        _out = shown
    path.write_text(text.getvalue(), encoding="utf-8", errors="backslashreplace")
    if not quiet:
        sys.stdout.write(text.getvalue())


class _Kept(StringIO):
    """Text for a screen of an ``encoding``, which Rich asks for before it draws lines of boxes in Unicode."""

    encoding = "utf-8"


def print_skipped(skipped: Sequence[tuple[str, str]]) -> None:
    """Print how many items of a data set were skipped, and why the first ones were; nothing where none was."""
    _say_skipped(skipped, print_line)


@contextmanager
def skipped_said_first(skipped: Sequence[tuple[str, str]], quiet: bool) -> Iterator[None]:
    """Print the same on stderr ahead of an error in the data, for which they may be the cause."""
    try:
        yield
    except DataError:
        _say_skipped(skipped, remark(quiet))
        raise


def _say_skipped(skipped: Sequence[tuple[str, str]], say: Say) -> None:
    if not skipped:
        return
    say(f"{number_of(len(skipped), 'item')} {'was' if len(skipped) == 1 else 'were'} skipped:")
    for item, reason in skipped[:_SHOWN_SKIPPED]:
        say(f"  {item}: {reason}")
    if len(skipped) > _SHOWN_SKIPPED:
        say(f"  ... and {len(skipped) - _SHOWN_SKIPPED} more.")


class _Rate(ProgressColumn):
    """Steps a second since the first ones were seen: these come all at once, and some may be an earlier run's."""

    def __init__(self) -> None:
        super().__init__()
        self._first: dict[int, tuple[float, float]] = {}

    def render(self, task: Task) -> Text:
        now = task.get_time()
        start, before = self._first.get(task.id, (now, 0.0))
        if task.completed < before or not before:  # begun, or begun anew
            self._first[task.id] = start, before = now, task.completed
        if now - start < _SECONDS_TO_TELL or task.completed == before:
            return Text("")
        rate = (task.completed - before) / (now - start)
        return Text(f"{rate:,.1f} {task.fields.get('unit', _UNIT)}/s")


class Bars(Progress):
    """Progress bars on stderr with rate and time left, to be entered.

    A line a minute where that is no terminal; nothing where ``quiet``.
    """

    def __init__(self, *, quiet: bool) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
        )
        super().__init__(*columns, console=_err, disable=quiet or not _err.is_terminal, transient=True)
        # A log would get but empty lines of bars.
        self._log = None if quiet or _err.is_terminal else remark(quiet=False)
        self._lines: dict[TaskID, _Lines] = {}

    def add_task(self, description: str, *args: Any, **given: Any) -> TaskID:
        """Add a bar; see `rich.progress.Progress.add_task`."""
        task_id = super().add_task(description, *args, **given)
        self._lines[task_id] = _Lines()
        return task_id

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a bar; see `rich.progress.Progress.update`."""
        super().update(task_id, **changes)
        if self._log is not None and (line := self._lines[task_id].due(self._tasks[task_id])):
            self._log(line)


class _Lines:
    """A line a minute on how far a bar is, and how fast it was since the last one."""

    def __init__(self) -> None:
        self._then = time.monotonic()
        self._done_then: float | None = None

    def due(self, task: Task) -> str:
        """Return the line, if it is time for one, else an empty string."""
        now, done = time.monotonic(), task.completed
        if self._done_then is None:  # what is done at first may have been done by an earlier run
            self._done_then = done
        elif done < self._done_then:  # another piece of work on the same bar
            self._then, self._done_then = now, done
        if now - self._then < _SECONDS_BETWEEN_LINES:
            return ""
        rate = (done - self._done_then) / (now - self._then)
        self._then, self._done_then = now, done
        of = "" if task.total is None else f" of {task.total:,.0f}"
        unit = task.fields.get("unit", _UNIT)
        pace = f"{rate:,.1f} {unit}/s" if rate >= _SLOW else f"{60 * rate:,.1f} {unit}/min"
        return f"{task.description}: {done:,.0f}{of} {unit}, {pace}"


@contextmanager
def progress(description: str, *, quiet: bool, total: int | None = None, unit: str = "images") -> Iterator[Tracker]:
    """Show one of `Bars`."""
    with Bars(quiet=quiet) as display:
        yield Tracker(display, description, total, unit)


class Tracker:
    """One bar: `advance` moves it, `set_total` says how far it will go."""

    def __init__(self, bar: Bars, description: str, total: int | None, unit: str) -> None:
        self._bar = bar
        self._task = bar.add_task(description, total=total, unit=unit)

    def advance(self, steps: int = 1) -> None:
        """Move on by ``steps``."""
        self._bar.update(self._task, advance=steps)

    def set_total(self, total: int) -> None:
        """Set where the bar ends."""
        self._bar.update(self._task, total=total)

    def restart(self, description: str, done: int, total: int, unit: str | None = None) -> None:
        """Show another piece of work, ``done`` of ``total`` of it, on the same line; None keeps the ``unit``."""
        of_unit = {} if unit is None else {"unit": unit}
        self._bar.update(self._task, description=description, completed=done, total=total, **of_unit)
