from __future__ import annotations

import json
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pc_engine.errors import PcEngineError, UsageError
from pc_engine.pointers import EllipsePointer
from pc_engine.result import Result, error_result
from pc_engine.runs import run_directory, writers
from pc_engine.runs.partition_names import FORMATS
from pc_engine.runs.rows import iter_rows
from pc_engine.runs.run_directory import RunDirectory
from pc_engine.runs.run_state import Tally, is_running, lock_run, states
from pc_engine.sources.image import local_image
from pc_engine.sources.run_folders import RUN_FILE
from pc_engine.sources.sharding import Shard

SETTINGS = {"mode": "c2p", "network_sha256": "ab" * 32, "parameters": {"c2p": {"tol": 0.001}}}


def counted(name: str, count: int = 1) -> Result:
    pointers = tuple(EllipsePointer(1.0 + k, 2.0, 3.0, 4.0, 0.5) for k in range(count))
    return Result(name, "ok", None, 64, 48, "c2p", "tiny", count, str(count), {"0": 0.5}, pointers=pointers)


def failed(name: str) -> Result:
    return error_result(name, "The file is empty (0 bytes).", mode="c2p", model="tiny")


def do(directory: Path, names: list[str], *, stop_after: int | None = None, bad: tuple[str, ...] = (), **options: Any):
    """What a run does; return the names that it went through."""
    gone_through = []
    with RunDirectory(directory, **options) as rows:
        rows.begin(SETTINGS, {"mode": "c2p"})
        for image in rows.remaining(map(local_image, names)):
            name = image.name
            if len(gone_through) == stop_after:
                break
            rows.write(failed(name) if name in bad else counted(name))
            gone_through.append(name)
        rows.close("finished" if stop_after is None else "interrupted", {"stages": {}})
    return gone_through


def paths(directory: Path) -> list[str]:
    return [row["path"] for row in iter_rows(directory)]


@pytest.mark.parametrize("row_format", FORMATS)
def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path, row_format: str) -> None:
    names = [f"{k}.jpg" for k in range(10)]
    assert do(tmp_path, names, stop_after=4, row_format=row_format) == names[:4]
    assert json.loads((tmp_path / RUN_FILE).read_text())["state"] == "interrupted"
    assert do(tmp_path, names) == names[4:]
    assert paths(tmp_path) == names
    state = json.loads((tmp_path / RUN_FILE).read_text())
    assert (state["state"], state["n"], state["ok"], state["counts"]) == ("finished", 10, 10, {"1": 10})
    assert do(tmp_path, names) == []
    assert paths(tmp_path) == names


@settings(max_examples=60)
@given(data=st.data())
def test_no_row_is_lost_and_none_doubled_wherever_it_stops(data: st.DataObject, tmp_path_factory: Any) -> None:
    names = data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12), label="names")
    directory = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writers, "ROWS_PER_PARTITION", data.draw(st.integers(1, 4)))
        for stop in data.draw(st.lists(st.integers(0, 5), max_size=4), label="stops"):
            kill = data.draw(st.booleans())
            if kill:
                die(directory, names, stop)
            else:
                do(directory, names, stop_after=stop)
        do(directory, names)
    assert Counter(paths(directory)) == Counter(names)
    assert not list(directory.glob(".*.new"))


def die(directory: Path, names: list[str], after: int) -> None:
    """A run that ends without a word: what was not published is not there."""
    rows = RunDirectory(directory)
    rows.begin(SETTINGS, {})
    for done, image in enumerate(rows.remaining(map(local_image, names))):
        if done == after:
            break
        rows.write(counted(image.name))
    rows._writer._store()
    rows._claim.release()


