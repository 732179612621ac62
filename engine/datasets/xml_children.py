"""XML that others wrote, read one child of the root element at a time, so that memory does not grow with the file.

A document type is refused: nothing is defined in the file or fetched from elsewhere, and no entity stands for more than
a character.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

# Bytes that are read at a time, and those of a child with all that is in it.
_PART = 1 << 20
_LARGEST_CHILD = 20_000_000
_DEEPEST = 100


def read_children(path: Path, root: str, refused: Mapping[str, str]) -> Iterator[Element]:
    """Yield the children of a file's root element, each once it is whole.

    Parameters
    ----------
    path
        The file.
    root
        The tag of the root element.
    refused
        Tags of root elements, and of their children, that other forms have, with why they are not read.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no XML, has another root element or a document type, or is too deep or a child too large; children
        before that are yielded.
    """
    children = _Children(root, refused)
    unfinished = 0
    with path.open("rb") as stream:
        while part := stream.read(_PART):
            whole = children.of(part)
            yield from whole
            unfinished = 0 if whole else unfinished + len(part)
            if unfinished > _LARGEST_CHILD:
                raise ValueError(f"an element of it has more than {_LARGEST_CHILD:,} bytes")
    yield from children.of(b"", is_last=True)


class _Children:
    """Makes elements of a file's parts."""

    def __init__(self, root: str, refused: Mapping[str, str]) -> None:
        self._root = root
        self._refused = refused
        self._depth = 0
        self._builder = TreeBuilder()
        self._whole: list[Element] = []
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.StartElementHandler = self._start
        self._parser.CharacterDataHandler = self._text
        self._parser.EndElementHandler = self._end

    def of(self, part: bytes, *, is_last: bool = False) -> list[Element]:
        """Return the children that end in a part."""
        try:
            self._parser.Parse(part, is_last)
        except (expat.ExpatError, LookupError) as error:  # a LookupError is of an encoding that is not known
            raise ValueError(str(error)) from None
        whole, self._whole = self._whole, []
        return whole

    def _refuse(self, *_: object) -> None:
        raise ValueError("it has a <!DOCTYPE>, which may expand to more than any memory holds: remove it")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if self._depth < 2 and tag in self._refused:
            raise ValueError(self._refused[tag])
        if self._depth == 0 and tag != self._root:
            raise ValueError(f"its root element is <{tag:.60}>, expected <{self._root}>")
        if self._depth == _DEEPEST:
            raise ValueError(f"its elements are nested more than {_DEEPEST} deep")
        if self._depth == 1:
            self._builder = TreeBuilder()
        self._depth += 1
        if self._depth > 1:
            self._builder.start(tag, attributes)

    def _text(self, text: str) -> None:
        if self._depth > 1:
            self._builder.data(text)

    def _end(self, tag: str) -> None:
        if self._depth > 1:
            self._builder.end(tag)
        self._depth -= 1
        if self._depth == 1:
            self._whole.append(self._builder.close())
