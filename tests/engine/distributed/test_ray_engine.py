"""Whole runs on a Ray of two workers: what they write, and what is left of it when somebody dies."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pc_engine.distributed import ray_cluster, ray_engine
from pc_engine.runs.partition_names import partitions_of
from pc_engine.runs.rows import iter_rows

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed: pip install 'pc-engine[ray]'", allow_module_level=True)

ON_RAY = ("--engine", "ray", "--ray-cpus", "1")
PROC = Path("/proc")


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


@pytest.mark.skipif(not PROC.is_dir(), reason="this system has no /proc to find a worker in")
def test_rows_are_those_of_a_run_here_though_a_worker_is_killed_and_who_hands_out_the_blocks(
    shared: Any,
    cluster: str,
    pc_engine: Any,
    photos: Path,
    tiny_directory: Path,
    tmp_path: Path,
    whole: list[str],
    home: Path,
) -> None:
    run = tmp_path / "run"

    def kill_both() -> None:
        for what in (b"BlockWorker", b"ReadNumbers"):
            os.kill(processes(home, what)[0], signal.SIGKILL)

    with shared.once_begun(run, kill_both) as killed:
        outcome = pc_engine("run", photos, "--model", tiny_directory, "--out", run, "--json", *ON_RAY, *shared.options)
    assert outcome.code == 3, outcome.err
    assert 3 <= killed[0] < shared.images / shared.images_per_block
    assert shared.lines(run) == whole
    assert shared.hidden(run) == []
    summary = json.loads(outcome.out)
    assert (summary["n"], summary["failed"], summary["state"], summary["workers"]) == (shared.images, 7, "finished", 2)
    assert summary["images_per_second"] > 0
    assert summary["stages"]["network"] > 0
    state = json.loads((run / "run.json").read_text())
    assert {name: state[name] for name in ("n", "failed", "counts", "total")} == {
        **{name: summary[name] for name in ("n", "failed", "counts")},
        "total": shared.images,
    }


def test_the_driver_is_killed_and_the_run_goes_on_without_ray(
    shared: Any,
    cluster: str,
    start: Any,
    pc_engine: Any,
    photos: Path,
    tiny_directory: Path,
    tmp_path: Path,
    whole: list[str],
) -> None:
    run = tmp_path / "run"
    arguments = ("run", photos, "--model", tiny_directory, "--out", run, *shared.options)
    driver = start(*arguments, *ON_RAY, "--ray-address", cluster, held=True)
    shared.wait_for(lambda: len(partitions_of(run)) > 2, driver.said)
    driver.process.kill()
    driver.process.wait()
    assert len([*iter_rows(run)]) < shared.images
    assert json.loads((run / "run.json").read_text())["state"] == "running"
    assert pc_engine("status", run, "--json").code == 0
    # At once: its workers may be at it still.
    outcome = pc_engine(*arguments)
    assert outcome.code == 3, outcome.err
    assert shared.lines(run) == whole
    assert shared.hidden(run) == []


def test_a_signal_ends_the_run_with_what_the_workers_have_and_ray_goes_on(
    shared: Any,
    cluster: str,
    start: Any,
    pc_engine: Any,
    photos: Path,
    tiny_directory: Path,
    tmp_path: Path,
    whole: list[str],
) -> None:
    run = tmp_path / "run"
    arguments = ("run", photos, "--model", tiny_directory, "--out", run, *shared.options)
    heard = (argument for argument in arguments if argument != "--quiet")
    driver = start(*heard, *ON_RAY, "--ray-address", cluster, held=True)
    shared.wait_for(lambda: len(partitions_of(run)) > 2, driver.said)
    driver.process.send_signal(signal.SIGTERM)
    shared.wait_for(lambda: "Stopping after the images in progress" in driver.said(), driver.said)
    driver.go_on()
    assert driver.process.wait(shared.seconds) == 128 + signal.SIGTERM
    rows = [*iter_rows(run)]
    assert 3 * shared.images_per_block <= len(rows) < shared.images
    state = json.loads((run / "run.json").read_text())
    assert (state["state"], state["n"]) == ("interrupted", len(rows))
    assert shared.hidden(run) == []
    said = driver.said()
    assert f"Stopped. {run} has {len(rows)} rows: run the same command again to go on." in said
    assert "Traceback" not in said
    assert "Asking Ray for 2 workers with 1 core each ..." in said

    outcome = pc_engine(*arguments, *ON_RAY)
    assert outcome.code == 3, outcome.err
    assert shared.lines(run) == whole


def test_ray_goes_on_with_a_run_that_had_none_and_tries_failed_images_again(
    shared: Any,
    cluster: str,
    pc_engine: Any,
    photos: Path,
    tiny_directory: Path,
    tmp_path: Path,
    monkeypatch: Any,
    whole: list[str],
) -> None:
    run, own = tmp_path / "run", tmp_path / "own"
    own.mkdir()
    for path in sorted(photos.iterdir())[:50]:
        os.link(path, own / path.name)
    # Relative names, for workers that start elsewhere; one image is named twice, and so has two rows.
    monkeypatch.chdir(tmp_path)
    arguments = ("--model", tiny_directory, "--out", "run", *shared.options)
    for path in sorted(own.iterdir())[30:]:
        path.rename(tmp_path / path.name)
    assert pc_engine("run", "own", *arguments).code == 3
    for path in tmp_path.glob("*.png"):
        path.rename(own / path.name)
    (own / "0000.png").unlink()
    os.link(own / "0001.png", own / "0000.png")
    (tmp_path / "twice.txt").write_text("own/0004.png\nown/0004.png\n")
    sources = ("own", "@twice.txt")
    assert pc_engine("run", *sources, *arguments, *ON_RAY, "--retry-failed", "--overlay").code == 0
    names = [row["path"] for row in iter_rows(run)]
    assert sorted(names) == sorted([*(f"own/{k:04d}.png" for k in range(50)), "own/0004.png", "own/0004.png"])
    numbered = [path for path in partitions_of(run) if "-r" not in path.name]
    assert len(numbered) == 1
    assert len(partitions_of(run)) > 1
    # Those that were done without pictures have none now, and the one that is named twice has one.
    assert len(list((run / "overlays").iterdir())) == 22
    before = shared.lines(run)
    assert pc_engine("run", *sources, *arguments, *ON_RAY).code == 0
    assert shared.lines(run) == before


def test_a_worker_whose_rows_would_differ_ends_the_run_with_a_sentence(
    shared: Any, cluster: str, pc_engine: Any, photos: Path, tiny_directory: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    choose = ray_engine.choose

    def choose_on_another_machine(settings: Any) -> Any:
        choice = choose(settings)
        choice.identity["counter_sha256"] = "ab" * 32
        return choice

    monkeypatch.setattr(ray_engine, "choose", choose_on_another_machine)
    run = tmp_path / "run"
    arguments = ("run", photos, "--model", tiny_directory, "--out", run, *shared.options)
    outcome = pc_engine(*arguments, *ON_RAY)
    assert outcome.code == 2
    assert "would give other rows than the other machines (counter_sha256 differ): put the same model" in outcome.err
    assert "Traceback" not in outcome.err
    assert shared.hidden(run) == []
    assert partitions_of(run) == []


def test_what_the_machines_cannot_do_is_said_before_anything_is_written(
    shared: Any, cluster: str, pc_engine: Any, photos: Path, tiny_directory: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ("run", photos, "--model", tiny_directory, "--out", run, *shared.options)
    for options, code, expected in (
        (("--device", "cuda"), 2, "No machine of this Ray cluster has a GPU"),
        (("--device", "cuda:1"), 2, "Ray says which GPU a worker has"),
        (("--ray-cpus", "3"), 2, "has the 3 cores for a worker: 2 are the most"),
        (("--ray-cpus", "0"), 2, "--ray-cpus is 0"),
        (("--mode", "none"), 2, "There is no mode 'none'"),
        (("--precision", "bf16", "--ray-cpus", "1"), 2, "Precision bf16 does not run here"),
    ):
        outcome = pc_engine(*arguments, "--engine", "ray", *options)
        assert (outcome.code, expected in outcome.err) == (code, True), outcome.err
        assert shared.hidden(run) == []
    assert partitions_of(run) == []


def test_a_cluster_that_is_not_there_is_said(
    shared: Any, pc_engine: Any, photos: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 192.0.2.1:6379.\nSee the log.")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", refuse)
    outcome = pc_engine("run", photos, "--out", tmp_path / "run", *ON_RAY, "--ray-address", "192.0.2.1:6379")
    assert outcome.code == 1
    assert outcome.err == (
        "pc-engine: The Ray cluster '192.0.2.1:6379' cannot be reached (Failed to connect to Ray cluster at "
        "192.0.2.1:6379): start one with 'ray start --head', or omit --ray-address to use this machine alone."
    )
