"""Parquet files with images in them, read batch by batch; an image is named by its file and row: ``FILE#ROW``.

Two layouts are known: that of Hugging Face datasets, a column of structures with the field ``bytes``, and a column of
bytes. How Arrow stores the bytes (plain, large, as views, in a dictionary) does not matter.
"""

from __future__ import annotations

import re
import weakref
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from operator import attrgetter, methodcaller
from typing import Any

from pc_engine.errors import ImageError, UsageError
from pc_engine.sources.addresses import file_part
from pc_engine.sources.failures import reason_of, until_it_fails
from pc_engine.sources.image import SourceImage, broken_image, check_size
from pc_engine.sources.last_reader import LastReader
from pc_engine.sources.shards import CostlyListingError, Listing, is_remote, open_shard

_SUFFIX = ".parquet"
# Python reads no numbers of thousands of digits.
_NAME = re.compile(r"(.+)#(\d{1,18})", re.DOTALL)
# Where several columns hold bytes, the first of these is taken.
_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "data", "content", "picture", "photo")

# The field of a structure that holds the bytes.
_FIELD = "bytes"

# A batch of rows holds about so many bytes, and no more than so many rows.
_BATCH_BYTES = 16 << 20
_BATCH_ROWS = 256
_READ_BYTES = 1 << 20


def is_parquet(name: str) -> bool:
    """Whether a path or address is that of a Parquet file."""
    return file_part(name).lower().endswith(_SUFFIX)


def check_parquet(path: str) -> None:
    """Raise UsageError if the Parquet file has no column of images, or cannot be opened."""
    try:
        with _opened(path) as file:
            _column(file.schema_arrow)
    except ImageError as error:
        raise UsageError(f"'{path}' cannot be used. {error}") from None
    except Exception as error:  # pyarrow's own, OSError, or those of a file system's package
        raise UsageError(f"'{path}' cannot be read as Parquet: {_reason(error, path)}.") from None


def _reason(error: BaseException, shard: str) -> str:
    """Return `reason_of` an error, but for what Arrow says of bytes that are not as a Parquet file has them."""
    import pyarrow as pa

    # Its errors of a format are also the system's, without a number, as those of file systems' packages may be.
    of_format = type(error) is OSError and error.errno is None and not is_remote(shard)
    if of_format or isinstance(error, pa.ArrowInvalid):
        return "it is damaged, encrypted or of another kind"
    return reason_of(error)


def parquet_images(shard: str, listing: Listing) -> Iterator[SourceImage]:
    """Yield the images of a Parquet file, one a row; a row without bytes is one that cannot be read.

    A file that is damaged gives the images that come before, and one under its own name that says so.
    """
    if listing.names_only and is_remote(shard):
        raise CostlyListingError

    def sentence(n: int, error: BaseException) -> str:
        if isinstance(error, ImageError):
            return str(error)
        return f"The Parquet file cannot be read after {n:,} rows ({_reason(error, shard)}): make it again."

    images = _names(shard) if listing.names_only or listing.by_name else _images(shard, listing)
    yield from until_it_fails(images, shard, sentence)


def row_of(name: str) -> tuple[str, int] | None:
    """Return the file and the row that a name of `parquet_images` stands for; None for other names."""
    found = _NAME.fullmatch(name)
    return (found[1], int(found[2])) if found is not None and is_parquet(found[1]) else None


def read_row(shard: str, row: int) -> bytes:
    """Return the bytes of the image in one row, counted from 0.

    Raises
    ------
    ImageError
        If there is no such file or row, or it cannot be read.
    """
    try:
        found = _last.read(shard, methodcaller("read", row))
    except ImageError:
        raise
    except Exception as error:  # as with a listing
        raise ImageError(f"The Parquet file cannot be read: {_reason(error, shard)}.") from None
    if found is None:
        raise ImageError("There is no such row in the Parquet file.")
    return found


class _Rows:
    """A Parquet file whose rows are mostly asked for in their order: pages hold many, and are unpacked as a whole."""

    def __init__(self, shard: str) -> None:
        opened = ExitStack()
        self._file = opened.enter_context(_opened(shard))
        # Rather than by __del__: at the end of the program that comes when what closes a connection is gone.
        self._finalizer = weakref.finalize(self, opened.close)
        self._starts = [start for _, start in _groups(self._file)]
        self._group, self._next = -1, 0
        self._cells: Iterator[Any] = iter(())

    def read(self, row: int) -> bytes | None:
        """Return the bytes in a row; None if there is no such row."""
        if row >= self._file.metadata.num_rows:
            return None
        group = bisect_right(self._starts, row) - 1
        if group != self._group or row < self._next:
            self._group, self._next = group, self._starts[group]
            self._cells = (cell for batch in _batches(self._file, group) for cell in batch)
        cell = next(islice(self._cells, row - self._next, None))
        self._next = row + 1
        return _bytes_of(cell)

    def close(self) -> None:
        self._finalizer()


