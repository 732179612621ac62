import json
import os
import shlex

import numpy as np
import onnx
import pytest

from pc_engine.catalogue import installed_directory
from pc_engine.manifest import COUNTER_FILE, NETWORK_FILE
from pc_engine.manifest_file import read_manifest


def test_models_lists_embedded_installed_and_fetchable(pc_engine, make_model):
    make_model(installed_directory("mine"), signatures=None)
    entries = {entry["name"]: entry for entry in pc_engine("models", "--json").json()["models"]}
    assert set(entries) == {"lego", "mine", "vgg16", "vgg19", "efficientnet_lite2"}
    assert entries["mine"]["state"] == "installed, counter fitted"
    assert entries["mine"]["taps"] == ["conv_prev", "conv_last", "gap", "logits"]
    assert entries["lego"]["state"] == "embedded, counter and signatures fitted"
    assert entries["vgg19"]["state"] == "can be fetched"
    assert entries["efficientnet_lite2"]["state"] == "needs pip install 'pc-engine[photos]'"
    assert entries["vgg16"]["taps"] == ["conv_prev", "conv_last", "pool5", "fc6", "fc7", "logits"]
    # A network has many taps of its own, which would make a screenful of five models: these are counted.
    shown = " ".join(pc_engine("models").out.replace("│", " ").split())
    assert "can be fetched" in shown
    assert "conv_prev, conv_last, logits, 1 more" in shown
    assert "gap" not in shown


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


def test_help_says_whose_the_means_of_a_bgr_network_are(pc_engine):
    # What is subtracted comes before the channels are turned, see test_classifier.py.
    shown = " ".join(pc_engine("export", "--help").out.split())
    assert "three with commas, for R, G, B even if --channels is BGR." in shown
    assert "three in the same order." in shown
    assert "123.675,116.28,103.53. If omitted, 0; for VGG and EfficientNet-Lite, what they were trained" in shown


