import json
import shlex
import shutil

import numpy as np
import onnx
import pytest

from pc_engine import load_model
from pc_engine.files.digest import file_sha256
from pc_engine.manifest import MANIFEST_FILE, NETWORK_FILE, QUANTISED_FILES
from pc_engine.manifest_file import read_manifest
from pc_engine.selection import selection

INT8 = QUANTISED_FILES["int8"]


@pytest.fixture
def photos(tmp_path, draw_scene):
    """Forty pictures of 0 to 4 blobs in different places and shades, and a file that is no picture."""
    folder = tmp_path / "photos"
    folder.mkdir()
    places = [(1, 1), (6, 1), (1, 6), (6, 6), (3, 4)]
    for index in range(40):
        rng = np.random.default_rng(index)
        chosen = [places[i] for i in rng.permutation(5)[: index % 5]]
        colour = tuple(int(value) for value in rng.integers(180, 256, 3))
        path = folder / f"{index}.png"
        draw_scene(chosen, colour=colour).save(path)
        path.write_bytes(path.read_bytes() + bytes([index]))  # also without a blob, another file than the others
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture
def model(make_model, tmp_path):
    return make_model(tmp_path / "model")


def test_build_measures_every_backend_and_keeps_the_network(pc_engine, tiny_directory, engine_home):
    report = pc_engine("build", tiny_directory, "--json").json()
    assert (report["model"], report["directory"], report["fidelity"]) == ("tiny", str(tiny_directory), {})
    assert [entry["mode"] for entry in report["modes"]] == ["c2p", "p2c", "combined"]
    for entry in report["modes"]:
        names = [(candidate["backend"], candidate["precision"]) for candidate in entry["candidates"]]
        assert ("onnxruntime", "fp32") in names
        assert (entry["backend"], entry["precision"]) in names
        assert "int8" not in {precision for _, precision in names}
        assert all(candidate["reason"] or candidate["images_per_second"] > 0 for candidate in entry["candidates"])
    assert list((engine_home / "compiled").glob("network-*"))


def test_build_table(pc_engine, tiny_directory):
    outcome = pc_engine("build", tiny_directory, "--mode", "p2c")
    assert outcome.code == 0
    assert "onnxruntime fp32" in outcome.out
    assert "chosen" in outcome.out


def test_what_a_mode_lacks_to_run_is_said_beside_its_network(pc_engine, make_model, tmp_path):
    model = make_model(tmp_path / "bare", counter=None)
    arguments = ("build", model, "--mode", "c2p", "--backend", "onnxruntime", "--precision", "fp32")
    outcome = pc_engine(*arguments)
    assert outcome.code == 0, outcome.err
    said = " ".join(outcome.out.split())
    assert "c2p: onnxruntime at fp32 is ready. Mode c2p needs a count SVM, which the model 'tiny' does not have" in said
    assert f"pc-engine fit-counter DATA --model {shlex.quote(str(model))}" in said
    assert [entry["missing"] for entry in pc_engine(*arguments, "--json").json()["modes"]] == [["counter"]]
    complete = pc_engine("build", model, "--mode", "p2c", *arguments[4:])
    assert complete.out.strip().endswith("p2c: onnxruntime at fp32 is ready.")


@pytest.mark.usefixtures("int8_runs")
def test_calibrating_writes_a_quantised_network_and_what_it_costs(pc_engine, model, photos):
    outcome = pc_engine("build", model, "--precision", "int8", "--calibrate", photos, "--json")
    report = outcome.json()
    assert report["directory"] == str(model)
    found = report["fidelity"]["int8"]
    assert found["n"] == 20
    assert found["holds"]
    assert set(found["counts"]) == {"c2p", "p2c", "combined"}
    assert found["agreement"] == min(found["top1"], *found["counts"].values())
    assert set(found["tap_errors"]) == {"conv_prev", "conv_last", "gap", "logits"}
    assert all(0 < error < 0.01 for error in found["tap_errors"].values())
    assert found["top1"] >= 0.9
    manifest = read_manifest(model)
    assert manifest.files[INT8] == file_sha256(model / INT8)
    assert manifest.fidelity_now("int8") == manifest.fidelity["int8"]
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(model / INT8).graph.node)
    for entry in report["modes"]:
        assert entry["precision"] == "int8"
        assert {candidate["precision"] for candidate in entry["candidates"]} == {"int8"}

    run = pc_engine("run", photos, "--model", model, "--precision", "int8", "--json").json()
    assert (run["precision"], run["ok"], run["failed"]) == ("int8", 40, 1)


