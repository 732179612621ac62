"""Whole runs by several processes: what they write, and what is left of it when one of them dies."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import json
import math
import multiprocessing
import operator
import os
import signal
import sys
import tarfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pc_engine.distributed import block_listing, process_engine, shared_engine
from pc_engine.distributed.block_worker import Choice
from pc_engine.distributed.process_engine import ProcessEngine, _Keeper
from pc_engine.distributed.shared_engine import SharedRun
from pc_engine.runs.partition_names import partitions_of
from pc_engine.runs.rows import iter_rows
from pc_engine.runs.writers import write_partition

TWO = ("--processes", "2")
CHILDREN_TOLD = Path(f"/proc/self/task/{os.getpid()}/children").exists()


def children_of(process: int) -> list[int]:
    """The processes that any of its threads started."""
    children: list[int] = []
    for path in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(OSError):  # of a thread that has ended meanwhile
            children += map(int, (path / "children").read_text().split())
    return children


def test_rows_are_those_of_one_process_though_one_of_two_is_killed(
    shared: Any, pc_engine: Any, photos: Path, tiny_directory: Path, tmp_path: Path, whole: list[str]
) -> None:
    run = tmp_path / "run"
    with shared.once_begun(run, lambda: multiprocessing.active_children()[0].kill()) as killed:
        outcome = pc_engine("run", photos, "--model", tiny_directory, "--out", run, "--json", *TWO, *shared.options)
    assert outcome.code == 3, outcome.err
    assert 3 <= killed[0] < shared.images / shared.images_per_block
    assert shared.lines(run) == whole
    assert shared.hidden(run) == []
    assert multiprocessing.active_children() == []
    summary = json.loads(outcome.out)
    assert (summary["n"], summary["failed"], summary["state"], summary["workers"]) == (shared.images, 7, "finished", 2)
    assert summary["stages"]["network"] > 0


def test_members_of_one_name_have_the_same_rows_however_a_run_is_shared_out(
    shared: Any, pc_engine: Any, draw_scene: Any, tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # Each time that a name comes it is another picture, and the whole of that twice, one archive behind the other.
    for half in range(2):
        with tarfile.open(f"half-{half}.tar", "w") as archive:
            for k in range(30):
                draw_scene([(1, 1), (6, 1), (1, 6), (6, 6)][: (k // 10 + half) % 4]).save("scene.png")
                archive.add("scene.png", f"{k % 10}.png")
    Path("shard.tar").write_bytes(Path("half-0.tar").read_bytes() + Path("half-1.tar").read_bytes())
    arguments = ("run", "shard.tar", "--model", tiny_directory, *shared.options)
    assert pc_engine(*arguments, "--out", "whole").code == 0
    expected = shared.lines(Path("whole"))
    rows = {row["path"]: row for row in iter_rows(Path("whole"))}
    assert len(rows) == 60
    names = ["tar://0.png::shard.tar", *(f"tar://0.png::shard.tar#{k}" for k in range(2, 7))]
    assert [rows[name]["count"] for name in names] == [0, 1, 2, 1, 2, 3]

    assert pc_engine(*arguments, "--out", "shared", *TWO).code == 0
    assert shared.lines(Path("shared")) == expected
    for part in ("1/2", "2/2"):
        assert pc_engine(*arguments, "--out", "parts", "--shard", part).code == 0
    assert shared.lines(Path("parts")) == expected
    # What a run that was stopped had is not done again.
    (partition,) = partitions_of(Path("whole"))
    write_partition(partition, [row for k, row in enumerate(rows.values()) if k % 3])
    assert pc_engine(*arguments, "--out", "whole", *TWO).code == 0
    assert shared.lines(Path("whole")) == expected


def test_what_cannot_be_listed_has_the_same_rows_in_several_processes(
    shared: Any, pc_engine: Any, draw_scene: Any, tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_scene([(1, 1)]).save("scene.png")
    with tarfile.open("cut.tar", "w") as archive:
        for k in range(30):
            archive.add("scene.png", f"{k}.png")
    os.truncate("cut.tar", os.path.getsize("scene.png") * 20)
    Path("table.csv").write_text("path,label\nscene.png,1\n,2\n")
    arguments = ("run", "cut.tar", "@table.csv", "--model", tiny_directory, *shared.options)
    assert pc_engine(*arguments, "--out", "whole").code == 3
    assert pc_engine(*arguments, "--out", "shared", *TWO).code == 3
    assert shared.lines(Path("shared")) == shared.lines(Path("whole"))
    errors = {row["path"]: row["error"] for row in iter_rows(Path("shared")) if row["status"] == "error"}
    assert set(errors) == {"cut.tar", "@table.csv#3"}
    assert errors["cut.tar"].startswith("The archive breaks off or is damaged after ")


def test_pictures_of_shards_by_several_processes_do_not_take_each_others_place(
    shared: Any, start: Any, draw_scene: Any, tiny_directory: Path, tmp_path: Path
) -> None:
    photos, run = tmp_path / "photos", tmp_path / "run"
    for k in range(40):
        (photos / str(k)).mkdir(parents=True)
        draw_scene([(1, 1)]).save(photos / str(k) / "same.png")
    arguments = ("run", photos, "--model", tiny_directory, "--out", run, "--overlay", *shared.options)
    # Beside one another, as those of a job array are: none sees pictures of another as it begins.
    for driver in [start(*arguments, "--shard", shard, "--processes", "1") for shard in ("1/2", "2/2")]:
        assert driver.process.wait(shared.seconds) == 0, driver.said()
    assert len([*iter_rows(run)]) == 40
    assert len(list((run / "overlays").iterdir())) == 40


@pytest.mark.skipif(not CHILDREN_TOLD, reason="this system does not tell a process's children")
def test_a_signal_to_all_of_them_ends_the_run_with_what_they_have(
    shared: Any, start: Any, pc_engine: Any, photos: Path, tiny_directory: Path, tmp_path: Path, whole: list[str]
) -> None:
    run = tmp_path / "run"
    arguments = ("run", photos, "--model", tiny_directory, "--out", run, *shared.options)
    driver = start(*(argument for argument in arguments if argument != "--quiet"), *TWO, "--overlay", held=True)
    shared.wait_for(lambda: len(partitions_of(run)) > 2, driver.said)
    number = driver.process.pid
    children = children_of(number)
    assert len(children) >= 2
    for process in (number, *children):
        os.kill(process, signal.SIGINT)
    shared.wait_for(lambda: "Stopping after the images in progress" in driver.said(), driver.said)
    driver.go_on()
    assert driver.process.wait(shared.seconds) == 128 + signal.SIGINT
    rows = [*iter_rows(run)]
    assert 3 * shared.images_per_block <= len(rows) < shared.images
    state = json.loads((run / "run.json").read_text())
    assert (state["state"], state["n"]) == ("interrupted", len(rows))
    assert shared.hidden(run) == []
    assert "Traceback" not in driver.said()
    assert f"Stopped. {run} has {len(rows)} rows" in driver.said()
    readable = sum(row["status"] == "ok" for row in rows)
    assert len(list((run / "overlays").iterdir())) == readable
    shared.wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    assert pc_engine(*arguments).code == 3
    assert shared.lines(run) == whole


@pytest.mark.skipif(not CHILDREN_TOLD, reason="this system does not tell a process's children")
def test_the_driver_is_killed_and_its_processes_end(
    shared: Any, start: Any, pc_engine: Any, photos: Path, tiny_directory: Path, tmp_path: Path, whole: list[str]
) -> None:
    run = tmp_path / "run"
    arguments = ("run", photos, "--model", tiny_directory, "--out", run, *shared.options)
    driver = start(*arguments, *TWO, held=True)
    shared.wait_for(lambda: len(partitions_of(run)) > 2, driver.said)
    children = children_of(driver.process.pid)
    driver.process.kill()
    driver.process.wait()
    outcome = pc_engine(*arguments)
    assert outcome.code == 3, outcome.err
    assert shared.lines(run) == whole
    shared.wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    assert shared.lines(run) == whole
    assert shared.hidden(run) == []


def test_a_process_whose_rows_would_differ_ends_the_run_with_a_sentence(
    shared: Any, pc_engine: Any, photos: Path, tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = ProcessEngine._choose

    def choose_otherwise(self: ProcessEngine, settings: Any) -> Choice:
        choice = choose(self, settings)
        return replace(choice, identity={**choice.identity, "counter_sha256": "ab" * 32})

    monkeypatch.setattr(ProcessEngine, "_choose", choose_otherwise)
    run = tmp_path / "run"
    outcome = pc_engine("run", photos, "--model", tiny_directory, "--out", run, *TWO, *shared.options)
    assert outcome.code == 2
    assert "would give other rows than the other machines (counter_sha256 differ)" in outcome.err
    assert shared.hidden(run) == []
    assert partitions_of(run) == []


def test_a_silent_list_does_not_hold_up_what_a_process_says(
    shared: Any, pc_engine: Any, photos: Path, tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_listing, "_SECONDS_TO_END", 0.5)
    monkeypatch.setattr(process_engine, "_answer_with_blocks", operator.is_)
    ours, theirs = os.pipe()
    with open(ours, "rb") as stream, open(theirs, "wb", buffering=0) as writer:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
        writer.write("".join(f"{photos}/{k:04d}.png\n" for k in range(30)).encode())
        arguments = ("run", "@-", "--model", tiny_directory, "--out", tmp_path / "run", *TWO, *shared.options)
        outcome = pc_engine(*arguments)
        assert outcome.code == 1
        assert "5 processes in turn died on the same images, or on starting" in outcome.err
        # The thread that waits for a line is over when none can come.
        writer.close()
        shared.wait_for(lambda: all(thread.name != "listing" for thread in threading.enumerate()))


def test_processes_that_die_as_they_start_end_the_run_with_a_sentence(
    shared: Any, pc_engine: Any, photos: Path, tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Compares its arguments, and ends.
    monkeypatch.setattr(process_engine, "_answer_with_blocks", operator.is_)
    monkeypatch.setattr(process_engine, "_MOST_DEATHS", 2)  # each process takes a second to start
    run = tmp_path / "run"
    outcome = pc_engine("run", photos, "--model", tiny_directory, "--out", run, *TWO, *shared.options)
    assert outcome.code == 1
    assert outcome.err.startswith(
        "pc-engine: 2 processes in turn died on the same images, or on starting, the last one with exit code 0: see "
        "whether memory runs out, then run the same command again, with fewer --processes."
    )
    assert shared.hidden(run) == []


def test_an_answer_that_cannot_be_read_ends_the_run_with_a_sentence(
    shared: Any, pc_engine: Any, photos: Path, tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = _Keeper.ask

    def fail(self: Any, question: Any) -> Any:
        if isinstance(question, int):
            raise AttributeError("there is no such class")  # noqa: TRY004 (as of unpickling)
        return ask(self, question)

    monkeypatch.setattr(_Keeper, "ask", fail)
    run = tmp_path / "run"
    outcome = pc_engine("run", photos, "--model", tiny_directory, "--out", run, *TWO, *shared.options)
    assert outcome.code == 1
    assert outcome.err.startswith("pc-engine: there is no such class: see whether memory runs out")


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_processes_that_cannot_be_started_end_the_run_with_a_sentence(
    shared: Any,
    pc_engine: Any,
    photos: Path,
    tiny_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails_at: int,
) -> None:
    begun = itertools.count()
    pipe = process_engine._CONTEXT.Pipe

    def refuse() -> Any:
        if next(begun) >= fails_at:
            raise OSError(errno.EMFILE, "Too many open files")
        return pipe()

    monkeypatch.setattr(process_engine._CONTEXT, "Pipe", refuse)
    run = tmp_path / "run"
    outcome = pc_engine("run", photos, "--model", tiny_directory, "--out", run, *TWO, *shared.options)
    assert outcome.code == 1
    assert outcome.err.startswith(
        "pc-engine: A process cannot be started (Too many open files): see whether memory runs"
    )
    assert shared.hidden(run) == []
    assert multiprocessing.active_children() == []


def test_what_cannot_be_done_is_said_before_anything_is_written(
    shared: Any, pc_engine: Any, photos: Path, tiny_directory: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ("run", photos, "--model", tiny_directory, *shared.options)
    for options, code, expected in (
        (TWO, 2, "--processes needs a directory that all share: say where with --out DIR"),
        ((*TWO, "--out", run, "--engine", "ray"), 2, "--processes is for this machine alone: omit it"),
        (("--processes", "0", "--out", run), 2, "--processes is 0, expected a number of at least 1"),
        ((*TWO, "--out", run, "--mode", "none"), 2, "There is no mode 'none'"),
        ((*TWO, "--out", run, "--device", "gpu"), 2, "There is no device 'gpu'"),
    ):
        outcome = pc_engine(*arguments, *options)
        assert (outcome.code, expected in outcome.err) == (code, True), outcome.err
        assert not run.exists() or shared.hidden(run) == []
    assert partitions_of(run) == []


@pytest.mark.parametrize(
    ("asked", "found", "expected"),
    [
        ("cuda", "cuda:0", ["cuda:0", "cuda:1", "cuda:0"]),
        ("auto", "cuda:0", ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda:1", "cuda:1", ["cuda:1"] * 3),
        ("auto", "cpu", ["cpu"] * 3),
    ],
)
def test_processes_take_turns_at_the_gpus_unless_one_is_named(
    asked: str, found: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {"backend": "b", "precision": "fp16", "device": found, "batch_size": 8}
    monkeypatch.setattr(ProcessEngine, "_choose", lambda *_: Choice({}, about, "model"))
    monkeypatch.setattr("pc_engine.hardware.devices.gpu_count", lambda: 2)
    monkeypatch.setattr(process_engine, "usable_cores", lambda: 8)
    started: list[Any] = []
    monkeypatch.setattr(
        process_engine,
        "_Keeper",
        lambda _, arguments: SimpleNamespace(
            ask=started.append, settings=arguments[0], hang_up=lambda: None, end=lambda _: None
        ),
    )
    blocks: Any = SimpleNamespace()
    with ProcessEngine(SharedRun(blocks, ()), processes=3, device=asked, model=None) as engine:
        announce, answers = engine._answers()
        announce(0, True)
        assert list(answers) == []
        keepers: list[Any] = engine._kept
        assert [keeper.settings.engine["device"] for keeper in keepers] == expected
        assert {keeper.settings.engine["threads"] for keeper in keepers} == {2}
        most = shared_engine._MOST_ON_CPU if found == "cpu" else shared_engine._MOST_ON_GPU
        assert engine._most == most


@pytest.mark.parametrize("before", [None, ""])
def test_a_process_imports_nothing_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    if before is None:
        monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONSAFEPATH", before)
    for library in ("multiprocessing", "random"):
        Path(f"{library}.py").write_text("raise SystemExit('not what was meant')")
    keeper: _Keeper[str, str | None] = _Keeper(
        process_engine._answer_all, (functools.partial(functools.partial, os.getenv),)
    )
    try:
        assert keeper.ask("PYTHONSAFEPATH") == before  # what it starts is none of ours
        assert os.environ.get("PYTHONSAFEPATH") == before
    finally:
        keeper.end()


@pytest.mark.skipif(not CHILDREN_TOLD, reason="this system does not tell a process's children")
def test_a_signal_as_a_process_starts_does_not_end_it() -> None:
    keeper: _Keeper[float, float] = _Keeper(
        process_engine._answer_all, (functools.partial(functools.partial, math.sqrt),)
    )
    over, others = threading.Event(), {*children_of(os.getpid())}

    def disturb() -> None:
        while not over.is_set():
            for child in {*children_of(os.getpid())} - others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGINT)
            time.sleep(0.001)

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    try:
        assert keeper.ask(4.0) == 2
        first = multiprocessing.active_children()
        assert keeper.ask(9.0) == 3
        assert multiprocessing.active_children() == first
    finally:
        over.set()
        disturbing.join()
        keeper.end()


def test_a_process_that_does_not_end_is_killed() -> None:
    keeper: _Keeper[int, int] = _Keeper(process_engine._answer_all, (functools.partial(functools.partial, time.sleep),))

    def ask() -> None:
        with pytest.raises(ChildProcessError, match="were ended"):
            keeper.ask(1000)

    waiting = threading.Thread(target=ask, daemon=True)
    waiting.start()
    while not multiprocessing.active_children():
        time.sleep(0.01)
    start = time.monotonic()
    keeper.end(0.1)
    assert time.monotonic() - start < 500
    waiting.join(500)
    assert not waiting.is_alive()
    with pytest.raises(ChildProcessError, match="were ended"):
        keeper.ask(0)
