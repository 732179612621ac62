"""Text that others wrote, such as names of files, as what shows it can take it: a terminal, a sentence, or a page."""

from __future__ import annotations


def for_terminal(text: str) -> str:
    """Return text with control characters, and bytes that are not UTF-8, escaped: any terminal can take it."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def for_sentence(text: str) -> str:
    """Return text as long as it was, on one line, with a space in the place of each letter that cannot be printed."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def for_page(text: str) -> str:
    """Return text that UTF-8 can hold; half a surrogate pair, which rows of others may have, appears as \\uNNNN."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
