from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from pc_engine.errors import PcEngineError
from pc_engine.files import durable
from pc_engine.result import Result, error_result
from pc_engine.runs import block_folder, writers
from pc_engine.runs.block_folder import Block, make_blocks, remove_blocks
from pc_engine.runs.partition_names import FORMATS, partitions_of
from pc_engine.runs.rows import iter_rows


def row(name: str) -> dict[str, Any]:
    return error_result(name, "The file is empty (0 bytes).", mode="c2p", model="tiny").to_dict()


def test_a_block_comes_back_as_it_was_put(tmp_path: Path) -> None:
    blocks = make_blocks(tmp_path, "part", "parquet")
    block = Block(3, ("a.jpg", os.fsdecode(b"caf\xe9.jpg"), "b c\n.jpg", "\u2028"))
    blocks.put(block)
    assert blocks.take(3) == block
    assert blocks.take(3) == block
    blocks.drop(3)
    assert list(blocks.path.iterdir()) == []
    with pytest.raises(PcEngineError, match=r"00000003\.json cannot be read \(No such file or directory\)"):
        blocks.take(3)


def test_a_block_that_is_looked_at_is_waited_for(tmp_path: Path, open_for_a_moment: list[Path]) -> None:
    blocks = make_blocks(tmp_path, "part", "parquet")
    blocks.put(Block(3, ("a.jpg",)))
    assert blocks.take(3).names == ("a.jpg",)
    assert len(open_for_a_moment) == 1