def test_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    do(tmp_path, ["a.jpg"])
    with RunDirectory(tmp_path) as rows:
        assert rows.earlier == {**SETTINGS, "format": 1}
        with pytest.raises(UsageError, match=r"made with other settings \(mode c2p, not p2c\): .* or .* --fresh"):
            rows.begin({**SETTINGS, "mode": "p2c"}, {})
    with RunDirectory(tmp_path) as rows, pytest.raises(UsageError, match=r"\(network abababababab..., not cdcdcd"):
        rows.begin({**SETTINGS, "network_sha256": "cd" * 32}, {})
    other = {**SETTINGS, "parameters": {"c2p": {"tol": 0.5}}, "known_count": 2}
    with (
        RunDirectory(tmp_path) as rows,
        pytest.raises(UsageError, match=r"\(c2p\.tol 0\.001, not 0\.5; --count none, not 2\)"),
    ):
        rows.begin(other, {})
    other = {**SETTINGS, "known_count": "each", "count_column": "n"}
    with RunDirectory(tmp_path) as rows, pytest.raises(UsageError, match=r"settings \(--count none, not n\): choose"):
        rows.begin(other, {})
    other = {**SETTINGS, "model": "other", "network_sha256": "cd" * 32, "parameters": {"p2c": {"cutoff": 2.0}}}
    with RunDirectory(tmp_path) as rows, pytest.raises(UsageError, match=r"settings \(model \w+, not other\): choose"):
        rows.begin(other, {})
    with pytest.raises(UsageError, match=r"holds rows as parquet, not jsonl: omit --format"):
        RunDirectory(tmp_path, "jsonl")
    assert paths(tmp_path) == ["a.jpg"]


def test_of_settings_within_others_those_that_differ_are_said(tmp_path: Path) -> None:
    def settings(cutoff: float) -> dict[str, Any]:
        return {**SETTINGS, "parameters": {"p2c": {"cutoff": cutoff, "trim": 0.5}, "c2p": {"tol": 0.1}}}

    with RunDirectory(tmp_path) as rows:
        rows.begin(settings(1.0), {})
        rows.write(counted("a.jpg"))
        rows.close("finished", {})
    expected = r"settings \(p2c\.cutoff 1\.0, not 2\.0\): choose"
    with RunDirectory(tmp_path) as rows, pytest.raises(UsageError, match=expected):
        rows.begin(settings(2.0), {})


def test_rows_that_nothing_says_the_origin_of_are_not_added_to(tmp_path: Path) -> None:
    do(tmp_path, ["a.jpg"])
    (tmp_path / RUN_FILE).unlink()
    with pytest.raises(UsageError, match=r"holds rows but no run\.json that says how they were made"):
        do(tmp_path, ["b.jpg"])
    do(tmp_path, ["b.jpg"], fresh=True)
    assert paths(tmp_path) == ["b.jpg"]


@pytest.mark.parametrize("row_format", FORMATS)
def test_failed_images_are_tried_again_where_asked(tmp_path: Path, monkeypatch: Any, row_format: str) -> None:
    monkeypatch.setattr(writers, "ROWS_PER_PARTITION", 2)
    names = [f"{k}.jpg" for k in range(7)]
    do(tmp_path, names, bad=("1.jpg", "4.jpg", "5.jpg"), row_format=row_format)
    assert do(tmp_path, names) == []
    assert do(tmp_path, names, bad=("4.jpg",), retry_failed=True) == ["1.jpg", "4.jpg", "5.jpg"]
    rows = {row["path"]: row["status"] for row in iter_rows(tmp_path)}
    assert len([*iter_rows(tmp_path)]) == 7
    assert {name for name, status in rows.items() if status == "error"} == {"4.jpg"}
    assert [row for row in iter_rows(tmp_path) if row["path"] == "0.jpg"] == [counted("0.jpg").to_dict()]
    state = json.loads((tmp_path / RUN_FILE).read_text())
    assert (state["n"], state["failed"]) == (7, 1)


def test_shards_share_a_directory_and_do_everything_once(tmp_path: Path) -> None:
    names = [f"{k}.jpg" for k in range(50)]
    gone_through = [do(tmp_path, names, shard=Shard(index, 3), stop_after=5) for index in (1, 2, 3)]
    gone_through += [do(tmp_path, names, shard=Shard(index, 3)) for index in (3, 1, 2)]
    assert sorted(name for part in gone_through for name in part) == sorted(names)
    assert sorted(paths(tmp_path)) == sorted(names)
    assert {tuple(state["shard"]) for state in states(tmp_path)} == {(1, 3), (2, 3), (3, 3)}
    with pytest.raises(UsageError, match="a run split into 3 shards: go on with that one"):
        do(tmp_path, names)
    with pytest.raises(UsageError, match="a run split into 3 shards"):
        do(tmp_path, names, shard=Shard(1, 2))
    with RunDirectory(tmp_path, shard=Shard(1, 3)) as rows, pytest.raises(UsageError, match="other settings"):
        rows.begin({**SETTINGS, "mode": "p2c"}, {})


