from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pc_engine import Decoding, load_model
from pc_engine.arguments import maybe_whole_number, source_names, whole_number
from pc_engine.errors import UsageError


@pytest.mark.parametrize("value", [1, 7, np.int64(7), np.uint8(3)])
def test_whole_numbers_of_any_library_become_pythons_own(value: Any) -> None:
    found = whole_number("n", value)
    assert type(found) is int
    assert found == value


@pytest.mark.parametrize("value", ["8", True, np.bool_(True), 2.0, float("nan"), None, [1], 1j])
def test_anything_else_is_no_whole_number(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^n is .*, expected a whole number of at least 1\.$"):
        whole_number("n", value)


def test_a_whole_number_has_its_range_and_may_be_left_out() -> None:
    assert maybe_whole_number("n", None) is None
    assert maybe_whole_number("n", 5, most=5) == 5
    for value in (0, -1):
        with pytest.raises(UsageError, match=f"n is {value}, expected a number of at least 1"):
            maybe_whole_number("n", value)
    with pytest.raises(UsageError, match="n is 6,000, expected a number of at most 5,000"):
        maybe_whole_number("n", 6000, most=5000)


@pytest.mark.parametrize(
    "sources",
    ["a/b", Path("a/b"), ["a/b"], (Path("a/b"),), {"a/b"}, iter(["a/b"]), (each for each in [Path("a/b")])],
)
def test_one_source_or_several_are_a_list_of_texts(sources: Any) -> None:
    assert source_names(sources) == [str(Path("a/b"))]


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (None, "NoneType"),
        (3, "int"),
        (b"photos", "bytes"),
        (Image.new("RGB", (2, 2)), "Image"),
        (np.zeros(3, np.uint8), "uint8"),
        (["photos"], "list"),
    ],
)
def test_what_is_no_source_is_said_alone_and_among_others(source: Any, kind: str) -> None:
    for sources in ([source], ["photos", source], source if kind != "list" else [source]):
        with pytest.raises(UsageError, match=rf"A source is of type (ndarray|{kind}), expected text or a path"):
            source_names(sources)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_pixels": "9"}, "max_pixels is '9', expected a whole number of at least 1"),
        ({"max_pixels": None}, "max_pixels is None, expected a whole number of at least 1"),
        ({"max_pixels": 2.5}, r"max_pixels is 2\.5, expected a whole number of at least 1"),
        ({"isolate": "no"}, "isolate is 'no', expected True or False"),
        ({"isolate": True, "image_seconds": "3"}, "image_seconds is '3', expected a number above 0"),
        ({"isolate": True, "image_seconds": True}, "image_seconds is True, expected a number above 0"),
    ],
)
def test_limits_of_decoding_are_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Decoding(**values)


def test_a_model_is_loaded_by_text_or_path_and_nothing_else(tiny_directory: Path) -> None:
    assert load_model(str(tiny_directory)).name == load_model(tiny_directory).name
    for directory in (3, None, b"lego"):
        with pytest.raises(UsageError, match=r"The model directory is .*, expected text or a path"):
            load_model(directory)  # type: ignore[arg-type]
