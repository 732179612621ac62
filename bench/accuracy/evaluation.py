"""Evaluate modes on labelled images: count and pointing accuracy, beside baselines and the paper's figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from pc_engine.bench.accuracy.classification import class_accuracy, true_classes
from pc_engine.bench.accuracy.contenders import Contender, Share, judge
from pc_engine.bench.accuracy.counting import PUBLISHED, CountAccuracy, accuracy_gain, chance_accuracy, count_accuracy
from pc_engine.bench.accuracy.cross_validation import FoldFit
from pc_engine.bench.accuracy.failure_analysis import failure_analysis
from pc_engine.bench.accuracy.pointing import (
    PUBLISHED_POINTING,
    TABLE_RATIOS,
    PointingAccuracy,
    pointing_accuracy,
    pointing_gain,
)
from pc_engine.bench.accuracy.saliency import NAME as SALIENCY
from pc_engine.bench.accuracy.saliency import count_salient
from pc_engine.bench.accuracy.settings import EvaluationSettings
from pc_engine.bench.accuracy.shared_failures import shared_failures
from pc_engine.bench.accuracy.truth import Truth, counted_images, judged_labels
from pc_engine.bench.environment import describe_environment
from pc_engine.catalogue import default_model, find_model
from pc_engine.datasets import LabelledImage, LabelledSet
from pc_engine.errors import DataError, UsageError
from pc_engine.fitted.counter import DEFAULT_LABELS
from pc_engine.fitting.counter import CounterFit
from pc_engine.hardware.machine import usable_cores
from pc_engine.model import Model
from pc_engine.modes import MODES, Mode, Part, check_clustering, check_pointer, find_mode
from pc_engine.progress import Progress, advancing
from pc_engine.result import Result
from pc_engine.say import Say

#: Stands for every mode that the model can run.
ALL_MODES = "all"


def evaluate(
    data: str,
    labelled: LabelledSet,
    settings: EvaluationSettings,
    *,
    report: Say = lambda _: None,
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
        ``"class_accuracy"``, the number of images ``"failed"`` and the ``"failure_analysis"`` (see `failure_analysis`);
        under ``"known_count"``, what `PointingAccuracy.to_dict` gives of a mode that was told how many objects each
        image shows, so that all modes are asked about all images (None where it cannot be told);
        ``"gains"`` says by how much the last mode counts and points better than each other one (see `accuracy_gain` and
        `pointing_gain`), and with known counts; ``"shared_failures"`` how many images all modes count wrong (see
        `pc_engine.bench.accuracy.shared_failures.shared_failures`);
        ``"baselines"`` the same of the baselines. ``"labels"`` are the count labels that all is judged by, and
        ``"published"`` the paper's rows, none where those are not the paper's. With one mode its figures stand at the
        top, too. ``"by_run"`` is how many of the counts a run gave and nobody reviewed, and ``"settings"`` are those of
        the model's manifest. What `pc_engine.bench.accuracy.contenders.judge` reports is there as well.

    Raises
    ------
    PcEngineError
        If nothing can be evaluated. An image that cannot be read is counted, and listed under ``"failures"``, an item
        of the labels that is wrong, or whose image is missing, under ``"skipped_items"``: each with the reason.

    Notes
    -----
    The network runs once for all modes, which read what they need from its taps, and once more to gather the counter's
    features for folds.
    """
    images = counted_images(data, labelled)
    model, modes = model_and_modes(settings, report)
    contenders = {
        mode.name: Contender(
            mode,
            settings.cluster if settings.cluster in mode.clusterings else None,
            {f"{mode.settings[0]}.pointer": settings.pointer} if settings.pointer in mode.pointers else {},
            FoldFit(beside=CounterFit(settings.aim)),
        )
        for mode in modes
    }
    truth = Truth(images, judged_labels(settings, model), settings.seed)
    judged = judge(truth, model, contenders, settings, report, progress)
    rows = judged.rows
    salient = count_salient(
        [image.path for image in images],
        settings.workers or usable_cores(),
        advancing(progress, SALIENCY, len(images)),
    )
    class_ids, frequencies = true_classes(images, model.manifest), _frequencies(images, judged.shares)
    pointing, told = (
        {mode: pointing_accuracy(truth, of_mode) for mode, of_mode in found.items()} for found in (rows, judged.told)
    )
    measured = {
        mode.name: {
            **figures(truth, rows[mode.name], class_ids, frequencies, pointing[mode.name]),
            "known_count": told[mode.name].to_dict() if mode.name in told else None,
        }
        for mode in modes
    }
    failures = {row.path: row.error for of_mode in rows.values() for row in of_mode if not row.ok}
    only = {"mode": modes[0].name, **measured[modes[0].name]} if len(modes) == 1 else {}
    return {
        "data": data,
        "model": model.name,
        "network_sha256": model.manifest.network_sha256,
        **judged.how,
        "by_run": labelled.by_run,
        "cluster": settings.cluster,
        "pointer": settings.pointer,
        "settings": dict(model.manifest.settings),
        "images": len(images),
        "labels": list(truth.labels),
        **only,
        "modes": measured,
        "gains": _gains(truth, rows, pointing, told),
        "shared_failures": shared_failures(truth, rows),
        "baselines": {
            "chance": chance_accuracy(truth.counts(salient), truth.labels, truth.seed),
            SALIENCY: figures(truth, salient, class_ids, frequencies),
        },
        "published": _published(truth.labels),
        "failed": len(failures),
        "failures": [list(item) for item in failures.items()],
        "skipped": len(labelled.skipped),
        "skipped_items": [list(item) for item in labelled.skipped],
        "machine": describe_environment("scikit-learn", "scipy"),
    }


