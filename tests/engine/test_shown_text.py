from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from pc_engine.shown_text import for_page, for_sentence, for_shell, for_terminal, lines_for_terminal, number_of

#: A line's end, a terminal's command, a byte that is not UTF-8, and a letter beyond ASCII.
ODD = "a\nb\x1b[2J\udce9é"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (for_terminal, "a\\nb\\x1b[2J\\udce9é"),
        (for_sentence, "a b [2J é"),
        (for_page, "a\nb\x1b[2J\\udce9é"),
    ],
)
def test_text_of_others_is_made_fit_for_what_shows_it(shown: Callable[[str], str], expected: str) -> None:
    assert shown(ODD) == expected
    assert shown("plain  text é") == "plain  text é"


def test_a_list_below_a_sentence_is_kept_and_a_name_starts_no_line() -> None:
    assert lines_for_terminal("'a\npc-engine: b' is none. Forms:\n  c:FILE\x07\n  d") == (
        "'a\\npc-engine: b' is none. Forms:\n  c:FILE\\x07\n  d"
    )


@pytest.mark.parametrize(
    ("system", "text", "expected"),
    [
        ("posix", "runs/a", "runs/a"),
        ("posix", "my runs/it's", "'my runs/it'\"'\"'s'"),
        # cmd takes single quotes for letters of the name, and a backslash needs none.
        ("nt", r"C:\runs\a", r"C:\runs\a"),
        ("nt", r"C:\my runs\a & b", r'"C:\my runs\a & b"'),
        ("nt", "", '""'),
    ],
)
def test_a_word_for_a_shell_is_what_that_takes_for_one(
    monkeypatch: pytest.MonkeyPatch, system: str, text: str, expected: str
) -> None:
    monkeypatch.setattr("pc_engine.shown_text.os", SimpleNamespace(name=system))
    assert for_shell(text) == expected


@pytest.mark.parametrize(("n", "expected"), [(0, "0 pointers"), (1, "1 pointer"), (2000, "2,000 pointers")])
def test_one_is_no_plural(n: int, expected: str) -> None:
    assert number_of(n, "pointer") == expected
