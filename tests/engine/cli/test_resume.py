"""Runs that end early, by whatever signal, and go on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pc_engine.runs.rows import iter_rows

MODEL = ("--backend", "onnxruntime", "--precision", "fp32")
# A longer trial: PC_ENGINE_KILLS=100 pytest tests/engine/cli/test_resume.py
KILLS = int(os.environ.get("PC_ENGINE_KILLS", "5"))

# So many images are run for their memory, and a tenth of them; a longer trial: PC_ENGINE_MANY=200000.
MANY = int(os.environ.get("PC_ENGINE_MANY", "6000"))

# Seconds, for what is sure to happen.
PATIENCE = 600

# The command line in a process of its own, with smaller partitions. Files say how it is: what it took of memory, and
# whether it waits for the next line of a list; and that it may go on after the partition behind which it is held.
PROGRAM = """
import sys, time
from pathlib import Path
from pc_engine.runs import writers
from pc_engine.sources import lists
from pc_engine.bench.environment import peak_memory_mb
from pc_engine.cli import main
writers.ROWS_PER_PARTITION, held_behind = int(sys.argv[1]), int(sys.argv[2])
peak, silent, go_on = (Path(sys.argv[3] + suffix) for suffix in (".peak", ".silent", ".go-on"))
sys.argv = ["pc-engine", *sys.argv[4:]]
publish, begin, published = writers.publish, lists._Stdin.__init__, []
def publish_and_hold(*arguments):
    publish(*arguments)
    published.append(arguments)
    while len(published) == held_behind and not go_on.exists():
        time.sleep(0.01)
writers.publish = publish_and_hold
lists._Stdin.__init__ = lambda stdin, stop: begin(stdin, lambda: (silent.touch(), stop())[1])
try:
    main()
finally:
    peak.write_text(str(peak_memory_mb()))
