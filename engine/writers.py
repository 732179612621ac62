"""A run directory: the rows of a run as Parquet or JSONL partitions, and ``run.json`` about the whole."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pc_engine.errors import PcEngineError, UsageError
from pc_engine.result import Result

Format = Literal["parquet", "jsonl"]
FORMATS: tuple[Format, ...] = ("parquet", "jsonl")

RUN_FILE = "run.json"
OVERLAYS = "overlays"
#: What people corrected; it lies beside the partitions and is none.
CORRECTIONS_FILE = "corrections.jsonl"
ROWS_PER_PARTITION = 10_000
# Rows kept in memory before they go to the file of their partition.
_ROWS_HELD = 1_000
_PARTITIONS = ("*.parquet", "*.jsonl")

_POINTER = pa.struct(
    [("kind", pa.string())] + [(name, pa.float32()) for name in ("x", "y", "rx", "ry", "x0", "y0", "x1", "y1", "score")]
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


class RunWriter:
    """Writes results into numbered partitions of a folder. A partition appears under its name only once it is whole.

    Parameters
    ----------
    directory
        The run directory; created if need be.
    row_format
        ``"parquet"`` or ``"jsonl"``.
    fresh
        Remove an earlier run's rows from the directory instead of refusing it.

    Raises
    ------
    UsageError
        If the directory holds an earlier run and ``fresh`` is not set, or cannot be written.
    """

    def __init__(self, directory: Path, row_format: Format = "parquet", *, fresh: bool = False) -> None:
        if row_format not in FORMATS:
            raise UsageError(f"There is no row format '{row_format}': choose one of {', '.join(FORMATS)}.")
        self.directory = directory
        self._format = row_format
        self._rows: list[dict[str, Any]] = []
        self._partition: _Partition | None = None
        self._rows_in_partition = 0
        self._partitions = 0
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._clear(fresh)
        except OSError as error:
            raise UsageError(f"The folder {directory} cannot be written ({error.strerror}): choose another.") from None

    def write(self, result: Result) -> None:
        """Add one row."""
        self._rows.append(_storable(result.to_dict()))
        if len(self._rows) >= _ROWS_HELD:
            self._store()
        if self._rows_in_partition + len(self._rows) >= ROWS_PER_PARTITION:
            self._flush()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the last partition, and ``run.json`` with what is known about the run."""
        self._flush()
        text = json.dumps(dict(summary), indent=1, ensure_ascii=True) + "\n"
        try:
            self._temporary(RUN_FILE).write_text(text, encoding="utf-8")
            self._publish(RUN_FILE)
        except OSError as error:
            self._temporary(RUN_FILE).unlink(missing_ok=True)
            raise self._cannot_write(RUN_FILE, error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()  # a run that could not go on keeps the rows it has

    def _clear(self, fresh: bool) -> None:
        rows = [path for pattern in _PARTITIONS for path in self.directory.glob(pattern)]
        own = [path for path in (*rows, self.directory / RUN_FILE) if _is_own(path)]
        foreign = [path.name for path in rows if path not in own]
        if foreign:
            raise UsageError(
                f"{self.directory} holds {foreign[0]}, which no run wrote and which would be read as rows: "
                f"choose another folder."
            )
        if own and not fresh:
            raise UsageError(
                f"{self.directory} holds an earlier run: choose another folder, or replace it with --fresh."
            )
        for path in own:
            path.unlink()
        if own:
            shutil.rmtree(self.directory / OVERLAYS, ignore_errors=True)

    def _store(self) -> None:
        """Append the rows held to the partition's file, which is not under its name yet."""
        try:
            if self._partition is None:
                self._partition = _PARTITION[self._format](self._temporary(self._name))
            self._partition.append(self._rows)
        except OSError as error:
            self._give_up(error)
        self._rows_in_partition += len(self._rows)
        self._rows = []

    def _flush(self) -> None:
        """Bring the partition under its name."""
        if self._rows:
            self._store()
        if self._partition is None:
            return
        try:
            self._partition.close()
            self._publish(self._name)
        except OSError as error:
            self._give_up(error)
        self._partition = None
        self._rows_in_partition = 0
        self._partitions += 1

    @property
    def _name(self) -> str:
        return f"part-{self._partitions:05d}.{self._format}"

    def _temporary(self, name: str) -> Path:
        return self.directory / f".{name}.new"

    def _publish(self, name: str) -> None:
        with self._temporary(name).open("rb") as stream:
            os.fsync(stream.fileno())
        self._temporary(name).replace(self.directory / name)

    def _give_up(self, error: OSError) -> NoReturn:
        """Leave no half a partition behind, and say what to do."""
        name, partition = self._name, self._partition
        self._partition, self._rows, self._rows_in_partition = None, [], 0
        with contextlib.suppress(OSError):
            if partition is not None:
                partition.close()
        self._temporary(name).unlink(missing_ok=True)
        raise self._cannot_write(name, error) from None

    def _cannot_write(self, name: str, error: OSError) -> PcEngineError:
        return PcEngineError(
            f"{self.directory / name} cannot be written ({error.strerror or error}): make room and run again."
        )


def read_rows(directory: Path) -> list[dict[str, Any]]:
    """Return all rows of a run directory, in the order of its partitions.

    Raises
    ------
    UsageError
        If it holds no partition.
    """
    return list(iter_rows(directory))


def iter_rows(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield what `read_rows` returns, a few rows at a time in memory; it raises what that raises, and at once."""
    found = (path for pattern in _PARTITIONS for path in directory.glob(pattern))
    partitions = sorted(path for path in found if path.name != CORRECTIONS_FILE)
    if not partitions:
        raise UsageError(f"{directory} holds no rows: name the folder given to 'pc-engine run --out'.")
    return (row for path in partitions for row in _rows_of(path))


def _rows_of(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".jsonl":
        # By lines of the file: str.splitlines would also split at U+2028, which a path may hold.
        with path.open(encoding="utf-8") as stream:
            yield from map(json.loads, stream)
        return
    with pq.ParquetFile(path) as partition:
        for batch in partition.iter_batches(_ROWS_HELD, columns=SCHEMA.names):
            yield from map(_from_parquet, batch.to_pylist())


def _is_own(path: Path) -> bool:
    """Whether a run wrote the file, so that a fresh one may remove it."""
    return path.is_file() and (path.name == RUN_FILE or re.fullmatch(r"part-\d{5,}", path.stem) is not None)


def _storable(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with a path that UTF-8 can hold; bytes that are not UTF-8 appear as \\xNN."""
    return {**row, "path": row["path"].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")}


class _Partition(Protocol):
    """An open file of rows."""

    def append(self, rows: Sequence[dict[str, Any]]) -> None: ...

    def close(self) -> None: ...


class _ParquetPartition:
    """Each `append` makes a row group."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")

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
        self._stream = path.open("w", encoding="utf-8")

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        self._stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def close(self) -> None:
        self._stream.close()


_PARTITION: dict[str, Callable[[Path], _Partition]] = {"parquet": _ParquetPartition, "jsonl": _JsonlPartition}


def _from_parquet(row: dict[str, Any]) -> dict[str, Any]:
    row["count_scores"] = None if row["count_scores"] is None else dict(row["count_scores"])
    row["pointers"] = [
        {name: value for name, value in pointer.items() if value is not None} for pointer in row["pointers"]
    ]
    return row
