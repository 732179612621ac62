"""Evaluate modes on labelled images: count and pointing accuracy, beside baselines and the paper's figures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from pc_engine.backbone import Backbone
from pc_engine.bench.accuracy import PUBLISHED, chance_accuracy, count_accuracy
from pc_engine.bench.classification import class_accuracy
from pc_engine.bench.cross_validation import held_out_counters
from pc_engine.bench.environment import describe_environment
from pc_engine.bench.pointing import PUBLISHED_POINTING, TABLE_RATIOS, pointing_accuracy
from pc_engine.bench.saliency import NAME as SALIENCY
from pc_engine.bench.saliency import count_salient
from pc_engine.catalogue import default_model, find_model
from pc_engine.datasets import LabelledImage, LabelledSet
from pc_engine.engine import Engine, find_mode, open_network
from pc_engine.errors import DataError, UsageError
from pc_engine.fitting.from_images import features_from_images
from pc_engine.machine import usable_cores
from pc_engine.model import Model
from pc_engine.modes import MODES, FittedParts, Mode, Part, check_clustering
from pc_engine.pipeline import TapBatch, map_batches
from pc_engine.result import Result

#: Stands for every mode that the model can run.
ALL_MODES = "all"

Report = Callable[[str], None]
# Called as progress(stage, done, total).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EvaluationSettings:
    """What to evaluate, and how to run it; see `Engine` for what is not explained here.

    Attributes
    ----------
    modes
        Names of modes; ``"all"`` for those that the model can run.
    folds
        Number of folds to fit the counter in on the very images, each image being judged by one fitted without it; None
        to take the model's own counter.
    seed
        Of the folds and of the intervals.
    """

    model: str | None = None
    modes: tuple[str, ...] = ("c2p",)
    backend: str = "auto"
    precision: str = "auto"
    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    cluster: str | None = None
    folds: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class _Share:
    """Some images, by their places, and the model that is to be judged by them."""

    places: Sequence[int]
    model: Model


def evaluate(
    data: str,
    labelled: LabelledSet,
    settings: EvaluationSettings,
    *,
    report: Report = lambda _: None,
    progress: Progress = lambda _stage, _done, _total: None,
) -> dict[str, Any]:
    """Run modes on labelled images and compare.

    Parameters
    ----------
    data
        Name of the data, for the report.
    labelled
        The images; those without a count take no part.
    settings
        What to evaluate.
    report
        Called with a sentence for the user now and then.
    progress
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    dict
        JSON-ready. ``"modes"`` has by mode what `CountAccuracy.to_dict` and `PointingAccuracy.to_dict` give, with
        ``"class_accuracy"`` and the number of images ``"failed"``; ``"baselines"`` the same of the baselines, and
        ``"published"`` the paper's rows. With one mode its figures stand at the top, too.

    Raises
    ------
    PcEngineError
        If nothing can be evaluated. An image that cannot be read is counted, and listed under ``"failures"``.

    Notes
    -----
    The network runs once for all modes, which read what they need from its taps, and once more to gather the counter's
    features for folds.
    """
    images = [image for image in labelled.images if image.count is not None]
    if not images:
        raise DataError(f"None of the images of {data} has a count.")
    model, modes = _model_and_modes(settings, report)
    rows, how = _run(images, model, modes, settings, report, progress)
    salient = _salient(images, settings, progress)
    measured = {mode.name: _figures(images, rows[mode.name], settings.seed, model.manifest.classes) for mode in modes}
    failures = {row.path: row.error for of_mode in rows.values() for row in of_mode if not row.ok}
    only = {"mode": modes[0].name, **measured[modes[0].name]} if len(modes) == 1 else {}
    return {
        "data": data,
        "model": model.name,
        **how,
        "images": len(images),
        **only,
        "modes": measured,
        "baselines": {
            "chance": chance_accuracy(_true_counts(images, salient), seed=settings.seed),
            SALIENCY: _figures(images, salient, settings.seed, ()),
        },
        "published": _published(),
        "failed": len(failures),
        "failures": [list(item) for item in failures.items()],
        "skipped": len(labelled.skipped),
        "machine": describe_environment("scikit-learn", "scipy"),
    }


def _published() -> dict[str, Any]:
    return {
        "count_accuracy": {name: list(row) for name, row in PUBLISHED.items()},
        "pointing": {
            name: {f"{ratio:g}": list(table[ratio]) for ratio in TABLE_RATIOS}
            for name, table in PUBLISHED_POINTING.items()
        },
    }


def _run(
    images: Sequence[LabelledImage],
    model: Model,
    modes: Sequence[Mode],
    settings: EvaluationSettings,
    report: Report,
    progress: Progress,
) -> tuple[dict[str, list[Result]], dict[str, Any]]:
    """Return each mode's row of every image, and what to report of how they were made."""
    network = open_network(
        model,
        tuple(dict.fromkeys(tap for mode in modes for tap in mode.taps(model.manifest))),
        backend=settings.backend,
        precision=settings.precision,
        device=settings.device,
        batch_size=settings.batch_size,
        mode=modes[0].name if len(modes) == 1 else None,
        report=report,
    )
    try:
        shares, folds = [_Share(range(len(images)), model)], None
        if settings.folds is not None:
            shares, folds = _folds(images, model, network, settings, progress)
        rows = _rows(images, shares, modes, network, settings, progress)
        return rows, {"backend": network.backend, "precision": network.request.precision, "folds": folds}
    finally:
        network.close()


