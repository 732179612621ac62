"""Whole runs on a pretended GPU: what crosses the bus, streams, memory that is too small, and a GPU that is lost."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pc_engine import Engine, Result, load_model
from pc_engine.datasets import LabelledImage
from pc_engine.decoding.decode import display_image
from pc_engine.decoding.decode_device import AT_ONCE, BatchDecoder, DeviceDecoder
from pc_engine.errors import BackendError, DeviceLostError, DeviceMemoryError
from pc_engine.export import Readout, import_classifier
from pc_engine.fitted.cluster_likelihood import ClusterLikelihood, PeakSettings
from pc_engine.fitted.counter import CountSVM
from pc_engine.fitting.class_heat import heat_source
from pc_engine.fitting.from_images import counter_from_images, features_from_images, signatures_from_images
from pc_engine.hardware.device_work import make_room_on
from pc_engine.manifest import COUNTER_FILE, NETWORK_FILE
from pc_engine.manifest_file import write_manifest
from pc_engine.modes import MODES, settings_for
from pc_engine.modes.p2c_manifest import heat_name
from pc_engine.networks import open_network
from pc_engine.pointers import Pointer
from pc_engine.selection.execution import Execution
from pc_engine.sources import iter_images

CELLS = [(1, 1), (5, 2), (2, 6), (6, 6), (4, 4)]
JOBS = [*((mode, None) for mode in MODES), ("p2c", "dbscan")]


@pytest.fixture
def scenes(tmp_path: Path, draw_scene: Callable[..., Image.Image]) -> Path:
    """A folder of eleven scenes with 0 to 5 white objects, and one file that is no picture."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    for k in range(11):
        draw_scene(CELLS[: k % 6], (160 + 8 * k, 120)).save(folder / f"{k:02d}.png")
    (folder / "04-broken.jpg").write_bytes(b"no picture")
    return folder


def on_cpu(model: Path, folder: Path, mode: str, cluster: str | None = None) -> list[Result]:
    with Engine(model, mode=mode, backend="onnxruntime", device="cpu", batch_size=4, cluster=cluster) as engine:
        return list(engine.run(folder))


def on_gpu(model: Path, mode: str = "c2p", **options: Any) -> Engine:
    given = {"precision": "fp32", "device": "cuda", "batch_size": 4, "workers": 2, **options}
    return Engine(model, mode=mode, backend="pretended", **given)


def in_one_order(pointers: Iterable[Pointer]) -> list[Pointer]:
    """Return pointers by score and, where scores differ in their last bits alone, by place."""
    return sorted(pointers, key=lambda pointer: (-round(pointer.score, 8), *np.round(pointer.centre, 4)))


def assert_same(results: list[Result], expected: list[Result]) -> None:
    assert [result.path for result in results] == [result.path for result in expected]
    for result, other in zip(results, expected, strict=True):
        assert (result.error, result.count, result.count_label) == (other.error, other.count, other.count_label)
        assert (result.class_name, result.class_score) == (other.class_name, pytest.approx(other.class_score))
        assert result.count_scores == (None if other.count_scores is None else pytest.approx(other.count_scores))
        assert len(result.pointers) == len(other.pointers)
        for pointer, its_other in zip(*map(in_one_order, (result.pointers, other.pointers)), strict=True):
            assert pointer.centre == pytest.approx(its_other.centre, abs=1e-6)
            assert (pointer.kind, pointer.area) == (its_other.kind, pytest.approx(its_other.area, abs=1e-4))
            assert pointer.score == pytest.approx(its_other.score, abs=1e-9)


@pytest.fixture
def assert_each_batch_crosses_once(scenes: Path, pretended_gpu: Any, pretended: Any) -> Callable[..., list[Result]]:
    """Compare with the CPU what the GPU says of a model's mode, count what crosses, and return it."""

    def check(model: Path, mode: str, cluster: str | None = None) -> list[Result]:
        with on_gpu(model, mode, cluster=cluster) as engine:
            assert engine.device == "cuda:0"
            results = list(engine.run(scenes))
            assert_same(results, on_cpu(model, scenes, mode, cluster))
            assert pretended_gpu.to_host == len(pretended.sizes)
            assert sum(pretended.sizes) == 11
            # Weights, signatures and other constants are there by now, and stay there.
            moved = pretended_gpu.to_device
            assert list(engine.run(scenes)) == results
            assert pretended_gpu.to_host == len(pretended.sizes)
            assert pretended_gpu.to_device == moved > 0
        return results

    return check


