"""``pc-engine lego make``, ``lego train`` and ``lego tables``: MNIST-LEGO (paper 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pc_engine.cli import options
from pc_engine.cli.console import Bars, Tracker, kept_in, print_answer, print_json, print_line, progress, remark
from pc_engine.cli.evaluate import store_report
from pc_engine.cli.evaluation_tables import print_report
from pc_engine.cli.group import Group
from pc_engine.cli.target import check_report_folder
from pc_engine.files.storage import model_argument
from pc_engine.progress import Progress

_TABLES = "tables.txt"

app = typer.Typer(
    cls=Group,
    help="MNIST-LEGO: scenes of objects built from digits, and the model that knows them.",
    no_args_is_help=True,
)


Digits = Annotated[
    Path | None,
    typer.Option("--digits", help="Folder with MNIST's IDX files; if omitted, scikit-learn's digits."),
]
Backgrounds = Annotated[
    Path | None, typer.Option("--backgrounds", help="Folder of photos for backgrounds; if omitted, noise.")
]
Classes = Annotated[int, typer.Option("--classes", help="Number of classes.")]
Parts = Annotated[int, typer.Option("--parts", help="Digits in an object.")]
Orientation = Annotated[
    float, typer.Option("--orientation", help="Largest turn of an object to either side, in degrees.")
]
Lighting = Annotated[
    float, typer.Option("--lighting", help="Largest change of brightness across a scene, as a share of it.")
]
Arrangements = Annotated[
    str | None,
    typer.Option(
        "--arrangements",
        metavar="NAMES",
        help="How digits are placed: some of row, column, triangle, grid and diagonal, with commas between; if "
        "omitted, all that differ for so many digits.",
    ),
]
Seed = Annotated[int, options.seed("The same seed gives the same bytes.")]


@app.command("make")
def make(
    out: options.OutFolder,
    n: Annotated[int, typer.Option("--n", help="Number of scenes.")] = 500,
    seed: Seed = 1,
    digits: Digits = None,
    backgrounds: Backgrounds = None,
    classes: Classes = 20,
    parts: Parts = 3,
    max_count: Annotated[int, typer.Option("--max-count", help="Objects in a scene: 0 to this number.")] = 6,
    size: Annotated[int, typer.Option("--size", help="Side of a scene in pixels.")] = 128,
    min_scale: Annotated[float, typer.Option("--min-scale", help="Smallest object, as a share of the side.")] = 0.25,
    max_scale: Annotated[float, typer.Option("--max-scale", help="Largest object, as a share of the side.")] = 0.45,
    spacing: Annotated[
        float, typer.Option("--spacing", help="Smallest gap between two objects, as a share of the side.")
    ] = 0.04,
    orientation: Orientation = 12.0,
    lighting: Lighting = 0.5,
    arrangements: Arrangements = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Make scenes with known class, count and boxes, from digits that the embedded model was not trained on."""
    from pc_engine.bench.lego.dataset import LegoSettings, make_scenes
    from pc_engine.bench.lego.scenes import SceneSettings

    settings = LegoSettings(
        n_classes=classes,
        n_digits=parts,
        digits=digits,
        backgrounds=backgrounds,
        scenes=SceneSettings(
            size=size,
            max_count=max_count,
            scale=(min_scale, max_scale),
            spacing=spacing,
            orientation=orientation,
            lighting=lighting,
        ),
        arrangements=_names(arrangements),
    )
    with progress("scenes", quiet=quiet or as_json, total=n, unit="scenes") as tracker:
        labels = make_scenes(out, n, seed, settings, progress=lambda _: tracker.advance())
    print_answer(
        {"scenes": n, "labels": str(labels)},
        lambda _: print_line(f"{n} scenes and their labels are in {out} ({labels.name})."),
        quiet=quiet,
        as_json=as_json,
    )