@pytest.mark.usefixtures("int8_runs")
def test_the_tables_say_what_auto_does_with_it(pc_engine, model, photos, monkeypatch):
    arguments = ("build", model, "--precision", "int8", "--calibrate", photos, "--mode", "c2p")
    monkeypatch.setattr(selection, "MIN_AGREEMENT", 0.0)
    outcome = pc_engine(*arguments)
    assert outcome.code == 0, outcome.err
    assert "judged on 20 photos, fewer than 50: not used unless asked for by name" in " ".join(outcome.out.split())
    monkeypatch.setattr(selection, "MIN_PHOTOS", 20)
    outcome = pc_engine(*arguments)
    assert outcome.code == 0, outcome.err
    assert "against fp32 on 20 photos" in " ".join(outcome.out.split())
    assert "same class first" in outcome.out
    assert "same count, combined" in outcome.out
    assert "1 of the photos could not be read." in outcome.out
    assert "c2p: --precision auto takes int8 where it is the fastest." in outcome.out
    candidates = pc_engine("build", model, "--mode", "c2p", "--json").json()["modes"][0]["candidates"]
    assert {c["precision"] for c in candidates if not c["reason"]} >= {"fp32", "int8"}

    monkeypatch.setattr(selection, "MIN_AGREEMENT", 1.01)
    report = pc_engine("build", model, "--mode", "c2p", "--json").json()
    entry = report["modes"][0]
    assert entry["precision"] != "int8"
    refused = [c for c in entry["candidates"] if c["precision"] == "int8"]
    assert refused
    assert all(c["reason"].endswith("below 101 %: not used unless asked for by name") for c in refused)
    assert all(c["images_per_second"] is None for c in refused)
    assert report["fidelity"]["int8"]["refused"] == refused[0]["reason"]
    assert "not used unless asked for by name" in " ".join(pc_engine("build", model, "--mode", "c2p").out.split())


def test_bf16_is_compared_and_nothing_but_the_report_is_written(pc_engine, model, photos, monkeypatch):
    from pc_engine.backends import BACKENDS

    if "bf16" not in BACKENDS["openvino"].probe().precisions:
        pytest.skip("this processor does not multiply bf16 natively")
    before = sorted(path.name for path in model.iterdir())
    report = pc_engine("build", model, "--precision", "bf16", "--calibrate", photos, "--mode", "c2p", "--json").json()
    assert report["fidelity"]["bf16"]["n"] == 40
    assert sorted(path.name for path in model.iterdir()) == before
    assert read_manifest(model).fidelity["bf16"].backend == "openvino"
    monkeypatch.setattr(selection, "MIN_AGREEMENT", 1.01)
    [entry] = pc_engine("build", model, "--mode", "c2p", "--json").json()["modes"]
    assert "below 101 %" in {c["precision"]: c["reason"] for c in entry["candidates"]}["bf16"]


def test_fp16_is_compared_as_a_gpu_computes_it_and_nothing_is_compiled(pc_engine, model, photos):
    arguments = ("build", model, "--precision", "fp16", "--calibrate", photos, "--device", "cpu")
    outcome = pc_engine(*arguments)
    assert outcome.code == 0, outcome.err
    assert "onnxruntime at fp16 against fp32 on 40 photos" in " ".join(outcome.out.split())
    assert "No network was compiled: fp16 is for a GPU" in outcome.err
    fidelity = read_manifest(model).fidelity["fp16"]
    assert set(fidelity.counts) == {"c2p", "p2c", "combined"}
    assert 0 < fidelity.tap_errors["conv_last"] < 2e-3
    verdicts = [line.partition(":")[0] for line in outcome.out.splitlines() if ": --precision auto takes" in line]
    assert verdicts == ["c2p", "p2c", "combined"]
    one = pc_engine(*arguments, "--mode", "p2c")
    assert [line for line in one.out.splitlines() if "auto takes" in line] == [
        "p2c: --precision auto takes fp16 where it is the fastest."
    ]
    report = pc_engine(*arguments, "--json").json()
    assert (report["modes"], report["fidelity"]["fp16"]["holds"]) == ([], True)
    refused = pc_engine(*arguments, "--backend", "openvino")
    assert refused.code == 2
    assert "At fp16 onnxruntime compares, computing as a GPU does: omit --backend, got 'openvino'." in refused.err
    # Nothing runs at fp16 here: it is slower than fp32.
    assert pc_engine("build", model, "--precision", "fp16", "--device", "cpu").code != 0


