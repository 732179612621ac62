"""A group of commands whose help gives each command's first sentence whole."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from pc_engine.errors import UsageError

# What Typer raises where a command line is wrong, and where there is none; it has no public name for either.
_WRONG_USE: Any = typer.BadParameter.__base__
_NO_ARGUMENTS = "NoArgsIsHelpError"
# How the names of Pydantic's errors begin, and what was expected.
_NUMBERS = {"int_": "a whole number", "float_": "a number"}


class Group(TyperGroup):
    """Lists its commands with their first sentences, which would be cut off to fit a line otherwise."""

    def make_context(self, *args: Any, **named: Any) -> Any:
        """Read the command line."""
        with _in_one_sentence():
            return super().make_context(*args, **named)

    def invoke(self, ctx: Any) -> Any:
        """Read what is the command's own of it, and do that."""
        with _in_one_sentence():
            return super().invoke(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, first_sentence(command.help or "")) for name, command in commands if command is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@contextlib.contextmanager
def _in_one_sentence() -> Iterator[None]:
    """Say what is wrong with a command line as all else that is wrong is said, and where to look."""
    try:
        yield
    except _WRONG_USE as error:
        if type(error).__name__ == _NO_ARGUMENTS:
            raise
        message = _expected(error) or error.format_message()
        stop = "" if message.endswith(("?", ".")) else "."
        command = "" if error.ctx is None else f" '{error.ctx.command_path} -h' says what it takes."
        raise UsageError(f"{message}{stop}{command}") from None


def _expected(error: Any) -> str:
    """Return what an option is and what was expected, where Pydantic, by which Typer reads numbers, says it is none.

    An empty text for anything else.
    """
    listed: list[Any] = getattr(error.__cause__, "errors", list)()
    kind = next((kind for begins, kind in _NUMBERS.items() if listed and listed[0]["type"].startswith(begins)), "")
    return f"{error.param.opts[0]} is {listed[0]['input']!r:.60}, expected {kind}" if kind else ""


def first_sentence(text: str) -> str:
    """Return the first sentence of a docstring in one line."""
    paragraph = " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())
    sentence, stop, _ = paragraph.partition(". ")
    return sentence + "." if stop else paragraph