@app.command("train")
def train(
    out: Annotated[Path, options.out("The model directory to make.")],
    seed: Seed = 0,
    digits: Digits = None,
    backgrounds: Backgrounds = None,
    classes: Classes = 20,
    parts: Parts = 3,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            help="Optimiser steps on scenes; if omitted, 1,000, as for the embedded model.",
            callback=options.whole("--steps"),
        ),
    ] = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Train the paper's network, its signatures and its counter; the defaults reproduce the embedded model."""
    from pc_engine.bench.lego.dataset import LegoSettings
    from pc_engine.bench.lego.model import LegoTraining, train_lego
    from pc_engine.bench.lego.train import TrainSettings

    network = TrainSettings() if steps is None else TrainSettings(steps=steps)
    lego = LegoSettings(n_classes=classes, n_digits=parts, digits=digits, backgrounds=backgrounds)
    with Bars(quiet=quiet or as_json) as display:
        trained = train_lego(out, seed, LegoTraining(lego=lego, network=network), _bar_a_stage(display))
    accuracy = trained.counter.to_dict()["count_accuracy"]
    if as_json:
        print_json(
            {
                "model": str(trained.directory),
                "seed": seed,
                "class_accuracy": trained.class_accuracy,
                "count_accuracy": accuracy,
                "seconds": trained.seconds,
            }
        )
    elif not quiet:
        print_line(
            f"The model is in {out}: class right in {trained.class_accuracy:.1%} of the fitting scenes, count in "
            f"{trained.counter.mean_accuracy:.1%} (cross-validated, mean over labels). Judge it on other scenes: "
            f"pc-engine lego make DIR --seed 7, then pc-engine evaluate lego:DIR --model {model_argument(out)}."
        )


@app.command("tables")
def tables(
    out: Annotated[Path, options.out("Folder for the model, the scenes, the tables and the charts.")],
    digits: Digits = None,
    backgrounds: Backgrounds = None,
    classes: Classes = 100,
    parts: Parts = 3,
    n: Annotated[int, typer.Option("--n", help="Number of scenes to judge by.")] = 2000,
    seed: Annotated[int, options.seed("Seed of the training.")] = 0,
    scene_seed: Annotated[int, options.seed("Seed of the scenes to judge by.", "--scene-seed")] = 8,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            help="Optimiser steps on scenes, to which the lessons before them are in proportion; if omitted, 2,400.",
            callback=options.whole("--steps"),
        ),
    ] = None,
    orientation: Orientation = 12.0,
    lighting: Lighting = 0.5,
    arrangements: Arrangements = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Train a model and judge all modes on digits and photos it has not seen: the paper's tables in one command.

    This takes about an hour. What --out already has is not made again.
    """
    from pc_engine.bench.lego.dataset import LegoSettings
    from pc_engine.bench.lego.model import LegoTraining
    from pc_engine.bench.lego.tables import (
        FIT_SCENES,
        MODE_SETTINGS,
        SCENE_SETTINGS,
        STEPS,
        TRAINING_BEGINS,
        TRAINING_FILE,
        VARIANTS,
        TableSettings,
        lego_tables,
        recipe,
    )

    lego = LegoSettings(
        n_classes=classes,
        n_digits=parts,
        digits=digits,
        backgrounds=backgrounds,
        variants=VARIANTS,
        scenes=replace(SCENE_SETTINGS, orientation=orientation, lighting=lighting),
        arrangements=_names(arrangements),
    )
    settings = TableSettings(
        training=LegoTraining(
            lego=lego,
            network=recipe(STEPS if steps is None else steps),
            fit_scenes=FIT_SCENES,
            mode_settings=MODE_SETTINGS,
        ),
        train_seed=seed,
        scene_seed=scene_seed,
        n_scenes=n,
    )
    check_report_folder(out, TRAINING_FILE, TRAINING_BEGINS, "training")
    silent = quiet or as_json
    with Bars(quiet=silent) as display:
        report, labelled = lego_tables(out, settings, begin=_bar_a_stage(display), report=remark(quiet))
    try:
        with kept_in(out / _TABLES, quiet=silent):
            print_report(report, labelled.skipped)
        if as_json:
            print_json(report)
    finally:  # neither is lost where the other fails
        store_report(out, report, quiet)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip().lower() for name in text.split(",") if name.strip())


def _bar_a_stage(display: Bars) -> Callable[[str, int | None], Progress]:
    """Return what begins a bar for each stage of a training."""
    return lambda stage, steps: Tracker(display, stage, steps, "steps").restart