def test_fp8_is_quantised_and_compared_as_a_gpu_computes_it(pc_engine, model, photos):
    arguments = ("build", model, "--precision", "fp8", "--calibrate", photos, "--device", "cpu")
    outcome = pc_engine(*arguments)
    assert outcome.code == 0, outcome.err
    assert "onnxruntime at fp8 against fp32 on 20 photos" in " ".join(outcome.out.split())
    assert "No network was compiled: fp8 is for a GPU" in outcome.err
    manifest = read_manifest(model)
    assert manifest.quantised.keys() == {"fp8"}
    assert (model / QUANTISED_FILES["fp8"]).stat().st_size > 0
    assert 1e-3 < manifest.fidelity["fp8"].tap_errors["conv_last"] < 0.1
    assert manifest.fidelity_now("fp8") is not None
    verdicts = [line for line in outcome.out.splitlines() if line.endswith("not used unless asked for by name.")]
    assert [line.partition(": fp8 ")[0] for line in verdicts] == ["c2p", "p2c", "combined"]
    # No processor runs it.
    run = pc_engine("run", photos, "--model", model, "--precision", "fp8", "--device", "cpu")
    assert run.code == 2
    assert "Precision fp8 does not run here; what does: onnxruntime at fp32" in run.err
    [entry] = pc_engine("build", model, "--mode", "c2p", "--device", "cpu", "--json").json()["modes"]
    assert "fp8" not in {candidate["precision"] for candidate in entry["candidates"]}


def test_a_gpu_that_does_not_run_fp8_is_said_before_anything_is_quantised(pc_engine, model, photos):
    outcome = pc_engine("build", model, "--precision", "fp8", "--calibrate", photos, "--backend", "cudnn")
    assert outcome.code != 0
    assert "Quantising" not in outcome.err
    assert not (model / QUANTISED_FILES["fp8"]).exists()


@pytest.mark.usefixtures("int8_runs")
def test_a_copy_gets_the_network_and_the_model_stays_as_it_is(pc_engine, tiny_directory, photos, tmp_path):
    copy = tmp_path / "copy"
    before = (tiny_directory / MANIFEST_FILE).read_bytes()
    outcome = pc_engine(
        "build", tiny_directory, "--precision", "int8", "--calibrate", photos, "--out", copy, "--mode", "p2c"
    )
    assert outcome.code == 0, outcome.err
    assert (tiny_directory / MANIFEST_FILE).read_bytes() == before
    assert not (tiny_directory / INT8).exists()
    assert load_model(copy).manifest.quantised.keys() == {"int8"}
    assert file_sha256(copy / NETWORK_FILE) == file_sha256(tiny_directory / NETWORK_FILE)


def test_a_copy_is_not_made_among_photos(pc_engine, tiny_directory, photos):
    before = sorted(photos.iterdir())
    outcome = pc_engine("build", tiny_directory, "--precision", "int8", "--calibrate", photos, "--out", photos)
    assert outcome.code == 2
    assert "exists and is not empty" in outcome.err
    assert sorted(photos.iterdir()) == before


