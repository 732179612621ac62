"""A mode on batches of a GPU: recorded for whole ones, and the same answers in any way."""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pc_engine import Model, load_model
from pc_engine.hardware.device_arrays import DeviceConstants
from pc_engine.hardware.devices import gpu_reason
from pc_engine.host_outcome import HostOutcome
from pc_engine.kernels import dbscan, finite_images
from pc_engine.mode_run import ModeRun
from pc_engine.modes import MODES, settings_for

BATCH = 4
JOBS = [(name, cluster) for name, mode in MODES.items() for cluster in mode.clusterings or (None,)]
JOBS = [job for job in JOBS if job[1] != "cuml-dbscan"]


def some_taps(model: Model, n: int, seed: int) -> dict[str, np.ndarray]:
    """Taps of ``n`` images, the first of which has objects that are plain to see; one image's are not finite."""
    rng = np.random.default_rng(seed)
    taps = {
        name: np.maximum(rng.standard_normal((n, *tap.shape), np.float32), 0)
        for name, tap in model.manifest.taps.items()
    }
    for tap in taps.values():
        if tap.ndim == 4:
            tap[0] *= 0.01
            tap[0, :, 1 + seed % 3 :: 4, 2::4] += 5
    taps["logits"][n // 2, 0] = np.nan
    return taps


def a_run(
    model: Model,
    mode: str,
    cluster: str | None,
    said: Callable[[str], Any] = lambda _: None,
    *,
    pointer: str | None = None,
    known: int | None = None,
) -> ModeRun:
    settings = settings_for(model.manifest, mode=mode, pointer=pointer, cluster=cluster)
    return ModeRun(MODES[mode], model, settings, BATCH, said, known)


def assert_same(found: HostOutcome, expected: HostOutcome) -> None:
    assert found.kind == expected.kind
    for name, value in vars(expected).items():
        if isinstance(value, np.ndarray):
            array = getattr(found, name)
            np.testing.assert_array_equal(array, value, err_msg=name)
            assert array.dtype == value.dtype
        else:
            assert getattr(found, name) == value


class Recording:
    """Counts what is recorded, and refuses if it is told to."""

    made: list[Recording]
    refusal: Exception | None = None

    def __init__(self, work: Callable[[Any], Any], inputs: Any) -> None:
        if Recording.refusal is not None:
            raise Recording.refusal
        self.work, self.runs, self.open, self.copied = work, 0, True, 0
        self.shapes = {name: array.shape for name, array in inputs.items()}
        self.inputs = {name: array.copy() for name, array in inputs.items()}
        work(self.inputs)
        Recording.made.append(self)

    def __call__(self, inputs: Any) -> Any:
        assert self.open
        assert {name: array.shape for name, array in inputs.items()} == self.shapes
        self.runs += 1
        for name, place in self.inputs.items():
            if inputs[name] is not place:
                self.copied += 1
                place[...] = inputs[name]
        return self.work(self.inputs)

    def close(self) -> None:
        self.open = False


@pytest.fixture
def recordings(pretended_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    Recording.made, Recording.refusal = [], None
    monkeypatch.setattr("pc_engine.mode_run.RecordedWork", Recording)
    return Recording.made


def on_device(taps: dict[str, np.ndarray]) -> tuple[dict[str, Any], Any]:
    import cupy

    placed = {name: cupy.asarray(tap.copy()) for name, tap in taps.items()}
    return placed, finite_images(list(placed.values()))


@pytest.mark.parametrize(("mode", "cluster"), JOBS)
def test_whole_batches_are_recorded_and_others_are_not(
    mode: str, cluster: str | None, tiny_directory: Path, recordings: list[Recording]
) -> None:
    model = load_model(tiny_directory)
    run, plain = (a_run(model, mode, cluster) for _ in range(2))
    plain.close()
    for n, runs in ((BATCH, 1), (BATCH, 2), (BATCH - 1, 2), (1, 2), (BATCH, 3)):
        taps = some_taps(model, n, seed=n + runs)
        assert_same(run.answer(*on_device(taps)), plain.answer(*on_device(taps)))
        assert [recording.runs for recording in recordings] == [runs]
    assert set(recordings[0].shapes) == {*MODES[mode].taps(model.manifest), "finite images"}


def test_what_is_told_its_counts_is_not_recorded(tiny_directory: Path, recordings: list[Recording]) -> None:
    import cupy

    taps, finite = on_device(some_taps(load_model(tiny_directory), BATCH, 0))
    known = cupy.asarray([2, 0, 1, 3])
    answer = a_run(load_model(tiny_directory), "c2p", None).answer(taps, finite, known)
    np.testing.assert_array_equal(answer.count, [2, 0, 1, 3])
    assert not recordings


@pytest.mark.parametrize("mode", MODES)
def test_a_count_that_is_known_of_all_is_recorded(mode: str, tiny_directory: Path, recordings: list[Recording]) -> None:
    import cupy

    model = load_model(tiny_directory)
    taps, finite = on_device(some_taps(model, BATCH, 0))
    settings = settings_for(model.manifest)
    run = ModeRun(MODES[mode], model, settings, BATCH, lambda _: None, known_count=3)
    told = run.answer(taps, finite)
    assert len(recordings) == 1
    np.testing.assert_array_equal(told.count[told.finite], 3)
    each = run.answer(taps, finite, cupy.asarray([3] * BATCH))
    slots = min(told.pointers.shape[1], each.pointers.shape[1])  # beyond these there is nothing
    np.testing.assert_array_equal(told.pointers[:, :slots], each.pointers[:, :slots])
    assert np.isnan(each.pointers[:, slots:]).all()


def test_nothing_is_recorded_on_the_cpu(tiny_directory: Path, recordings: list[Recording]) -> None:
    model = load_model(tiny_directory)
    taps = some_taps(model, BATCH, 0)
    a_run(model, "c2p", None).answer(taps, finite_images(list(taps.values())))
    assert not recordings


def test_nothing_is_recorded_where_cuml_waits_for_the_gpu(
    tiny_directory: Path, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The function of that name hides the module.
    monkeypatch.setattr(sys.modules["pc_engine.modes.p2c"], "cuml_dbscan", dbscan)
    model = load_model(tiny_directory)
    taps = some_taps(model, BATCH, 0)
    a_run(model, "p2c", "cuml-dbscan").answer(*on_device(taps))
    assert not recordings


def test_batches_at_once_have_a_recording_each(tiny_directory: Path, recordings: list[Recording]) -> None:
    model = load_model(tiny_directory)
    run = a_run(model, "c2p", None)
    batch = on_device(some_taps(model, BATCH, 0))
    first = run._recorded(*batch)
    assert first is not None
    run.answer(*batch)
    assert [recording.runs for recording in recordings] == [0, 1]
    run.answer(*batch)
    assert [recording.runs for recording in recordings] == [0, 2]


@pytest.mark.parametrize(
    "refusal", [RuntimeError("cudaErrorStreamCaptureUnsupported\nmore"), MemoryError("it is full")]
)
def test_what_a_gpu_refuses_to_record_is_started_kernel_by_kernel(
    refusal: Exception, tiny_directory: Path, recordings: list[Recording]
) -> None:
    Recording.refusal = refusal
    model = load_model(tiny_directory)
    said: list[str] = []
    run = a_run(model, "combined", None, said.append)
    plain = a_run(model, "combined", None)
    plain.close()
    for seed in range(2):
        taps = some_taps(model, BATCH, seed)
        assert_same(run.answer(*on_device(taps)), plain.answer(*on_device(taps)))
    reason = str(refusal).partition("\n")[0]
    assert said == [f"No CUDA graph of mode combined could be recorded, so it runs slower ({reason})."]


def test_a_batch_that_fails_is_over_before_another_has_its_memory(
    tiny_directory: Path, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    import cupy

    model = load_model(tiny_directory)
    run = a_run(model, "c2p", None)
    taps = some_taps(model, BATCH, seed=1)
    run.answer(*on_device(taps))
    order: list[str] = []
    [recording] = recordings

    def fail(_: Any) -> None:
        order.append("queued")
        raise RuntimeError("stopped")

    stream = SimpleNamespace(synchronize=lambda: order.append("waited"))
    idle = run._idle
    monkeypatch.setattr(recording, "work", fail)
    monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda: stream, raising=False)
    monkeypatch.setattr(run, "_idle", SimpleNamespace(get_nowait=idle.get_nowait, put=lambda _: order.append("idle")))
    with pytest.raises(RuntimeError, match="stopped"):
        run.answer(*on_device(taps))
    assert order == ["queued", "waited", "idle"]


def test_a_closed_run_frees_what_it_recorded_and_still_answers(
    tiny_directory: Path, recordings: list[Recording]
) -> None:
    model = load_model(tiny_directory)
    run = a_run(model, "p2c", "dbscan")
    taps = some_taps(model, BATCH, 0)
    before = run.answer(*on_device(taps))
    run.close()
    assert not recordings[0].open
    assert_same(run.answer(*on_device(taps)), before)
    assert len(recordings) == 1


def require_gpu() -> Any:
    if importlib.util.find_spec("cupy") is None or gpu_reason():
        pytest.skip("there is no GPU with CuPy")
    import cupy

    return cupy


def assert_a_recording_says_what_its_kernels_say(cupy: Any, model: Model, make: Callable[[], ModeRun]) -> None:
    """Of other batches than the one it was recorded on, so that nothing of that one may have stayed in it."""
    run, plain = make(), make()
    plain.close()
    with cupy.cuda.Stream(non_blocking=True):
        for seed in range(4):
            taps = some_taps(model, BATCH, seed)
            # What the pools freed meanwhile must not be what the graph works in.
            others = [cupy.full(1 << 18, np.nan) for _ in range(8)]
            room = run.room(BATCH) if seed % 2 else None
            placed, finite = on_device(taps)
            for name, place in (room or {}).items():
                place[...] = placed[name]
            found = run.answer(room or placed, finite)
            assert_same(found, plain.answer(*on_device(taps)))
            del others
        # Nothing that the recording leaves behind may have gone with it.
        run.close()
        del run
        gc.collect()
        others = [cupy.full(1 << 10, np.nan) for _ in range(4096)]
        assert_same(plain.answer(*on_device(taps)), found)
        del others


@pytest.mark.gpu
@pytest.mark.parametrize(("mode", "cluster"), JOBS)
@pytest.mark.parametrize("heat", ["", "conv_last", "conv_last conv_prev"])
def test_on_a_gpu_a_recording_says_what_its_kernels_say(
    mode: str, cluster: str | None, heat: str, tiny_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cupy = require_gpu()
    # So that the first run of all, which places constants, is the one that records.
    monkeypatch.setattr("pc_engine.hardware.device_arrays._CONSTANTS", DeviceConstants())
    model = load_model(tiny_directory)
    manifest = replace(model.manifest, settings={"p2c.heat": heat, "c2p.heat": heat or "conv_last"})
    model = replace(model, manifest=manifest)
    said: list[str] = []
    assert_a_recording_says_what_its_kernels_say(cupy, model, lambda: a_run(model, mode, cluster, said.append))
    assert not said


@pytest.mark.gpu
@pytest.mark.parametrize("known", [None, 3])
@pytest.mark.parametrize(("mode", "pointer"), [(name, kind) for name, mode in MODES.items() for kind in mode.pointers])
def test_on_a_gpu_a_recording_points_in_every_way(
    mode: str, pointer: str, known: int | None, tiny_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cupy = require_gpu()
    monkeypatch.setattr("pc_engine.hardware.device_arrays._CONSTANTS", DeviceConstants())
    model = load_model(tiny_directory)
    said: list[str] = []
    assert_a_recording_says_what_its_kernels_say(
        cupy, model, lambda: a_run(model, mode, None, said.append, pointer=pointer, known=known)
    )
    assert not said


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
def test_on_a_gpu_each_image_may_say_its_count(mode: str, tiny_directory: Path) -> None:
    cupy = require_gpu()
    model = load_model(tiny_directory)
    pointer = "box" if "box" in MODES[mode].pointers else None
    with cupy.cuda.Stream(non_blocking=True):
        taps, finite = on_device(some_taps(model, BATCH, 0))
        run, told = a_run(model, mode, None, pointer=pointer), a_run(model, mode, None, pointer=pointer, known=3)
        all_say_it = run.answer(taps, finite, cupy.asarray([3] * BATCH))
        some_say_it = run.answer(taps, finite, cupy.asarray([2, 0, 1, 3]))
        expected = told.answer(taps, finite)
    np.testing.assert_array_equal(some_say_it.count[some_say_it.finite], np.array([2, 0, 1, 3])[some_say_it.finite])
    slots = min(expected.pointers.shape[1], all_say_it.pointers.shape[1])  # beyond these there is nothing
    np.testing.assert_array_equal(all_say_it.pointers[:, :slots], expected.pointers[:, :slots])
    assert np.isnan(all_say_it.pointers[:, slots:]).all()
