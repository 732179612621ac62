"""Runs that are shared out, on photos of which a few cannot be read, in small blocks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pc_engine.__main__ import main
from pc_engine.distributed import block_listing, shared_engine
from pc_engine.runs.partition_names import partitions_of
from pc_engine.runs.rows import iter_rows
from pc_engine.runs.run_directory import RunDirectory

IMAGES, IMAGES_PER_BLOCK = 600, 20
# For whoever has to wait for something that is sure to happen.
SECONDS = 600
MODEL = ("--backend", "onnxruntime", "--precision", "fp32", "--batch-size", "7", "--quiet")

# The command line; where it is to, it waits behind its third partition until the file is there that it is given.
RUN = f"""
import sys, time
from pathlib import Path
from pc_engine.__main__ import main
from pc_engine.distributed import block_listing, shared_engine
from pc_engine.runs.run_directory import RunDirectory
block_listing._FIRST_BLOCK = shared_engine._MOST_ON_CPU = {IMAGES_PER_BLOCK}
go_on, add, added = Path(sys.argv.pop(1)), RunDirectory.add, []
def add_and_hold(rows, tally):
    add(rows, tally)
    added.append(tally)
    while len(added) == 3 and not go_on.exists():
        time.sleep(0.01)
RunDirectory.add = add_and_hold
main()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What PC_ENGINE_HOME is in every process of these tests, and in no other."""
    return tmp_path_factory.mktemp("shared-home")


@pytest.fixture(scope="session")
def shared() -> SimpleNamespace:
    """What tests of shared runs have in common: numbers, options, and small functions."""
    return SimpleNamespace(
        images=IMAGES,
        images_per_block=IMAGES_PER_BLOCK,
        seconds=SECONDS,
        options=MODEL,
        wait_for=wait_for,
        once_begun=once_begun,
        lines=lines,
        hidden=hidden,
    )


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_listing, "_FIRST_BLOCK", IMAGES_PER_BLOCK)
    monkeypatch.setattr(shared_engine, "_MOST_ON_CPU", IMAGES_PER_BLOCK)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, draw_scene: Any) -> Path:
    """600 photos, of which a few cannot be read."""
    kinds, folder = tmp_path_factory.mktemp("kinds"), tmp_path_factory.mktemp("photos")
    for count in range(5):
        draw_scene([(1 + 3 * (k % 2), 1 + 3 * (k // 2)) for k in range(count)]).save(kinds / f"{count}.png")
    (kinds / "5.png").write_bytes(b"no picture")
    for k in range(IMAGES):
        os.link(kinds / f"{5 if k % 97 == 0 else k % 5}.png", folder / f"{k:04d}.png")
    return folder


@pytest.fixture
def pc_engine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run the command line in this process; return its exit code and what it printed."""

    def call(*arguments: object) -> Any:
        monkeypatch.setattr("sys.argv", ["pc-engine", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return SimpleNamespace(code=int(ended.value.code or 0), out=printed.out, err=" ".join(printed.err.split()))

    return call


@pytest.fixture
def start(home: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Run the command line in a process of its own, held behind its third partition or not."""
    started = []

    def run(*arguments: object, held: bool = False) -> Any:
        errors, go_on = (tmp_path / f"{name}-{len(started)}.txt" for name in ("errors", "go-on"))
        if not held:
            go_on.touch()
        with errors.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-c", RUN, str(go_on), *map(str, arguments)],
                stdout=stream,
                stderr=stream,
                env={**os.environ, "PC_ENGINE_HOME": str(home)},
            )
        started.append(process)
        return SimpleNamespace(process=process, said=lambda: " ".join(errors.read_text().split()), go_on=go_on.touch)

    yield run
    for process in started:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], Any], also: Callable[[], str] = str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, also()
        time.sleep(0.01)


@contextmanager
def once_begun(run: Path, work: Callable[[], object]) -> Iterator[list[int]]:
    """Do ``work`` when the run here took its third partition, before the fourth; the list says how many there were."""
    done: list[int] = []
    add, added = RunDirectory.add, list[Any]()

    def add_and_work(rows: RunDirectory, tally: Any) -> None:
        add(rows, tally)
        added.append(tally)
        if len(added) == 3:
            done.append(len(partitions_of(run)))
            work()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "add", add_and_work)
        yield done


def lines(run: Path) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in iter_rows(run))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, photos: Path, tiny_directory: Path) -> list[str]:
    """The rows of a run without Ray that nobody disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sys.argv", ["pc-engine", *map(str, ("run", photos, "--model", tiny_directory, "--out", run, *MODEL))]
        )
        with pytest.raises(SystemExit):
            main()
    assert len([*iter_rows(run)]) == IMAGES
    return lines(run)


def hidden(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob(".*") if path.name != ".run.lock")