def test_size_and_layout_are_the_networks_own_unless_given(pc_engine, tiny_directory, tmp_path):
    network = onnx.load(tiny_directory / NETWORK_FILE)
    options = ("--tap", "conv_last=first_relu", "--tap", "logits=scores")
    cases = [((48, 96), "", (48, 96)), (("H", "W"), "--size=96X48", (96, 48)), (("H", "W"), "--size=64", (64, 64))]
    for k, (sides, given, expected) in enumerate(cases):
        for axis, side in zip(network.graph.input[0].type.tensor_type.shape.dim[1:], (*sides, 3), strict=False):
            axis.Clear()
            setattr(axis, "dim_param" if isinstance(side, str) else "dim_value", side)
        onnx.save(network, tmp_path / "mine.onnx")
        out = tmp_path / f"mine{k}"
        exported = pc_engine(
            "export", "mine", "--weights", tmp_path / "mine.onnx", "--out", out, *options, *given.split()
        )
        assert exported.code == 0, exported.err
        manifest = read_manifest(out)
        assert (manifest.input.height, manifest.input.width) == expected
        assert manifest.taps["conv_last"].shape == (5, expected[0] // 8, expected[1] // 8)
        assert f"for {expected[0]} x {expected[1]} pixels" in " ".join(exported.out.split())


def test_a_network_of_bytes_sees_pictures_at_two_sizes(pc_engine, tiny_directory, tmp_path, scenes):
    network = onnx.load(tiny_directory / NETWORK_FILE)
    for axis, side in zip(network.graph.input[0].type.tensor_type.shape.dim[1:3], "HW", strict=True):
        axis.dim_param = side
    onnx.save(network, tmp_path / "mine.onnx")
    out = tmp_path / "mine"
    exported = pc_engine(
        "export", "mine", "--weights", tmp_path / "mine.onnx", "--out", out, "--size", "64", "--two-scales",
        "--tap", "conv_last=second_relu", "--tap", "logits=scores", "--tap", "finer=larger/second_relu",
        "--heat", "conv_last", "--heat", "finer",
    )  # fmt: skip
    assert exported.code == 0, exported.err
    taps = read_manifest(out).taps
    assert taps["finer"].shape == (taps["conv_last"].shape[0], *(2 * side for side in taps["conv_last"].shape[1:]))
    run = ("run", scenes, "--model", out, "--mode", "p2c", "--json", "--backend", "onnxruntime", "--precision", "fp32")
    rows = pc_engine(*run).json()["rows"]
    assert [row["count"] for row in rows if row["status"] == "ok"] == [0, 1, 2, 3, 4]


def test_what_was_exported_is_told_in_json(pc_engine, tiny_directory, tmp_path):
    told = _export(pc_engine, tiny_directory / NETWORK_FILE, tmp_path / "m", "--json").json()
    manifest = read_manifest(tmp_path / "m")
    assert told["directory"] == str(tmp_path / "m")
    assert {name: tap["tensor"] for name, tap in told["taps"].items()} == {
        name: tap.tensor for name, tap in manifest.taps.items()
    }
    assert (told["model"], told["network_sha256"]) == ("mine", manifest.network_sha256)


def test_cooccurrence_is_exported_for_the_counter(pc_engine, tiny_directory, tmp_path):
    out = tmp_path / "mine"
    exported = _export(
        *(pc_engine, tiny_directory / NETWORK_FILE, out),
        *("--cooccurrence", "conv_last@0", "--cooccurrence", "conv_last@2"),
    )
    assert exported.code == 0, exported.err
    names = ("conv_last_cooccurrence_0", "conv_last_cooccurrence_2")
    assert read_manifest(out).count_features == ("gap", *names)
    assert all(name in exported.out for name in names)


def _export(pc_engine, network, out, *more):
    return pc_engine(
        "export", "mine", "--weights", network, "--out", out, "--layout", "nhwc", "--size", "64", "--tap",
        "conv_last=first_relu",
        "--tap", "gap=pooled", "--tap", "logits=scores", "--count-feature", "gap", *more,
    )  # fmt: skip


@pytest.mark.parametrize("given", [("--mean", "128"), ("--std", "255")])
def test_a_network_of_bytes_takes_no_means(pc_engine, tiny_directory, tmp_path, given):
    refused = _export(pc_engine, tiny_directory / NETWORK_FILE, tmp_path / "mine", *given)
    assert refused.code == 2
    assert "takes bytes, so that the network itself brings pixels to its range: leave --mean and --std" in refused.err
    assert not (tmp_path / "mine").exists()
    unchanged = ("--mean", "0", "--std", "1")
    assert _export(pc_engine, tiny_directory / NETWORK_FILE, tmp_path / "mine", *unchanged).code == 0


def test_pixels_that_are_said_to_go_in_as_they_are_are_not_doubted(pc_engine, tiny_directory, tmp_path):
    network = onnx.load(tiny_directory / NETWORK_FILE)
    network.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(network, tmp_path / "floats.onnx")
    for k, (given, is_doubted) in enumerate(
        [((), True), (("--mean", "0"), True), (("--std", "1"), True), (("--mean", "0", "--std", "1"), False)]
    ):
        exported = _export(pc_engine, tmp_path / "floats.onnx", tmp_path / f"mine{k}", *given)
        assert exported.code == 0, exported.err
        assert ("Pixels go in as 0 to 255" in exported.out) == is_doubted


def test_the_next_commands_take_a_folder_with_a_space(pc_engine, tiny_directory, make_model, tmp_path):
    for folder, more in (("with evidence", {}), ("with none", {"nan_above": 0.9})):
        network = make_model(tmp_path / f"given {folder}", **more) / NETWORK_FILE
        exported = _export(pc_engine, network, tmp_path / folder)
        assert exported.code == 0
        assert f"pc-engine fit-counter DATA --model {shlex.quote(str(tmp_path / folder))} (" in exported.out
    assert f"pc-engine fit-signatures DATA --model {shlex.quote(str(tmp_path / folder))} (" in exported.out


def test_an_exported_network_counts_in_p2c_and_combined_with_no_signatures(
    pc_engine, tiny_directory, tiny_counter, tmp_path, scenes
):
    out = tmp_path / "mine"
    exported = _export(pc_engine, tiny_directory / NETWORK_FILE, out)
    assert exported.code == 0
    assert "Mode p2c runs as it is" in exported.out
    manifest = read_manifest(out)
    # The head reads other maps than those named.
    assert {name: tap.shape for name, tap in manifest.taps.items() if name in ("evidence", "conv_top")} == {
        "evidence": (5,),
        "conv_top": (5, 8, 8),
    }
    (scenes / "broken.jpg").unlink()
    run = ("run", scenes, "--model", out, "--json", "--backend", "onnxruntime", "--precision", "fp32")
    rows = pc_engine(*run, "--mode", "p2c").json()["rows"]
    assert [row["count"] for row in rows] == [0, 1, 2, 3, 4]
    assert [len(row["pointers"]) for row in rows] == [0, 1, 2, 3, 4]
    one = rows[1]["pointers"][0]  # the square of 8 x 8 pixels whose corner is at 8, 8
    assert [one[name] for name in ("x0", "y0", "x1", "y1")] == [8, 8, 16, 16]

    without = pc_engine(*run, "--mode", "combined")
    assert without.code == 2
    assert "needs a count SVM" in without.err
    assert "or use --mode p2c, which needs none." in without.err
    tiny_counter.save(out / COUNTER_FILE)
    assert [row["count"] for row in pc_engine(*run, "--mode", "combined").json()["rows"]][1:] == [1, 2, 3, 4]


def test_a_background_class_named_at_export_counts_nothing(pc_engine, tiny_directory, tmp_path, scenes):
    out = tmp_path / "mine"
    # What is white is as much red as green or blue, and red comes first.
    exported = _export(pc_engine, tiny_directory / NETWORK_FILE, out, "--background-class", "0")
    assert exported.code == 0
    assert read_manifest(out).settings == {"p2c.background_class": 0}
    run = ("run", scenes, "--model", out, "--json", "--backend", "onnxruntime", "--precision", "fp32")
    assert [row["count"] for row in pc_engine(*run, "--mode", "p2c").json()["rows"]][:5] == [0] * 5
    for absent in (3, -5):
        refused = _export(pc_engine, tiny_directory / NETWORK_FILE, tmp_path / "other", "--background-class", absent)
        assert refused.code == 2
        assert f"The background class is {absent}, but the logits have 3 values, numbered from 0: choose" in refused.err


def test_class_names_that_are_no_logits_are_wrong_use(pc_engine, tiny_directory, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("green\nblue\n")
    refused = _export(pc_engine, tiny_directory / NETWORK_FILE, tmp_path / "mine", "--classes", names)
    assert refused.code == 2
    assert "There are 2 class names, but the network has 3 logits: give one name per logit" in refused.err
    assert "add a name for it at the top of the file, and --background-class 0." in refused.err
    assert not (tmp_path / "mine").exists()
    names.write_text("background\ngreen\nblue\n")
    again = ("--classes", names, "--background-class", "0")
    assert _export(pc_engine, tiny_directory / NETWORK_FILE, tmp_path / "mine", *again).code == 0
    assert read_manifest(tmp_path / "mine").classes == ("background", "green", "blue")


def test_a_network_whose_head_gives_no_evidence_is_exported_and_says_so(pc_engine, make_model, tmp_path, scenes):
    network = make_model(tmp_path / "given", nan_above=0.9) / NETWORK_FILE
    exported = _export(pc_engine, network, tmp_path / "mine")
    assert exported.code == 0
    assert "gives no evidence" in exported.out
    assert "leads through 'logits' (Add)" in " ".join(exported.out.split())
    assert "evidence" not in read_manifest(tmp_path / "mine").taps
    refused = pc_engine("run", scenes, "--model", tmp_path / "mine", "--mode", "p2c")
    assert refused.code == 2
    assert "needs a signature dictionary" in refused.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("vgg15", "--weights", "random:0"), "there is no architecture 'vgg15' to give weights to: choose one of"),
        (("vgg16", "--weights", "missing.safetensors"), "missing.safetensors does not exist; check the path."),
        (("vgg16", "--weights", "random:x"), "'random:x' names no seed: give a whole number, e.g. random:0."),
        (("vgg16", "--weights", "random:0", "--cooccurrence", "x@0"), "the tap 'x' is not there: name a tap of maps"),
        (("vgg16", "--weights", "random:0", "--tap", "a=b"), "VGG does not take --tap: leave it out."),
        (("vgg16", "--weights", "random:0", "--tap", "conv_last"), "VGG does not take --tap: leave it out."),
        (("vgg16", "--weights", "random:0", "--heat", "pool5"), "VGG does not take --heat: leave"),
        (("vgg16", "--weights", "random:0", "--two-scales"), "VGG does not take --two-scales: leave"),
        (
            ("vgg16", "--weights", "random:0", "--channels", "BGR", "--layout", "NHWC"),
            "VGG does not take --layout and --channels: leave them out.",
        ),
        (("vgg16", "--weights", "random:0", "--background-class", "3"), "VGG does not take --background-class: leave"),
        (("vgg16", "--weights", "random:0", "--background-class", "-5"), "VGG does not take --background-class: leave"),
        (
            ("efficientnet_lite0", "--weights", "random:0", "--layout", "NHWC"),
            "EfficientNet-Lite does not take --layout: leave it out.",
        ),
        (
            ("efficientnet_lite0", "--weights", "random:0", "--size", "224x250"),
            "takes multiples of 32 pixels, but 250 is not one: choose 224, or 256.",
        ),
        (("efficientnet_lite0", "--weights", "x.pth"), "The weight file x.pth does not exist"),
        (
            ("efficientnet_lite0", "--weights", "random:0", "--layout", "NHWC", "--tap", "conv_last"),
            "EfficientNet-Lite does not take --layout: leave it out.",
        ),
        (("mine", "--weights", "x.jpg", "--tap", "conv_last"), "--weights x.jpg is not an .onnx file"),
        (("mine", "--weights", "x.jpg", "--tap", "conv_last=a"), "--weights x.jpg is not an .onnx file"),
        (("mine", "--weights", "x.onnx"), "x.onnx cannot be read (No such file or directory): name an ONNX network"),
        (("mine", "--weights", "x.onnx", "--std", "0"), "numbers above 0 for --std"),
        (("mine", "--weights", "x.onnx", "--mean", "nan"), "use numbers for --mean"),
        (("mine", "--weights", "x.onnx", "--std", ".229,.224,.225"), "multiply by 255, --std 58.395,57.12,57.375."),
        (("vgg16", "--weights", "random:0", "--mean", ".5"), "--mean 0.5 seems to be for pixels of 0..1"),
        (("efficientnet_lite0", "--weights", "random:0", "--std", ".5"), "multiply by 255, --std 127.5."),
        (("vgg16", "--weights", "random:0", "--std", "1,0,1"), "divided by 1.0, 0.0, 1.0, give no valid input"),
        (("mine", "--weights", "x.onnx", "--tap", "conv_last"), "write it as conv_last=TENSOR"),
        (
            ("mine", "--weights", "x.onnx", "--tap", "conv_last=a", "--tap", "gap=g", "--tap", "conv_last=b"),
            "--tap names 'conv_last' twice, as a and as b: name it once.",
        ),
        (("mine", "--weights", "x.onnx", "--cooccurrence", "conv_last"), "write it as conv_last@0"),
        (("mine", "--weights", "x.onnx", "--cooccurrence", "conv_last@-1"), "a tap and a distance in cells"),
        (("mine", "--weights", "x.onnx", "--mean", "1,2"), "--mean 1,2 is neither one number nor three"),
        (("mine", "--weights", "x.onnx", "--size", "0"), "--size 0 is neither a side nor HEIGHTxWIDTH"),
        (("mine", "--weights", "x.onnx", "--size", "192x"), "write it as 224 or 192x256"),
        (("mine", "--weights", "x.onnx", "--size", "1x2x3"), "--size 1x2x3 is neither a side nor HEIGHTxWIDTH"),
        (("mine", "--weights", "x.onnx", "--size", "9" * 5), "in pixels up to 16,384"),
        (("vgg16", "--weights", "random:0", "--size", "224x300"), "takes multiples of 224 pixels, but 300 is not one"),
        (("mine", "--weights", "x.onnx", "--layout", "HWC"), "--layout HWC: choose one of NCHW, NHWC."),
    ],
)
def test_wrong_exports_get_a_sentence(pc_engine, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    outcome = pc_engine("export", *arguments, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert expected in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_network_that_is_a_pipe_is_not_waited_for(pc_engine, tmp_path):
    os.mkfifo(tmp_path / "net.onnx")
    outcome = pc_engine("export", "mine", "--weights", tmp_path / "net.onnx", "--out", tmp_path / "mine")
    assert outcome.code == 2
    assert "net.onnx cannot be read (it is not a regular file): name an ONNX network with --weights." in outcome.err


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
    del manifest["files"], manifest["sha256"]
    (model / "manifest.json").write_text(json.dumps(manifest))
    outcome = pc_engine("run", scenes, "--model", model, "--json", "--backend", "onnxruntime", "--precision", "fp32")
    assert outcome.json()["ok"] == 5
