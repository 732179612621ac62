from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pc_engine
from pc_engine.errors import PcEngineError, UsageError
from pc_engine.pointers import BoxPointer, EllipsePointer
from pc_engine.result import Result, error_result
from pc_engine.runs import writers
from pc_engine.runs.partition_names import FORMATS, find_format, partitions_of
from pc_engine.runs.rows import iter_rows
from pc_engine.runs.writers import SCHEMA, PartitionWriter, cannot_write, write_partition

COLUMNS = [
    *("path", "status", "error", "width", "height", "mode", "model", "count", "count_label", "count_scores"),
    *("class_id", "class_name", "class_score", "pointers"),
]

COUNTED = Result(
    path="photos/a.jpg",
    status="ok",
    error=None,
    width=640,
    height=480,
    mode="c2p",
    model="tiny",
    count=2,
    count_label="2",
    count_scores={"0": -1.5, "1": 0.25, "2": 1.0},
    pointers=(EllipsePointer(10.5, 20.25, 3.0, 4.5, 0.75), EllipsePointer(100.0, 200.0, 1.0, 2.0, 0.25)),
)
POINTED = Result(
    path="photos/b.jpg",
    status="ok",
    error=None,
    width=30,
    height=40,
    mode="p2c",
    model="tiny",
    count=1,
    count_label="1",
    class_id=7,
    class_name="goldfish, Carassius auratus",
    class_score=0.5,
    pointers=(BoxPointer(0.0, 1.0, 15.0, 20.5, 1.0),),
)
EMPTY = replace(COUNTED, path="photos/c.jpg", count=0, count_label="0", pointers=())
FAILED = error_result("photos/d.jpg", "The file is empty (0 bytes).", mode="c2p", model="tiny")
ALL = (COUNTED, POINTED, EMPTY, FAILED)


def write(directory: Path, *results: Result, row_format: Any = "parquet", **options: Any) -> None:
    with PartitionWriter(directory, row_format, **options) as writer:
        for result in results:
            writer.write(result)


@pytest.mark.parametrize("row_format", FORMATS)
def test_rows_come_back_as_the_results_that_were_written(tmp_path: Path, row_format: str) -> None:
    write(tmp_path, *ALL, row_format=row_format)
    assert [*iter_rows(tmp_path)] == [result.to_dict() for result in ALL]
    assert os.listdir(tmp_path) == [f"part-00000.{row_format}"]
    rows = pc_engine.iter_rows(str(tmp_path))
    assert [pc_engine.Result.from_dict(row) for row in rows] == list(ALL)


@pytest.mark.parametrize("directory", [None, 3, b"run"])
def test_what_is_no_folder_is_said(directory: Any) -> None:
    with pytest.raises(UsageError, match=r"The folder of a run is .*, expected text or a path"):
        pc_engine.iter_rows(directory)


def test_columns_are_those_of_the_row_format(tmp_path: Path) -> None:
    write(tmp_path, *ALL)
    table = pq.read_table(tmp_path / "part-00000.parquet")
    assert table.column_names == COLUMNS
    assert SCHEMA.names == COLUMNS
    assert table.schema.equals(SCHEMA)
    assert list(COUNTED.to_dict()) == COLUMNS
    pointer = SCHEMA.field("pointers").type.value_type
    assert {pointer.field(i).name for i in range(pointer.num_fields)} == {
        *("kind", "x", "y", "rx", "ry", "x0", "y0", "x1", "y1", "score"),
        *("class_id", "class_name"),  # of a run that looks for several classes in an image
    }


def test_jsonl_has_the_same_bytes_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def open_as_there(path: Path, mode: str = "r", **options: Any) -> Any:
        return opened(path, mode, **({"newline": "\r\n", **options} if mode == "w" else options))

    with monkeypatch.context() as windows:
        windows.setattr(Path, "open", open_as_there)
        write(tmp_path, *ALL, row_format="jsonl")
    assert b"\r" not in (tmp_path / "part-00000.jsonl").read_bytes()


