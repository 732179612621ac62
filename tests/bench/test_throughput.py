import json
import statistics
import sys
from dataclasses import replace

import numpy as np
import pytest

from pc_engine.bench import environment, throughput
from pc_engine.bench.environment import describe_environment, peak_memory_mb, reset_peak_memory
from pc_engine.bench.random_parts import with_random_parts
from pc_engine.bench.throughput import (
    ThroughputSettings,
    complete_model,
    measure_throughput,
)
from pc_engine.errors import DataError, UsageError
from pc_engine.model import load_model
from pc_engine.modes import MODES
from pc_engine.selection.execution import Execution

pytestmark = pytest.mark.usefixtures("peak_measured_once")

# What was asked for comes first, in this order.
ASKED_FOR = ("model", "mode", "backend", "precision", "device", "batch_size", "workers", "n", "repeats")
REQUIRED = {
    *("decode_ips", "network_ips", "postprocess_ips", "end_to_end_ips", "ratio", "peak_rss_mb", "stages", "machine"),
    *ASKED_FOR,
}


@pytest.fixture
def photos(tmp_path, draw_scene):
    folder = tmp_path / "photos"
    folder.mkdir()
    places = [(1, 1), (6, 1), (1, 6), (6, 6)]
    for count in range(5):
        draw_scene(places[:count]).save(folder / f"{count}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def settings(tiny_directory):
    return ThroughputSettings(
        str(tiny_directory), execution=Execution("onnxruntime", "fp32", batch_size=4), workers=1, n=9, repeats=3
    )


@pytest.mark.parametrize("mode", list(MODES))
def test_report_has_the_figures_of_the_contract(photos, settings, mode):
    report = measure_throughput(photos, replace(settings, mode=mode)).to_dict()
    assert report.keys() >= REQUIRED
    assert json.loads(json.dumps(report)) == report
    assert report["ratio"] == report["end_to_end_ips"] / report["network_ips"]
    chosen = {name: report[name] for name in ("mode", "backend", "precision", "batch_size", "workers", "n", "repeats")}
    assert list(chosen.values()) == [mode, "onnxruntime", "fp32", 4, 1, 9, 3]
    assert list(report)[:9] == [*ASKED_FOR]
    runs = {name: statistics.median(seconds) for name, seconds in report["runs"].items()}
    assert {len(seconds) for seconds in report["runs"].values()} == {3}
    assert report["decode_ips"] == 9 / runs["decode"]
    assert report["network_ips"] == 12 / runs["network"]  # full batches: three of four images
    assert report["end_to_end_ips"] == 9 / runs["end_to_end"]
    assert report["postprocess_ips"] == 9 / runs["postprocess"]
    assert report["seconds"] in report["runs"]["end_to_end"]
    assert {"decode", "network", "write"} <= report["stages"].keys()
    assert all(0 < seconds <= 60 for seconds in report["stages"].values())
    assert report["peak_rss_mb"] > 20
    assert report["random_parts"] == []
    assert report["operations_per_second"] == report["operations_per_image"] * report["network_ips"] > 0
    assert (report["peak_operations"] is None) == (report["share_of_peak"] is None)
    if report["peak_operations"]:
        assert report["share_of_peak"] == report["operations_per_second"] / report["peak_operations"]
    assert report["busy_elsewhere"] is None or 0 <= report["busy_elsewhere"] <= 1
    assert report["machine"]["versions"].keys() >= {"numpy", "onnxruntime", "openvino", "pc-engine"}


def test_every_timed_run_writes_a_row_for_every_image(photos, settings, monkeypatch):
    rows = []
    write = throughput.PartitionWriter.write
    monkeypatch.setattr(throughput.PartitionWriter, "write", lambda self, row: (rows.append(row), write(self, row)))
    measure_throughput(photos, settings)
    assert len(rows) == 4 + 3 * 9  # one batch to warm up, then three runs
    assert all(row.ok for row in rows)
    assert {row.path for row in rows} == {str(path) for path in photos}


def test_network_and_run_alternate_and_neither_always_comes_first(photos, settings, monkeypatch):
    order = []
    for name in ("run_network", "run_end_to_end"):
        work = getattr(throughput._Subject, name)
        monkeypatch.setattr(
            throughput._Subject, name, lambda self, *a, name=name, work=work: (order.append(name), work(self, *a))[1]
        )
    measure_throughput(photos, settings)
    network, run = "run_network", "run_end_to_end"
    assert order == [run, network, run, run, network, network, run]


def test_unreadable_photos_are_said_and_left_out(photos, settings, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    said = []
    measure_throughput([tmp_path / "broken.jpg", *photos], replace(settings, repeats=1), report=said.append)
    assert any(sentence.startswith("1 of 6 images cannot be read") for sentence in said)
    with pytest.raises(DataError):
        measure_throughput([tmp_path / "broken.jpg"], settings)


def test_missing_parts_are_filled_in_and_said(photos, settings, make_model, tmp_path):
    directory = make_model(tmp_path / "bare", counter=None, signatures=None)
    said = []
    bare = replace(settings, model=str(directory), mode="combined", repeats=1)
    report = measure_throughput(photos, bare, report=said.append).to_dict()
    assert report["random_parts"] == ["counter", "signatures"]
    assert any("random ones (seed 0)" in sentence for sentence in said)
    model, missing = complete_model(photos, replace(bare, mode="p2c"))
    assert missing == ("signatures",)
    assert model.parts.counter is None


def test_random_counter_is_balanced_over_the_photos(make_model, tmp_path):
    model = load_model(make_model(tmp_path / "bare", counter=None, signatures=None))
    taps = {"gap": np.random.default_rng(1).random((200, 5), np.float32)}
    counter = with_random_parts(model, ("counter",), taps).parts.counter
    scores = counter.scores(taps)
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scores.std(axis=0), 1, atol=1e-4)
    assert set(scores.argmax(axis=1)) == {0, 1, 2, 3, 4}
    again = with_random_parts(model, ("counter",), taps).parts.counter
    np.testing.assert_array_equal(again.weights["gap"], counter.weights["gap"])


def test_bottleneck_is_the_slowest_stage(photos, settings):
    measured = measure_throughput(photos, replace(settings, repeats=1))
    rates = {"decode_ips": 5.0, "network_ips": 4.0, "postprocess_ips": 6.0}
    assert replace(measured, **rates).bottleneck == "network"
    assert replace(measured, **(rates | {"postprocess_ips": 3.0})).bottleneck == "postprocess"
    assert replace(measured, **(rates | {"decode_ips": 1.0})).to_dict()["bottleneck"] == "decode"


@pytest.mark.parametrize(("name", "value"), [("n", 0), ("repeats", 0), ("mode", "p2p")])
def test_wrong_settings_are_refused(settings, name, value):
    with pytest.raises(UsageError):
        replace(settings, **{name: value})


def test_peak_memory_is_none_where_the_system_does_not_say(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "_STATUS", tmp_path / "absent")
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert peak_memory_mb() is None


@pytest.mark.skipif(sys.platform != "linux", reason="resetting the peak is Linux's")
def test_peak_memory_sees_what_was_freed_until_it_is_reset():
    before = peak_memory_mb()
    block = np.ones(400_000_000, np.uint8)
    del block
    assert peak_memory_mb() > before + 100
    high = peak_memory_mb()
    reset_peak_memory()
    assert peak_memory_mb() < high - 100


def test_absent_package_has_no_version():
    assert describe_environment("no-such-package")["versions"]["no-such-package"] is None


def test_of_a_large_folder_no_more_is_read_than_a_run_takes(photos, settings, monkeypatch):
    asked, read = [], throughput.readable_photos

    def noted(paths, *size, keep):
        asked.append(len(paths))
        return read(paths, *size, keep=keep)

    monkeypatch.setattr(throughput, "readable_photos", noted)
    measure_throughput(photos * 100, replace(settings, n=20, repeats=1))
    measure_throughput(photos * 100, replace(settings, n=3, repeats=1))
    assert asked == [20, 16]  # four batches for the network alone