_last = LastReader(_Rows)


def _names(shard: str) -> Iterator[SourceImage]:
    with _opened(shard) as file:
        _column(file.schema_arrow)
        for row in range(file.metadata.num_rows):
            yield SourceImage(f"{shard}#{row}", partial(read_row, shard, row))


def _images(shard: str, listing: Listing) -> Iterator[SourceImage]:
    with _opened(shard) as file:
        cells = (cell for group, _ in _groups(file) for batch in _batches(file, group) for cell in batch)
        for row, cell in enumerate(cells):
            yield _image(f"{shard}#{row}", cell, partial(read_row, shard, row), listing)


def _image(name: str, cell: Any, again: partial[bytes], listing: Listing) -> SourceImage:
    if cell.is_valid and not listing.held.has_room(cell.as_buffer().size):
        return SourceImage(name, again)
    try:
        return listing.held.image(name, _bytes_of(cell), again)
    except ImageError as error:
        return broken_image(name, str(error))


def _bytes_of(cell: Any) -> bytes:
    """Return the bytes of a cell, which is a scalar of a column of bytes."""
    if not cell.is_valid:
        raise ImageError("The row has no image bytes.")
    check_size(cell.as_buffer().size)
    content: bytes = cell.as_py()
    return content


def _groups(file: Any) -> Iterator[tuple[int, int]]:
    """Yield the row groups, each with the number of its first row."""
    start = 0
    for group in range(file.num_row_groups):
        yield group, start
        start += file.metadata.row_group(group).num_rows


def _batches(file: Any, group: int) -> Iterator[Any]:
    """Yield the cells of the images of a row group, in batches."""
    column = _column(file.schema_arrow)
    rows, size = file.metadata.row_group(group).num_rows, file.metadata.row_group(group).total_byte_size
    batch_rows = min(max(_BATCH_BYTES * rows // max(size, 1), 1), _BATCH_ROWS)
    for batch in file.iter_batches(batch_size=batch_rows, row_groups=[group], columns=[column], use_threads=False):
        yield _cells_of(batch.column(0))


def _cells_of(column: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    # Null where the structure is.
    cells = pc.struct_field(column, _FIELD) if pa.types.is_struct(column.type) else column
    # One by one: what a dictionary holds once may stand in every row, and unpacked at once that takes any room.
    return map(attrgetter("value"), cells) if pa.types.is_dictionary(cells.type) else cells


def _column(schema: Any) -> str:
    """Return the path of the column of images.

    Raises
    ------
    ImageError
        If no column holds bytes, or several do and none of them by a name that is known.
    """
    paths = {field.name: path for field in schema if (path := _bytes_path(field)) is not None}
    for known in _COLUMNS:
        for name, path in paths.items():
            if name.lower() == known:
                return path
    if len(paths) == 1:
        return next(iter(paths.values()))
    if not paths:
        raise ImageError(f"None of its columns holds bytes of images; it has {', '.join(schema.names) or 'none'}.")
    raise ImageError(f"Several of its columns hold bytes ({', '.join(paths)}): call the one with the images 'image'.")


def _bytes_path(field: Any) -> str | None:
    """Return the path of the bytes in a column, or None if it holds none."""
    import pyarrow as pa

    kind = field.type
    if pa.types.is_struct(kind) and kind.get_field_index(_FIELD) >= 0:
        inner = _bytes_path(kind.field(_FIELD))
        return f"{field.name}.{_FIELD}" if inner == _FIELD else None
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    known = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return str(field.name) if any(is_known(kind) for is_known in known) else None


@contextmanager
def _opened(shard: str) -> Iterator[Any]:
    import pyarrow.parquet as pq

    # Pages are read as they are needed, and not a group's whole column at once.
    with (
        open_shard(shard, seekable=True) as stream,
        pq.ParquetFile(stream, buffer_size=_READ_BYTES, pre_buffer=False) as file,
    ):
        yield file
