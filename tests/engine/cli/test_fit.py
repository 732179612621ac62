import dataclasses
import json
import shlex

import numpy as np
import pytest

from pc_engine.errors import DataError
from pc_engine.model import load_model
from pc_engine.networks import open_network
from pc_engine.runs.corrections import Correction, append_correction
from pc_engine.runs.rows import iter_rows

FAST = ("--backend", "onnxruntime", "--precision", "fp32")


@pytest.fixture
def counted(scenes, draw_scene):
    """A folder with labels.json: 0 to 4 blobs, four times each at other places, and one picture that is broken."""
    places = [(1, 1), (6, 1), (1, 6), (6, 6)]
    records = [{"file": "broken.jpg", "count": 2, "boxes": []}]
    for turn in range(4):
        for count in range(5):
            chosen = (places[turn:] + places[:turn])[:count]
            draw_scene(chosen).save(scenes / f"{turn}-{count}.png")
            boxes = [{"c": "red", "b": [column * 8, row * 8, 8, 8]} for column, row in chosen]
            records.append({"file": f"{turn}-{count}.png", "w": 64, "h": 64, "count": count, "boxes": boxes})
    (scenes / "labels.json").write_text(json.dumps({"set": "blobs", "images": records}))
    return scenes


@pytest.mark.parametrize("command", ["fit-counter", "fit-signatures"])
def test_the_network_is_freed_where_fitting_fails(pc_engine, counted, make_model, tmp_path, monkeypatch, command):
    closed = []

    def opened(*arguments, **options):
        network = open_network(*arguments, **options)
        network.close = lambda: closed.append(network)
        return network

    def fail(*_, **__):
        raise DataError("There is nothing to learn.")

    monkeypatch.setattr("pc_engine.cli.fit.open_network", opened)
    for name in ("counter_from_images", "signatures_from_images"):
        monkeypatch.setattr(f"pc_engine.fitting.from_images.{name}", fail)
    outcome = pc_engine(command, counted, "--model", make_model(tmp_path / "model"), *FAST)
    assert outcome.err.endswith("pc-engine: There is nothing to learn.\n")
    assert len(closed) == 1


def test_counter_is_stored_beside_the_manifest(pc_engine, counted, make_model, tmp_path):
    model = make_model(tmp_path / "model", counter=None)
    outcome = pc_engine("fit-counter", counted, "--model", model, "--folds", "4", *FAST)
    assert outcome.code == 0, outcome.err
    assert "Fitted for the mean accuracy, cross-validated over 4 folds" in outcome.out
    assert " folds were used, not " not in outcome.out
    assert "With --aim overall it would be the same." in outcome.out
    # The four empty pictures are one file, and so are those that show all places.
    assert (
        "The images of the labels 0, 4+ belong together, as copies of one photo do: their accuracy, and" in outcome.out
    )
    assert "1 item was skipped" in outcome.out
    assert load_model(model).parts.counter is not None
    evaluated = pc_engine("evaluate", counted, "--model", model, "--json", *FAST).json()
    assert evaluated["n"] == 20
    assert evaluated["failed"] == 1
    assert evaluated["count_accuracy"]["mean"] >= 0.6  # five features, twenty pictures: chance is 0.2


def test_a_counter_that_goes_is_said(pc_engine, counted, make_model, tmp_path):
    model = make_model(tmp_path / "mine", counter=None, signatures=None)
    said = [" ".join(pc_engine("fit-counter", counted, "--model", model, *FAST).out.split()) for _ in range(2)]
    assert said[0].endswith("/mine.")
    assert said[1].endswith("/mine, replacing one that was fitted on 20 images.")


