"""Text that others wrote, such as names of files, as a terminal, a shell, a sentence or a page can take it."""

from __future__ import annotations

import os
import re
import shlex

# What neither of Windows' shells takes for anything else; its names of files hold no quotes.
_PLAIN_ON_WINDOWS = re.compile(r"[\w:\\/.+=@-]+")
# Where a line of a list begins that a sentence has below it.
_LIST_LINE = re.compile(r"\n(?=  )")


def for_terminal(text: str) -> str:
    """Return text with control characters, and bytes that are not UTF-8, escaped: any terminal can take it.

    It is one line: names of files may hold line feeds, and what follows them would pass for a line of the program's.
    """
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def lines_for_terminal(text: str) -> str:
    """Return `for_terminal` of a sentence that may have a list below it, whose lines it keeps by their two spaces."""
    return "\n".join(map(for_terminal, _LIST_LINE.split(text)))


def for_shell(text: str) -> str:
    """Return a word for a command that people copy to a shell: quoted where that would take it for several."""
    if os.name != "nt":
        return shlex.quote(text)
    return text if _PLAIN_ON_WINDOWS.fullmatch(text) else f'"{text}"'


def for_sentence(text: str) -> str:
    """Return text as long as it was, on one line, with a space in the place of each letter that cannot be printed."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def number_of(n: int, noun: str) -> str:
    """Return "1 pointer" or "2,000 pointers"."""
    return f"1 {noun}" if n == 1 else f"{n:,} {noun}s"


def for_page(text: str) -> str:
    """Return text that UTF-8 can hold; half a surrogate pair, which rows of others may have, appears as \\uNNNN."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
