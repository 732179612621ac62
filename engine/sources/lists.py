"""Lists of images: ``@list.txt``, a path or address a line; ``@table.csv``, with a column of them; ``@-``, from stdin.

A relative path is taken from the folder of the list if there is something, else from the current one. What a line names
is what the same words on the command line would: a file, a folder, a shard, an address; but never a pattern, as names
may look like one. In a ``.txt`` blank lines and those that begin with ``#`` are skipped; a file whose name begins so is
written ``./#name``. From stdin names may be ended by NULs instead, as ``find -print0`` does for names with line breaks.

Elsewhere than on this machine nothing is looked up for a line, as there may be a million of them. So the address of a
folder is known by its form: it ends with "/", or has no path, as ``zip://::photos.zip``; of the web all are of files.
And of a list that is at an address itself, relative paths are taken from the current folder if there is something, else
from that of the list.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import select
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, takewhile
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from pc_engine.errors import ImageError, PcEngineError, UsageError
from pc_engine.files.letter_forms import in_other_form
from pc_engine.files.text_values import PATH_COLUMNS, columns_of, columns_sentence, delimiter_of, parse_count
from pc_engine.sources.addresses import file_part, is_address
from pc_engine.sources.failures import reason_of, until_it_fails
from pc_engine.sources.image import SourceImage, broken_image
from pc_engine.sources.listed_addresses import beside
from pc_engine.sources.shards import CostlyListingError, Listing, is_remote, open_shard
from pc_engine.sources.stored_names import start_folder, stored_name

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: What a list's name begins with, and what stands for stdin behind it.
MARK = "@"
STDIN = "-"
_TABLES = (".csv", ".tsv")
_WORKBOOKS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers")
_COLUMNS = (*PATH_COLUMNS, "url")
_COMMENT = "#"
_SECONDS_BETWEEN_LOOKS = 0.2
# A longer line is no name; it is cut rather than held.
_LONGEST_LINE = 1 << 20
_BUFFER = 1 << 16
# Python ends a table at a longer cell, and annotations of an image may be as long as its line.
csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_LINE))

#: Lists what one line names.
Expand = Callable[[str, Listing], Iterator[SourceImage]]


class _Line(NamedTuple):
    """What one line names, and how many objects it says that shows."""

    entry: str
    known_count: int | None = None


def check_list(name: str, count_column: str | None = None) -> None:
    """Raise UsageError if there is no such list, or it is a table without a column of images, or of counts if asked."""
    if name == STDIN:
        return
    check_not_workbook(name)
    try:
        with open_shard(name) as stream:
            lines = _lines(stream)
            first = next(lines, "")
            if "\0" in first:
                raise UsageError(f"The list '{name}' is not UTF-8 text: save it as such.")
            if _is_table(name):
                _columns(first, name, count_column)
    except PcEngineError:
        raise
    except csv.Error as error:
        raise UsageError(f"The table '{name}' cannot be read ({error}): save it as CSV again.") from None
    except Exception as error:  # OSError, or those of a file system's package
        raise UsageError(f"The list '{name}' cannot be read: {reason_of(error)}.") from None


def list_images(name: str, listing: Listing, expand: Expand) -> Iterator[SourceImage]:
    """Yield the images that the list names, line by line; what does not exist is an image that cannot be read."""
    if listing.names_only and (name == STDIN or is_remote(name)):
        raise CostlyListingError
    address = name if name != STDIN and is_remote(name) else None

    def sentence(n: int, error: BaseException) -> str:
        return f"The list cannot be read any further after {n:,} entries ({reason_of(error)})."

    for line in until_it_fails(_entries(name, listing), MARK + name, sentence):
        if isinstance(line, SourceImage):
            yield line
            continue
        entry, count = line
        is_here = address is None and not is_address(entry)
        for image in expand(entry if is_address(entry) else _found(entry, name, address), listing):
            known = image if count is None else replace(image, count=count)
            # What was found beside the list has another name by now.
            may_be_absent = is_here and image.name == entry
            yield replace(known, read=partial(_read_listed, image.read, entry, name)) if may_be_absent else known


def _found(path: str, name: str, address: str | None) -> str:
    """Return where the relative ``path`` of a list leads, by the list's own path or, where it has one, its address."""
    if address is None:
        near = os.path.join(os.path.dirname(name), path)
        if os.path.lexists(near):
            return near
        # Most names are written in one form only: they are not looked up once more.
        if path.isascii() or os.path.lexists(path):
            return path
        return in_other_form(near) or in_other_form(path) or path
    if os.path.isabs(path):
        return in_other_form(path) or path
    return path if os.path.lexists(path) else in_other_form(path) or beside(address, path)


def _read_listed(read: Callable[[], bytes], entry: str, name: str) -> bytes:
    """Return the bytes of what a line of a list names, or say where it was looked for."""
    try:
        return read()
    except ImageError as error:
        if not isinstance(error.__context__, FileNotFoundError):
            raise
        raise ImageError(_absent(entry, name)) from None


def _absent(entry: str, name: str) -> str:
    here = start_folder() or os.curdir
    beside_list = here if name == STDIN else os.path.normpath(os.path.join(here, os.path.dirname(name)))
    if os.path.isabs(entry):
        where = ""
    elif beside_list == here:
        where = f" in {here}, from where the list's paths are taken"
    else:
        where = f" in {beside_list}, where the list is, nor in the current folder, {here}"
    encoding = "" if stored_name(entry) == entry else " Its name in the list is not UTF-8: save that as UTF-8."
    return f"There is no such file{where}.{encoding}"


