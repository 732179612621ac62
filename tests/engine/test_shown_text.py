from __future__ import annotations

from collections.abc import Callable

import pytest

from pc_engine.shown_text import for_page, for_sentence, for_terminal

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