def _salient(images: Sequence[LabelledImage], settings: EvaluationSettings, progress: Progress) -> list[Result]:
    done = iter(range(1, len(images) + 1))
    return count_salient(
        [image.path for image in images],
        settings.workers or usable_cores(),
        lambda _: progress(SALIENCY, next(done), len(images)),
    )


def _model_and_modes(settings: EvaluationSettings, report: Report) -> tuple[Model, list[Mode]]:
    every = ALL_MODES in settings.modes
    modes = list(MODES.values()) if every else [find_mode(name) for name in dict.fromkeys(settings.modes)]
    if settings.cluster is not None and len(modes) == 1:
        check_clustering(modes[0], settings.cluster)
    if settings.folds is not None and not any("counter" in mode.needs for mode in modes):
        raise UsageError("Folds are for fitting a counter, which mode p2c has none of: leave --folds out.")
    # A model that has what the most demanding mode takes can run the others.
    wanted = max(modes, key=lambda mode: len(mode.needs))
    name = settings.model
    model = default_model(wanted.name, report) if name is None else find_model(name, report)
    to_come: tuple[Part, ...] = () if settings.folds is None else ("counter",)
    able = [mode for mode in modes if set(model.missing_parts(mode)) <= set(to_come)]
    for mode in modes:
        if mode not in able:
            if not every or not able:
                model.require(mode, to_come)
            report(f"Mode {mode.name} is left out: the model has no {' and no '.join(model.missing_parts(mode))}.")
    return model, able


def _folds(
    images: Sequence[LabelledImage], model: Model, network: Backbone, settings: EvaluationSettings, progress: Progress
) -> tuple[list[_Share], dict[str, Any]]:
    """Return the model to judge each fold by, and what to report of the folds."""
    assert settings.folds is not None
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        progress("features", done, len(images))

    features, taken, _ = features_from_images(
        images,
        network,
        model.manifest.count_features,
        workers=settings.workers or usable_cores(),
        advance=advance,
    )
    counts = np.array([images[place].count for place in taken])
    held_out = held_out_counters(
        features, counts, settings.folds, settings.seed, lambda done, total: progress("counters", done, total)
    )
    places = [[taken[i] for i in fold.places] for fold in held_out]
    # An image without features gets its error row from any of them.
    places[0] += sorted({*range(len(images))} - {*taken})
    shares = [
        _Share(of_fold, replace(model, parts=FittedParts(fold.counter, model.parts.signatures)))
        for of_fold, fold in zip(places, held_out, strict=True)
    ]
    return shares, {"k": settings.folds, "seed": settings.seed, "c": [fold.c for fold in held_out]}


def _rows(
    images: Sequence[LabelledImage],
    shares: Sequence[_Share],
    modes: Sequence[Mode],
    network: Backbone,
    settings: EvaluationSettings,
    progress: Progress,
) -> dict[str, list[Result]]:
    """Return each mode's row of every image."""
    rows: dict[str, dict[int, Result]] = {mode.name: {} for mode in modes}
    workers = settings.workers or usable_cores()
    for share in shares:
        with ExitStack() as stack:
            engines = [stack.enter_context(_engine(share.model, mode, network, settings)) for mode in modes]

            def judge(batch: TapBatch, engines: Sequence[Engine] = engines) -> list[tuple[Result, ...]]:
                return list(zip(*(engine.evaluate(batch) for engine in engines), strict=True))

            batches = stack.enter_context(
                closing(map_batches((images[i].path for i in share.places), network, workers, judge))
            )
            for place, answers in zip(share.places, chain.from_iterable(batches), strict=True):
                for mode, answer in zip(modes, answers, strict=True):
                    rows[mode.name][place] = answer
                progress("images", len(rows[modes[0].name]), len(images))
    return {name: [of_mode[place] for place in range(len(images))] for name, of_mode in rows.items()}


def _engine(model: Model, mode: Mode, network: Backbone, settings: EvaluationSettings) -> Engine:
    cluster = settings.cluster if settings.cluster in mode.clusterings else None
    return Engine(model, mode=mode.name, cluster=cluster, network=network)


def _figures(
    images: Sequence[LabelledImage], rows: Sequence[Result], seed: int, classes: Collection[str]
) -> dict[str, Any]:
    """Return all figures of one mode; ``classes`` are those that the network knows."""
    if not any(row.ok for row in rows):
        raise DataError(f"None of the {len(rows)} images can be read; the first: {rows[0].error}")
    found = [row.count for row in rows if row.count is not None]
    accuracy = count_accuracy(_true_counts(images, rows), found, seed=seed)
    return {
        **accuracy.to_dict(),
        **pointing_accuracy(images, rows, seed=seed).to_dict(),
        **class_accuracy(images, rows, classes, seed=seed),
        "failed": sum(not row.ok for row in rows),
    }


def _true_counts(images: Sequence[LabelledImage], rows: Sequence[Result]) -> list[int]:
    """Return the true counts of the images that could be read."""
    return [image.count for image, row in zip(images, rows, strict=True) if image.count is not None and row.ok]
