"""What is measured on a GPU, on the host in its place: the figures, and what is said where something is wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from pc_engine.backbone import Backbone, CompileRequest, Probe
from pc_engine.backends import BACKENDS
from pc_engine.bench.gpu import device as gpu_device
from pc_engine.bench.gpu import kernels as gpu_kernels
from pc_engine.bench.gpu import networks as gpu_networks
from pc_engine.bench.gpu import peers as gpu_peers
from pc_engine.bench.gpu import runs as gpu_runs
from pc_engine.bench.gpu import subjects as gpu_subjects
from pc_engine.bench.gpu import traffic as gpu_traffic
from pc_engine.bench.gpu.device import copy_rate, matrix_rates, wall_rate
from pc_engine.bench.gpu.kernels import DeviceCase, case_row, device_cases, largest_difference
from pc_engine.bench.gpu.subjects import Job, Subject, Subjects, networks, run_in_batches
from pc_engine.bench.gpu.traffic import Traffic, copies_in_trace, copies_of
from pc_engine.bench.kernel_settings import EPS, MIN_WEIGHT
from pc_engine.engine import Engine
from pc_engine.errors import BackendError, MissingPackageError
from pc_engine.kernels import channel_max, dbscan
from pc_engine.model import load_model
from pc_engine.modes import MODES
from pc_engine.selection.candidates import tap_difference


class HostBackend:
    """ONNX Runtime on the CPU, called a GPU; ``shift`` spoils its taps, ``fault`` keeps it from compiling."""

    name, devices = "pretended", ("cuda",)

    def __init__(self, shift: float = 0.0, fault: str = "", available: bool = True) -> None:
        self.shift, self.fault, self.available = shift, fault, available
        self.opened = self.closed = 0
        self.compiled: list[CompileRequest] = []

    def probe(self, device: str = "cpu") -> Probe:
        return Probe(self.available, "It is not there.", "1", ("fp32", "int8") if self.available else ())

    def compile(self, request: CompileRequest, save_to: Path | None = None) -> Backbone:
        if self.fault:
            raise BackendError(self.fault)
        self.compiled.append(request)
        if save_to is not None:
            save_to.write_bytes(b"compiled")
        return self.load(request, Path())

    def load(self, request: CompileRequest, saved: Path) -> Backbone:
        network: Any = BACKENDS["onnxruntime"].compile(replace(request, device="cpu", threads=1))
        plain, close = network.infer, network.close
        self.opened += 1

        def infer(images: np.ndarray, into: Any = None) -> dict[str, np.ndarray]:
            return {name: tap + np.float32(self.shift) for name, tap in plain(images).items()}

        def count_and_close() -> None:
            self.closed += 1
            close()

        network.infer, network.close = infer, count_and_close
        return network


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostBackend]:
    chosen = HostBackend()
    monkeypatch.setattr(BACKENDS["onnxruntime"], "devices", ("cpu",))
    # Which brings them back in their order, in which users see them.
    with patch.dict(BACKENDS, {"onnxruntime": BACKENDS["onnxruntime"], "pretended": chosen}, clear=True):
        yield chosen


@pytest.fixture
def job(host_meter: Any, tiny_directory: Path) -> Job:
    return Job(host_meter, models=(str(tiny_directory),), batch_size=4, images=10, photos="random:0", n=8)


@pytest.fixture
def subjects(job: Job) -> Iterator[Subjects]:
    with Subjects(job) as opened:
        yield opened


def test_parity_compares_every_tap_and_every_mode(job: Job, subjects: Subjects, backend: HostBackend) -> None:
    rows = list(gpu_networks.measure_parity(job, subjects))
    taps = [row for row in rows if row.get("what", "").startswith("tap")]
    assert {row["what"] for row in taps} == {"tap conv_prev", "tap conv_last", "tap gap", "tap logits"}
    assert {row["precision"] for row in taps} == {"fp32", "int8"}
    assert all(row["within"] and row["difference"] < 1e-6 for row in taps if row["precision"] == "fp32")
    counts = {row["what"]: row["same_counts"] for row in rows if "same_counts" in row and row["precision"] == "fp32"}
    assert counts == {"counts c2p": 1.0, "counts p2c": 1.0, "counts combined": 1.0}
    assert not any("reason" in row for row in rows)
    assert backend.closed == backend.opened


def test_a_network_in_8_bits_is_compared_with_its_own_arithmetic(
    job: Job, subjects: Subjects, backend: HostBackend
) -> None:
    """Of the float network's numbers it is as far as its rounding, which no limit of a backend is about."""
    rows = list(gpu_networks.measure_parity(replace(job, precisions=("int8",)), subjects))
    [subject] = subjects
    int8 = BACKENDS["onnxruntime"].compile(replace(subject.request().at("int8"), precision="int8", threads=1))
    found = run_in_batches(int8, subject.images)
    for row in (row for row in rows if "difference" in row):
        name = row["what"].removeprefix("tap ")
        own, float_ = (
            tap_difference({name: found[name]}, {name: subject.reference_of(precision)[name]})
            for precision in ("int8", "fp32")
        )
        assert row["difference"] == pytest.approx(own)
        assert row["within"]
        assert own < float_
    assert subject.reference is not subject.reference_of("int8")