def test_a_shard_begun_later_keeps_to_what_the_others_are_made_with(tmp_path: Path) -> None:
    do(tmp_path, ["a.jpg"], shard=Shard(1, 2))
    with RunDirectory(tmp_path, shard=Shard(2, 2)) as rows:
        assert rows.earlier == {**SETTINGS, "format": 1}
    # All shards of a job array may be started over at once.
    others = {**SETTINGS, "mode": "p2c"}
    with RunDirectory(tmp_path, shard=Shard(2, 2), fresh=True) as rows:
        assert rows.earlier is None
        rows.begin(others, {})
        rows.write(counted("b.jpg"))
    # From then on each keeps to what its own rows are made with.
    for shard, made_with in ((Shard(1, 2), SETTINGS), (Shard(2, 2), others)):
        with RunDirectory(tmp_path, shard=shard) as rows:
            assert rows.earlier == {**made_with, "format": 1}


def test_files_of_others_that_are_called_as_unfinished_rows_stay(tmp_path: Path) -> None:
    (tmp_path / ".part-of-something.new").touch()
    do(tmp_path, ["a.jpg"])
    assert (tmp_path / ".part-of-something.new").exists()
    assert paths(tmp_path) == ["a.jpg"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    assert not is_running(tmp_path)
    with RunDirectory(tmp_path):
        assert is_running(tmp_path)
        with pytest.raises(UsageError, match="Another run is writing into"):
            RunDirectory(tmp_path)
    with RunDirectory(tmp_path, shard=Shard(1, 2)):
        assert is_running(tmp_path, Shard(1, 2))
        assert not is_running(tmp_path, Shard(2, 2))
    assert not is_running(tmp_path)
    do(tmp_path, ["a.jpg"])


@pytest.mark.parametrize("row_format", FORMATS)
def test_a_fresh_run_replaces_an_earlier_one_but_not_what_people_corrected(tmp_path: Path, row_format: str) -> None:
    do(tmp_path, ["a.jpg", "b.jpg"], row_format=row_format)
    (tmp_path / "overlays").mkdir()
    (tmp_path / "overlays/a-0123456789ab.jpg").touch()
    (tmp_path / "corrections.jsonl").write_text("{}\n")
    do(tmp_path, ["c.jpg"], row_format="jsonl", fresh=True)
    assert paths(tmp_path) == ["c.jpg"]
    assert not (tmp_path / "overlays").exists()
    assert (tmp_path / "corrections.jsonl").exists()


def test_a_fresh_run_removes_nothing_that_no_run_wrote(tmp_path: Path) -> None:
    do(tmp_path, ["a.jpg"])
    pq.write_table(pa.table({"a": [1]}), tmp_path / "customers.parquet")
    (tmp_path / "notes.txt").write_text("mine")
    before = sorted(os.listdir(tmp_path))
    for fresh in (False, True):
        with pytest.raises(UsageError, match=r"customers\.parquet, which no run wrote"):
            do(tmp_path, ["a.jpg"], fresh=fresh)
    assert sorted(os.listdir(tmp_path)) == before
    (tmp_path / "customers.parquet").unlink()
    do(tmp_path, ["b.jpg"], fresh=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_nothing_stays_of_a_run_that_does_not_begin(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such model"), RunDirectory(tmp_path / "a/b/new"):
        raise UsageError("There is no such model.")
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(UsageError, match="UTF-8"):
        RunDirectory(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")))
    assert [*tmp_path.iterdir()] == []
    (tmp_path / "old").mkdir()
    with RunDirectory(tmp_path / "old"):
        pass
    assert (tmp_path / "old").is_dir()  # it was there before


def test_a_folder_of_other_files_is_taken_and_they_stay(tmp_path: Path) -> None:
    (tmp_path / "overlays").mkdir()
    (tmp_path / "photo.jpg").touch()
    do(tmp_path, ["a.jpg"], fresh=True)
    assert (tmp_path / "overlays").is_dir()
    assert (tmp_path / "photo.jpg").exists()


def test_photos_where_pictures_are_drawn_are_neither_passed_over_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "overlays").mkdir()
    (tmp_path / "overlays/mine.jpg").touch()
    with pytest.raises(UsageError, match=r"overlays/mine\.jpg, which no run drew"):
        do(tmp_path, ["a.jpg"])
    (tmp_path / "overlays/mine.jpg").unlink()
    do(tmp_path, ["a.jpg"])
    (tmp_path / "overlays/mine.jpg").touch()  # put there later
    do(tmp_path, ["b.jpg"], fresh=True)
    assert (tmp_path / "overlays/mine.jpg").exists()


@pytest.mark.parametrize("stopped_by", [KeyboardInterrupt(), PermissionError(13, "Permission denied")])
def test_a_fresh_run_that_is_stopped_while_it_removes_pictures_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_by: BaseException
) -> None:
    def stop(_: Path) -> int:
        raise stopped_by

    do(tmp_path, ["a.jpg"])
    (tmp_path / "overlays").mkdir()
    (tmp_path / "overlays/a-0123456789ab.jpg").touch()
    (tmp_path / "overlays/mine.jpg").touch()
    with monkeypatch.context() as patched:
        patched.setattr(run_directory, "remove_pictures", stop)
        with pytest.raises((KeyboardInterrupt, PcEngineError)):
            do(tmp_path, ["b.jpg"], fresh=True)
    assert paths(tmp_path) == ["a.jpg"]
    do(tmp_path, ["b.jpg"], fresh=True)
    assert paths(tmp_path) == ["b.jpg"]
    assert [path.name for path in (tmp_path / "overlays").iterdir()] == ["mine.jpg"]


def test_names_that_are_not_utf8_are_known_again(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    assert do(tmp_path, [name]) == [name]
    assert do(tmp_path, [name]) == []


def test_images_that_came_since_are_done_and_those_gone_keep_their_rows(tmp_path: Path) -> None:
    do(tmp_path, ["a.jpg", "b.jpg"])
    assert do(tmp_path, ["0.jpg", "b.jpg", "c.jpg"]) == ["0.jpg", "c.jpg"]
    assert paths(tmp_path) == ["a.jpg", "b.jpg", "0.jpg", "c.jpg"]


def test_a_full_disk_leaves_a_run_that_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "ROWS_PER_PARTITION", 2)
    names = [f"{k}.jpg" for k in range(6)]
    publish, published = writers.publish, []

    def full(temporary: Path, path: Path) -> None:
        if len(published) == 1:
            raise OSError(28, "No space left on device")
        published.append(path)
        publish(temporary, path)

    monkeypatch.setattr(writers, "publish", full)
    with pytest.raises(PcEngineError, match=r"part-00001\.parquet cannot be written \(No space left on device\)"):
        do(tmp_path, names)
    assert paths(tmp_path) == names[:2]
    assert [path.name for path in tmp_path.glob(".*.new")] == []
    monkeypatch.setattr(writers, "publish", publish)
    assert do(tmp_path, names) == names[2:]
    assert paths(tmp_path) == names


def test_rows_that_other_processes_bring_are_rows_of_the_run(tmp_path: Path, monkeypatch: Any) -> None:
    with RunDirectory(tmp_path) as rows:
        blocks = rows.share()
        rows.begin(SETTINGS, {})
        assert [image.name for image in rows.remaining(map(local_image, ["a.jpg", "b.jpg"]))] == ["a.jpg", "b.jpg"]
        for number, name in enumerate(["a.jpg", "b.jpg"]):
            blocks.write_rows(number, [(counted(name) if number else failed(name)).to_dict()])
            rows.add(Tally(1, 1 - number, Counter({"1": number} if number else {})))
        assert json.loads((tmp_path / RUN_FILE).read_text())["n"] == 0
        monkeypatch.setattr("pc_engine.runs.run_directory._SECONDS_BETWEEN_STATES", 0.0)
        rows.add(Tally())
        assert json.loads((tmp_path / RUN_FILE).read_text())["n"] == 2
        rows.close("finished", {})
        assert not blocks.path.exists()
    state = json.loads((tmp_path / RUN_FILE).read_text())
    assert (state["n"], state["failed"], state["counts"]) == (2, 1, {"1": 1})
    assert do(tmp_path, ["a.jpg", "b.jpg", "c.jpg"], retry_failed=True) == ["a.jpg", "c.jpg"]
    assert sorted(paths(tmp_path)) == ["a.jpg", "b.jpg", "c.jpg"]


def test_processes_of_an_earlier_run_bring_no_rows_any_more(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, shard=Shard(1, 2)) as rows:
        blocks = rows.share()
        rows.begin(SETTINGS, {})
        blocks.write_rows(0, [counted("a.jpg").to_dict()])
        # As of a driver that was killed.
        rows._claim.release()
        with RunDirectory(tmp_path, shard=Shard(1, 2)) as later:
            assert later.before == 1
            with pytest.raises(PcEngineError, match="cannot be written"):
                blocks.write_rows(1, [counted("b.jpg").to_dict()])
    assert paths(tmp_path) == ["a.jpg"]


def test_a_lock_that_may_not_be_taken_says_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    do(tmp_path, ["a.jpg"])
    monkeypatch.setattr("pc_engine.runs.run_state.lock_run", refuse)
    assert not is_running(tmp_path)
    (tmp_path / RUN_FILE).write_text('{"state": "running"}')
    assert is_running(tmp_path)


def test_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        RunDirectory(tmp_path / "file/run")
    with pytest.raises(UsageError, match=r"file is a file, and rows go into a folder: choose another\."):
        RunDirectory(tmp_path / "file")
    with pytest.raises(UsageError, match="no row format 'csv': choose one of parquet, jsonl"):
        RunDirectory(tmp_path / "run", "csv")
    assert not (tmp_path / "run").exists()


def test_an_error_of_the_run_is_not_covered_by_one_of_the_disk(tmp_path: Path, monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    def break_off() -> None:
        with RunDirectory(tmp_path) as rows:
            rows.begin(SETTINGS, {})
            rows.write(counted("a.jpg"))
            monkeypatch.setattr(writers, "publish", full)
            raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        break_off()
    assert not is_running(tmp_path)


def test_what_is_to_be_replaced_stays_until_the_new_run_begins(tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpg"]
    do(tmp_path, names, bad=("b.jpg",))
    kept = [*iter_rows(tmp_path)]
    for options in ({"fresh": True}, {"retry_failed": True}):
        with RunDirectory(tmp_path, **options):
            pass  # the model was not found, say
        assert [*iter_rows(tmp_path)] == kept
    with RunDirectory(tmp_path, retry_failed=True) as rows, pytest.raises(UsageError, match="other settings"):
        rows.begin({**SETTINGS, "mode": "p2c"}, {})
    assert [*iter_rows(tmp_path)] == kept
    assert do(tmp_path, names, fresh=True) == names
    assert {row["status"] for row in iter_rows(tmp_path)} == {"ok"}


@pytest.mark.skipif(os.name != "posix", reason="names are text there")
def test_a_folder_that_parquet_cannot_name_is_refused_before_the_work(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"run\xff")
    with pytest.raises(UsageError, match="--format jsonl"):
        RunDirectory(folder)
    assert do(folder, ["a.jpg"], row_format="jsonl") == ["a.jpg"]


def test_who_looks_how_far_a_run_is_does_not_keep_it_from_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pc_engine.runs.run_state._SECONDS_TO_LOOK", 120)
    held, looked = threading.Event(), threading.Event()

    def look() -> None:
        with lock_run(tmp_path):
            held.set()
            looked.wait()

    looking = threading.Thread(target=look)
    looking.start()
    held.wait()
    threading.Timer(0.3, looked.set).start()
    assert do(tmp_path, ["a.jpg"]) == ["a.jpg"]
    looking.join()


def test_what_waits_for_its_partition_is_in_run_json_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_directory, "_SECONDS_BETWEEN_ROWS", 0.0)

    def state() -> list[int]:
        return [json.loads((tmp_path / RUN_FILE).read_text())[name] for name in ("n", "waiting")]

    with RunDirectory(tmp_path) as rows:
        rows.begin(SETTINGS, {})
        monkeypatch.setattr(writers, "ROWS_PER_PARTITION", 3)
        seen = []
        for k in range(4):
            rows.write(counted(f"{k}.jpg"))
            seen.append(state())
        rows.close("finished", {})
    assert seen == [[1, 1], [2, 2], [3, 0], [4, 1]]
    assert state() == [4, 0]


def test_other_settings_are_refused_before_anything_slow(tmp_path: Path) -> None:
    with RunDirectory(tmp_path) as rows:
        rows.check({"mode": "p2c"})  # nothing is there yet
    do(tmp_path, ["a.jpg"])
    with RunDirectory(tmp_path) as rows:
        rows.check({"mode": "c2p"})
        with pytest.raises(UsageError, match=r"holds rows made with other settings \(mode c2p, not p2c\): choose"):
            rows.check({"mode": "p2c"})
