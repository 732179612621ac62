import json
import os
import sys

import pytest
from PIL import Image

from pc_engine.bench.environment import describe_environment
from pc_engine.cli.bench_tables import print_peers

pytestmark = pytest.mark.usefixtures("peak_measured_once")

FIXED = ("--backend", "onnxruntime", "--precision", "fp32", "--batch-size", 2, "--workers", 1)
FEW = ("--n", 4, "--repeats", 1)


def is_sentence(outcome):
    # Remarks and the line of a progress bar may come before it.
    last = outcome.err.strip().splitlines()[-1]
    return outcome.code == 2 and last.startswith("pc-engine: ") and "Traceback" not in outcome.err


def test_throughput_prints_one_json_object_and_nothing_else(pc_engine, scenes, tiny_directory):
    outcome = pc_engine("bench", "throughput", scenes, "--model", tiny_directory, "--json", *FIXED, *FEW)
    report = outcome.json()
    assert outcome.code == 0
    assert outcome.err == ""
    assert report["ratio"] == report["end_to_end_ips"] / report["network_ips"]
    assert (report["model"], report["mode"], report["n"], report["repeats"]) == ("tiny", "c2p", 4, 1)


def test_throughput_is_told_where_the_system_says_no_memory(pc_engine, scenes, tiny_directory, monkeypatch):
    monkeypatch.setattr("pc_engine.bench.throughput.peak_memory_mb", lambda: None)
    arguments = ("bench", "throughput", scenes, "--model", tiny_directory, *FIXED, *FEW)
    assert "Peak memory - MB." in pc_engine(*arguments).out
    assert pc_engine(*arguments, "--sweep").code == 0