@pytest.mark.parametrize(("mode", "cluster"), JOBS)
def test_results_are_the_cpus_and_each_batch_crosses_once(
    mode: str, cluster: str | None, tiny_directory: Path, assert_each_batch_crosses_once: Callable[..., list[Result]]
) -> None:
    assert_each_batch_crosses_once(tiny_directory, mode, cluster)


@pytest.mark.parametrize(("mode", "top"), [("p2c", 0), ("p2c", 1), ("combined", 2)])
def test_evidence_stays_on_the_gpu(
    mode: str,
    top: int,
    tiny_directory: Path,
    tiny_counter: CountSVM,
    tmp_path: Path,
    assert_each_batch_crosses_once: Callable[..., list[Result]],
) -> None:
    given = load_model(tiny_directory).manifest
    tensors = {name: tap.tensor for name, tap in given.taps.items()}
    directory = tmp_path / "unfitted"
    exported = import_classifier(
        tiny_directory / NETWORK_FILE,
        directory,
        name="tiny",
        pixels=given.input,
        readout=Readout(taps=tensors, count_features=("gap",)),
    )
    tiny_counter.save(directory / COUNTER_FILE)
    write_manifest(replace(exported, settings={"p2c.top_evidence": top}), directory)
    results = assert_each_batch_crosses_once(directory, mode)
    assert {result.count for result in results} == {None, *range(6)}


@pytest.mark.parametrize(
    "chosen",
    [{"combined.pointer": "box"}, {"combined.pointer": "mixture"}, {"combined.clusters": "round"}],
    ids=lambda chosen: next(iter(chosen.values())),
)
def test_whatever_combined_points_with_stays_on_the_gpu(
    chosen: dict[str, str],
    make_model: Callable[..., Path],
    tmp_path: Path,
    assert_each_batch_crosses_once: Callable[..., list[Result]],
) -> None:
    manifest = load_model(make_model(tmp_path / "before")).manifest
    directory = make_model(tmp_path / "model", manifest=replace(manifest, settings={**manifest.settings, **chosen}))
    results = assert_each_batch_crosses_once(directory, "combined")
    assert {pointer.kind for result in results for pointer in result.pointers} == {
        "box" if "box" in chosen.values() else "ellipse"
    }


def test_what_clusters_say_stays_on_the_gpu(
    make_model: Callable[..., Path],
    tiny_counter: CountSVM,
    tmp_path: Path,
    assert_each_batch_crosses_once: Callable[..., list[Result]],
) -> None:
    manifest = load_model(make_model(tmp_path / "before")).manifest
    heat = heat_name(manifest, settings_for(manifest).p2c)
    table = np.zeros((6, 5), np.float32)
    table[2, 3] = 10  # whatever it is worth: two clusters are three objects
    witness = ClusterLikelihood(table, PeakSettings(1.0, 0.5, 2.0), str(heat))
    directory = make_model(tmp_path / "model", counter=replace(tiny_counter, clusters=witness))
    results = assert_each_batch_crosses_once(directory, "combined")
    assert {result.count for result in results} == {None, 0, 1, 3, 4, 5}


def test_all_batches_but_the_last_are_whole(
    tiny_directory: Path, scenes: Path, pretended_gpu: Any, pretended: Any
) -> None:
    """A GPU computes them one after the other, and a short one in the time of a whole one."""
    with on_gpu(tiny_directory, "c2p", batch_size=4) as engine:
        list(engine.run(scenes))
    assert sorted(pretended.sizes) == [3, 4, 4]