def test_a_quantised_network_is_made_once(job: Job, subjects: Subjects, monkeypatch: pytest.MonkeyPatch) -> None:
    [subject] = subjects
    subject.provide("fp16")
    assert not subject.loaded.manifest.quantised
    subject.provide("int8")
    made = subject.request().at("int8")
    assert made.network.is_file()
    assert subject.model.manifest.quantised
    # In another process, too: it lies in the cache.
    monkeypatch.setattr(gpu_subjects, "quantise_network", None)
    with Subjects(job) as others:
        [other] = others
        other.provide("int8")
        assert other.request().at("int8").network_sha256 == made.network_sha256
        # Of the same file, but normalised in another way: that one would be of other numbers.
        manifest = other.loaded.manifest
        shifted = replace(manifest, input=replace(manifest.input, mean=(9.0, 9.0, 9.0)), quantised={})
        with pytest.raises(TypeError):
            Subject(job, "shifted", replace(other.loaded, manifest=shifted)).provide("int8")


def test_networks_are_opened_from_the_cache(job: Job, subjects: Subjects, backend: HostBackend) -> None:
    few = replace(job, modes=("c2p",), precisions=("fp32",))
    built = list(gpu_networks.measure_builds(few, subjects))
    assert [(row["for"], row["precision"]) for row in built] == [("all taps", "fp32"), ("c2p", "fp32")]
    assert all(row["seconds"] > 0 for row in built)
    [subject] = subjects
    of_mode = MODES["c2p"].taps(subject.loaded.manifest)
    assert [request.taps for request in backend.compiled] == [tuple(subject.loaded.manifest.taps), of_mode]
    for _ in (*networks(few, subject), *networks(few, subject, of_mode)):
        pass
    assert len(backend.compiled) == 2
    backend.available = False
    assert "not there" in next(gpu_networks.measure_builds(few, subjects))["reason"]


def test_parity_shows_a_network_that_is_off(job: Job, subjects: Subjects, backend: HostBackend) -> None:
    backend.shift = 5.0
    taps = [row for row in gpu_networks.measure_parity(job, subjects) if "difference" in row]
    assert taps
    assert not any(row["within"] for row in taps)


@pytest.mark.parametrize(("fault", "available", "reason"), [("It broke.", True, "It broke."), ("", False, "not there")])
def test_a_backend_that_does_not_work_is_a_row_with_the_reason(
    fault: str, available: bool, reason: str, job: Job, subjects: Subjects, backend: HostBackend
) -> None:
    backend.fault, backend.available = fault, available
    rows = list(gpu_networks.measure_parity(job, subjects))
    assert reason in rows[0]["reason"]
    assert not any("what" in row for row in rows)


