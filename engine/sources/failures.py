"""What goes wrong while a source is read: said in one line without secrets, and kept from ending the run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from pc_engine.sources.image import SourceImage, broken_image

Item = TypeVar("Item")

# What signs an address or gives its password has no place in an error's sentence, which goes into reports.
_SECRETS = ((re.compile(r"\?[^\s'\"<>]*"), "?..."), (re.compile(r"(://)[^/\s@'\"]*@"), r"\1...@"))
_LONGEST = 200


def reason_of(error: BaseException) -> str:
    """Return why something failed, in one line that ends without a full stop, without what may be secret."""
    status = getattr(error, "status", None)
    if isinstance(status, int):  # aiohttp's text has the whole address in it
        return f"HTTP status {status}"
    # OSErrors of remote file systems have no strerror, or only an address as text.
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    line = str(text).strip().splitlines()[0] if str(text).strip() else type(error).__name__
    for secret, mask in _SECRETS:
        line = secret.sub(mask, line)
    return line[:_LONGEST].rstrip(". ")


def until_it_fails(
    items: Iterator[Item], name: str, sentence: Callable[[int, BaseException], str]
) -> Iterator[Item | SourceImage]:
    """Yield items for as long as they come; where listing them fails, an image that says why in the place of the rest.

    Parameters
    ----------
    items
        What is listed.
    name
        The name of the image that says why: what they are listed from.
    sentence
        Called with the number of items yielded before, and the error.
    """
    n = 0
    try:
        for n, item in enumerate(items, start=1):  # noqa: B007 (how many there were)
            yield item
    except Exception as error:  # a damaged archive raises whatever its bytes lead the reader to
        yield broken_image(name, sentence(n, error))