def test_batches_run_side_by_side_each_on_a_stream_of_its_own(
    tiny_directory: Path, scenes: Path, pretended_gpu: Any, pretended: Any, first_at_once: Any
) -> None:
    with on_gpu(tiny_directory, "combined", batch_size=2) as engine:
        pretended.inside = first_at_once(2)
        list(engine.run(scenes))
        assert pretended.most_at_once == 2
        streams = set(pretended.streams)
        assert len(streams) == 2
        assert all(stream.non_blocking for stream in streams)
        # The mode's kernels queue behind the network of their batch, on the thread that ran it.
        assert {stream for _, stream in pretended_gpu.launched} == streams
        assert len({(thread, stream) for thread, stream in pretended_gpu.launched}) >= 2
        # Streams are kept: CuPy keeps what was freed on each.
        list(engine.run(scenes))
        assert set(pretended.streams) == streams
    assert pretended_gpu.current() is pretended_gpu.default


def test_parts_can_be_fitted_to_what_a_gpu_says(
    tiny_directory: Path, scenes: Path, pretended_gpu: Any, pretended: Any
) -> None:
    model = load_model(tiny_directory)
    photos = [LabelledImage(path, count=index % 6) for index, path in enumerate(sorted(scenes.glob("*.png")))] * 4
    taps = ("conv_last", "conv_prev", "gap", "logits")
    counters, signatures, heats = [], [], []
    pretended_gpu.count = 2
    for device in ("cpu", "cuda:1"):
        backend = "onnxruntime" if device == "cpu" else "pretended"
        network = open_network(model, taps, Execution(backend, "fp32", device, 3))
        heat = heat_source(model.manifest, model.parts.signatures)
        counters.append(counter_from_images(photos, network, workers=1, folds=2, heat=heat)[0])
        heats.append(features_from_images(photos, network, workers=1, heat=heat).heat)
        signatures.append(signatures_from_images(photos, None, network, workers=1)[0])
    for name, weights in counters[0].weights.items():
        np.testing.assert_array_equal(counters[1].weights[name], weights)
    for tap, ranking in signatures[0].ranking.items():
        np.testing.assert_array_equal(signatures[1].ranking[tap], ranking)
    np.testing.assert_allclose(heats[1].maps, heats[0].maps, rtol=1e-5)
    assert heats[0].maps.any()
    assert pretended_gpu.launched_on == {1}
    assert pretended_gpu.default not in {stream for _, stream in pretended_gpu.launched}


def too_large_above(most: int) -> Callable[[int], None]:
    def check(n: int) -> None:
        if n > most:
            raise DeviceMemoryError("The GPU ran out of memory while running the network: use a smaller batch.")

    return check


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("mode", MODES)
def test_a_batch_that_does_not_fit_is_halved_and_run_again(
    mode: str, most: int, tiny_directory: Path, scenes: Path, pretended_gpu: Any, pretended: Any
) -> None:
    pretended.before = too_large_above(most)
    said: list[str] = []
    with on_gpu(tiny_directory, mode, batch_size=4, report=said.append) as engine:
        said.clear()
        assert_same(list(engine.run(scenes)), on_cpu(tiny_directory, scenes, mode))
        assert [text for text in said if "memory" in text] == [
            "The GPU's memory cannot hold 4 images at once: the run goes on with smaller batches."
        ]
        assert pretended_gpu.freed > 0
        assert (0, 0) in pretended_gpu.trimmed
        # The size that fits is kept, for later batches and later runs.
        assert max(pretended.sizes[-4:]) <= most
        pretended.sizes.clear()
        assert len(list(engine.run(scenes))) == 12
        assert max(pretended.sizes) == {1: 1, 2: 2, 3: 2}[most]
        assert len(said) == 1


def test_a_batch_that_fits_when_what_was_kept_is_given_back_is_not_halved(
    tiny_directory: Path, scenes: Path, pretended_gpu: Any, pretended: Any
) -> None:
    def short_of_memory(n: int) -> None:
        if not pretended_gpu.trimmed:
            too_large_above(0)(n)

    said: list[str] = []
    with on_gpu(tiny_directory, batch_size=4, report=said.append) as engine:
        pretended.before = short_of_memory
        pretended.sizes.clear()
        said.clear()
        assert_same(list(engine.run(scenes)), on_cpu(tiny_directory, scenes, "c2p"))
        assert set(pretended.sizes) == {3, 4}
    assert not said