def test_throughput_of_generated_photos_with_files(pc_engine, tiny_directory, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figures"
    model = ("--model", tiny_directory, "--mode", "p2c")
    outcome = pc_engine("bench", "throughput", "random:2", *model, "--out", out, *FIXED, *FEW)
    assert outcome.code == 0
    assert "of its network alone; the bottleneck is " in outcome.out
    stored = json.loads((out / "throughput-tiny-p2c-fp32.json").read_text())
    assert stored["mode"] == "p2c"
    with Image.open(out / "throughput-tiny-p2c-fp32.png") as chart:
        assert chart.format == "PNG"


def test_sweep_has_its_runs_in_one_object(pc_engine, scenes, tiny_directory, tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ("bench", "throughput", scenes, "--model", tiny_directory, "--sweep", *FIXED, *FEW)
    (row,) = pc_engine(*arguments, "--json", "--out", tmp_path).json()["runs"]
    assert row["batch_size"] == 2
    assert [path.suffix for path in sorted(tmp_path.glob("sweep-*"))] == [".json", ".png"]
    assert "files to rows" in pc_engine(*arguments).out


def test_random_parts_are_said(pc_engine, scenes, make_model, tmp_path):
    bare = make_model(tmp_path / "bare", counter=None)
    outcome = pc_engine("bench", "throughput", scenes, "--model", bare, *FIXED, *FEW)
    assert "no counter: random ones" in " ".join(outcome.err.split())
    assert "counter filled in at random" in outcome.out


def test_peers_name_what_is_not_available(pc_engine, scenes, tiny_directory):
    pytest.importorskip("torch")
    outcome = pc_engine(
        *("bench", "peers", scenes, "--model", tiny_directory, "--batch-size", 2, "--no-compile", "--quiet", "--json"),
        *FEW,
    )
    report = outcome.json()
    assert outcome.code == 0
    assert outcome.err == ""
    assert "VGG" in report["peers"][0]["reason"]
    table = pc_engine("bench", "peers", scenes, "--model", tiny_directory, "--batch-size", 2, "--no-compile", *FEW)
    assert "(a) PyTorch fp32, end to end: not available: The model 'tiny' cannot be rebuilt" in table.out


def test_a_peer_that_is_there_but_wrong_is_said_to_be_not_timed(capsys):
    about = {"scope": "network", "images_per_second": None, "ratio": None, "count_agreement": None}
    kinds = [
        ("c", "one", "fp32", 0.0, "as is", ""),
        ("d", "two", "bf16", 0.1, "in a way", "Off."),
        ("e", "six", "fp16", None, "", "No."),
    ]
    names = ("letter", "name", "precision", "tap_difference", "note", "reason")
    peers = [{**about, **dict(zip(names, kind, strict=True))} for kind in kinds]
    how = {"model": "m", "mode": "c2p", "batch_size": 2, "n": 4, "repeats": 1, "reference": "(c) one at fp32"}
    print_peers({**how, "peers": peers, "random_parts": [], "busy_elsewhere": None, "machine": describe_environment()})
    shown = capsys.readouterr().out
    assert "(c) one fp32, network: as is." in shown
    assert "(d) two bf16, network: not timed: Off." in shown
    assert "(e) six fp16, network: not available: No." in shown


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_isolation_compares_threads_and_processes(pc_engine, scenes, tiny_directory):
    arguments = ("bench", "isolation", scenes, "--model", tiny_directory, *FIXED, *FEW)
    report = pc_engine(*arguments, "--json").json()
    assert report["cost"]["run"] == 1 - report["run_ips"]["processes"] / report["run_ips"]["threads"]
    assert (report["n"], report["workers"], report["repeats"]) == (4, 1, 1)
    assert 0 < report["start_seconds"] < 60
    shown = pc_engine(*arguments).out
    assert "files to rows" in shown
    assert "The processes take" in shown


def test_kernels_print_the_sum_of_each_mode(pc_engine):
    sizes = ("--grid", 8, "--batch", 3, "--channels", 6)
    assert pc_engine("bench", "kernels", *sizes, "--json").json()["sum_ms"]["c2p"] > 0
    shown = pc_engine("bench", "kernels", *sizes).out
    assert "Sum of ms an image: c2p: " in shown
    assert " every mode: " in shown
    assert " all: " not in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("throughput", "no-such-folder"),
        ("throughput", "random:x"),
        ("throughput", "random:2", "--mode", "p2p"),
        ("throughput", "random:2", "--n", "0"),
        ("throughput", "random:2", "--repeats", "0"),
        ("throughput", "random:2", "--model", "no-such-model"),
        ("throughput", "random:2", "--precision", "fp7"),
        ("throughput", "random:2", "--batch-size", "0"),
        ("peers", "random:2", "--n", "0"),
        ("kernels", "--grid", "2"),
        ("kernels", "--grid", "100000"),
        ("kernels", "--batch", "1024", "--channels", "4096", "--grid", "64"),
        ("isolation", "random:2", "--n", "0"),
        ("isolation", "random:2", "--repeats", "0"),
        ("throughput", "random:99999999999"),
        ("decoding", "random:2", "--enlarge", "60", *FIXED[:4]),
    ],
)
def test_wrong_use_is_one_sentence(pc_engine, arguments):
    assert is_sentence(pc_engine("bench", *arguments))


def test_what_others_did_meanwhile_is_said(pc_engine, scenes, tiny_directory, monkeypatch):
    monkeypatch.setattr("pc_engine.hardware.machine.BusyElsewhere.share", lambda _: 0.4)
    arguments = (scenes, "--model", tiny_directory, *FIXED, *FEW)
    assert "Other processes used 40% of the cores" in pc_engine("bench", "throughput", *arguments).out
    if hasattr(os, "fork"):
        assert "Other processes used 40% of the cores" in pc_engine("bench", "isolation", *arguments).out


def test_out_that_cannot_be_written_is_said_first(pc_engine, tiny_directory, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    outcome = pc_engine("bench", "throughput", "random:2", "--model", tiny_directory, "--out", tmp_path / "file" / "in")
    assert is_sentence(outcome)
    assert "choose another" in outcome.err


def test_missing_matplotlib_is_said_first(pc_engine, tiny_directory, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = pc_engine("bench", "throughput", "random:2", "--model", tiny_directory, "--out", tmp_path)
    assert is_sentence(outcome)
    assert "pc-engine[bench]" in outcome.err
