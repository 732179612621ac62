"""`lego tables` from the command line: everything of one folder by one command."""

from __future__ import annotations

import json

import pytest

from pc_engine.bench.lego import tables
from pc_engine.bench.lego.network import NetworkSettings
from pc_engine.bench.lego.train import Lesson, TrainSettings


@pytest.fixture
def tiny_recipe(monkeypatch):
    """A recipe of a few steps and kernels in the place of the real one; torch, which it needs, is there."""
    pytest.importorskip("torch", reason="training needs the extra 'train'")
    narrow = NetworkSettings(kernels=(4, 4, 4, 6), nin=5, count_kernels=4, fc6=4, fc7=4)
    lessons = (Lesson(1, 32, (0.4, 0.6), 4, digits_only=True), Lesson(1, 48, (0.5, 0.8), 4))

    def recipe(steps: int) -> TrainSettings:
        return TrainSettings(steps=steps, batch_size=4, chunk=1, threads=1, lessons=lessons, network=narrow)

    monkeypatch.setattr(tables, "recipe", recipe)
    monkeypatch.setattr(tables, "VARIANTS", 4)
    monkeypatch.setattr(tables, "FIT_SCENES", 80)


def test_scenes_are_told_a_script(pc_engine, tmp_path):
    outcome = pc_engine("lego", "make", tmp_path / "scenes", "--n", "2", "--json")
    assert outcome.json() == {"scenes": 2, "labels": str(tmp_path / "scenes" / "labels.json")}
    assert outcome.err == ""


def test_tables_writes_everything_and_prints_it(pc_engine, tiny_recipe, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    # Tables in a file are plain text, whatever the terminal.
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = tmp_path / "out"
    outcome = pc_engine("lego", "tables", "--out", out, "--classes", "3", "--n", "14", "--steps", "2")
    assert outcome.code == 0, outcome.err
    for expected in ("Count accuracy in per cent", "c2p, here", "p2c, here", "combined, here", "Class right in"):
        assert expected in outcome.out
    assert (out / "tables.txt").read_text() == outcome.out
    assert "\x1b" not in outcome.out
    assert {"model", "scenes", "training.json", "evaluation.json", "count-accuracy.png"} <= {
        path.name for path in out.iterdir()
    }
    assert len(list((out / "scenes").glob("*.png"))) == 14

    # The second time only judges, and says the same as one object.
    again = pc_engine("lego", "tables", "--out", out, "--classes", "3", "--n", "14", "--steps", "2", "--json")
    assert again.code == 0, again.err
    assert again.json() == json.loads((out / "evaluation.json").read_text())
    assert (out / "tables.txt").read_text() == outcome.out

    other = pc_engine("lego", "tables", "--out", out, "--classes", "4", "--n", "14", "--steps", "2")
    assert other.code == 2
    assert "other settings" in other.err


def test_a_folder_that_cannot_be_made_is_said_before_the_training(pc_engine, tmp_path):
    (tmp_path / "file").write_text("")
    outcome = pc_engine("lego", "tables", "--out", tmp_path / "file" / "out")
    assert outcome.code == 2
    assert "cannot be written" in outcome.err


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("confusion.png", "out exists and is not empty: remove it, or name another directory."),
        ("training.json", "training.json exists, and no training wrote it: choose another name."),
    ],
)
def test_tables_go_into_no_folder_of_others(pc_engine, tmp_path, name, why):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{}")
    outcome = pc_engine("lego", "tables", "--out", tmp_path / "out")
    assert (outcome.code, outcome.out) == (2, "")
    assert why in outcome.err
    assert [(path.name, path.read_text()) for path in (tmp_path / "out").iterdir()] == [(name, "{}")]


@pytest.mark.parametrize("command", [("make", "out"), ("train", "--out", "out"), ("tables", "--out", "out")])
@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_a_seed_that_is_none_is_wrong_use(pc_engine, tmp_path, monkeypatch, command, seed):
    monkeypatch.chdir(tmp_path)
    outcome = pc_engine("lego", *command, "--seed", seed)
    assert (outcome.code, list(tmp_path.iterdir())) == (2, [])
    assert outcome.err == f"pc-engine: The seed is {seed}, expected a number from 0 to 4,294,967,295.\n"


@pytest.mark.parametrize("command", ["train", "tables"])
@pytest.mark.parametrize("steps", ["0", "-1"])
def test_no_step_is_wrong_use(pc_engine, tmp_path, monkeypatch, command, steps):
    monkeypatch.chdir(tmp_path)
    outcome = pc_engine("lego", command, "--out", "out", "--steps", steps)
    assert (outcome.code, list(tmp_path.iterdir())) == (2, [])
    assert outcome.err == f"pc-engine: --steps is {steps}, expected a number of at least 1.\n"


def test_orientation_lighting_and_arrangements_can_be_chosen(pc_engine, tmp_path):
    def make(name, *options):
        outcome = pc_engine("lego", "make", tmp_path / name, "--n", "4", "--size", "64", "--quiet", *options)
        assert outcome.code == 0, outcome.err
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    usual = make("usual")
    same = ("--orientation", "12", "--lighting", "0.5", "--arrangements", "row,column,triangle")
    assert make("same", *same) == usual
    for number, options in enumerate([("--orientation", "90"), ("--lighting", "0"), ("--arrangements", "Row, grid")]):
        made = make(str(number), *options)
        assert made.keys() == usual.keys()
        assert any(made[name] != usual[name] for name in usual if name.endswith(".png"))
    labels = json.loads(make("grids", "--arrangements", "grid", "--parts", "4")["labels.json"])
    assert all(name.startswith("grid-") for name in labels["classes"])

    refused = pc_engine("lego", "make", tmp_path / "no", "--arrangements", "circle")
    assert refused.code == 2
    assert "choose one or more of row, column, triangle, grid, diagonal." in refused.err
    refused = pc_engine("lego", "tables", "--out", tmp_path / "no", "--lighting", "2")
    assert refused.code == 2
    assert "a change from 0 to 1" in refused.err
    assert not (tmp_path / "no").exists()


def test_tables_are_made_of_the_scenes_that_are_asked_for(pc_engine, tiny_recipe, tmp_path):
    asked = ("lego", "tables", "--out", tmp_path / "out", "--classes", "3", "--n", "14", "--steps", "2", "--quiet")
    chosen = ("--arrangements", "column", "--orientation", "30", "--lighting", "0.2")
    assert pc_engine(*asked, *chosen).code == 0
    lego = json.loads((tmp_path / "out" / "training.json").read_text())["settings"]["training"]["lego"]
    assert (lego["arrangements"], lego["scenes"]["orientation"], lego["scenes"]["lighting"]) == (["column"], 30.0, 0.2)
    assert "other settings" in pc_engine(*asked).err