"""


@pytest.fixture
def start(tmp_path):
    started = []

    def run(*arguments, rows_per_partition=40, held_behind=0, stdin=subprocess.DEVNULL):
        errors = tmp_path / f"errors-{len(started)}.txt"
        settings = (str(rows_per_partition), str(held_behind), str(errors))
        with errors.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *settings, *map(str, arguments)],
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=stream,
            )
        process.errors = errors
        process.silent, process.go_on = (Path(f"{errors}.{name}") for name in ("silent", "go-on"))
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


@pytest.fixture
def photos(tmp_path, draw_scene):
    """800 photos, of which a few cannot be read."""
    return make_photos(tmp_path, draw_scene, 800)


def make_photos(place, draw_scene, n):
    for count in range(5):
        draw_scene([(1 + 3 * (k % 2), 1 + 3 * (k // 2)) for k in range(count)]).save(place / f"{count}.png")
    (place / "5.png").write_bytes(b"no picture")
    folder = place / "photos"
    folder.mkdir()
    for k in range(n):
        # Copies now and then: file systems limit the links to one file.
        picture = place / f"{5 if k % 97 == 0 else k % 5}-{k // 50_000}.png"
        if not picture.exists():
            shutil.copy(place / f"{picture.name[0]}.png", picture)
        os.link(picture, folder / f"{k:06d}.png")
    return folder


def ended(process, seconds=PATIENCE):
    return process.wait(seconds)


def wait_for(condition, process):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.errors.read_text()
        assert time.monotonic() < end
        time.sleep(0.01)


def names_so_far(run: Path) -> list[str]:
    return sorted(row["path"] for row in iter_rows(run)) if list(run.glob("part-*")) else []


def lines(run: Path) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in iter_rows(run))


def test_runs_killed_at_any_moment_lose_no_row_and_double_none(start, photos, tiny_directory, tmp_path):
    options = ("--mode", "combined", "--model", tiny_directory, "--quiet", "--batch-size", "7", *MODEL)
    whole = tmp_path / "whole"
    start_ = time.monotonic()
    process = start("run", photos, "--out", whole, *options)
    assert ended(process) == 3, process.errors.read_text()
    longest = time.monotonic() - start_
    expected = lines(whole)
    assert len(expected) == 800

    rng = random.Random(0)
    kills, runs = 0, 0
    while kills < KILLS:
        run = tmp_path / f"run-{runs}"
        runs += 1
        while True:
            process = start("run", photos, "--out", run, *options)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0, longest))
                break
            process.kill()
            process.wait()
            kills += 1
        assert process.returncode == 3, process.errors.read_text()
        assert lines(run) == expected
        assert [path.name for path in run.glob(".*.new")] == []
        assert json.loads((run / "run.json").read_text())["n"] == 800


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_what_is_in_work(start, photos, tiny_directory, tmp_path, number):
    run = tmp_path / "run"
    arguments = ("run", photos, "--model", tiny_directory, "--out", run, "--batch-size", "2", *MODEL)
    process = start(*arguments, held_behind=2)
    wait_for(lambda: len(list(run.glob("part-*"))) > 1, process)
    os.kill(process.pid, number)
    wait_for(lambda: "Stopping after the images in progress" in process.errors.read_text(), process)
    process.go_on.touch()
    assert ended(process) == 128 + number
    rows = [*iter_rows(run)]
    assert 80 <= len(rows) < 800
    said = process.errors.read_text()
    assert f"{run} has {len(rows)} rows: run the same command again to go on." in " ".join(said.split())
    assert "Traceback" not in said
    state = json.loads((run / "run.json").read_text())
    assert (state["state"], state["n"]) == ("interrupted", len(rows))

    process = start(*arguments)
    assert ended(process) == 3
    assert f"{run} has {len(rows)} rows already" in " ".join(process.errors.read_text().split())
    assert sorted(row["path"] for row in iter_rows(run)) == sorted(str(path) for path in photos.iterdir())


@pytest.mark.parametrize(
    ("number", "images", "options"),
    [
        (signal.SIGINT, 0, ()),
        (signal.SIGTERM, 50, ()),
        (signal.SIGINT, 250, ("--processes", "2")),
        (signal.SIGTERM, 0, ("--processes", "2")),
    ],
)
def test_a_signal_ends_a_run_whose_list_stays_silent(start, photos, tiny_directory, tmp_path, number, images, options):
    run = tmp_path / "run"
    names = sorted(str(path) for path in photos.iterdir())
    arguments = ("run", "@-", "--model", tiny_directory, "--out", run, "--batch-size", "2", *options, *MODEL)
    # Of one process all that were named; of several the blocks of 100 that were whole.
    fewest = images // 100 * 100 if options else images
    ours, theirs = os.pipe()
    with open(ours, "rb") as stdin, open(theirs, "wb") as list_:
        # The last line has no end, and names a folder as far as it goes.
        list_.write("".join(f"{name}\n" for name in names[:images]).encode() + bytes(photos))
        list_.flush()
        process = start(*arguments, rows_per_partition=4, stdin=stdin)
        wait_for(lambda: (run / "run.json").exists() and process.silent.exists(), process)
        if options:
            wait_for(lambda: len(names_so_far(run)) >= fewest, process)
        os.kill(process.pid, number)
        assert ended(process) == 128 + number
    rows = names_so_far(run)
    assert json.loads((run / "run.json").read_text())["n"] == len(rows)
    assert rows == names[: len(rows)]
    assert fewest <= len(rows) <= images

    process = start(*arguments, stdin=subprocess.PIPE)
    process.communicate("\n".join(names[:300]).encode())
    assert ended(process) == 3
    assert sorted(row["path"] for row in iter_rows(run)) == names[:300]


def test_a_second_run_into_the_directory_is_refused_while_one_is_at_it(
    start, pc_engine, photos, tiny_directory, tmp_path
):
    run = tmp_path / "run"
    arguments = ("run", photos, "--model", tiny_directory, "--out", run, "--quiet", "--batch-size", "2", *MODEL)
    process = start(*arguments, held_behind=1)
    wait_for(lambda: list(run.glob("part-*")), process)
    refused = pc_engine(*arguments)
    assert refused.code == 2
    assert "Another run is writing into" in refused.err
    status = pc_engine("status", run, "--json").json()
    assert status["state"] == "running"
    assert 0 < status["n"] < 800
    process.kill()
    process.wait()
    assert pc_engine("status", run, "--json").json()["state"] == "stopped"
    assert pc_engine(*arguments).code == 3
    assert len([*iter_rows(run)]) == 800


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 100 KiB, and what makes it larger."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*options):
        return subprocess.run(["mount", *options, str(disk)], capture_output=True, check=False).returncode

    if shutil.which("mount") is None or mount("-t", "tmpfs", "-o", "size=100k", "tmpfs"):
        pytest.skip("no small disk can be mounted here")
    yield disk, lambda: mount("-o", "remount,size=10m")
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("row_format", ["parquet", "jsonl"])
def test_a_full_disk_ends_the_run_with_a_sentence_and_it_goes_on_when_there_is_room(
    start, pc_engine, photos, small_disk, tiny_directory, tmp_path, row_format
):
    disk, make_room = small_disk
    options = ("--mode", "combined", "--model", tiny_directory, "--quiet", "--format", row_format, *MODEL)
    arguments = ("run", photos, "--out", disk / "run", *options)
    process = start(*arguments)
    assert ended(process) == 1
    said = process.errors.read_text()
    assert said.startswith("pc-engine: ")
    assert "cannot be written (No space left on device): make room, then run the same command again." in said
    assert "Traceback" not in said
    status = pc_engine("status", disk / "run", "--json").json()
    assert status["state"] == "stopped"
    assert 0 < status["n"] == len([*iter_rows(disk / "run")]) < 800
    assert not list((disk / "run").glob(".*.new"))

    assert make_room() == 0
    assert ended(start(*arguments)) == 3
    assert ended(start("run", photos, "--out", tmp_path / "whole", *options)) == 3
    assert lines(disk / "run") == lines(tmp_path / "whole")


def test_memory_does_not_grow_with_the_number_of_images(start, draw_scene, tiny_directory, tmp_path, monkeypatch):
    options = ("--mode", "combined", "--model", tiny_directory, "--quiet", "--batch-size", "32", *MODEL)
    peaks = []
    for n in (MANY // 10, MANY):
        place = tmp_path / str(n)
        place.mkdir()
        folder = make_photos(place, draw_scene, n)
        process = start("run", folder, "--out", place / "run", *options, rows_per_partition=MANY // 20)
        assert ended(process, seconds=3600) == 3
        assert json.loads((place / "run" / "run.json").read_text())["n"] == n
        peaks.append(float(Path(f"{process.errors}.peak").read_text()))
        print(f"{n:,} images: {peaks[-1]:.1f} MB")
        shutil.rmtree(place)
    assert peaks[1] < 1.05 * peaks[0]
