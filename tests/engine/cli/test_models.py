import json

import numpy as np
import onnx
import pytest

from pc_engine.catalogue import installed_directory
from pc_engine.manifest import NETWORK_FILE, read_manifest


def test_models_lists_embedded_installed_and_fetchable(pc_engine, make_model):
    make_model(installed_directory("mine"), signatures=None)
    entries = {entry["name"]: entry for entry in pc_engine("models", "--json").json()}
    assert set(entries) == {"lego", "mine", "vgg16", "vgg19"}
    assert entries["mine"]["state"] == "installed, counter fitted"
    assert entries["mine"]["taps"] == ["conv_prev", "conv_last", "gap", "logits"]
    assert entries["lego"]["state"] == "embedded, counter and signatures fitted"
    assert entries["vgg19"]["state"] == "can be fetched"
    assert "can be fetched" in pc_engine("models").out


def test_installed_model_runs_by_name(pc_engine, make_model, scenes):
    make_model(installed_directory("mine"))
    outcome = pc_engine("run", scenes, "--model", "mine", "--json", "--backend", "onnxruntime", "--precision", "fp32")
    assert outcome.json()["ok"] == 5


def test_export_of_an_onnx_network_runs_in_both_modes(pc_engine, tiny_directory, tmp_path, scenes, draw_scene):
    """The way of a user with a network: name its taps, fit both parts, run."""
    network = onnx.load(tiny_directory / NETWORK_FILE)
    onnx.save(network, tmp_path / "mine.onnx")
    names = tmp_path / "names.txt"
    names.write_text("red\ngreen\nblue\n")
    out = tmp_path / "mine"
    exported = pc_engine(
        "export", "mine", "--weights", tmp_path / "mine.onnx", "--out", out, "--layout", "nhwc", "--size", "64",
        "--tap", "conv_last=second_relu", "--tap", "conv_prev=first_relu", "--tap", "gap=pooled", "--tap",
        "logits=scores", "--count-feature", "gap", "--classes", names, "--licence", "MIT",
    )  # fmt: skip
    assert exported.code == 0, exported.err
    assert read_manifest(out).classes == ("red", "green", "blue")

    counted = tmp_path / "counts.csv"
    labelled = tmp_path / "labelled"
    labelled.mkdir()
    places = [(1, 1), (6, 1), (1, 6), (6, 6), (3, 3)]
    lines = ["path,count,class"]
    for index in range(40):
        count = index % 5
        rng = np.random.default_rng(index)
        chosen = [places[i] for i in rng.permutation(5)[:count]]
        draw_scene(chosen, colour=(255, 200, 200)).save(labelled / f"{index}.png")
        lines.append(f"labelled/{index}.png,{count},red")
    counted.write_text("\n".join(lines) + "\n")
    fast = ("--backend", "onnxruntime", "--precision", "fp32", "--json")
    report = pc_engine("fit-counter", counted, "--model", out, *fast).json()
    assert report["n"] == 40
    assert report["count_accuracy"]["mean"] >= 0.8
    signatures = pc_engine("fit-signatures", counted, "--model", out, *fast).json()
    assert (signatures["n"], signatures["classes"], signatures["of_classes"]) == (40, 1, 3)

    for mode in ("c2p", "p2c", "combined"):
        outcome = pc_engine("run", labelled, "--mode", mode, "--model", out, *fast)
        assert outcome.code == 0
        assert outcome.json()["n"] == 40


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("vgg15", "--weights", "random:0"), "There is no architecture 'vgg15': choose one of"),
        (("vgg16", "--weights", "missing.safetensors"), "missing.safetensors"),
        (("vgg16", "--weights", "random:0", "--tap", "a=b"), "--tap and --count-feature go with an .onnx file"),
        (("mine", "--weights", "x.onnx", "--tap", "conv_last"), "write it as conv_last=TENSOR"),
        (("mine", "--weights", "x.onnx", "--mean", "1,2"), "--mean 1,2 is neither one number nor three"),
        (("mine", "--weights", "x.onnx", "--layout", "HWC"), "--layout HWC: choose one of NCHW, NHWC."),
    ],
)
def test_wrong_exports_get_a_sentence(pc_engine, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    outcome = pc_engine("export", *arguments, "--out", tmp_path / "out")
    assert outcome.code in (1, 2)
    assert expected in outcome.err
    assert not (tmp_path / "out").exists()


def test_flipped_byte_in_a_model_is_refused(pc_engine, make_model, tmp_path, scenes):
    model = make_model(tmp_path / "model")
    network = model / NETWORK_FILE
    content = bytearray(network.read_bytes())
    content[len(content) // 2] ^= 1
    network.write_bytes(content)
    outcome = pc_engine("run", scenes, "--model", model)
    assert outcome.code == 1
    assert "is not the file that its manifest describes" in outcome.err


def test_manifest_written_by_hand_needs_no_sums(pc_engine, make_model, tmp_path, scenes):
    model = make_model(tmp_path / "model")
    manifest = json.loads((model / "manifest.json").read_text())
    del manifest["files"]
    (model / "manifest.json").write_text(json.dumps(manifest))
    outcome = pc_engine("run", scenes, "--model", model, "--json", "--backend", "onnxruntime", "--precision", "fp32")
    assert outcome.json()["ok"] == 5
