from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from pc_engine.errors import ImageError
from pc_engine.sources import SourceImage
from pc_engine.sources.failures import reason_of, until_it_fails


class AnswerError(Exception):
    status = 403


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError(2, "No such file or directory", "a.jpg"), "No such file or directory"),
        (ValueError("One thing.\nAnd another."), "One thing"),
        (KeyError(), "KeyError"),
        (ValueError("  \n "), "ValueError"),
        (AnswerError("url='https://host/a?signature=secret'"), "HTTP status 403"),
        (
            OSError("Cannot reach https://user:secret@host/a.jpg?signature=secret now"),
            "Cannot reach https://...@host/a.jpg?... now",
        ),
        (ValueError("x" * 1000), "x" * 200),
    ],
)
def test_reasons_are_one_line_without_secrets(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


def test_listing_goes_on_until_it_fails_and_then_says_why() -> None:
    def items() -> Iterator[SourceImage]:
        yield from (SourceImage(str(k), SimpleNamespace) for k in range(2))  # type: ignore[arg-type]
        raise OSError("the disk is gone")

    *before, last = until_it_fails(items(), "shard", lambda n, error: f"After {n}: {reason_of(error)}.")
    assert [image.name for image in before] == ["0", "1"]
    assert last.name == "shard"
    with pytest.raises(ImageError, match=r"After 2: the disk is gone\."):
        last.read()
