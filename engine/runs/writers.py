"""Rows on disk: Parquet or JSONL partitions of a run directory."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem

from pc_engine.errors import PcEngineError
from pc_engine.files.durable import publish, unpublished
from pc_engine.files.json_values import parse_line
from pc_engine.result import Result
from pc_engine.runs.partition_names import STEM, Format, find_format
from pc_engine.runs.row_check import check_row
from pc_engine.sources.stored_names import stored_name

ROWS_PER_PARTITION = 10_000
#: A slow run's partitions are cut sooner: what is not in one yet is lost if the machine stops.
SECONDS_PER_PARTITION = 300.0
# Rows kept in memory before they go to the file of their partition.
_ROWS_HELD = 1_000
# What more room does not help against.
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)

_POINTER = pa.struct(
    [("kind", pa.string())]
    + [(name, pa.float32()) for name in ("x", "y", "rx", "ry", "x0", "y0", "x1", "y1", "score")]
    + [("class_id", pa.int64()), ("class_name", pa.string())]
)

_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("path", pa.string()),
    ("status", pa.string()),
    ("error", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("mode", pa.string()),
    ("model", pa.string()),
    ("count", pa.int32()),
    ("count_label", pa.string()),
    ("count_scores", pa.map_(pa.string(), pa.float32())),
    ("class_id", pa.int32()),
    ("class_name", pa.string()),
    ("class_score", pa.float32()),
    ("pointers", pa.list_(_POINTER)),
]
#: Columns of a Parquet partition; a JSONL row has the same names.
SCHEMA = pa.schema(_COLUMNS)


class PartitionWriter:
    """Writes results into numbered partitions of a folder. A partition appears under its name only once it is whole.

    Parameters
    ----------
    directory
        The folder, which is there.
    row_format
        ``"parquet"`` or ``"jsonl"``.
    stem
        What the partitions' names begin with.
    first
        Number of the first one.
    published
        Called with the rows' number whenever a partition has come under its name.
    """

    def __init__(
        self,
        directory: Path,
        row_format: Format = "parquet",
        *,
        stem: str = STEM,
        first: int = 0,
        published: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.directory = directory
        self._format = row_format
        self._stem, self._number, self._published = stem, first, published
        self._rows: list[dict[str, Any]] = []
        self._partition: _Partition | None = None
        self._rows_in_partition = 0
        self._since = 0.0

    def write(self, result: Result) -> None:
        """Add one row.

        Raises
        ------
        PcEngineError
            If it cannot be written, as on a disk that is full. The partition's rows are lost then.
        """
        if not self._rows and self._partition is None:
            self._since = time.monotonic()
        self._rows.append(_storable(result.to_dict()))
        if len(self._rows) >= _ROWS_HELD:
            self._store()
        if (
            self._rows_in_partition + len(self._rows) >= ROWS_PER_PARTITION
            or time.monotonic() - self._since >= SECONDS_PER_PARTITION
        ):
            self.flush()

    def flush(self) -> None:
        """Bring the rows so far under their partition's name; otherwise as `write`."""
        if self._rows:
            self._store()
        if self._partition is None:
            return
        try:
            self._partition.close()
            publish(self._temporary, self._path)
        except OSError as error:
            self._give_up(error)
        rows = self._rows_in_partition
        self._partition = None
        self._rows_in_partition = 0
        self._number += 1
        self._published(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()  # a run that could not go on keeps the rows it has

    def _store(self) -> None:
        """Append the rows held to the partition's file, which is not under its name yet."""
        try:
            if self._partition is None:
                self._partition = _PARTITION[self._format](self._temporary)
            # Let go of first: were they stored and kept when a signal ends the run, they would be stored again.
            rows, self._rows = self._rows, []
            self._rows_in_partition += len(rows)
            self._partition.append(rows)
        except OSError as error:
            self._give_up(error)

    @property
    def _path(self) -> Path:
        return self.directory / f"{self._stem}-{self._number:05d}.{self._format}"

    @property
    def _temporary(self) -> Path:
        return unpublished(self._path)

    def _give_up(self, error: OSError) -> NoReturn:
        """Leave no half a partition behind, and say what to do."""
        partition = self._partition
        self._partition, self._rows, self._rows_in_partition = None, [], 0
        with contextlib.suppress(OSError):
            if partition is not None:
                partition.close()
        self._temporary.unlink(missing_ok=True)
        raise cannot_write(self._path, error) from None


def write_partition(path: Path, rows: Iterable[Mapping[str, Any]], temporary: Path | None = None) -> None:
    """Write rows to a partition of their own, whole or not at all, in place of one of that name.

    Without any row there is no partition afterwards. ``temporary`` is where it lies until it is whole, on the same
    file system; None for a hidden name beside it.

    Raises
    ------
    PcEngineError
        If it cannot be written.
    """
    temporary, has_rows = temporary or unpublished(path), False
    try:
        partition = _PARTITION[path.suffix.removeprefix(".")](temporary)
        remaining = iter(rows)
        try:
            while held := list(islice(remaining, _ROWS_HELD)):
                partition.append([_storable(row) for row in held])
                has_rows = True
        finally:
            partition.close()
        if has_rows:
            publish(temporary, path)
        else:
            temporary.unlink()
            path.unlink(missing_ok=True)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> PcEngineError:
    """Return the error that says why a run cannot go on, and what to do."""
    # By its number, as Arrow puts words of its own around the system's.
    reason = os.strerror(error.errno) if error.errno else str(error)
    first = "change its permissions" if error.errno in _NOT_ALLOWED else "make room"
    return PcEngineError(
        f"{path} cannot be written ({reason}): {first}, then run the same command again. It goes on after the rows "
        "already written."
    )


def rows_of(path: Path, columns: Sequence[str] = SCHEMA.names) -> Iterator[dict[str, Any]]:
    """Yield the rows of one partition, with at least the ``columns`` asked for, of the values that a run writes.

    Raises
    ------
    PcEngineError
        If it is damaged, or the system refuses it.
    """
    try:
        for row in _READ[find_format(path.suffix.removeprefix("."))](path, columns):
            check_row(row, columns)
            for name in columns:
                row.setdefault(name, None)
            yield row
    except (OSError, ValueError, MemoryError, RecursionError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno:  # the system's, not Arrow's: the rows may be as good as ever
            reason = os.strerror(error.errno)
            raise PcEngineError(
                f"{path} cannot be read ({reason}): see that this machine reaches it and that you "
                "may read it, then run the same command again."
            ) from None
        # The words of this program alone: Arrow's are about how its files are made.
        why = str(error) if type(error) is ValueError else "it is damaged"
        if isinstance(error, MemoryError):
            why += ", or needs more memory than there is"
        raise PcEngineError(
            f"{path} cannot be read ({why}): delete it, and the next run into this folder does its images again."
        ) from None


def _storable(row: Mapping[str, Any]) -> dict[str, Any]:
    error = row["error"]  # which may name the file
    return {**row, "path": stored_name(row["path"]), "error": None if error is None else stored_name(error)}


class _Partition(Protocol):
    """An open file of rows."""

    def append(self, rows: Sequence[dict[str, Any]]) -> None: ...

    def close(self) -> None: ...


class _ParquetPartition:
    """Each `append` makes a row group."""

    def __init__(self, path: Path) -> None:
        # Arrow would take a folder such as "run:1" for an address, but for a whole path on a file system that is named.
        self._writer = pq.ParquetWriter(path.absolute(), SCHEMA, compression="zstd", filesystem=LocalFileSystem())

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        columns = [
            {**row, "count_scores": None if row["count_scores"] is None else list(row["count_scores"].items())}
            for row in rows
        ]
        self._writer.write_table(pa.Table.from_pylist(columns, schema=SCHEMA))

    def close(self) -> None:
        self._writer.close()


class _JsonlPartition:
    def __init__(self, path: Path) -> None:
        self._stream = path.open("w", encoding="utf-8", newline="\n")  # the same bytes on every system

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        self._stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def close(self) -> None:
        self._stream.close()


def _jsonl_rows(path: Path, _columns: Sequence[str]) -> Iterator[Any]:
    # By lines of the file: str.splitlines would also split at U+2028, which a path may hold.
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                row = parse_line(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            yield row


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path.absolute()) as partition:
        for name in columns:
            place = partition.schema_arrow.get_field_index(name)
            if place < 0 or partition.schema_arrow.field(place).type != SCHEMA.field(name).type:
                raise ValueError(f"its column {name} is absent or of another type")
        for batch in partition.iter_batches(_ROWS_HELD, columns=list(columns)):
            yield from map(_from_parquet, batch.to_pylist())


def _from_parquet(row: dict[str, Any]) -> dict[str, Any]:
    if row.get("count_scores") is not None:
        row["count_scores"] = dict(row["count_scores"])
    if row.get("pointers") is not None:
        row["pointers"] = [
            {name: value for name, value in pointer.items() if value is not None} for pointer in row["pointers"]
        ]
    return row


_PARTITION: Mapping[str, Callable[[Path], _Partition]] = {"parquet": _ParquetPartition, "jsonl": _JsonlPartition}
_READ: Mapping[str, Callable[[Path, Sequence[str]], Iterator[Any]]] = {"parquet": _parquet_rows, "jsonl": _jsonl_rows}