def test_what_follows_the_network_may_not_fit_either(
    tiny_directory: Path, scenes: Path, pretended_gpu: Any, pretended: Any
) -> None:
    expected = on_cpu(tiny_directory, scenes, "p2c")
    with on_gpu(tiny_directory, "p2c", batch_size=8) as engine:
        pretended_gpu.largest = 4 * 64  # heatmaps of four images
        assert_same(list(engine.run(scenes)), expected)
        assert max(pretended.sizes[-3:]) <= 4


def test_a_single_image_that_does_not_fit_ends_the_run(
    tiny_directory: Path, scenes: Path, pretended_gpu: Any, pretended: Any
) -> None:
    pretended.before = too_large_above(0)
    with on_gpu(tiny_directory) as engine, pytest.raises(DeviceMemoryError, match="use a smaller batch"):
        list(engine.run(scenes))


def test_a_network_that_does_not_fit_is_opened_for_smaller_batches(
    tiny_directory: Path, scenes: Path, pretended: Any
) -> None:
    pretended.at_compile = lambda request: too_large_above(3)(request.batch_size)
    said: list[str] = []
    with on_gpu(tiny_directory, batch_size=12, report=said.append) as engine:
        assert engine.batch_size == 3
        assert len(list(engine.run(scenes))) == 12
    assert [text.split()[-1] for text in said if "does not fit" in text] == ["6.", "3."]
    pretended.at_compile = lambda request: too_large_above(0)(request.batch_size)
    with pytest.raises(DeviceMemoryError):
        on_gpu(tiny_directory, precision="fp16")


@pytest.mark.parametrize("parallel", [1, 2])
@pytest.mark.parametrize(("at", "rows"), [(1, 0), (2, 2), (4, 7)])
def test_a_lost_gpu_ends_the_run_with_all_rows_that_were_finished(
    at: int, rows: int, parallel: int, tiny_directory: Path, scenes: Path, pretended_gpu: Any, pretended: Any
) -> None:
    expected = on_cpu(tiny_directory, scenes, "c2p")
    pretended.parallel = parallel
    lost = sys.modules["cupy"].cuda.runtime.CUDARuntimeError(700, "cudaErrorIllegalAddress")  # type: ignore[attr-defined]

    def lose(_: int) -> None:
        if len(pretended.sizes) >= at:
            # As on a real one, everything that follows fails as well.
            pretended_gpu.device_exit = lost
            raise DeviceLostError("The GPU stopped answering while running the network: start again.")

    results: list[Result] = []
    with on_gpu(tiny_directory, batch_size=2) as engine:
        pretended.before = lose
        pretended.sizes.clear()
        with pytest.raises(DeviceLostError, match="The GPU stopped answering while"):
            results.extend(engine.run(scenes))  # which keeps what came before the error
        pretended_gpu.device_exit = None
    assert_same(results, expected[: len(results)])
    # Side by side, the loss may reach a batch of before while it runs.
    assert len(results) == rows if parallel == 1 else len(results) <= rows
    assert not [t.name for t in threading.enumerate() if t.name.startswith(("decode", "network"))]