def test_images_that_the_counter_was_fitted_on_are_said_when_it_is_judged_by_them(
    pc_engine, counted, make_model, tmp_path
):
    model = make_model(tmp_path / "model", counter=None)
    table = tmp_path / "counts.csv"
    images = json.loads((counted / "labels.json").read_text())["images"]
    lines = [f"{counted / image['file']},{image['count']}" for image in images]
    # Two of each count, all but those of none and of four are different ones.
    table.write_text("\n".join(["path,count", *lines[:11]]))
    assert pc_engine("fit-counter", table, "--model", model, "--folds", "2", *FAST).code == 0
    fitted = load_model(model).parts.counter.images
    assert (fitted.n, len(fitted.digests)) == (10, 8)  # of what could be read
    # The same pictures under another name are the same pictures: eight that show none or four, and six more.
    copies = counted.rename(tmp_path / "elsewhere")
    sentence = (
        "14 of these 21 images were used to fit the counter: its figures are too good; use --folds 5, or other images."
    )
    outcome = pc_engine("evaluate", copies, "--model", model, "--mode", "c2p", "--mode", "p2c", *FAST)
    assert sentence in " ".join(outcome.out.split())
    outcome = pc_engine("evaluate", copies, "--model", model, "--json", *FAST)
    assert outcome.json()["fitted_on_these"] == 14
    assert sentence in " ".join(outcome.err.split())
    outcome = pc_engine("bench", "ablation", copies, "--model", model, "--try", "c2p.tol=0.01", *FAST)
    assert sentence in " ".join(outcome.out.split())
    # Neither p2c, nor a counter that is fitted in folds, is too good.
    for more in (("--mode", "p2c"), ("--folds", "2")):
        outcome = pc_engine("evaluate", copies, "--model", model, "--json", *more, *FAST)
        assert outcome.json()["fitted_on_these"] is None
        assert "used to fit" not in outcome.err


def test_images_that_signatures_were_made_of_are_said_when_they_point(pc_engine, counted, make_model, tmp_path):
    model = make_model(tmp_path / "model", signatures=None)
    table = tmp_path / "counts.csv"
    # Two of each count but that of the broken picture, of which those of none and of four are the same files.
    lines = [f"{counted / f'{turn}-{count}.png'},{count}" for turn in range(2) for count in range(5)]
    table.write_text("\n".join(["path,count", *lines]))
    assert pc_engine("fit-signatures", table, "--model", model, *FAST).code == 0
    assert load_model(model).parts.signatures.images.n == 10
    copies = counted.rename(tmp_path / "elsewhere")
    sentence = "14 of these 21 images were used to make the signatures: the figures of p2c and combined are too good"
    for more in (("--mode", "p2c"), ("--mode", "combined", "--folds", "2")):
        outcome = pc_engine("evaluate", copies, "--model", model, "--json", *more, *FAST)
        report = outcome.json()
        assert (report["fitted_on_these"], report["signatures_fitted_on_these"]) == (None, 14)
        assert sentence in " ".join(outcome.err.split())
    outcome = pc_engine("evaluate", copies, "--model", model, "--json", "--mode", "c2p", *FAST)
    assert outcome.json()["signatures_fitted_on_these"] is None


def test_a_counter_is_not_too_good_on_other_images_and_an_old_one_does_not_know(
    pc_engine, counted, draw_scene, make_model, tmp_path
):
    model = make_model(tmp_path / "model")
    outcome = pc_engine("evaluate", counted, "--model", model, "--json", *FAST)
    assert outcome.json()["fitted_on_these"] is None
    assert pc_engine("fit-counter", counted, "--model", model, *FAST).code == 0
    others = tmp_path / "others"
    others.mkdir()
    for count in range(2):
        draw_scene([(3, 4)][:count], (80, 80)).save(others / f"{count}.png")
    (others / "labels.csv").write_text("path,count\n0.png,0\n1.png,1\n")
    outcome = pc_engine("evaluate", others, "--model", model, "--json", *FAST)
    assert outcome.json()["fitted_on_these"] == 0
    assert "used to fit" not in outcome.err


def test_a_counter_knows_the_reviewed_images_of_a_run_again(pc_engine, counted, make_model, tmp_path):
    model, run = make_model(tmp_path / "model"), tmp_path / "run"
    assert pc_engine("run", counted, "--model", model, "--out", run, *FAST).code == 3
    for row in iter_rows(run):
        if row["status"] == "ok":
            append_correction(run, Correction(row["path"], int(row["path"][-5]), (), "2026-01-01T00:00:00+00:00"))
    outcome = pc_engine("fit-counter", f"run:{run}", "--model", model, "--out", tmp_path / "fitted", *FAST)
    assert outcome.code == 0, outcome.err
    for data, n in ((f"run:{run}", 25), (counted, 20)):
        report = pc_engine("evaluate", data, "--model", tmp_path / "fitted", "--json", *FAST).json()
        assert report["fitted_on_these"] == n


