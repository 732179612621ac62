"""Whole runs on a Ray of two workers: what they write, and what is left of it when somebody dies."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pc_engine import cli, writers
from pc_engine.distributed import block_listing, ray_cluster, ray_engine
from pc_engine.writers import partitions_of, read_rows

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed: pip install 'pc-engine[ray]'", allow_module_level=True)

IMAGES, IMAGES_PER_BLOCK = 600, 20
# For whoever has to wait for something that is sure to happen.
SECONDS = 90
MODEL = ("--backend", "onnxruntime", "--precision", "fp32", "--batch-size", "7", "--quiet")
ON_RAY = ("--engine", "ray", "--ray-cpus", "1")
PROC = Path("/proc")

RUN = f"""
import sys
from pc_engine import cli
from pc_engine.distributed import block_listing, ray_engine
block_listing._FIRST_BLOCK = ray_engine._MOST_ON_CPU = {IMAGES_PER_BLOCK}
cli.main()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What PC_ENGINE_HOME is in every process of these tests, and in no other."""
    return tmp_path_factory.mktemp("ray-home")


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[str]:
    """A Ray with room for two workers; its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PC_ENGINE_HOME", str(home))
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr(ray_cluster, "usable_cores", lambda: 2)
        ray, started = ray_cluster.connect(None)
        assert started
        assert ray_cluster.connect(None) == (ray, False)
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_listing, "_FIRST_BLOCK", IMAGES_PER_BLOCK)
    monkeypatch.setattr(ray_engine, "_MOST_ON_CPU", IMAGES_PER_BLOCK)


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
            cli.main()
        printed = capsys.readouterr()
        return SimpleNamespace(code=int(ended.value.code or 0), out=printed.out, err=" ".join(printed.err.split()))

    return call


@pytest.fixture
def start(home: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Run the command line in a process of its own."""
    started = []

    def run(*arguments: object) -> Any:
        errors = tmp_path / f"errors-{len(started)}.txt"
        with errors.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-c", RUN, *map(str, arguments)],
                stdout=stream,
                stderr=stream,
                env={**os.environ, "PC_ENGINE_HOME": str(home)},
            )
        started.append(process)
        return SimpleNamespace(process=process, said=lambda: " ".join(errors.read_text().split()))

    yield run
    for process in started:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], Any], also: Callable[[], str] = str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, also()
        time.sleep(0.01)


def lines(run: Path) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in read_rows(run))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, photos: Path, tiny_directory: Path) -> list[str]:
    """The rows of a run without Ray that nobody disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sys.argv", ["pc-engine", *map(str, ("run", photos, "--model", tiny_directory, "--out", run, *MODEL))]
        )
        with pytest.raises(SystemExit):
            cli.main()
    assert len(read_rows(run)) == IMAGES
    return lines(run)


def processes(home: Path, what: bytes) -> list[int]:
    """Those of these tests' own Ray that do so."""
    found = []
    for path in PROC.glob("[0-9]*"):
        try:
            if (
                b"BlockWorker" in (path / "cmdline").read_bytes()
                and str(home).encode() in (path / "environ").read_bytes()
            ):
                found.append(int(path.name))
        except OSError:
            continue
    return found


def hidden(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob(".*") if path.name != ".run.lock")