def test_a_block_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = make_blocks(tmp_path, "part", "parquet")
    write = Path.write_text

    def half(path: Path, text: str, **options: Any) -> None:
        write(path, text[: len(text) // 2], **options)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(PcEngineError, match=r"00000003\.json cannot be written \(No space left on device\): make room"):
        blocks.put(Block(3, ("a.jpg",)))
    assert not (blocks.path / "00000003.json").exists()


@pytest.mark.parametrize("content", ["", '{"number": 3, "nam', "[]", '{"number": 3}', '{"errors": [1], "counts": []}'])
def test_a_block_that_cannot_be_read_is_said_to_be_damaged(tmp_path: Path, content: str) -> None:
    blocks = make_blocks(tmp_path, "part", "parquet")
    (blocks.path / "00000003.json").write_text(content)
    with pytest.raises(PcEngineError, match=r"00000003\.json cannot be read \(it is damaged\): .* same command again"):
        blocks.take(3)


@pytest.mark.parametrize("row_format", FORMATS)
def test_rows_of_a_block_that_is_done_twice_are_there_once(tmp_path: Path, row_format: Any) -> None:
    blocks = make_blocks(tmp_path, "part", row_format)
    for _ in range(2):
        blocks.write_rows(0, [row("a.jpg"), row("b.jpg")])
    assert [found["path"] for found in iter_rows(tmp_path)] == ["a.jpg", "b.jpg"]
    assert partitions_of(tmp_path) == [blocks.partition(0)]
    assert list(blocks.path.iterdir()) == []


def test_blocks_of_the_same_images_have_rows_of_their_own(tmp_path: Path) -> None:
    # An image that the sources name twice has two rows, in whatever blocks; and so in a later run with --fresh shards.
    first, second = (make_blocks(tmp_path, "part", "parquet") for _ in range(2))
    for blocks, number in ((first, 0), (first, 1), (second, 0)):
        blocks.write_rows(number, [row("a.jpg")])
    assert len(partitions_of(tmp_path)) == 3
    assert [found["path"] for found in iter_rows(tmp_path)] == ["a.jpg"] * 3


def test_a_worker_of_a_run_that_is_over_brings_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = make_blocks(tmp_path, "part", "parquet")
    publish = writers.publish

    def late(temporary: Path, path: Path) -> None:
        # The rows are whole, and just about to come under their name.
        assert temporary.exists()
        remove_blocks(tmp_path, "part")
        publish(temporary, path)

    monkeypatch.setattr(writers, "publish", late)
    with pytest.raises(PcEngineError, match="No such file"):
        blocks.write_rows(0, [row("a.jpg")])
    monkeypatch.setattr(writers, "publish", publish)
    with pytest.raises(PcEngineError, match="No such file"):
        blocks.write_rows(0, [row("a.jpg")])
    assert list(tmp_path.iterdir()) == []
    assert blocks.stopped


def test_two_workers_may_have_one_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = make_blocks(tmp_path, "part", "jsonl")

    def rows(then: Any = None) -> Any:
        yield row("a.jpg")
        if then is not None:
            blocks.write_rows(0, then)
        yield row("b.jpg")

    blocks.write_rows(0, rows(rows()))
    assert [found["path"] for found in iter_rows(tmp_path)] == ["a.jpg", "b.jpg"]


def test_only_blocks_of_this_run_are_removed(tmp_path: Path) -> None:
    mine = make_blocks(tmp_path, "part-1-of-2", "parquet")
    mine.put(Block(0, ("a.jpg",)))
    other = make_blocks(tmp_path, "part-2-of-2", "parquet")
    whole = make_blocks(tmp_path, "part", "parquet")
    foreign = tmp_path / ".mine.blocks"
    foreign.mkdir()
    remove_blocks(tmp_path, "part-1-of-2")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([other.path.name, whole.path.name, foreign.name])
    assert mine.stopped
    assert not other.stopped
    other.stop()
    assert other.stopped


def test_a_worker_that_goes_on_writing_is_waited_for_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = make_blocks(tmp_path, "part", "parquet")
    unlink, left = Path.unlink, 3

    def unlink_and_write(path: Path, **options: bool) -> None:
        nonlocal left
        unlink(path, **options)
        if left:
            left -= 1
            (blocks.path / f"{left}.new").touch()

    monkeypatch.setattr(Path, "unlink", unlink_and_write)
    blocks.put(Block(0, ("a.jpg",)))
    remove_blocks(tmp_path, "part")
    assert not blocks.path.exists()

    monkeypatch.setattr(block_folder, "_TRIES", 2)
    blocks, left = make_blocks(tmp_path, "part", "parquet"), 9
    blocks.put(Block(0, ("a.jpg",)))
    with pytest.raises(OSError, match="workers of an earlier run are still working"):
        remove_blocks(tmp_path, "part")


def test_rows_that_a_worker_has_open_on_windows_are_waited_for_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SharingViolationError(PermissionError):
        winerror = 32

    blocks = make_blocks(tmp_path, "part", "parquet")
    (blocks.path / "0.new").touch()
    unlink, refused = Path.unlink, [50]

    def unlink_when_closed(path: Path, **options: bool) -> None:
        if refused[0]:
            refused[0] -= 1
            raise SharingViolationError(errno.EACCES, os.strerror(errno.EACCES))
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", unlink_when_closed)
    monkeypatch.setattr(durable, "_PAUSE", 0)
    remove_blocks(tmp_path, "part")
    assert not blocks.path.exists()

    refused[0] = 10_000
    blocks = make_blocks(tmp_path, "part", "parquet")
    (blocks.path / "0.new").touch()
    with pytest.raises(PermissionError):
        remove_blocks(tmp_path, "part")


def test_a_block_that_every_worker_is_lost_over_is_given_up(tmp_path: Path) -> None:
    blocks = make_blocks(tmp_path, "part", "parquet")
    blocks.put(Block(0, ("a.jpg", "b.jpg", "c.jpg")))
    for _ in range(5):
        blocks.take(0)
    with pytest.raises(
        PcEngineError, match=r"5 workers in turn were lost .* from a\.jpg to c\.jpg: see whether memory"
    ):
        blocks.take(0)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    blocks = make_blocks(tmp_path, "part", "parquet")
    blocks.path.rmdir()
    with pytest.raises(PcEngineError, match="cannot be written"):
        blocks.put(Block(0, ("a.jpg",)))
    blocks.stop()
    result = Result("a.jpg", "ok", None, 64, 48, "c2p", "tiny", 1, "1")
    with pytest.raises(PcEngineError, match="cannot be written"):
        blocks.write_rows(0, [result.to_dict()])