def _gains(
    truth: Truth,
    rows: Mapping[str, Sequence[Result]],
    pointing: Mapping[str, PointingAccuracy],
    told: Mapping[str, PointingAccuracy],
) -> dict[str, Any]:
    """Return the gain of the last mode over each other one."""
    *others, last = rows
    return {
        f"{last} over {other}": {
            **accuracy_gain_of(truth, rows[last], rows[other]),
            "pointing": pointing_gain(pointing[last], pointing[other]),
            "known_count": pointing_gain(told[last], told[other]) if {last, other} <= {*told} else None,
        }
        for other in others
    }


def accuracy_gain_of(truth: Truth, rows: Sequence[Result], others: Sequence[Result]) -> dict[str, Any]:
    """Return by how much ``rows`` count better than ``others``, on the images that both could read."""
    counts = [
        (image.count, row.count, other.count)
        for image, row, other in zip(truth.images, rows, others, strict=True)
        if image.count is not None and row.count is not None and other.count is not None
    ]
    true, ours, theirs = zip(*counts, strict=True) if counts else ([], [], [])
    return accuracy_gain(true, ours, theirs, truth.labels, truth.seed)


def _published(labels: Sequence[str]) -> dict[str, Any]:
    if tuple(labels) != DEFAULT_LABELS:
        return {"count_accuracy": {}, "pointing": {}}
    return {
        "count_accuracy": {name: list(row) for name, row in PUBLISHED.items()},
        "pointing": {
            name: {f"{ratio:g}": list(table[ratio]) for ratio in TABLE_RATIOS}
            for name, table in PUBLISHED_POINTING.items()
        },
    }


def model_and_modes(settings: EvaluationSettings, report: Say) -> tuple[Model, list[Mode]]:
    """Return the model, and the modes that are asked for and that it can run."""
    every = ALL_MODES in settings.modes
    named = [find_mode(name, ALL_MODES) for name in dict.fromkeys(settings.modes) if name != ALL_MODES]
    modes = list(MODES.values()) if every else named
    # Of several modes, those that do not take what is chosen have nothing to do with it; one has to.
    if settings.cluster is not None:
        check_clustering(_first(modes, lambda mode: settings.cluster in mode.clusterings), settings.cluster)
    if settings.pointer is not None:
        check_pointer(_first(modes, lambda mode: settings.pointer in mode.pointers), settings.pointer)
    if settings.folds is not None and not any("counter" in mode.needs for mode in modes):
        raise UsageError("Folds are for fitting a counter, which mode p2c does not have: omit --folds.")
    # A model that has what the most demanding mode takes can run the others.
    wanted = max(modes, key=lambda mode: len(mode.needs))
    name = settings.model
    model = default_model(wanted, report) if name is None else find_model(name, report)
    to_come: tuple[Part, ...] = () if settings.folds is None else ("counter",)
    able = [mode for mode in modes if set(model.missing_parts(mode)) <= set(to_come)]
    for mode in modes:
        if mode not in able:
            if not every or not able:
                model.require(mode, to_come)
            report(f"Mode {mode.name} is left out: the model has no {' and no '.join(model.missing_parts(mode))}.")
    for value, takes in ((settings.cluster, attrgetter("clusterings")), (settings.pointer, attrgetter("pointers"))):
        takers = [mode.name for mode in able if value in takes(mode)]
        if value is not None and not takers:
            raise UsageError(f"'{value}' is for none of the modes that the model can run: omit it.")
        if value is not None and len(takers) < len(able):
            report(f"'{value}' is for mode {' and '.join(takers)} alone; the others stay as they are.")
    return model, able


def _first(modes: Sequence[Mode], able: Callable[[Mode], bool]) -> Mode:
    """Return the first that is able, or else the one that its refusal says most about."""
    return next(filter(able, modes), modes[-1])


def _frequencies(images: Sequence[LabelledImage], shares: Sequence[Share]) -> list[float | None]:
    """Return of each image the share of its class among those that its counter was fitted on, where that is known."""
    frequencies: list[float | None] = [None] * len(images)
    for share in shares:
        for place in share.places:
            if share.class_shares is not None and images[place].class_name is not None:
                frequencies[place] = share.class_shares.get(images[place].class_name, 0.0)
    return frequencies


def figures(
    truth: Truth,
    rows: Sequence[Result],
    class_ids: Sequence[int],
    frequencies: Sequence[float | None],
    pointing: PointingAccuracy | None = None,
) -> dict[str, Any]:
    """Return all figures of one contender; ``class_ids`` are the images', ``frequencies`` the counter's.

    ``pointing`` is what `pointing_accuracy` says of these rows, where that is known.
    """
    accuracy = count_accuracy_of(truth, rows)
    pointing = pointing or pointing_accuracy(truth, rows)
    return {
        **accuracy.to_dict(),
        **pointing.to_dict(),
        "failure_analysis": failure_analysis(truth, rows, pointing, frequencies),
        **class_accuracy(truth, rows, class_ids),
        "failed": sum(not row.ok for row in rows),
    }


def count_accuracy_of(truth: Truth, rows: Sequence[Result]) -> CountAccuracy:
    """Return how well ``rows`` count; raise DataError where none of the images could be read."""
    if not any(row.ok for row in rows):
        raise DataError(f"None of the {len(rows)} images can be read; the first: {rows[0].error}")
    found = [row.count for row in rows if row.count is not None]
    return count_accuracy(truth.counts(rows), found, truth.labels, truth.seed)
