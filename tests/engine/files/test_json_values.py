from __future__ import annotations

import pytest

from pc_engine.files.json_values import as_text, as_texts, is_text

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
