from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pc_engine.bench.lego.dataset import LegoSettings
from pc_engine.bench.lego.model import LegoTraining
from pc_engine.bench.lego.network import NetworkSettings
from pc_engine.bench.lego.scenes import SceneSettings
from pc_engine.bench.lego.tables import (
    FURTHER_STEPS,
    LESSONS,
    MODEL,
    SCENES,
    STEPS,
    TRAINING_FILE,
    TableSettings,
    lego_tables,
    recipe,
)
from pc_engine.bench.lego.train import Lesson, TrainSettings
from pc_engine.errors import DataError, UsageError
from pc_engine.modes import MODES

TINY = TableSettings(
    LegoTraining(
        lego=LegoSettings(n_classes=3, variants=4, scenes=SceneSettings(size=64)),
        network=TrainSettings(
            steps=3,
            batch_size=4,
            chunk=2,
            threads=1,
            lessons=(Lesson(2, 32, (0.4, 0.6), 4, digits_only=True), Lesson(2, 48, (0.5, 0.8), 4)),
            network=NetworkSettings(size=64, kernels=(4, 6, 8, 10), nin=7, count_kernels=5, fc6=6, fc7=4),
        ),
        fit_scenes=70,
    ),
    n_scenes=12,
)


def test_one_call_trains_makes_scenes_and_judges_every_mode(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs the extra 'train'")
    figures, labelled = lego_tables(tmp_path / "tables", TINY)
    assert list(figures["modes"]) == list(MODES)
    assert figures["images"] == len(labelled.images) == 12
    assert figures["failed"] == figures["skipped"] == 0
    assert 0 <= figures["modes"]["p2c"]["class_accuracy"] <= 1
    assert figures["modes"]["p2c"]["class_images"] == sum(image.count != 0 for image in labelled.images)
    assert figures["trained"]["settings"]["training"]["network"]["lessons"][0]["digits_only"] is True

    # What is there is not made again, and the figures are those of before.
    made = {
        path: path.stat().st_mtime_ns for part in (MODEL, SCENES) for path in (tmp_path / "tables" / part).iterdir()
    }
    said: list[str] = []
    again, _ = lego_tables(tmp_path / "tables", TINY, report=said.append)
    assert again["modes"] == figures["modes"]
    assert again["trained"] == figures["trained"]
    assert any("used as it is" in sentence for sentence in said)
    assert made == {path: path.stat().st_mtime_ns for path in made}

    record = tmp_path / "tables" / TRAINING_FILE
    earlier = json.loads(record.read_text())
    earlier["settings"]["training"]["network"] |= {"cell_weight": 0.0, "positive_weight": 4.0}
    del earlier["settings"]["training"]["lego"]["arrangements"]
    record.write_text(json.dumps(earlier))
    assert lego_tables(tmp_path / "tables", TINY)[0]["trained"] == figures["trained"]

    with pytest.raises(UsageError, match="tables of other settings"):
        lego_tables(tmp_path / "tables", replace(TINY, scene_seed=9))


def test_the_same_seeds_give_the_same_tables(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("torch", reason="training needs the extra 'train'")
    first, _ = lego_tables(tmp_path / "a", TINY)
    # What is left of a model or of scenes that were not finished does no harm.
    (tmp_path / "b" / f"{MODEL}.unfinished").mkdir(parents=True)
    (tmp_path / "b" / f"{MODEL}.unfinished" / "manifest.json").write_text("{")
    (tmp_path / "b" / f"{SCENES}.unfinished").mkdir()
    (tmp_path / "b" / f"{SCENES}.unfinished" / "000000.png").touch()
    # Nor does who looks into them while they come under their names.
    open_for_a_moment = request.getfixturevalue("open_for_a_moment")
    second, _ = lego_tables(tmp_path / "b", TINY)
    assert {f"{MODEL}.unfinished", f"{SCENES}.unfinished"} <= {path.name for path in open_for_a_moment}
    assert second["modes"] == first["modes"]
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [MODEL, SCENES, "training.json"]


@pytest.mark.parametrize("folder", ["digits", "backgrounds"])
def test_a_folder_mistyped_is_no_reason_to_choose_another_for_the_tables(tmp_path: Path, folder: str) -> None:
    pytest.importorskip("torch", reason="training needs the extra 'train'")
    out = tmp_path / "new" / "tables"
    lego = replace(TINY.training.lego, **{folder: tmp_path / "mistyped"})  # type: ignore[arg-type]
    with pytest.raises(DataError, match="mistyped") as refused:
        lego_tables(out, replace(TINY, training=replace(TINY.training, lego=lego)))
    assert "Errno" not in str(refused.value)
    assert not out.parent.exists()
    out.mkdir(parents=True)
    with pytest.raises(DataError):
        lego_tables(out, replace(TINY, training=replace(TINY.training, lego=lego)))
    assert not list(out.iterdir())


def test_nothing_is_trained_for_no_scenes() -> None:
    with pytest.raises(UsageError, match="0 scenes to judge by were asked for"):
        replace(TINY, n_scenes=0)


def test_lessons_keep_their_proportion() -> None:
    assert recipe().lessons == LESSONS
    assert recipe(2 * STEPS).further_rounds == (2 * FURTHER_STEPS,)
    assert [lesson.steps for lesson in recipe(2 * STEPS).lessons] == [2 * lesson.steps for lesson in LESSONS]
    assert min(lesson.steps for lesson in recipe(1).lessons) >= 1
    assert recipe(7).steps == 7