def test_an_error_of_cuda_in_a_mode_is_a_sentence(
    tiny_directory: Path, scenes: Path, pretended_gpu: Any, pretended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cupy: Any = sys.modules["cupy"]

    def fail(*_: Any, **__: Any) -> None:
        raise cupy.cuda.runtime.CUDARuntimeError(98, "cudaErrorInvalidDeviceFunction")

    with on_gpu(tiny_directory) as engine:
        monkeypatch.setattr(cupy, "empty", fail)
        with pytest.raises(
            BackendError, match=r"failed while counting and pointing \(cudaErrorInvalidDeviceFunction\)"
        ):
            list(engine.run(scenes))


@pytest.mark.parametrize(("mode", "cluster"), JOBS)
def test_an_image_that_a_kernel_refuses_is_an_error_row(
    mode: str, cluster: str | None, tiny_directory: Path, scenes: Path, pretended_gpu: Any, pretended: Any
) -> None:
    """Taps that are finite, whose sum over the maps is not."""

    def overflow(tap: np.ndarray) -> np.ndarray:
        huge = np.array(tap)
        if tap.ndim == 4:
            huge[1, :, 2, 3] = 3e38
        return huge

    with on_gpu(tiny_directory, mode, cluster=cluster, batch_size=12) as engine:
        expected = list(engine.run(scenes))
        pretended.distort = overflow
        results = list(engine.run(scenes))
    # The images are shared by two batches, of each of which it is the second.
    failed = [index for index, result in enumerate(results) if not result.ok and "broken" not in result.path]
    assert len(failed) == len(pretended.sizes) / 2
    assert results[failed[0]].error == "The heatmap of this image cannot be used: it overflows, or is negative."
    assert (results[failed[0]].count, results[failed[0]].pointers) == (None, ())
    kept = [index for index in range(len(results)) if index not in failed]
    assert_same([results[index] for index in kept], [expected[index] for index in kept])


@pytest.mark.parametrize("mode", MODES)
def test_taps_that_are_not_finite_cost_that_image_only(
    mode: str, tiny_directory: Path, scenes: Path, pretended_gpu: Any, pretended: Any
) -> None:
    def spoil(tap: np.ndarray) -> np.ndarray:
        spoilt = np.array(tap)
        spoilt[0].flat[0] = np.nan
        return spoilt

    with on_gpu(tiny_directory, mode, batch_size=3) as engine:
        expected = list(engine.run(scenes))
        copies, batches = pretended_gpu.to_host, len(pretended.sizes)
        pretended.distort = spoil
        results = list(engine.run(scenes))
        assert pretended_gpu.to_host - copies == len(pretended.sizes) - batches
    failed = [index for index, result in enumerate(results) if not result.ok and "broken" not in result.path]
    assert len(failed) == len(pretended.sizes) - batches
    assert results[failed[0]].error == "The network returned values that are not finite for this image."
    kept = [index for index in range(len(results)) if index not in failed]
    assert_same([results[index] for index in kept], [expected[index] for index in kept])


class HostDecoder(BatchDecoder):
    """Decodes with libjpeg in full, as a GPU would, and takes down what it was given."""

    def __init__(self, resize: Any, pool: ThreadPoolExecutor, *, gives_up_on: bytes = b"") -> None:
        self.files: list[int] = []
        self.gives_up_on = gives_up_on
        self.closed = False
        super().__init__(self, resize, np, pool)

    def decode(self, data: Any, height: int | None = None, width: int | None = None) -> Any:
        if height is not None and width is not None:
            return super().decode(data, height, width)
        self.files.append(len(data))
        return [None if one == self.gives_up_on else np.asarray(display_image(one).picture) for one in data]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def jpegs(scenes: Path) -> Path:
    """The scenes, of which every other one is a JPEG now, and one of these breaks off."""
    for path in sorted(scenes.glob("*.png"))[::2]:
        with Image.open(path) as picture:
            picture.resize((640, 480)).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    whole = (scenes / "06.jpg").read_bytes()
    (scenes / "06.jpg").write_bytes(whole[: len(whole) // 2])
    return scenes


@pytest.mark.parametrize("mode", MODES)
def test_what_the_gpu_decodes_gives_the_rows_of_the_cpu(
    mode: str,
    tiny_directory: Path,
    jpegs: Path,
    pretended_gpu: Any,
    resize_on_host: Any,
    pretended: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ThreadPoolExecutor(2) as pool:
        decoder = HostDecoder(resize_on_host, pool, gives_up_on=(jpegs / "08.jpg").read_bytes())
        monkeypatch.setattr("pc_engine.decoding.settings.DeviceDecoder", lambda *_: decoder)
        with on_gpu(tiny_directory, mode) as engine:
            results = list(engine.run(jpegs))
            taken = sum(decoder.files)
            assert list(engine.run(jpegs)) == results
            # A batch that does not fit is decoded anew, in halves.
            pretended.before = lambda n: _too_large() if n > 2 else None
            assert_same(list(engine.run(jpegs)), results)
        assert decoder.closed
    expected = on_cpu(tiny_directory, jpegs, mode)
    assert [(row.path, row.error, row.count) for row in results] == [
        (row.path, row.error, row.count) for row in expected
    ]
    assert [(row.width, row.height) for row in results] == [(row.width, row.height) for row in expected]
    # Six JPEGs; the one that breaks off, the PNGs and what is no picture were the cores' to do from the start.
    assert taken == 5
    assert [row.error for row in results if row.path.endswith("06.jpg")] == [
        row.error for row in expected if row.path.endswith("06.jpg")
    ]


@pytest.mark.parametrize("mode", MODES)
def test_what_images_say_of_their_counts_outlives_decoding_on_the_gpu(
    mode: str,
    tiny_directory: Path,
    jpegs: Path,
    pretended_gpu: Any,
    resize_on_host: Any,
    pretended: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = [replace(image, count=k % 4) for k, image in enumerate(iter_images(jpegs))]
    with ThreadPoolExecutor(2) as pool:
        decoder = HostDecoder(resize_on_host, pool)
        monkeypatch.setattr("pc_engine.decoding.settings.DeviceDecoder", lambda *_: decoder)
        with on_gpu(tiny_directory, mode, count="each") as engine:
            results = list(engine.run_paths(images))
    assert decoder.files
    assert [row.count for row in results if row.ok] == [
        image.count for image, row in zip(images, results, strict=True) if row.ok
    ]
    assert sum(row.ok for row in results) > 5


def _too_large() -> None:
    raise DeviceMemoryError("out of memory")


def test_a_gpu_that_is_lost_while_it_decodes_is_said_to_be(
    pretended_gpu: Any, jpegs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = sys.modules["cupy"].cuda.runtime.CUDARuntimeError(700, "cudaErrorIllegalAddress")  # type: ignore[attr-defined]

    class Codec:
        def __init__(self, index: int, threads: int) -> None:
            assert (index, threads) == (0, 1)

        def decode(self, data: Any) -> Any:
            pretended_gpu.device_exit = lost  # as on a real one, everything that follows fails as well
            raise lost

    monkeypatch.setattr("pc_engine.decoding.decode_device.NvImageCodec", Codec)
    with (
        contextlib.closing(DeviceDecoder("cuda:0", 1)) as decoder,
        pytest.raises(DeviceLostError, match="stopped answering while decoding images"),
    ):
        decoder.decode([(jpegs / "08.jpg").read_bytes()], 64, 64)


@pytest.mark.parametrize(("photos_at_once", "pieces"), [(1, [1, 1, 1]), (2, [2, 1]), (40, [3])])
def test_a_gpu_decodes_as_many_photos_at_once_as_a_quarter_of_its_free_memory_holds(
    photos_at_once: int,
    pieces: list[int],
    pretended_gpu: Any,
    resize_on_host: Any,
    jpegs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Codec:
        def __init__(self, index: int, threads: int) -> None: ...

        def decode(self, data: Any) -> Any:
            seen.append(len(data))
            return [cupy.asarray(np.asarray(display_image(one).picture)) for one in data]

    cupy: Any = sys.modules["cupy"]
    seen: list[int] = []
    pretended_gpu.free = 4 * AT_ONCE * photos_at_once * 640 * 480 * 3
    monkeypatch.setattr("pc_engine.decoding.decode_device.NvImageCodec", Codec)
    monkeypatch.setattr("pc_engine.decoding.decode_device.DeviceResizer", lambda _: resize_on_host)
    files = [(jpegs / f"{name}.jpg").read_bytes() for name in ("06", "00", "02", "04")]  # the first one breaks off
    with contextlib.closing(DeviceDecoder("cuda:0", 1)) as decoder:
        batch = decoder.decode(files, 64, 64)
    assert seen == pieces
    assert batch.pixels.shape == (3, 64, 64, 3)
    assert isinstance(batch.pixels, cupy.ndarray)
    assert batch.sizes == (None, (640, 480), (640, 480), (640, 480))
    for pixels, file in zip(batch.pixels.get(), files[1:], strict=True):
        expected = np.asarray(display_image(file).picture.resize((64, 64), Image.Resampling.BILINEAR))
        assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_a_gpu_decodes_several_batches_at_once_each_on_a_stream_of_its_own(
    pretended_gpu: Any, resize_on_host: Any, jpegs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Codec:
        def __init__(self, index: int, threads: int) -> None:
            made.append(threads)

        def decode(self, data: Any) -> Any:
            all_at_once.wait(120)
            streams.append(pretended_gpu.current())
            return [cupy.asarray(np.asarray(display_image(one).picture)) for one in data]

    cupy: Any = sys.modules["cupy"]
    made: list[int] = []
    streams: list[Any] = []
    all_at_once = threading.Barrier(AT_ONCE)
    monkeypatch.setattr("pc_engine.decoding.decode_device.usable_cores", lambda: 16)
    monkeypatch.setattr("pc_engine.decoding.decode_device.NvImageCodec", Codec)
    monkeypatch.setattr("pc_engine.decoding.decode_device.DeviceResizer", lambda _: resize_on_host)
    files = [(jpegs / f"{name}.jpg").read_bytes() for name in ("00", "02", "04", "08")] * AT_ONCE
    with (
        contextlib.closing(DeviceDecoder("cuda:0", 16)) as decoder,
        ThreadPoolExecutor(len(files)) as pool,
    ):
        batches = list(pool.map(lambda data: decoder.decode([data], 64, 64), files))
    assert made == [15]
    assert pretended_gpu.kept == {(0, 4): 1 << 30}  # what is freed for a batch is the next one's
    assert len(streams) == len(files)
    assert len(set(streams)) == AT_ONCE
    assert pretended_gpu.default not in streams
    for batch, file in zip(batches, files, strict=True):
        expected = np.asarray(display_image(file).picture.resize((64, 64), Image.Resampling.BILINEAR))
        assert np.abs(batch.pixels.get()[0].astype(int) - expected).max() <= 1


def test_a_decoder_that_fails_decodes_the_next_batch(
    pretended_gpu: Any, resize_on_host: Any, jpegs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Codec:
        def __init__(self, index: int, threads: int) -> None: ...

        def decode(self, data: Any) -> Any:
            if len(data) > 1:
                _too_large()
            return [cupy.asarray(np.asarray(display_image(one).picture)) for one in data]

    cupy: Any = sys.modules["cupy"]
    monkeypatch.setattr("pc_engine.decoding.decode_device.NvImageCodec", Codec)
    monkeypatch.setattr("pc_engine.decoding.decode_device.DeviceResizer", lambda _: resize_on_host)
    file = (jpegs / "08.jpg").read_bytes()
    with contextlib.closing(DeviceDecoder("cuda:0", 1)) as decoder:
        for _ in range(2 * AT_ONCE):
            with pytest.raises(DeviceMemoryError):
                decoder.decode([file, file], 64, 64)
        assert decoder.decode([file], 64, 64).on_device == 1


@pytest.mark.parametrize(("workers", "cores", "threads"), [(16, 16, 15), (4, 16, 4), (1, 1, 1)])
def test_the_codec_has_as_many_threads_as_it_takes_and_small_memory_is_not_kept(
    workers: int, cores: int, threads: int, pretended_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int]] = []
    monkeypatch.setattr("pc_engine.decoding.decode_device.NvImageCodec", lambda *given: made.append(given))
    monkeypatch.setattr("pc_engine.decoding.decode_device.usable_cores", lambda: cores)
    pretended_gpu.free = 1 << 30
    DeviceDecoder("cuda:0", workers).close()
    assert made == [(0, threads)]
    assert pretended_gpu.kept == {(0, 4): 1 << 28}


def test_the_codec_is_made_on_the_gpu_that_it_decodes_on(pretended_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[int] = []

    def make(*_: int) -> None:
        current.append(getattr(pretended_gpu.local, "index", 0))

    pretended_gpu.count = 2
    monkeypatch.setattr("pc_engine.decoding.decode_device.NvImageCodec", make)
    DeviceDecoder("cuda:1", 1).close()
    assert current == [1]
    assert getattr(pretended_gpu.local, "index", 0) == 0


def test_a_codec_that_decodes_nothing_at_all_is_said_once(
    pretended_gpu: Any, resize_on_host: Any, jpegs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Codec:
        def __init__(self, index: int, threads: int) -> None: ...

        def decode(self, data: Any) -> Any:
            return [None] * len(data)

    monkeypatch.setattr("pc_engine.decoding.decode_device.NvImageCodec", Codec)
    monkeypatch.setattr("pc_engine.decoding.decode_device.DeviceResizer", lambda _: resize_on_host)
    said: list[str] = []
    file = (jpegs / "08.jpg").read_bytes()
    with contextlib.closing(DeviceDecoder("cuda:0", 1, report=said.append)) as decoder:
        assert decoder.decode([file] * 7, 64, 64).on_device == 0
        assert None not in decoder.decode([file[:99]] * 8, 64, 64).errors  # which nothing can decode
        assert said == []
        for _ in range(2):
            assert decoder.decode([file] * 8, 64, 64).errors == (None,) * 8
    assert len(said) == 1
    assert said[0].startswith("nvImageCodec could decode none of 8 JPEGs on cuda:0, so the CPU decodes such batches")


def test_a_gpu_without_a_pool_of_cudas_decodes_as_well(
    pretended_gpu: Any, resize_on_host: Any, jpegs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Codec:
        def __init__(self, index: int, threads: int) -> None: ...

        def decode(self, data: Any) -> Any:
            return [cupy.asarray(np.asarray(display_image(one).picture)) for one in data]

    cupy: Any = sys.modules["cupy"]
    pretended_gpu.has_pools = False
    monkeypatch.setattr("pc_engine.decoding.decode_device.NvImageCodec", Codec)
    monkeypatch.setattr("pc_engine.decoding.decode_device.DeviceResizer", lambda _: resize_on_host)
    with contextlib.closing(DeviceDecoder("cuda:0", 1)) as decoder:
        assert decoder.decode([(jpegs / "08.jpg").read_bytes()], 64, 64).on_device == 1
        assert set(decoder.clock.seconds) == {"codec", "resize"}
    make_room_on("cuda:0")
    assert not pretended_gpu.kept
    assert not pretended_gpu.trimmed


def test_without_a_codec_the_cores_decode_and_it_is_said(
    tiny_directory: Path, scenes: Path, pretended_gpu: Any, pretended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    said: list[str] = []
    with on_gpu(tiny_directory, report=said.append) as engine:
        assert_same(list(engine.run(scenes)), on_cpu(tiny_directory, scenes, "c2p"))
    assert [sentence for sentence in said if "decoded on the CPU" in sentence] == [
        "Photos are decoded on the CPU. The package 'nvidia.nvimgcodec' is needed to decode on an NVIDIA GPU: install "
        "it with pip install 'pc-engine[gpu]'."
    ]


def test_a_gpu_that_is_lost_between_the_halves_of_a_batch_leaves_the_first(
    tiny_directory: Path, scenes: Path, pretended_gpu: Any, pretended: Any
) -> None:
    def fail(n: int) -> None:
        if n > 2:
            _too_large()
        if pretended.sizes.count(2) == 2:
            raise DeviceLostError("The GPU stopped answering.")

    pretended.parallel = 1
    pretended.before = fail
    found: list[Result] = []
    with on_gpu(tiny_directory, batch_size=4) as engine, pytest.raises(DeviceLostError, match="stopped answering"):
        found.extend(engine.run(scenes))
    assert [Path(result.path).stem for result in found] == ["00", "01"]