def test_a_jsonl_row_has_the_same_names(tmp_path: Path) -> None:
    write(tmp_path, *ALL, row_format="jsonl")
    rows = [json.loads(line) for line in (tmp_path / "part-00000.jsonl").read_text().split("\n")[:-1]]
    assert [list(row) for row in rows] == [COLUMNS] * 4
    assert rows[0]["pointers"][0] == {"x": 10.5, "y": 20.25, "rx": 3.0, "ry": 4.5, "score": 0.75, "kind": "ellipse"}
    assert rows[1]["pointers"][0]["kind"] == "box"


@pytest.mark.parametrize("row_format", FORMATS)
@pytest.mark.parametrize(
    "name", ["naïve 写真 📷.jpg", "line\nbreak.jpg", "\u2028separator\x85next\x0b.jpg", '"quoted", \\.jpg']
)
def test_odd_names_come_back(tmp_path: Path, row_format: str, name: str) -> None:
    write(tmp_path, replace(COUNTED, path=name), FAILED, row_format=row_format)
    assert [row["path"] for row in iter_rows(tmp_path)] == [name, FAILED.path]


@pytest.mark.parametrize("row_format", FORMATS)
def test_a_path_that_is_not_utf8_is_written_with_its_bytes_escaped(tmp_path: Path, row_format: str) -> None:
    write(tmp_path, replace(COUNTED, path=os.fsdecode(b"caf\xe9.jpg")), row_format=row_format)
    assert next(iter_rows(tmp_path))["path"] == "caf\\xe9.jpg"


@pytest.mark.parametrize("row_format", FORMATS)
def test_partitions_are_cut_at_their_size_and_read_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row_format: str
) -> None:
    monkeypatch.setattr(writers, "ROWS_PER_PARTITION", 3)
    results = [replace(COUNTED, path=f"{k}.jpg") for k in range(7)]
    with PartitionWriter(tmp_path, row_format) as writer:
        for k, result in enumerate(results):
            writer.write(result)
            assert len(list(tmp_path.glob(f"part-*.{row_format}"))) == (k + 1) // 3
    assert [row["path"] for row in iter_rows(tmp_path)] == [result.path for result in results]
    sizes = [len(read_rows_of(path)) for path in sorted(tmp_path.glob("part-*"))]
    assert sizes == [3, 3, 1]


def read_rows_of(path: Path) -> list[Any]:
    return pq.read_table(path).to_pylist() if path.suffix == ".parquet" else path.read_text().splitlines()


def test_a_whole_number_of_partitions_leaves_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "ROWS_PER_PARTITION", 2)
    write(tmp_path, *ALL)
    assert len(list(tmp_path.glob("part-*"))) == 2
    assert len([*iter_rows(tmp_path)]) == 4


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_run_that_breaks_off_keeps_its_rows(tmp_path: Path, error: type[BaseException]) -> None:
    def break_off() -> None:
        with PartitionWriter(tmp_path) as writer:
            writer.write(COUNTED)
            raise error

    with pytest.raises(error):
        break_off()
    assert [row["path"] for row in iter_rows(tmp_path)] == [COUNTED.path]


def test_a_slow_runs_partitions_are_cut_sooner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(writers.time, "monotonic", lambda: now[0])
    sizes: list[int] = []
    with PartitionWriter(tmp_path, published=sizes.append) as writer:
        for _ in range(5):
            writer.write(COUNTED)
            now[0] += 0.4 * writers.SECONDS_PER_PARTITION
    assert sizes == [4, 1]


def test_numbers_and_names_go_on_from_those_given(tmp_path: Path) -> None:
    write(tmp_path, COUNTED, first=99_999, stem="part-2-of-3")
    write(tmp_path, FAILED, first=100_000, stem="part-2-of-3")
    assert [path.name for path in partitions_of(tmp_path)] == [
        "part-2-of-3-99999.parquet",
        "part-2-of-3-100000.parquet",
    ]
    assert [row["path"] for row in iter_rows(tmp_path)] == [COUNTED.path, FAILED.path]


