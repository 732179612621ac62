"""Options that several commands share, checked before a command begins: it may have to fetch a model first."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pc_engine.arguments import EACH, MOST_OBJECTS, MOST_THREADS, check_seconds, whole_number
from pc_engine.backbone import LARGEST_BATCH
from pc_engine.backends import BACKENDS
from pc_engine.errors import UsageError
from pc_engine.files.out_folder import without_detours
from pc_engine.hardware.devices import check_device_name
from pc_engine.selection.execution import check_backend, check_precision

# What scikit-learn takes; NumPy takes larger ones, too.
_LARGEST_SEED = 2**32 - 1


def any_case(value: Any) -> Any:
    """Return the words that an option takes as they are listed: those who write C2P or CSV mean the same."""
    return value.lower() if isinstance(value, str) else value and [word.lower() for word in value]


def _checked(check: Callable[[Any], object]) -> Callable[[Any], Any]:
    """Return what passes on the value of an option; ``check`` raises UsageError before, where one is given."""

    def callback(value: Any) -> Any:
        if value is not None:
            check(value)
        return value

    return callback


def word(check: Callable[[Any], object]) -> Callable[[Any], Any]:
    """Return `_checked` for a word of a list, whatever its case."""
    checked = _checked(check)
    return lambda value: checked(any_case(value))


def whole(name: str, most: int | None = None, *, least: int = 1) -> Callable[[Any], Any]:
    """Return what passes on the value of an option that takes a whole number from 1, or ``least``, on."""
    return _checked(lambda value: whole_number(name, value, most, least=least))


def folds(purpose: str) -> Any:
    """Return the option of a number of folds, which is checked; ``purpose`` is its help."""
    return typer.Option("--folds", help=purpose, callback=whole("--folds", least=2))


def _check_count(value: str) -> None:
    if _is_number(value):
        whole_number("--count", int(value), MOST_OBJECTS)


def known_count(value: str | None) -> tuple[int | str | None, str | None]:
    """Return what `Engine` is told of counts, and the column of tables that says them, by the option ``--count``."""
    if value is None or _is_number(value):
        return (None if value is None else int(value)), None
    if re.fullmatch(r"\s*[+-]?[0-9]*\.[0-9]+\s*", value):
        raise UsageError(f"--count is {value}, expected a whole number, or the name of a table's column.")
    return EACH, value


def _is_number(value: str) -> bool:
    return re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value) is not None


def _check_seed(value: int) -> None:
    if not 0 <= value <= _LARGEST_SEED:
        raise UsageError(f"The seed is {value}, expected a number from 0 to {_LARGEST_SEED:,}.")


def seed(purpose: str, name: str = "--seed") -> Any:
    """Return the option of a seed, which is checked; ``purpose`` is its help."""
    return typer.Option(name, help=purpose, callback=_checked(_check_seed))


def out(purpose: str) -> Any:
    """Return the option of what a command writes, by the shortest way there; ``purpose`` is its help."""
    return typer.Option("--out", help=purpose, callback=without_detours)


def labelled_data(split: str) -> Any:
    """Return the argument of images whose count is known; ``split`` is which part of a data set the command is for."""
    return typer.Argument(
        metavar="DATA",
        help="A folder with labels.json or labels.csv, or of folders with labels.json; the folder of a run, for its "
        "reviewed images (run:DIR@PHOTOS_DIR if these have moved); a CSV, JSON or JSON Lines file "
        f"with the columns path and count; sos:DIR#{split} (without #{split} all of SOS), mso:DIR, coco:FILE, "
        "yolo:FILE, voc:DIR#train, label-studio:FILE, cvat:FILE or lego:DIR.",
    )


OutFolder = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="Folder for the PNGs and labels.json.", callback=without_detours),
]
Mode = Annotated[
    str,
    typer.Option("--mode", help="c2p (count, then point), p2c (point, then count) or combined.", callback=any_case),
]
ModeOfRun = Annotated[
    str | None,
    typer.Option(
        "--mode",
        help="c2p (count, then point), p2c (point, then count) or combined; if omitted, that of the rows in --out, "
        "else c2p if the model has a counter, else p2c.",
        callback=any_case,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        # In words, as `pc_engine.catalogue` brings all modes along.
        help="A model's name or directory; if omitted, vgg16, vgg19 or efficientnet_lite2 if it is installed and has "
        "what the mode needs, else the built-in lego, which knows digit objects only.",
    ),
]
Backend = Annotated[
    str,
    typer.Option("--backend", help=f"auto (the fastest here), {', '.join(BACKENDS)}.", callback=word(check_backend)),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="auto (the fastest that agrees with fp32), fp32, bf16, fp16, int8 or fp8 (the last two: see build "
        "--calibrate).",
        callback=word(check_precision),
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto (a GPU, if one can be used), cpu, cuda or cuda:NUMBER.",
        callback=word(check_device_name),
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        help="Images per batch; if omitted, what suits the model.",
        callback=whole("--batch-size", LARGEST_BATCH),
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", help="Decoding threads; if omitted, one per core.", callback=whole("--workers", MOST_THREADS)
    ),
]
Aim = Annotated[
    str,
    typer.Option(
        "--aim",
        help="What the counter is fitted for: mean (the accuracy averaged over the labels, as in the paper) or overall "
        "(most images right, rare counts seldom given).",
        callback=any_case,
    ),
]
AimOfFolds = Annotated[
    str,
    typer.Option(
        "--aim",
        help="With --folds: what the counters are fitted for, mean or overall, as for fit-counter.",
        callback=any_case,
    ),
]
Folds = Annotated[
    int | None,
    folds(
        "Fit the counter in this many folds of DATA itself, each image judged by one that never saw it; if "
        "omitted, the model's own counter judges all."
    ),
]
Modes = Annotated[
    list[str] | None,
    typer.Option(
        "--mode",
        help="c2p, p2c or combined, repeatable; or all, for all that the model can run; if omitted, c2p.",
        callback=any_case,
    ),
]
LastLabel = Annotated[
    int | None,
    typer.Option(
        "--max-count",
        help="Judge counts by labels up to this number and a plus, and fit --folds with them; if omitted, those of the "
        "model's counter, or 4+.",
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="Clustering of mode p2c: density-peaks (default), dbscan, or cuml-dbscan on a GPU, each with settings "
        "that suit it. Mode combined takes density-peaks.",
        callback=any_case,
    ),
]
Classes = Annotated[
    int | None,
    typer.Option(
        "--classes",
        help="The most classes that mode p2c points at in one image, each counted; if omitted, the top one.",
        callback=whole("--classes"),
    ),
]
Pointer = Annotated[
    str | None,
    typer.Option(
        "--pointer",
        help="Mode p2c: core (default: a box around the surest part of each object) or box (around the whole object, "
        "as labels do). Mode combined: ellipse (default), mixture (as in c2p) or box.",
        callback=any_case,
    ),
]
Count = Annotated[
    str | None,
    typer.Option(
        "--count",
        help="How many objects the images show, if known: a number for all, or the column of @table.csv with the count "
        "of each. Objects are then only pointed at, which needs no counter.",
        callback=_checked(_check_count),
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(
        "--max-pixels",
        help="Refuse images with more pixels than this, going by their headers.",
        callback=whole("--max-pixels"),
    ),
]
Isolate = Annotated[
    bool,
    typer.Option("--isolate", help="Decode in separate processes: one that crashes or hangs fails only that image."),
]
ImageSeconds = Annotated[
    float | None,
    typer.Option(
        "--image-seconds",
        help="With --isolate: the most seconds that one image may take to decode; if omitted, 60.",
        callback=_checked(partial(check_seconds, "--image-seconds")),
    ),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder given to 'pc-engine run --out'.")]
Photos = Annotated[
    Path | None,
    typer.Option(
        "--photos",
        metavar="DIR",
        help="Where the photos are now, if moved since the run: below DIR, under the same names.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only errors and warnings: no progress, table or remarks.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