@pytest.mark.skipif(not PROC.is_dir(), reason="this system has no /proc to find a worker in")
def test_rows_are_those_of_a_run_here_though_a_worker_is_killed_and_who_hands_out_the_blocks(
    cluster: str, pc_engine: Any, photos: Path, tiny_directory: Path, tmp_path: Path, whole: list[str], home: Path
) -> None:
    run, killed, over = tmp_path / "run", [], threading.Event()

    def kill_one() -> None:
        while len(partitions_of(run)) < 3:
            if over.wait(0.01):
                return
        killed.append(len(partitions_of(run)))
        for what in (b"BlockWorker", b"ReadNumbers"):
            os.kill(processes(home, what)[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    outcome = pc_engine("run", photos, "--model", tiny_directory, "--out", run, "--json", *ON_RAY, *MODEL)
    over.set()
    killer.join()
    assert outcome.code == 3, outcome.err
    assert killed
    assert killed[0] < IMAGES / IMAGES_PER_BLOCK
    assert lines(run) == whole
    assert hidden(run) == []
    summary = json.loads(outcome.out)
    assert (summary["n"], summary["failed"], summary["state"], summary["workers"]) == (IMAGES, 7, "finished", 2)
    assert summary["images_per_second"] > 0
    assert summary["stages"]["network"] > 0
    state = json.loads((run / "run.json").read_text())
    assert {name: state[name] for name in ("n", "failed", "counts", "total")} == {
        **{name: summary[name] for name in ("n", "failed", "counts")},
        "total": IMAGES,
    }


def test_the_driver_is_killed_and_the_run_goes_on_without_ray(
    cluster: str, start: Any, pc_engine: Any, photos: Path, tiny_directory: Path, tmp_path: Path, whole: list[str]
) -> None:
    run = tmp_path / "run"
    arguments = ("run", photos, "--model", tiny_directory, "--out", run, *MODEL)
    driver = start(*arguments, *ON_RAY, "--ray-address", cluster)
    wait_for(lambda: len(partitions_of(run)) > 2, driver.said)
    driver.process.kill()
    driver.process.wait()
    assert len(read_rows(run)) < IMAGES
    assert json.loads((run / "run.json").read_text())["state"] == "running"
    assert pc_engine("status", run, "--json").code == 0
    # At once: its workers may be at it still.
    outcome = pc_engine(*arguments)
    assert outcome.code == 3, outcome.err
    assert lines(run) == whole
    assert hidden(run) == []


def test_a_signal_ends_the_run_with_what_the_workers_have_and_ray_goes_on(
    cluster: str, start: Any, pc_engine: Any, photos: Path, tiny_directory: Path, tmp_path: Path, whole: list[str]
) -> None:
    run = tmp_path / "run"
    arguments = ("run", photos, "--model", tiny_directory, "--out", run, *MODEL)
    driver = start(*(argument for argument in arguments if argument != "--quiet"), *ON_RAY, "--ray-address", cluster)
    wait_for(lambda: len(partitions_of(run)) > 2, driver.said)
    driver.process.send_signal(signal.SIGTERM)
    assert driver.process.wait(SECONDS) == 128 + signal.SIGTERM
    rows = read_rows(run)
    assert 3 * IMAGES_PER_BLOCK <= len(rows) < IMAGES
    state = json.loads((run / "run.json").read_text())
    assert (state["state"], state["n"]) == ("interrupted", len(rows))
    assert hidden(run) == []
    said = driver.said()
    assert f"Stopped. {run} has {len(rows)} rows: run the same command again to go on." in said
    assert "Traceback" not in said
    assert "Asking Ray for 2 workers with 1 core each ..." in said

    outcome = pc_engine(*arguments, *ON_RAY)
    assert outcome.code == 3, outcome.err
    assert lines(run) == whole


def test_ray_goes_on_with_a_run_that_had_none_and_tries_failed_images_again(
    cluster: str, pc_engine: Any, photos: Path, tiny_directory: Path, tmp_path: Path, monkeypatch: Any, whole: list[str]
) -> None:
    run, own = tmp_path / "run", tmp_path / "own"
    own.mkdir()
    for path in sorted(photos.iterdir())[:50]:
        os.link(path, own / path.name)
    # Relative names, for workers that start elsewhere; one image is named twice, and so has two rows.
    monkeypatch.chdir(tmp_path)
    arguments = ("--model", tiny_directory, "--out", "run", *MODEL)
    for path in sorted(own.iterdir())[30:]:
        path.rename(tmp_path / path.name)
    assert pc_engine("run", "own", *arguments).code == 3
    for path in tmp_path.glob("*.png"):
        path.rename(own / path.name)
    (own / "0000.png").unlink()
    os.link(own / "0001.png", own / "0000.png")
    sources = ("own", "own/0004.png", "own/0004.png")
    assert pc_engine("run", *sources, *arguments, *ON_RAY, "--retry-failed", "--overlay").code == 0
    names = [row["path"] for row in read_rows(run)]
    assert sorted(names) == sorted([*(f"own/{k:04d}.png" for k in range(50)), "own/0004.png", "own/0004.png"])
    numbered = [path for path in partitions_of(run) if "-r" not in path.name]
    assert len(numbered) == 1
    assert len(partitions_of(run)) > 1
    # Those that were done without pictures have none now.
    assert len(list((run / "overlays").iterdir())) == 23
    before = lines(run)
    assert pc_engine("run", *sources, *arguments, *ON_RAY).code == 0
    assert lines(run) == before


def test_a_worker_whose_rows_would_differ_ends_the_run_with_a_sentence(
    cluster: str, pc_engine: Any, photos: Path, tiny_directory: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    choose = ray_engine.choose

    def choose_on_another_machine(settings: Any) -> Any:
        choice = choose(settings)
        choice.identity["counter_sha256"] = "ab" * 32
        return choice

    monkeypatch.setattr(ray_engine, "choose", choose_on_another_machine)
    run = tmp_path / "run"
    arguments = ("run", photos, "--model", tiny_directory, "--out", run, *MODEL)
    outcome = pc_engine(*arguments, *ON_RAY)
    assert outcome.code == 2
    assert "would give other rows than the other machines (counter_sha256 differ): put the same model" in outcome.err
    assert "Traceback" not in outcome.err
    assert hidden(run) == []
    assert partitions_of(run) == []


def test_what_the_machines_cannot_do_is_said_before_anything_is_written(
    cluster: str, pc_engine: Any, photos: Path, tiny_directory: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ("run", photos, "--model", tiny_directory, "--out", run, *MODEL)
    for options, code, expected in (
        (("--device", "cuda"), 2, "No machine of this Ray cluster has a GPU"),
        (("--device", "cuda:1"), 2, "Ray says which GPU a worker has"),
        (("--ray-cpus", "3"), 2, "has the 3 cores for a worker: 2 are the most"),
        (("--ray-cpus", "0"), 2, "--ray-cpus is 0"),
        (("--mode", "none"), 2, "There is no mode 'none'"),
        (("--precision", "bf16", "--ray-cpus", "1"), 1, "Precision bf16 does not run here"),
    ):
        outcome = pc_engine(*arguments, "--engine", "ray", *options)
        assert (outcome.code, expected in outcome.err) == (code, True), outcome.err
        assert hidden(run) == []
    assert writers.partitions_of(run) == []


def test_a_cluster_that_is_not_there_is_said(pc_engine: Any, photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 192.0.2.1:6379.\nSee the log.")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", refuse)
    outcome = pc_engine("run", photos, "--out", tmp_path / "run", *ON_RAY, "--ray-address", "192.0.2.1:6379")
    assert outcome.code == 1
    assert outcome.err == (
        "pc-engine: The Ray cluster '192.0.2.1:6379' cannot be reached (Failed to connect to Ray cluster at "
        "192.0.2.1:6379): start one with 'ray start --head', or leave --ray-address out for this machine alone."
    )