@pytest.mark.parametrize("row_format", FORMATS)
def test_a_partition_is_replaced_as_a_whole(tmp_path: Path, row_format: str) -> None:
    path = tmp_path / f"part-r0123456789abcdef.{row_format}"
    write_partition(path, (result.to_dict() for result in ALL))
    assert [*iter_rows(tmp_path)] == [result.to_dict() for result in ALL]
    write_partition(path, [POINTED.to_dict()])
    assert [*iter_rows(tmp_path)] == [POINTED.to_dict()]
    write_partition(path, [])
    assert os.listdir(tmp_path) == []


# A page, the footer, its length, and no Parquet at all.
@pytest.mark.parametrize("place", [slice(4, 12), slice(-300, -8), slice(-8, -4), slice(None)])
def test_a_damaged_parquet_file_is_said_without_the_words_of_arrow(tmp_path: Path, place: slice) -> None:
    write(tmp_path, *ALL)
    path = tmp_path / "part-00000.parquet"
    content = bytearray(path.read_bytes())
    content[place] = b"\xff" * len(content[place])
    path.write_bytes(content)
    with pytest.raises(PcEngineError, match=r"part-00000\.parquet cannot be read \(it is damaged\): delete it"):
        [*iter_rows(tmp_path)]


@pytest.mark.parametrize("row_format", FORMATS)
def test_a_damaged_partition_is_named(tmp_path: Path, row_format: str) -> None:
    write(tmp_path, *ALL, row_format=row_format)
    path = tmp_path / f"part-00000.{row_format}"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PcEngineError, match=rf"part-00000\.{row_format} cannot be read \(.*\): delete it"):
        [*iter_rows(tmp_path)]


def test_rows_for_which_memory_is_short_are_not_said_to_be_damaged_for_sure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise pa.ArrowMemoryError("malloc of size 131072 failed")

    write(tmp_path, *ALL)
    monkeypatch.setitem(writers._READ, "parquet", fail)
    with pytest.raises(PcEngineError, match=r"read \(it is damaged, or needs more memory than there is\): delete"):
        [*iter_rows(tmp_path)]


@pytest.mark.parametrize("row_format", FORMATS)
def test_rows_that_the_system_refuses_are_not_to_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row_format: str
) -> None:
    write(tmp_path, *ALL, row_format=row_format)
    path = tmp_path / f"part-00000.{row_format}"
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read all

        def refuse(*_: object) -> None:
            raise PermissionError(errno.EACCES, f"Failed to open {path}")

        monkeypatch.setitem(writers._READ, find_format(row_format), refuse)
    with pytest.raises(PcEngineError, match=r"cannot be read \(Permission denied\): see that .* you may read") as error:
        [*iter_rows(tmp_path)]
    assert "delete" not in str(error.value)


def test_files_that_are_no_partitions_are_not_read(tmp_path: Path) -> None:
    write(tmp_path, COUNTED)
    (tmp_path / "corrections.jsonl").write_text('{"path": "photos/a.jpg"}\n')
    (tmp_path / ".part-00001.parquet.new").write_bytes(b"half")
    assert [*iter_rows(tmp_path)] == [COUNTED.to_dict()]


class _FullDisk:
    """A partition on a disk that is full when it is written to, or only when it is closed."""

    def __init__(self, path: Path, *, at_close: bool) -> None:
        path.write_bytes(b"half")
        self._at_close = at_close

    def append(self, rows: Any) -> None:
        if not self._at_close:
            raise OSError(28, "No space left on device")

    def close(self) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("at_close", [False, True])
def test_a_partition_that_cannot_be_written_is_no_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_close: bool
) -> None:
    monkeypatch.setitem(writers._PARTITION, "jsonl", lambda path: _FullDisk(path, at_close=at_close))
    writer = PartitionWriter(tmp_path, "jsonl")
    writer.write(COUNTED)
    with pytest.raises(PcEngineError, match=r"part-00000\.jsonl cannot be written \(No space left on device\)"):
        writer.flush()
    with pytest.raises(PcEngineError, match="make room, then run the same command again"):
        write_partition(tmp_path / "part-00000.jsonl", [COUNTED.to_dict()])
    assert list(tmp_path.iterdir()) == []