def test_the_device_is_the_one_that_is_named(pc_engine, counted, tiny_directory, tmp_path, pretended):
    """What a GPU says is fitted to, unless the CPU is asked for; the pretended one computes as the CPU does."""
    fitted = {}
    for device, used in (("cuda", True), ("cpu", False), ("auto", True)):
        before = len(pretended.sizes)
        for command in ("fit-counter", "fit-signatures"):
            out = tmp_path / device / command
            arguments = ("--out", out, "--device", device, "--precision", "fp32", "--quiet")
            outcome = pc_engine(command, counted, "--model", tiny_directory, *arguments)
            assert outcome.code == 0, outcome.err
            fitted[device, command] = load_model(out).parts
        assert (len(pretended.sizes) > before) is used
    counters = [fitted[device, "fit-counter"].counter for device in ("cuda", "cpu")]
    for one, other in zip(counters[0].weights.values(), counters[1].weights.values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    outcome = pc_engine("fit-counter", counted, "--model", tiny_directory, "--out", tmp_path / "o", "--device", "tpu")
    assert outcome.code == 2
    assert "There is no device 'tpu'" in outcome.err


def test_combined_learns_how_far_to_believe_the_clusters(pc_engine, counted, make_model, tiny_manifest, tmp_path):
    # The class tells the count badly.
    manifest = dataclasses.replace(tiny_manifest, count_features=("logits",))
    model = make_model(tmp_path / "my model", manifest=manifest, counter=None)
    outcome = pc_engine("fit-counter", counted, "--model", model, *FAST)
    assert outcome.code == 0, outcome.err
    assert "Mode combined, which also weighs the clusters it finds: 100.0% (mean), 100.0% (overall)." in outcome.out
    fitted = load_model(model)
    assert fitted.parts.counter.clusters.signatures.startswith(fitted.manifest.files["signatures.safetensors"])
    # Other signatures have other clusters.
    outcome = pc_engine("fit-signatures", counted, "--model", model, *FAST)
    assert outcome.code == 0, outcome.err
    assert f"fit the counter again with 'pc-engine fit-counter DATA --model {shlex.quote(str(model))}'" in outcome.err
    assert load_model(model).parts.counter.clusters is None


def test_a_model_that_cannot_point_by_itself_gets_a_counter_alone(pc_engine, counted, make_model, tmp_path):
    model = make_model(tmp_path / "model", counter=None, signatures=None)
    outcome = pc_engine("fit-counter", counted, "--model", model, "--json", *FAST)
    assert outcome.json()["combined"] is None
    assert load_model(model).parts.counter.clusters is None


def test_fewer_folds_than_asked_for_are_said(pc_engine, counted, make_model, tmp_path):
    model = make_model(tmp_path / "model", counter=None)
    outcome = pc_engine("fit-counter", counted, "--model", model, "--folds", "7", *FAST)
    assert "cross-validated over 4 folds" in outcome.out
    assert "4 folds were used, not 7, as only 4 images show 0: with more images, the figures" in outcome.out


def test_few_groups_are_said_where_they_are_why_folds_are_few(pc_engine, counted, make_model, tmp_path):
    labels = json.loads((counted / "labels.json").read_text())
    for number, record in enumerate(labels["images"]):
        record["group"] = f"photo {number % 3}"
        # What follows the end of a PNG makes another file: groups that share one would be one.
        (counted / record["file"]).write_bytes((counted / record["file"]).read_bytes() + bytes([number]))
    (counted / "labels.json").write_text(json.dumps(labels))
    model = make_model(tmp_path / "model", counter=None)
    outcome = pc_engine("fit-counter", counted, "--model", model, "--folds", "4", *FAST)
    assert (
        "3 folds were used, not 4, as the images fall into few groups, such as parts of the same photos" in outcome.out
    )


def test_a_counter_is_fitted_for_what_is_asked(pc_engine, counted, make_model, tmp_path):
    labels = json.loads((counted / "labels.json").read_text())
    for record in list(labels["images"]):
        for turn in range(20 if record["count"] == 1 else 4):
            copy = f"{turn}-{record['file']}"
            # What follows the end of a PNG makes another file, which may be in another fold.
            (counted / copy).write_bytes((counted / record["file"]).read_bytes() + bytes([turn]))
            labels["images"].append({**record, "file": copy})
    (counted / "labels.json").write_text(json.dumps(labels))
    reports = {}
    for aim in ("mean", "overall"):
        model = make_model(tmp_path / aim, counter=None)
        reports[aim] = pc_engine("fit-counter", counted, "--model", model, "--aim", aim, "--json", *FAST).json()
    for aim, other in zip(reports, reversed(reports), strict=True):
        assert reports[aim]["aim"] == aim
        accuracy = reports[other]["count_accuracy"]
        assert reports[aim]["other_aim"] == {name: accuracy[name] for name in ("mean", "overall")}
    weights = [load_model(tmp_path / aim).parts.counter.bias for aim in reports]
    assert not np.allclose(*weights)
    outcome = pc_engine("evaluate", counted, "--model", model, "--folds", "2", "--aim", "overall", *FAST)
    assert "The counter was fitted in 2 folds for its overall accuracy, each image judged by one" in outcome.out


def test_out_makes_a_copy_and_leaves_the_model_alone(pc_engine, counted, make_model, tmp_path):
    model = make_model(tmp_path / "model", counter=None)
    copy = tmp_path / "copy"
    outcome = pc_engine("fit-counter", counted, "--model", model, "--out", copy, "--max-count", "3", "--quiet", *FAST)
    assert (outcome.code, outcome.out) == (0, "")
    assert load_model(model).parts.counter is None
    fitted = load_model(copy).parts
    assert fitted.counter is not None
    assert fitted.counter.labels == ("0", "1", "2", "3+")
    assert fitted.signatures is not None


def test_out_never_writes_over_anything_but_the_same_network(pc_engine, counted, make_model, tiny_manifest, tmp_path):
    model = make_model(tmp_path / "model", counter=None)
    other = make_model(tmp_path / "other", manifest=dataclasses.replace(tiny_manifest, name="mine"))
    for command in ("fit-counter", "fit-signatures"):
        for out in (other, counted):
            before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
            outcome = pc_engine(command, counted, "--model", model, "--out", out, *FAST)
            assert outcome.code == 2
            assert f"{out} exists and is not empty: remove it, or name another directory." in outcome.err
            assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


@pytest.mark.parametrize("command", ["fit-counter", "fit-signatures"])
def test_a_folder_that_cannot_be_written_is_said_before_the_network_runs(
    pc_engine, counted, make_model, tmp_path, monkeypatch, command
):
    model = make_model(tmp_path / "model")
    (tmp_path / "file").touch()
    monkeypatch.setattr("pc_engine.cli.fit.open_network", lambda *args, **options: pytest.fail("it was opened"))
    outcome = pc_engine(command, counted, "--model", model, "--out", tmp_path / "file" / "x", *FAST)
    assert outcome.code == 2
    assert "cannot be written (Not a directory): choose another with --out." in outcome.err
    monkeypatch.setattr("os.access", lambda path, mode: False)
    outcome = pc_engine(command, counted, "--model", model, *FAST)
    assert outcome.code == 2
    assert f"The folder {model} cannot be written (Permission denied): choose another with --out." in outcome.err


def test_parts_that_are_fitted_one_after_the_other_meet_in_out(pc_engine, counted, make_model, tmp_path):
    model = make_model(tmp_path / "model", counter=None, signatures=None)
    copy = tmp_path / "copy"
    for command in ("fit-signatures", "fit-counter", "fit-counter"):
        outcome = pc_engine(command, counted, "--model", model, "--out", copy, "--quiet", *FAST)
        assert outcome.code == 0, outcome.err
    fitted = load_model(copy).parts
    assert fitted.signatures is not None
    assert fitted.counter is not None
    assert load_model(model).parts.counter is load_model(model).parts.signatures is None


def test_signatures_from_class_folders(pc_engine, draw_scene, make_model, tmp_path):
    for colour, rgb in {"red": (255, 0, 0), "green": (0, 255, 0)}.items():
        (tmp_path / "classes" / colour).mkdir(parents=True)
        for column in range(3):
            draw_scene([(column, 4)], colour=rgb).save(tmp_path / "classes" / colour / f"{column}.png")
    model = make_model(tmp_path / "model", signatures=None)
    outcome = pc_engine("fit-signatures", tmp_path / "classes", "--model", model, *FAST)
    assert outcome.code == 0, outcome.err
    assert "Signatures of 2 of 3 classes from 6 images" in outcome.out
    signatures = load_model(model).parts.signatures
    assert signatures is not None
    assert list(signatures.known) == [True, True, False]
    # The constant map is the loudest of these dim scenes; the class's own colour comes before the other one.
    red, green = (list(signatures.ranking["conv_last"][class_id]) for class_id in (0, 1))
    assert red.index(0) < red.index(1)
    assert green.index(1) < green.index(0)


def test_embedded_model_asks_for_a_copy(pc_engine, counted):
    outcome = pc_engine("fit-counter", counted, "--model", "lego")
    assert outcome.code == 2
    assert "write a copy of it with --out DIR" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("fit-counter", "nowhere"), "nowhere"),
        (("fit-counter", ".", "--folds", "1"), "--folds is 1, expected a number of at least 2."),
        (("fit-counter", ".", "--aim", "best"), "There is no aim 'best': choose one of mean, overall."),
        (("fit-counter", ".", "--max-count", "0"), "--max-count is 0, expected at least 1."),
        (("fit-counter", ".", "--max-count", "100000000"), "--max-count is 100,000,000, expected at most 1,000"),
        (("fit-counter", ".", "--workers", "-1"), "--workers is -1, expected a number of at least 1."),
        (("fit-signatures", ".", "--workers", "0"), "--workers is 0, expected a number of at least 1."),
        (("fit-counter", ".", "--batch-size", "5000"), "--batch-size is 5,000, expected a number of at most 1,024."),
        (("fit-counter", ".", "--backend", "tpu"), "There is no backend 'tpu'"),
        (("fit-signatures", ".", "--precision", "fp31"), "There is no precision 'fp31'"),
        (("fit-counter", ".", "--device", "gpu"), "There is no device 'gpu'"),
        (("fit-counter", ".", "--seed", "-1"), "The seed is -1, expected a number from 0 to 4,294,967,295."),
        (("fit-counter", ".", "--seed", "4294967296"), "The seed is 4294967296, expected a number from 0"),
        (("fit-signatures", ".", "--rank", "best"), "There is no ranking 'best': choose one of max, contrast."),
    ],
)
def test_wrong_use(pc_engine, tiny_directory, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    outcome = pc_engine(*arguments, "--model", tiny_directory)
    assert outcome.code == 2
    assert expected in outcome.err


@pytest.mark.parametrize("command", ["fit-counter", "fit-signatures", "evaluate"])
def test_data_that_is_not_there_is_said_before_a_model_is_fetched(pc_engine, command):
    outcome = pc_engine(command, "nowhere", "--model", "no-such-model")
    assert outcome.code == 2
    assert outcome.err.startswith("pc-engine: There is no file or folder 'nowhere'")


@pytest.mark.parametrize("option", [("--backend", "tpu"), ("--precision", "fp31"), ("--device", "gpu")])
@pytest.mark.parametrize("command", ["fit-counter", "fit-signatures", "evaluate", "build"])
def test_a_name_that_is_none_is_said_before_a_model_is_fetched(pc_engine, command, option):
    words = ("no-such-model",) if command == "build" else ("nowhere", "--model", "no-such-model")
    outcome = pc_engine(command, *words, *option)
    assert outcome.code == 2
    assert outcome.err.startswith(f"pc-engine: There is no {option[0][2:]} '{option[1]}': choose ")


def test_evaluate_prints_the_paper_beside(pc_engine, counted, tiny_directory):
    outcome = pc_engine("evaluate", counted, "--mode", "combined", "--model", tiny_directory, *FAST)
    assert outcome.code == 0
    assert "C2P (paper)" in outcome.out
    assert "combined, here" in outcome.out


def test_label_that_no_image_has_is_left_out_and_said(pc_engine, counted, make_model, tmp_path):
    labels = json.loads((counted / "labels.json").read_text())
    labels["images"] = [record for record in labels["images"] if record["count"] > 0]
    (counted / "labels.json").write_text(json.dumps(labels))
    model = make_model(tmp_path / "model", counter=None)
    outcome = pc_engine("fit-counter", counted, "--model", model, "--folds", "4", *FAST)
    assert outcome.code == 0, outcome.err
    assert "No image shows 0 objects" in outcome.err
    counter = load_model(model).parts.counter
    assert counter is not None
    assert counter.labels == ("1", "2", "3", "4+")


@pytest.mark.parametrize(
    ("count", "options", "expected"),
    [
        (lambda count: 1, (), "All 21 images show 1 object: add images with other counts."),
        (lambda count: count + 2, ("--max-count", "2"), "All 21 images show 2+ objects: add images with other counts"),
        (lambda count: None, (), "None of the images has a count"),
        (lambda count: 0, ("--max-count", "3"), None),
    ],
)
def test_counts_that_cannot_be_told_are_refused_before_the_network_runs(
    pc_engine, counted, tiny_directory, tmp_path, monkeypatch, count, options, expected
):
    labels = json.loads((counted / "labels.json").read_text())
    for record in labels["images"]:
        record.update(count=count(record["count"]), boxes=[])
    if expected is None:
        expected = "images show the count 1 (1 image): give at least 2 of each count, or leave out those that have it."
        labels["images"][0]["count"] = 1
    (counted / "labels.json").write_text(json.dumps(labels))
    monkeypatch.setattr("pc_engine.cli.fit.open_network", lambda *args, **options: pytest.fail("it was opened"))
    outcome = pc_engine("fit-counter", counted, "--model", tiny_directory, "--out", tmp_path / "out", *options)
    assert outcome.code == 2
    assert expected in outcome.err


def test_a_counter_that_tells_nothing_is_said(pc_engine, counted, make_model, tmp_path):
    labels = json.loads((counted / "labels.json").read_text())
    for number, record in enumerate(labels["images"]):
        record["count"] = (0, 1, 1)[number % 3]  # whatever is seen
    (counted / "labels.json").write_text(json.dumps(labels))
    model = make_model(tmp_path / "model", counter=None)
    outcome = pc_engine("fit-counter", counted, "--model", model, *FAST)
    assert outcome.code == 0, outcome.err
    assert "The counter is no better than always answering" in outcome.err
    assert "fit it on more images." in outcome.err


def test_counts_that_a_run_gave_are_said(pc_engine, counted, make_model, tmp_path):
    images = [(f"{turn}-{count}.png", count) for turn in range(4) for count in range(5)]
    lines = [f"{file},{count},{'yes' if file.startswith('0') else 'no'}" for file, count in images]
    (counted / "counts.csv").write_text("\n".join(["path,count,reviewed", *lines]))
    model = make_model(tmp_path / "model", counter=None)
    outcome = pc_engine("fit-counter", counted / "counts.csv", "--model", model, *FAST)
    assert outcome.code == 0, outcome.err
    assert "15 of 20 counts come from a run and are unreviewed" in outcome.err
    # Of an image that is left out nothing is said.
    contradicted = [f"{file},{count + 1},no" for file, count in images if file.startswith("1")]
    (counted / "counts.csv").write_text("\n".join(["path,count,reviewed", *lines, *contradicted]))
    outcome = pc_engine("fit-counter", counted / "counts.csv", "--model", model, *FAST)
    assert "10 of 15 counts come from a run and are unreviewed" in outcome.err


def test_counts_that_a_run_gave_are_said_where_it_is_judged_by_them(pc_engine, counted, tiny_directory, tmp_path):
    run = tmp_path / "run"
    pc_engine("run", counted, "--model", tiny_directory, "--mode", "c2p", "--out", run, *FAST)
    assert pc_engine("convert", run, "--to", "csv", "--out", tmp_path / "table").code == 0
    table = tmp_path / "table" / "counts.csv"
    outcome = pc_engine("evaluate", table, "--model", tiny_directory, "--json", *FAST)
    n = outcome.json()["by_run"]
    assert n == outcome.json()["images"] > 20
    sentence = f"{n} of {n} counts come from a run and are unreviewed"
    assert sentence in " ".join(outcome.err.split())
    outcome = pc_engine("evaluate", table, "--model", tiny_directory, *FAST)
    assert sentence in " ".join(outcome.out.split())
    trial = ("--try", "c2p.tol=0.01")
    outcome = pc_engine("bench", "ablation", table, "--model", tiny_directory, *trial, *FAST)
    assert sentence in " ".join(outcome.out.split())
    outcome = pc_engine("bench", "ablation", table, "--model", tiny_directory, *trial, "--json", *FAST)
    assert outcome.json()["by_run"] == n
    assert sentence in " ".join(outcome.err.split())
    assert pc_engine("evaluate", counted, "--model", tiny_directory, "--json", *FAST).json()["by_run"] == 0


def test_signatures_too_shallow_for_the_model_are_refused(pc_engine, counted, make_model, tmp_path):
    model = make_model(tmp_path / "model", signatures=None)
    outcome = pc_engine("fit-signatures", counted, "--model", model, "--depth", "1", *FAST)
    assert outcome.code == 2
    assert "depth 1 are too shallow for 'tiny', whose mode p2c takes 2 maps of 'conv_last'" in outcome.err
    assert pc_engine("fit-signatures", counted, "--model", model, "--depth", "2", *FAST).code == 0
    assert pc_engine("run", counted, "--mode", "p2c", "--model", model, "--quiet", *FAST).code == 3


def test_signatures_without_classes_use_what_the_network_predicts(pc_engine, draw_scene, make_model, tmp_path):
    lines = ["path,count"]
    for colour, rgb in {"red": (255, 0, 0), "green": (0, 255, 0)}.items():
        for column in range(3):
            draw_scene([(column, 4)], colour=rgb).save(tmp_path / f"{colour}{column}.png")
            lines.append(f"{colour}{column}.png,1")
    (tmp_path / "counts.csv").write_text("\n".join(lines) + "\n")
    model = make_model(tmp_path / "model", signatures=None)
    outcome = pc_engine("fit-signatures", tmp_path / "counts.csv", "--model", model, *FAST)
    assert outcome.code == 0, outcome.err
    assert "names no classes" in outcome.err
    signatures = load_model(model).parts.signatures
    assert signatures is not None
    assert list(signatures.known) == [True, True, False]


def with_counts(counted, counts):
    """Leave so many images of each count in the labels, the broken one being of count 2."""
    labels = json.loads((counted / "labels.json").read_text())
    left = dict(counts)
    records = []
    for record in labels["images"]:
        if left.get(record["count"], 4) > 0:
            left[record["count"]] = left.get(record["count"], 4) - 1
            records.append(record)
    (counted / "labels.json").write_text(json.dumps({**labels, "images": records}))


@pytest.mark.parametrize(("count", "label"), [(0, "0"), (4, "4+")])
def test_the_only_image_of_a_count_is_left_out_and_said(pc_engine, counted, make_model, tmp_path, count, label):
    with_counts(counted, {count: 1})
    model = make_model(tmp_path / "model", counter=None)
    outcome = pc_engine("fit-counter", counted, "--model", model, "--folds", "3", *FAST)
    assert outcome.code == 0, outcome.err
    said = f"Only 1 image has the count {label}: it takes no part, and the counter will never answer that."
    assert said in outcome.err
    assert f"0-{count}.png: no other image has the count {label}" in outcome.out
    assert "2 items were skipped" in outcome.out
    assert label not in load_model(str(model)).parts.counter.labels


def test_an_image_that_is_left_alone_by_a_broken_one_takes_no_part(pc_engine, counted, make_model, tmp_path):
    with_counts(counted, {2: 2})
    model = make_model(tmp_path / "model", counter=None)
    outcome = pc_engine("fit-counter", counted, "--model", model, "--folds", "3", "--json", *FAST)
    assert outcome.code == 0, outcome.err
    assert "Fewer than 2 images of the count 2 can be read, so the counter will never answer that." in outcome.err
    assert json.loads(outcome.out)["skipped"] == 2
    assert load_model(str(model)).parts.counter.labels == ("0", "1", "3", "4+")


def test_several_counts_of_one_image_each_are_said_together(pc_engine, counted, make_model, tmp_path):
    with_counts(counted, {0: 1, 4: 1})
    outcome = pc_engine("fit-counter", counted, "--model", make_model(tmp_path / "model"), "--folds", "3", *FAST)
    assert outcome.code == 0, outcome.err
    assert "Only 1 image each has the counts 0 and 4+: they take no part, and the counter will" in outcome.err


def test_what_was_skipped_is_said_ahead_of_too_few_images(pc_engine, counted, make_model, tmp_path):
    with_counts(counted, {0: 1, 1: 1, 2: 0, 3: 0, 4: 0})
    labels = json.loads((counted / "labels.json").read_text())
    labels["images"] += [{"file": f"lost-{n}.jpg", "count": 1, "boxes": []} for n in range(2)]
    (counted / "labels.json").write_text(json.dumps(labels))
    outcome = pc_engine("fit-counter", counted, "--model", make_model(tmp_path / "model"), *FAST)
    assert outcome.code == 2
    assert outcome.err.startswith("2 items were skipped:\n")
    assert f"{counted / 'lost-0.jpg'}: there is no such file" in outcome.err
    assert "Too few of the 2 images show the count 0 (1 image) or 1 (1 image)" in outcome.err