def _entries(name: str, listing: Listing) -> Iterator[_Line | SourceImage]:
    if name == STDIN:
        stdin = io.BufferedReader(_Stdin(listing.stop), _BUFFER)
        entries = _between_nuls(stdin) if b"\0" in stdin.peek() else _named(_lines(stdin))
        # Where it is left off, the last line may be half of one.
        yield from takewhile(lambda _: not listing.stop(), entries)
        return
    with open_shard(name) as stream:
        lines = _lines(stream)
        yield from _cells(lines, name, listing.count_column) if _is_table(name) else _named(lines)


class _Stdin(io.RawIOBase):
    """Stdin, which ends when ``stop`` says so, though whoever writes it may stay silent."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stream, self._stop = cast(io.BufferedReader, sys.stdin.buffer), stop
        try:
            self._number = None if sys.platform == "win32" else self._stream.fileno()
        except OSError:  # a program's own stream, which has no number
            self._number = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        while self._number is not None and not select.select([self._number], [], [], _SECONDS_BETWEEN_LOOKS)[0]:
            if self._stop():
                return 0
        view = memoryview(buffer).cast("B")
        # Of no more than there is, so that it waits for nothing.
        data = self._stream.read1(len(view))
        view[: len(data)] = data
        return len(data)


def _named(lines: Iterator[str]) -> Iterator[_Line]:
    for line in lines:
        entry = line.rstrip("\r\n")
        if entry.strip() and not entry.startswith(_COMMENT):
            yield _Line(entry)


def _between_nuls(stream: io.BufferedReader[_Stdin]) -> Iterator[_Line]:
    """Yield the names that a NUL ends, as ``find -print0`` writes them: such a name may hold anything else."""
    begun = b""
    while part := stream.read1():
        *names, begun = (begun + part).split(b"\0")
        yield from (_Line(_text(name)) for name in names if name)
        if len(begun) > _LONGEST_LINE:  # it is no name; as of lines, it is cut rather than held
            yield _Line(_text(begun))
            begun = b""
    if begun:
        yield _Line(_text(begun))


def _cells(lines: Iterator[str], name: str, count_column: str | None) -> Iterator[_Line | SourceImage]:
    header = next(lines, "")
    column, counts, delimiter = _columns(header, name, count_column)
    record: list[str] = []
    reader = csv.reader(_noted(chain([header], lines), record), delimiter=delimiter)
    next(reader)
    first, last = 1, tuple(record)
    record.clear()
    for row in reader:
        first, last = first + len(last), tuple(record)
        record.clear()
        entry = row[column].strip() if column < len(row) else ""
        if entry:
            yield _Line(entry, None if counts is None or counts >= len(row) else _count(row[counts]))
        elif any(row):
            yield broken_image(f"{MARK}{name}#{reader.line_num}", f"Line {reader.line_num} names no image.")
    # Python takes all lines behind quotes that are never closed for one cell.
    if len(last) > 1 and len(list(csv.reader([*last, "another line"], delimiter=delimiter))) == 1:
        hidden = _number_of_lines(len(last) - 1)
        message = f"Quotes that begin in line {first} are never closed, and hide the {hidden} after it."
        yield broken_image(f"{MARK}{name}#{first}", message)


def _number_of_lines(n: int) -> str:
    return "line" if n == 1 else f"{n:,} lines"


def _noted(lines: Iterator[str], record: list[str]) -> Iterator[str]:
    """Yield the lines, and add each to ``record``."""
    for line in lines:
        record.append(line)
        yield line


def _count(cell: str) -> int | None:
    """Return how many objects a cell says that an image shows; None where it says no number, or only the least."""
    try:
        return None if cell.rstrip().endswith("+") else parse_count(cell)
    except ValueError:
        return None


def _columns(header: str, name: str, count_column: str | None) -> tuple[int, int | None, str]:
    """Return the positions of the columns with the images and with their counts, and what separates columns."""
    table, delimiter, columns = f"The table '{name}'", delimiter_of(header), columns_of(header)
    if not columns:
        raise UsageError(f"{table} has nothing in its first line, which must name its columns.")
    counts = None
    if count_column is not None:
        if count_column.strip().lower() not in columns:
            raise UsageError(
                f"{columns_sentence(table, columns)}, and none called '{count_column}' with counts: name another, or a "
                f"number."
            )
        counts = columns.index(count_column.strip().lower())
    for known in _COLUMNS:
        if known in columns:
            return columns.index(known), counts, delimiter
    raise UsageError(f"{columns_sentence(table, columns)}: call the one with the images one of {', '.join(_COLUMNS)}.")


def check_not_workbook(name: str) -> None:
    """Raise UsageError if a list or table is a spreadsheet program's own file, by its name."""
    if file_part(name).lower().endswith(_WORKBOOKS):
        raise UsageError(
            f"'{name}' is a workbook of Excel or the like, which cannot be read: save it as CSV UTF-8, and name that "
            f"as '{MARK}table.csv'."
        )


def is_table(source: str) -> bool:
    """Whether a source is a list that is a table, such as ``@table.csv``."""
    return source.startswith(MARK) and _is_table(source[len(MARK) :])


def _is_table(name: str) -> bool:
    return file_part(name).lower().endswith(_TABLES)


def _lines(stream: BinaryIO) -> Iterator[str]:
    """Yield the lines with their ends."""
    mark = codecs.BOM_UTF8
    for line in iter(partial(stream.readline, _LONGEST_LINE), b""):
        yield _text(line.removeprefix(mark))
        mark = b""


def _text(name: bytes) -> str:
    """Return text; bytes that are not UTF-8 as the names of files have them."""
    return name.decode("utf-8", "surrogateescape")