def test_what_may_not_be_written_needs_no_room(tmp_path: Path) -> None:
    said = str(cannot_write(tmp_path, PermissionError(errno.EACCES, "Permission denied")))
    assert "(Permission denied): change its permissions, then run the same command again." in said
    assert "(No space left on device): make room, then" in str(cannot_write(tmp_path, OSError(errno.ENOSPC, "")))


@pytest.mark.parametrize("row_format", FORMATS)
def test_rows_wait_in_a_file_and_not_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row_format: Any
) -> None:
    monkeypatch.setattr(writers, "_ROWS_HELD", 3)
    monkeypatch.setattr(writers, "ROWS_PER_PARTITION", 10)
    results = [replace(COUNTED, path=f"{k}.jpg") for k in range(25)]
    with PartitionWriter(tmp_path, row_format) as writer:
        for result in results:
            writer.write(result)
            assert len(writer._rows) < 3
    assert [len(read_rows_of(path)) for path in sorted(tmp_path.glob("part-*"))] == [10, 10, 5]
    assert [*iter_rows(tmp_path)] == [result.to_dict() for result in results]
    assert list(tmp_path.glob(".*")) == []


def test_a_folder_without_rows_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no rows"):
        [*iter_rows(tmp_path)]
    with pytest.raises(UsageError, match=r"There is no folder .*gone: name the one given to"):
        [*iter_rows(tmp_path / "gone")]


def test_a_run_without_images_has_no_partition(tmp_path: Path) -> None:
    write(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("row_format", FORMATS)
def test_rows_are_read_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row_format: Any) -> None:
    monkeypatch.setattr(writers, "ROWS_PER_PARTITION", 3)
    results = [replace(COUNTED, path=f"{k}.jpg") for k in range(7)]
    write(tmp_path, *results, row_format=row_format)
    (tmp_path / f"part-00002.{row_format}").write_text("damaged")
    rows = iter_rows(tmp_path)
    assert [next(rows)["path"] for _ in range(6)] == [f"{k}.jpg" for k in range(6)]
    with pytest.raises(PcEngineError, match="cannot be read"):
        next(rows)


def test_a_folder_without_rows_is_said_before_the_first_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no rows"):
        iter_rows(tmp_path)


@pytest.mark.parametrize("row_format", FORMATS)
@pytest.mark.parametrize("text", ["caf\udce9.jpg", "half \ud800"])
def test_text_that_utf8_cannot_hold_ends_no_run(tmp_path: Path, row_format: str, text: str) -> None:
    with PartitionWriter(tmp_path, row_format) as writer:
        writer.write(error_result(text, f"There is no {text}.", mode="c2p", model="tiny"))
        writer.write(COUNTED)
    first, second = [*iter_rows(tmp_path)]
    assert "\\x" in first["path"] or "\\ud800" in first["path"]
    assert first["path"] in first["error"]
    assert second["path"] == COUNTED.path


@pytest.mark.parametrize("row_format", FORMATS)
def test_rows_that_were_stored_as_a_signal_came_are_not_stored_again(
    tmp_path: Path, row_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = writers._PARTITION[row_format]
    append = kind.append

    def interrupted(self: Any, rows: Any) -> None:
        append(self, rows)
        monkeypatch.setattr(kind, "append", append)
        raise KeyboardInterrupt

    monkeypatch.setattr(kind, "append", interrupted)
    with PartitionWriter(tmp_path, row_format) as writer:
        for k in range(5):
            writer.write(replace(COUNTED, path=f"{k}.jpg"))
        with pytest.raises(KeyboardInterrupt):
            writer.flush()
    assert [row["path"] for row in iter_rows(tmp_path)] == [f"{k}.jpg" for k in range(5)]


@pytest.mark.parametrize("name", ["run:1", "a b", "run?x=1", "s3:"])
def test_a_folder_that_looks_like_an_address_is_one(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(name)
    folder.mkdir()
    with PartitionWriter(folder, "parquet") as writer:
        writer.write(COUNTED)
    assert len([*iter_rows(folder)]) == 1