@pytest.mark.usefixtures("int8_runs")
def test_a_copy_with_other_parts_takes_the_quantised_network_along(pc_engine, model, photos, tmp_path):
    pc_engine("build", model, "--precision", "int8", "--calibrate", photos, "--mode", "c2p")
    lines = ["path,count", *(f"{photos / f'{index}.png'},{index % 5}" for index in range(40))]
    (tmp_path / "counts.csv").write_text("\n".join(lines) + "\n")
    fitted = tmp_path / "fitted"
    fast = ("--backend", "onnxruntime", "--precision", "fp32")
    outcome = pc_engine("fit-counter", tmp_path / "counts.csv", "--model", model, "--out", fitted, "--json", *fast)
    assert outcome.code == 0, outcome.err
    manifest = load_model(fitted).manifest
    assert manifest.quantised.keys() == {"int8"}
    # The counter is another one than that the report counted with.
    assert manifest.fidelity_now("int8") is None
    assert selection.refusal(manifest, "int8").startswith("not measured on photos")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--precision", "int8"), "make one from photos like yours with 'pc-engine build {model} --precision int8"),
        (
            ("--calibrate", "photos", "--precision", "fp32"),
            "--calibrate goes with --precision int8, fp8, bf16, fp16",
        ),
        (("--out", "copy"), "--out goes with --calibrate"),
        (("--calibrate", "photos", "--precision", "int8", "--images", "5"), "--images is 5, expected at least 10."),
        (("--calibrate", "photos", "--precision", "int8", "--workers", "-1"), "--workers is -1, expected a number of"),
        (("--calibrate", "nowhere", "--precision", "int8"), "There is no file or folder: 'nowhere'"),
        (("--calibrate", "photos/1.png", "--precision", "int8"), "Only 1 images can be read from photos/1.png"),
    ],
)
def test_wrong_use_gets_a_sentence(pc_engine, model, photos, monkeypatch, arguments, expected):
    monkeypatch.chdir(photos.parent)
    outcome = pc_engine("build", model, *arguments)
    assert outcome.code in (1, 2)
    assert expected.format(model=shlex.quote(str(model))) in outcome.err
    assert outcome.err.startswith("pc-engine: ")
    assert "Traceback" not in outcome.err
    assert not (model / INT8).exists()


def test_the_embedded_model_is_not_written_to(pc_engine, photos):
    outcome = pc_engine("build", "lego", "--precision", "int8", "--calibrate", photos)
    assert outcome.code == 2
    assert "The embedded model is part of the installation: write a copy of it with --out DIR." in outcome.err


@pytest.mark.usefixtures("int8_runs")
def test_a_folder_that_cannot_be_written_is_said(pc_engine, model, photos, tmp_path):
    (tmp_path / "file").touch()
    outcome = pc_engine("build", model, "--precision", "int8", "--calibrate", photos, "--out", tmp_path / "file" / "x")
    assert outcome.code == 2
    assert "cannot be written" in outcome.err
    assert "choose another with --out" in outcome.err


@pytest.mark.usefixtures("int8_runs")
def test_a_quantised_network_that_was_removed_is_as_good_as_none(pc_engine, model, photos):
    pc_engine("build", model, "--calibrate", photos, "--mode", "c2p")  # int8, as photos are given to quantise with
    (model / INT8).unlink()
    outcome = pc_engine("run", photos, "--model", model, "--precision", "int8")
    assert outcome.code == 2
    assert "has no int8 network" in outcome.err
    embedded = pc_engine("run", photos, "--model", "lego", "--precision", "int8")
    assert "'pc-engine build lego --precision int8 --calibrate PHOTOS --out DIR', and name that with" in embedded.err
    assert pc_engine("run", photos, "--model", model, "--json").json()["ok"] == 40


@pytest.mark.usefixtures("int8_runs")
def test_a_manifest_from_before_there_were_quantised_networks_is_read(pc_engine, model, photos, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(model, old)
    raw = json.loads((old / MANIFEST_FILE).read_text())
    del raw["quantised"], raw["fidelity"], raw["sha256"]
    (old / MANIFEST_FILE).write_text(json.dumps(raw))
    assert pc_engine("build", old, "--precision", "int8", "--calibrate", photos, "--mode", "c2p").code == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--mode", "x"), "There is no mode 'x'"),
        (("--out", "out"), "--out goes with --calibrate"),
        (("--images", "3"), "--images goes with --calibrate: without it no photos are looked at."),
        (("--calibrate", "x", "--precision", "fp32"), "--calibrate goes with --precision int8, fp8, bf16, fp16; got"),
    ],
)
def test_build_looks_at_its_arguments_before_a_model_is_fetched(pc_engine, arguments, expected):
    outcome = pc_engine("build", "no-such-model", *arguments)
    assert outcome.code == 2
    assert expected in outcome.err
