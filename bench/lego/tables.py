"""``pc-engine lego tables``: the paper's tables on MNIST-LEGO, from nothing but digits, photos and seeds.

A network is trained, count SVM and signatures are fitted, scenes of digits and photos that none of them saw are made,
and every mode is evaluated on these. Each part is kept in the folder, so that a command that was stopped goes on behind
the last part that was finished.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pc_engine.bench.accuracy.evaluation import ALL_MODES, evaluate
from pc_engine.bench.accuracy.settings import EvaluationSettings
from pc_engine.bench.environment import describe_environment
from pc_engine.bench.lego.dataset import make_scenes
from pc_engine.bench.lego.digits import load_digit_samples
from pc_engine.bench.lego.model import MODE_SETTINGS as EMBEDDED_SETTINGS
from pc_engine.bench.lego.model import LegoTraining, train_lego
from pc_engine.bench.lego.network import NetworkSettings
from pc_engine.bench.lego.scenes import SceneSettings
from pc_engine.bench.lego.train import Begin, Lesson, TrainSettings, in_silence
from pc_engine.datasets import LabelledSet, read_labelled
from pc_engine.datasets.labels_json import LABELS_JSON
from pc_engine.errors import PcEngineError, UsageError
from pc_engine.files.durable import rename, write_json
from pc_engine.files.out_folder import removed_if_empty
from pc_engine.say import Say

#: What `lego_tables` puts into its folder: the model, the scenes it is judged on, and how it was trained.
MODEL, SCENES, TRAINING_FILE = "model", "scenes", "training.json"
#: How that record, which is there before all else, begins.
TRAINING_BEGINS = '{\n "settings": {'

# Holds the weights after each part of a training that is not finished.
_WEIGHTS = "weights"
# What records of earlier versions also say of the training: always the same, and without effect.
_GONE = ("cell_weight", "positive_weight")

#: The paper's network of 32 to 256 kernels. Digits of 13 pixels want maps of 4 pixels a cell for one convolution more.
NETWORK = NetworkSettings(kernels=(32, 64, 96, 256), nin=192, pooled_after=(1, 3))
#: What many classes are learnt from before the scenes. In pixels the digits, and the objects, are as large as there.
LESSONS = (
    Lesson(steps=700, size=32, scale=(0.34, 0.7), digits_only=True),
    Lesson(steps=8000, size=64, scale=(0.55, 0.9)),
)
STEPS, FURTHER_STEPS = 2400, 1000
#: Variants of each digit, in training and in the scenes to judge by.
VARIANTS = 1000
#: Scenes that count SVM and signatures are fitted to.
FIT_SCENES = 3000
#: Objects are a little larger than in the embedded model's scenes, as a hundred classes are harder to tell apart than
#: twenty; and in photos they have to stand out from more than noise.
SCENE_SETTINGS = SceneSettings(scale=(0.3, 0.5), contrast=(0.45, 0.9))
#: Finer maps show the digits of an object as peaks of their own. Chosen on scenes of training digits and photos (seed
#: 301), where p2c counts 88 % of the labels, and 54 % with what suits the embedded network.
MODE_SETTINGS = {**EMBEDDED_SETTINGS, "p2c.cutoff": 1.7, "p2c.prominence": 0.1, "p2c.trim": 0.8}


def recipe(steps: int = STEPS) -> TrainSettings:
    """Return how a network for many classes is trained: ``steps`` with scenes, and lessons in proportion."""
    lessons = tuple(replace(lesson, steps=max(1, lesson.steps * steps // STEPS)) for lesson in LESSONS)
    return TrainSettings(
        steps=steps,
        batch_size=32,
        # Each scene is seen twice, and long after the first time: a hundred classes invite learning scenes by heart.
        passes=2,
        chunk=96,
        learning_rate=2e-3,
        # Two threads wait for each other where others are at work: a step took three times as long.
        threads=1,
        lessons=lessons,
        further_rounds=(FURTHER_STEPS * steps // STEPS,),
        network=NETWORK,
    )


@dataclass(frozen=True)
class TableSettings:
    """Everything that decides the tables.

    Attributes
    ----------
    training
        The data set and how the model is trained on it.
    train_seed, scene_seed
        Of the training, and of the scenes that the model is judged on.
    n_scenes
        Number of these.
    """

    training: LegoTraining
    train_seed: int = 0
    scene_seed: int = 8
    n_scenes: int = 2000

    def __post_init__(self) -> None:
        if self.n_scenes < 1:
            raise UsageError(f"{self.n_scenes} scenes to judge by were asked for; ask for at least 1.")


def lego_tables(
    out: Path,
    settings: TableSettings,
    *,
    begin: Begin = in_silence,
    report: Say = lambda _: None,
) -> tuple[dict[str, Any], LabelledSet]:
    """Train a model, make scenes of digits it has not seen, and evaluate every mode on them.

    Parameters
    ----------
    out
        Folder for model, scenes and training's record; parts that are there are not made again.
    settings
        What to make.
    begin
        Called for each stage of the training, then to make the scenes and to evaluate.
    report
        Called with a sentence for the user now and then.

    Returns
    -------
    What `evaluation.evaluate` gives, with how the model was ``"trained"``; and the scenes as read.

    Raises
    ------
    UsageError
        If the folder has a model of other settings.
    DataError
        If digits or photos cannot be read.
    MissingPackageError
        If PyTorch is not installed.
    """
    with removed_if_empty(out):
        out.mkdir(parents=True, exist_ok=True)
        trained = _train(out, settings, begin, report)
    scenes = out / SCENES
    if not (scenes / LABELS_JSON).exists():
        making = begin("making scenes", settings.n_scenes)
        unfinished = out / f"{SCENES}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        make_scenes(
            unfinished,
            settings.n_scenes,
            settings.scene_seed,
            settings.training.lego,
            progress=lambda done: making("making scenes", done, settings.n_scenes),
        )
        rename(unfinished, scenes)
    labelled = read_labelled(f"lego:{scenes}")
    evaluating = begin("evaluating", None)
    figures = evaluate(
        f"lego:{scenes}",
        labelled,
        EvaluationSettings(model=str(out / MODEL), modes=(ALL_MODES,), seed=settings.scene_seed),
        report=report,
        progress=lambda stage, done, total: evaluating(f"evaluating {stage}", done, total),
    )
    machine = describe_environment("scikit-learn", "scipy", "torch")
    return {**figures, "machine": machine, "trained": trained}, labelled


def _train(out: Path, settings: TableSettings, begin: Begin, report: Say) -> dict[str, Any]:
    """Train the model unless it is there; return the record of its training."""
    record, model, weights = out / TRAINING_FILE, out / MODEL, out / _WEIGHTS
    known = {"settings": json.loads(json.dumps(asdict(settings), default=str))}
    if record.exists():
        kept: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        for name in _GONE:
            kept["settings"]["training"]["network"].pop(name, None)
        kept["settings"]["training"]["lego"].setdefault("arrangements", None)  # those that earlier versions had
        if kept["settings"] != known["settings"]:
            raise UsageError(f"{out} holds tables of other settings; choose another folder with --out.")
        if model.exists():
            report(f"The model in {model} is used as it is.")
            return kept
    # Those that the scenes are made of, which are not opened before the training is through.
    load_digit_samples("held-out", settings.training.lego.digits)
    write_json(record, known)
    unfinished = out / f"{MODEL}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        trained = train_lego(unfinished, settings.train_seed, settings.training, begin, weights)
    except PcEngineError:
        if not weights.exists():  # nothing was trained, so that the folder is free for other settings
            record.unlink()
        raise
    kept = {
        **known,
        "class_accuracy": trained.class_accuracy,
        "counter": trained.counter.to_dict(),
        "seconds": trained.seconds,
    }
    write_json(record, kept)
    rename(unfinished, model)
    shutil.rmtree(weights)
    return kept