def test_a_network_that_fails_while_it_runs_costs_its_own_rows(
    job: Job, subjects: Subjects, backend: HostBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise BackendError("It stopped.")

    monkeypatch.setattr(gpu_networks, "run_in_batches", fail)
    monkeypatch.setattr(gpu_networks, "wall_rate", fail)
    monkeypatch.setattr(gpu_networks, "matrix_rates", lambda _: iter(()))
    for rows in (gpu_networks.measure_parity(job, subjects), gpu_networks.measure_networks(job, subjects)):
        assert next(iter(rows))["reason"] == "It stopped."


def test_only_what_was_asked_for_is_opened(job: Job, subjects: Subjects, backend: HostBackend) -> None:
    [subject] = subjects
    assert list(networks(replace(job, backends=("tensorrt",)), subject)) == []
    assert list(networks(replace(job, precisions=("fp16",)), subject)) == []


def test_networks_are_timed_beside_the_matrix_rate(
    job: Job, subjects: Subjects, backend: HostBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak = [{"what": "matrix product", "precision": "fp32", "tera_ops": 0.5}, {"precision": "bf16", "reason": "none"}]
    monkeypatch.setattr(gpu_networks, "matrix_rates", lambda _: iter(peak))
    monkeypatch.setattr(gpu_networks, "wall_rate", lambda work: (50.0 * work(), [1.0, 1.0]))
    monkeypatch.setattr(gpu_networks, "batches_in_a_row", lambda seconds, parallel: 4)
    first, second, *rows = gpu_networks.measure_networks(job, subjects)
    assert [first, second] == peak
    # What no mode reads, a run does not compute: each has the network that it runs.
    assert [(row["mode"], row["precision"]) for row in rows] == [*product(job.modes, ("fp32", "int8"))]
    [subject] = subjects
    for row in rows:
        assert (row["images_per_s"], row["batch"], row["spread"]) == (50.0 * 16, 4, 0)
        request = subject.request(MODES[row["mode"]].taps(subject.loaded.manifest))
        operations = gpu_networks.operations_per_image(request)
        assert row["tera_ops"] == pytest.approx(50.0 * 16 * operations / 1e12)
        share = pytest.approx(row["tera_ops"] / 0.5) if row["precision"] == "fp32" else None
        assert row["share_of_matrix"] == share


@pytest.mark.parametrize(("seconds", "batches"), [(1e-4, 32), (0.0142, 32), (0.05, 10), (0.2, 6), (3.0, 6)])
def test_many_batches_follow_each_other_unless_they_take_long(seconds: float, batches: int) -> None:
    assert gpu_networks.batches_in_a_row(seconds, 3) == batches


class DoneAgain:
    """In the place of `RecordedWork`: there is nothing to record on the host."""

    def __init__(self, work: Any, inputs: dict[str, np.ndarray]) -> None:
        self.work, self.inputs = work, inputs
        assert {len(array) for array in inputs.values()} == {4}
        work(inputs)

    def __call__(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self.work(inputs)

    def close(self) -> None: ...


def test_modes_are_timed_with_every_clustering(
    job: Job, subjects: Subjects, backend: HostBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pc_engine.mode_run.RecordedWork", DoneAgain)
    rows = list(gpu_networks.measure_modes(job, subjects))
    assert all(row["recorded"] and row["one_by_one_us_per_image"] > 0 for row in rows if "us_per_image" in row)
    assert ("p2c", "dbscan") in {(row["mode"], row["cluster"]) for row in rows}
    assert {row["mode"] for row in rows if row.get("us_per_image", 0) > 0} == {"c2p", "p2c", "combined"}


def test_a_vgg_that_is_not_installed_gets_random_weights(
    job: Job, monkeypatch: pytest.MonkeyPatch, tiny_directory: Path
) -> None:
    made: list[tuple[str, str]] = []

    def export(name: str, weights: str, folder: Path) -> None:
        made.append((name, weights))

    monkeypatch.setattr(gpu_subjects, "export_vgg", export)
    monkeypatch.setattr(gpu_subjects, "load_model", lambda _: load_model(tiny_directory))
    with Subjects(replace(job, models=("vgg16",))) as subjects:
        assert [*subjects] == [subjects["vgg16"]]
    assert made == [("vgg16", "random:0")]


def test_results_are_compared_on_the_photos_of_a_folder_if_there_is_one(job: Job, tmp_path: Path) -> None:
    for k in range(3):
        Image.new("RGB", (90, 60), (70 * k, 0, 0)).save(tmp_path / f"{k}.png")
    (tmp_path / "1b.jpg").write_bytes(b"no picture")
    with Subjects(replace(job, photos=str(tmp_path), images=2)) as subjects:
        (subject,) = subjects
        assert subject.images.shape == (2, 64, 64, 3)
        assert subject.images[:, 0, 0].tolist() == [[0, 0, 0], [70, 0, 0]]


def test_modes_that_were_not_asked_for_are_left_out(job: Job, subjects: Subjects, backend: HostBackend) -> None:
    few = replace(job, modes=("p2c",))
    assert {row["mode"] for row in gpu_networks.measure_modes(few, subjects)} == {"p2c"}
    counted = [row["what"] for row in gpu_networks.measure_parity(few, subjects) if "same_counts" in row]
    assert set(counted) == {"counts p2c"}


def test_missing_parts_are_filled_in_at_random(job: Job, make_model: Any, tmp_path: Path) -> None:
    bare = load_model(make_model(tmp_path / "bare", counter=None, signatures=None))
    model = Subject(job, "bare", bare).model
    assert model.parts.counter is not None
    assert model.parts.signatures is not None


def test_every_kernel_is_checked_and_timed(job: Job) -> None:
    rows = [case_row(case, job, 1e9) for case in device_cases(batch=3)]
    assert len(rows) >= 14
    assert all(row["within"] and row["difference"] == 0 for row in rows)
    assert all(row["gb_per_s"] > 0 and row["share_of_copy"] == pytest.approx(row["gb_per_s"]) for row in rows)


def test_a_kernel_that_is_wrong_is_not_timed(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = np.random.default_rng(0).random((2, 3, 4, 4), np.float32)
    monkeypatch.setattr(job.meter, "place", lambda array: array + 1)
    row = case_row(DeviceCase("channel_max", {"maps": maps}, channel_max), job, 1e9)
    assert row["within"] is False
    assert "us_per_image" not in row


def test_bytes_of_a_kernel_are_those_it_reads_and_writes(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job.meter, "seconds", lambda _, **__: 1e-3)
    maps = np.zeros((2, 3, 4, 4), np.float32)
    row = case_row(DeviceCase("channel_max", {"maps": maps}, channel_max), job, 1e9)
    assert row["gb_per_s"] == pytest.approx((maps.nbytes + 2 * 3 * 4) / 1e-3 / 1e9)
    assert row["us_per_image"] == pytest.approx(500)
    row = case_row(DeviceCase("channel_max", {"maps": maps}, channel_max, read=100), job, 1e9)
    assert row["gb_per_s"] == pytest.approx((200 + 2 * 3 * 4) / 1e-3 / 1e9)


def test_differences_see_values_slots_and_shapes() -> None:
    one = np.array([[1.0, np.nan], [4.0, 2.0]])
    assert largest_difference((one,), (one,)) == 0
    assert largest_difference((one + 0.4,), (one,)) == pytest.approx(0.1)
    assert largest_difference((np.pad(one, ((0, 0), (0, 3)), constant_values=np.nan),), (one,)) == 0
    assert largest_difference((np.nan_to_num(one),), (one,)) == np.inf
    assert largest_difference((one[:1],), (one,)) == np.inf
    assert largest_difference((one[0],), (one,)) == np.inf


def test_rates_of_copies_products_and_calls(host_meter: Any) -> None:
    assert copy_rate(host_meter, 1 << 16) > 0
    torch = pytest.importorskip("torch")
    rows = list(matrix_rates(host_meter, 64))
    assert [row["precision"] for row in rows] == ["fp32", "fp16", "bf16", "int8", "fp8"]
    assert all(row.get("tera_ops", 0) > 0 or row["reason"] for row in rows)
    assert torch.backends.cuda.matmul.allow_tf32 is False
    rate, rates = wall_rate(lambda: 5, seconds=0.001, runs=3)
    assert min(rates) <= rate <= max(rates)
    assert len(rates) == 3


def test_a_product_without_its_library_costs_its_row(host_meter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError('Failure finding "libcublas.so.13"')

    monkeypatch.setattr(gpu_device, "is_installed", lambda _: False)
    monkeypatch.setattr(
        gpu_device, "_cupy_products", lambda *_: iter([("fp32", missing), ("fp16", lambda: lambda: None)])
    )
    first, second = matrix_rates(host_meter, 64)
    assert first["reason"] == 'ImportError: Failure finding "libcublas.so.13"'
    assert second["tera_ops"] > 0


def test_a_kernel_that_fails_costs_its_row(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(x: np.ndarray) -> tuple[np.ndarray, ...]:
        raise RuntimeError("nvrtc: error\nmore")

    cases = [DeviceCase("bad", {"x": np.ones(3)}, fail), next(device_cases(2))]
    monkeypatch.setattr(gpu_kernels, "device_cases", lambda *_: iter(cases))
    monkeypatch.setattr(gpu_kernels, "copy_rate", lambda _: 1e12)
    _, bad, good = gpu_kernels.measure_kernels(job)
    assert bad == {"kernel": "bad", "reason": "RuntimeError: nvrtc: error"}
    assert good["within"]


def test_a_network_that_fails_otherwise_than_planned_costs_its_row(
    job: Job, subjects: Subjects, backend: HostBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Backbone:
        raise ImportError("no cuRAND")

    monkeypatch.setattr(backend, "compile", fail)
    [subject] = subjects
    rows = [row for row, network in networks(job, subject) if network is None]
    assert "ImportError: no cuRAND" in {row["reason"] for row in rows}


def test_copies_are_read_off_a_trace() -> None:
    events = [
        {"cat": "gpu_memcpy", "name": "Memcpy DtoH (Device -> Pinned)", "args": {"bytes": 100}},
        {"cat": "gpu_memcpy", "name": "Memcpy DtoH (Device -> Pageable)", "args": {"bytes": 28}},
        {"cat": "gpu_memcpy", "name": "Memcpy HtoD (Pinned -> Device)", "args": {"bytes": 1000}},
        {"cat": "gpu_memcpy", "name": "Memcpy DtoD (Device -> Device)", "args": {"bytes": 5}},
        {"cat": "gpu_memcpy", "name": "Memcpy DtoH (Device -> Pageable)", "args": {"bytes": 0}},
        {"cat": "gpu_memset", "name": "Memset (Device)", "args": {"bytes": 7}},
        {"cat": "kernel", "name": "Memcpy DtoH", "args": {"bytes": 7}},
    ]
    assert copies_in_trace(events) == [
        Traffic("device to host", 2, 128, complete=True),
        Traffic("host to device", 1, 1000, complete=True),
        Traffic("on the device", 1, 5, complete=True),
    ]
    assert [found.copies for found in copies_in_trace([])] == [0, 0]


def test_a_trace_without_kernels_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_traffic, "torch_reaches", lambda _: True)
    copy = {"cat": "gpu_memcpy", "name": "Memcpy DtoH (Device -> Pinned)", "args": {"bytes": 8}}
    monkeypatch.setattr(gpu_traffic, "_copies_by_cupy", lambda _: [])
    monkeypatch.setattr(gpu_traffic, "_traced", lambda _: [copy])
    assert copies_of(lambda: None) == []
    monkeypatch.setattr(gpu_traffic, "_traced", lambda _: [copy, {"cat": "kernel", "name": "dbscan_f32"}])
    assert copies_of(lambda: None)[0] == Traffic("device to host", 1, 8, complete=True)


def test_without_a_pytorch_that_uses_gpus_calls_of_get_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy: Any = ModuleType("cupy")
    cupy.ndarray = type("ndarray", (), {"nbytes": 24, "get": lambda self, out=None: "host"})
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    asked: list[str] = []
    monkeypatch.setattr(gpu_traffic, "torch_reaches", asked.append)  # which says no
    plain = cupy.ndarray.get
    taken: list[str] = []
    assert copies_of(lambda: taken.append(cupy.ndarray().get(out=None))) == [Traffic("device to host", 1, 24, False)]
    assert (taken, asked) == (["host"], ["cuda"])
    assert cupy.ndarray.get is plain
    with pytest.raises(ValueError, match="no"):
        copies_of(lambda: (_ for _ in ()).throw(ValueError("no")))
    assert cupy.ndarray.get is plain


def test_a_run_is_put_beside_its_decoding_and_its_network(
    tiny_directory: Path, draw_scene: Any, tmp_path: Path
) -> None:
    for k in range(3):
        draw_scene([(k, k)]).save(tmp_path / f"{k}.png")
    photos = sorted(tmp_path.iterdir())
    with Engine(tiny_directory, backend="onnxruntime", precision="fp32", batch_size=4, workers=1) as engine:
        row = gpu_runs.run_row(engine, photos, n=10, runs=1)
    slower = min(row["decode_images_per_s"], row["network_images_per_s"])
    assert row["ratio"] == pytest.approx(row["run_images_per_s"] / slower)
    assert (row["backend"], row["batch"], row["n"]) == ("onnxruntime", 4, 10)
    assert row["run_from_memory_images_per_s"] > 0
    assert all(row[f"{stage}_ms_of_a_batch"] > 0 for stage in ("decode", "network", "mode", "rows"))


def test_traffic_is_that_of_a_run_that_follows_another(
    tiny_directory: Path, draw_scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_scene([(1, 1)]).save(tmp_path / "a.png")
    watched: list[int] = []

    def watch(work: Any) -> list[Traffic]:
        watched.append(len(work() or ()))
        return [Traffic("device to host", 8, 800, complete=True)]

    monkeypatch.setattr(gpu_runs, "copies_of", watch)
    with Engine(tiny_directory, backend="onnxruntime", precision="fp32", batch_size=4, workers=1) as engine:
        [row] = gpu_runs.traffic_rows(engine, [tmp_path / "a.png"], batches=8)
    assert watched == [32]
    assert (row["copies_per_batch"], row["bytes_per_image"], row["every_copy_seen"]) == (1.0, 25.0, True)


def test_clusterings_are_compared_and_a_missing_cuml_is_named(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise MissingPackageError("cuml", "cuml", "cluster with cuml-dbscan")

    monkeypatch.setattr("pc_engine.modes.cuml_clustering.cuml_dbscan", missing)
    ours, theirs, *cuml = gpu_peers.clustering_rows(job, heatmaps=3)
    assert ours["us_per_image"] > 0
    assert theirs["same_labels"] is True
    assert [row["reason"].split(":")[0] for row in cuml] == [
        "The package 'cuml' is needed to cluster with cuml-dbscan"
    ] * 2


def test_a_cuml_that_fails_costs_its_rows_alone(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(heat: np.ndarray, **_: Any) -> Any:
        if len(heat) == 1:
            raise RuntimeError("libcuml++.so: undefined symbol")
        return dbscan(heat, eps=EPS, min_weight=MIN_WEIGHT)

    monkeypatch.setattr("pc_engine.modes.cuml_clustering.cuml_dbscan", fail)
    _, _, one_by_one, at_once = gpu_peers.clustering_rows(job, heatmaps=3)
    assert one_by_one["reason"] == "RuntimeError: libcuml++.so: undefined symbol"
    assert at_once["us_per_image"] > 0
    assert at_once["same_labels"] is True


def test_a_codec_that_fails_costs_its_row(
    job: Job, draw_scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_scene([(1, 1)]).save(tmp_path / "a.jpg")
    closed: list[bool] = []

    class Failing:
        def __init__(self, *_: object) -> None: ...

        def decode(self, *_: object) -> Any:
            raise RuntimeError("nvJPEG: internal error")

        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr("pc_engine.decoding.decode_device.DeviceDecoder", Failing)
    monkeypatch.setattr(gpu_runs, "ways_rows", lambda device, paths: iter([{"what": "a way", "batch": len(paths)}]))
    cores, codec, way = gpu_runs.measure_decoding(replace(job, photos=str(tmp_path)))
    assert cores["images_per_s"] > 0
    assert codec == {"what": "nvImageCodec", "batch": 1, "reason": "RuntimeError: nvJPEG: internal error"}
    assert (way["what"], closed) == ("a way", [True])


def test_pytorch_is_checked_before_it_is_timed(job: Job, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from pc_engine.export.vgg import export_vgg
    from pc_engine.export.vgg_graph import VggSpec

    spec = VggSpec("small", ((4,), (4, 4)), fc_width=8, trained_size=32)
    export_vgg(spec, "random:0", tmp_path / "small")
    subject = Subject(job, "small", load_model(tmp_path / "small"))
    rows = list(gpu_peers.torch_rows(replace(job, models=()), subject))
    assert [row["what"] for row in rows] == [
        "PyTorch eager",
        "PyTorch eager, channels_last",
        "torch.compile, channels_last",
    ]
    assert rows[0]["images_per_s"] > 0
    assert rows[0]["difference"] < 1e-4
    subject.reference["logits"][...] += 1
    assert "not timed" in next(iter(gpu_peers.torch_rows(job, subject)))["reason"]


def test_a_network_that_is_no_vgg_is_said(job: Job, subjects: Subjects) -> None:
    pytest.importorskip("torch")
    [subject] = subjects
    [row] = gpu_peers.torch_rows(job, subject)
    assert "cannot be rebuilt in PyTorch" in row["reason"]
