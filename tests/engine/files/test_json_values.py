from __future__ import annotations

import pytest

from pc_engine.files.json_values import as_text, as_texts, is_text, parse_line

HALF = "a\ud800"


@pytest.mark.parametrize("value", [7, None, b"a", HALF])
def test_what_is_no_text_is_refused_by_the_name_of_its_field(value: object) -> None:
    """JSON can hold half a character, which no file takes."""
    assert not is_text(value)
    with pytest.raises(ValueError, match=r"^name is .*, expected text$"):
        as_text(value, "name")
    with pytest.raises(ValueError, match=r"^names is .*, expected text$"):
        as_texts(["a", value], "names")


def test_text_is_handed_on() -> None:
    assert as_text("für", "name") == "für"
    assert as_texts(["a", ""], "names") == ("a", "")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"path": "a", "co', "it is not JSON from column 15 on"),
        (b"\n", "it is not JSON from column 1 on"),
        (b'{"path":\r\n', "it is not JSON from column 9 on"),
        (b'"\xff"', "it is not UTF-8"),
        (b"9" * 5000, "it holds a number of too many digits"),
        (b"[" * 100_000, "it is nested too deeply"),
    ],
)
def test_a_line_that_is_no_value_says_why_and_not_which_line_of_one_it_is(line: bytes, why: str) -> None:
    assert parse_line('{"a": "für"}\r\n'.encode()) == {"a": "für"}
    with pytest.raises(ValueError, match=f"^{why}$"):
        parse_line(line)
