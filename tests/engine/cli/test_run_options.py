from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest

from pc_engine import Engine
from pc_engine.catalogue import EMBEDDED
from pc_engine.cli.run_engine import engine_options
from pc_engine.cli.run_options import DiskOptions, EngineOptions, RunOptions, WorkerOptions, require_out
from pc_engine.decoding.settings import DEFAULT_DECODING
from pc_engine.errors import UsageError
from pc_engine.selection.execution import Execution

LEFT_OUT = RunOptions(
    sources=["photos"],
    engine=EngineOptions(
        mode=None,
        model=None,
        execution=Execution(),
        workers=None,
        cluster=None,
        classes=None,
        pointer=None,
        count=None,
        decoding=DEFAULT_DECODING,
    ),
    workers=WorkerOptions("local", None, None, None),
    disk=DiskOptions(out=None, row_format=None, overlay=False, fresh=False, retry_failed=False, shard=None),
    count_column=None,
    quiet=False,
    as_json=False,
)


def test_the_options_of_an_engine_are_its_own() -> None:
    assert engine_options(LEFT_OUT, {}, print).keys() <= inspect.signature(Engine).parameters.keys()


def test_what_was_left_out_is_as_an_earlier_run_had_it() -> None:
    said: list[str] = []
    earlier = {"mode": "p2c", "backend": "openvino", "precision": "fp32", "device": "cpu", "known_count": None}
    found = engine_options(LEFT_OUT, earlier, said.append)
    assert (found["mode"], found["backend"], found["precision"], found["device"]) == ("p2c", "openvino", "fp32", "cpu")
    named = replace(LEFT_OUT, engine=replace(LEFT_OUT.engine, mode="c2p", execution=Execution("onnxruntime")))
    found = engine_options(named, earlier, said.append)
    assert (found["mode"], found["backend"], found["precision"]) == ("c2p", "onnxruntime", "fp32")
    assert (
        engine_options(replace(LEFT_OUT, engine=replace(LEFT_OUT.engine, classes=2)), {}, said.append)["mode"] == "p2c"
    )
    assert not said


def test_the_demo_is_for_the_embedded_model() -> None:
    assert engine_options(replace(LEFT_OUT, sources=["demo:"]), {}, print)["model"] == EMBEDDED
    assert engine_options(replace(LEFT_OUT, sources=["demo:", "photos"]), {}, print)["model"] is None


@pytest.mark.parametrize(
    ("workers", "out", "sentence"),
    [
        (WorkerOptions("spark", None, None, None), Path("run"), "There is no engine 'spark'"),
        (WorkerOptions("local", None, "auto", None), Path("run"), "--ray-address is for runs on Ray"),
        (WorkerOptions("local", 2, None, 4), Path("run"), "--ray-cpus is for runs on Ray"),
        (WorkerOptions("ray", 2, None, None), None, "--processes is for this machine alone"),
        (WorkerOptions("local", 2, None, None), None, "--processes needs a directory"),
        (WorkerOptions("ray", None, None, None), None, "--engine ray needs a directory"),
    ],
)
def test_workers_that_do_not_go_together_are_refused(workers: WorkerOptions, out: Path | None, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        workers.check(out)
    assert workers.shared is (workers.engine != "local" or workers.processes is not None)


def test_what_is_about_a_directory_needs_one() -> None:
    require_out(None, {"--fresh": False})
    require_out(Path("run"), {"--fresh": True})
    with pytest.raises(UsageError, match="--overlay needs a directory to write to"):
        require_out(None, {"--fresh": False, "--overlay": True})


def test_pictures_are_drawn_where_they_are_asked_for() -> None:
    disk = replace(LEFT_OUT.disk, out=Path("run"))
    assert (disk.overlays, disk.pictures) == (Path("run/overlays"), None)
    assert replace(disk, overlay=True).pictures == Path("run/overlays")
