"""Several modes, and several settings of one, judged on the same labelled images in one pass of the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from pc_engine.backbone import Backbone
from pc_engine.bench.accuracy.cross_validation import DEFAULT_FOLD_FIT, FoldFit, HeldOut, held_out_counters
from pc_engine.bench.accuracy.mixture_count import MixtureCount
from pc_engine.bench.accuracy.settings import EvaluationSettings
from pc_engine.bench.accuracy.truth import Truth
from pc_engine.datasets import LabelledImage
from pc_engine.engine import Engine
from pc_engine.errors import UsageError
from pc_engine.fitted.fitted_images import FittedImages
from pc_engine.fitting.class_heat import heat_source
from pc_engine.fitting.counter import CountedImages
from pc_engine.fitting.features import map_widths
from pc_engine.fitting.file_digests import FileDigests
from pc_engine.fitting.folds import as_groups
from pc_engine.fitting.from_images import features_from_images
from pc_engine.hardware.machine import usable_cores
from pc_engine.kernels.array_module import get_array_module
from pc_engine.model import Model
from pc_engine.modes import FittedParts, Mode
from pc_engine.networks import open_network
from pc_engine.pipeline import TapBatch, map_batches
from pc_engine.progress import Progress, advancing
from pc_engine.result import Result
from pc_engine.say import Say
from pc_engine.sources import SourceImage
from pc_engine.sources.image import local_image


@dataclass(frozen=True)
class Contender:
    """A mode, and what is to differ from the model's own settings.

    Attributes
    ----------
    mode
        The mode.
    cluster
        Its clustering; None for its own.
    changes
        Settings by their names in a manifest, such as ``"p2c.trim"``.
    counter
        What its counter is fitted with, where that is fitted in folds.
    recount
        What counts images under the open-ended label anew; None leaves them as the mode counts them.
    """

    mode: Mode
    cluster: str | None = None
    changes: Mapping[str, float | str] = field(default_factory=dict)
    counter: FoldFit = DEFAULT_FOLD_FIT
    recount: MixtureCount | None = None

    def of(self, model: Model) -> Model:
        """Return the model with these settings."""
        settings = {**model.manifest.settings, **self.changes}
        return replace(model, manifest=replace(model.manifest, settings=settings))


@dataclass(frozen=True)
class Share:
    """Some images, by their places, and the model that is to be judged by them, for each way to fit its counter.

    ``class_shares`` are those of the classes among the images that its counter was fitted on, where they are known.
    """

    places: Sequence[int]
    models: Mapping[FoldFit, Model]
    class_shares: Mapping[str | None, float] | None = None


@dataclass(frozen=True, eq=False)
class Judged:
    """What contenders said of n images.

    Attributes
    ----------
    rows
        By contender its row of every image.
    told
        The same of contenders that were told how many objects each image shows, and only pointed; without those that
        cannot be told. At what has no boxes to compare with they pointed nowhere: of a crowd that would take long.
    shares
        By what they were judged.
    how
        What to report of how the rows were made, JSON-ready: ``"fitted_on_these"`` is how many of the images the
        model's counter was fitted on, None where no counter is judged, it does not say, or it is fitted in folds;
        ``"signatures_fitted_on_these"`` is the same of its signatures, which folds leave as they are.
    """

    rows: Mapping[str, list[Result]]
    told: Mapping[str, list[Result]]
    shares: Sequence[Share]
    how: Mapping[str, Any]


def judge(
    truth: Truth,
    model: Model,
    contenders: Mapping[str, Contender],
    settings: EvaluationSettings,
    report: Say,
    progress: Progress,
) -> Judged:
    """Let each contender count and point on every image, which all have a count, and point once more, told that.

    The network runs once for all, and once more to gather the counter's features where ``settings`` ask for folds;
    their counters are fitted with the labels of ``truth``.

    Raises
    ------
    PcEngineError
        If nothing can be judged, or classes are to be kept from the counters and no image has one.
    """
    images = truth.images
    if settings.unseen_classes and all(image.class_name is None for image in images):
        raise UsageError("The labels name no classes, so that none can be kept from a counter: omit --unseen-classes.")
    modes = {contender.mode.name for contender in contenders.values()}
    taps = (contender.mode.taps(contender.of(model).manifest) for contender in contenders.values())
    network = open_network(
        model,
        tuple(dict.fromkeys(chain.from_iterable(taps))),
        settings.execution,
        mode=modes.pop() if len(modes) == 1 else None,
        report=report,
    )
    try:
        shares, folds = [Share(range(len(images)), {each.counter: model for each in contenders.values()})], None
        if settings.folds is not None:
            shares, folds = _folds(truth, model, contenders, network, settings, progress)
        counter, signatures = _fitted_on(model, contenders)
        if settings.folds is not None:
            counter = None
        digests = FileDigests()
        read = digests.image if counter or signatures else local_image
        rows, told = _rows(images, shares, contenders, network, settings, progress, read)
        of_these = digests.of(image.path for image in images)
        how = {
            "backend": network.backend,
            "precision": network.request.precision,
            "folds": folds,
            "fitted_on_these": counter and counter.among(of_these),
            "signatures_fitted_on_these": signatures and signatures.among(of_these),
        }
        return Judged(rows, told, shares, how)
    finally:
        network.close()


def _fitted_on(model: Model, contenders: Mapping[str, Contender]) -> tuple[FittedImages | None, FittedImages | None]:
    """Return what the counter and the signatures that contenders read were fitted on, as far as is known."""
    read = {part for each in contenders.values() for part in each.mode.parts(each.of(model).manifest)}
    counter, signatures = model.parts.counter, model.parts.signatures
    return (
        counter.images if counter is not None and "counter" in read else None,
        signatures.images if signatures is not None and "signatures" in read else None,
    )


def _folds(
    truth: Truth,
    model: Model,
    contenders: Mapping[str, Contender],
    network: Backbone,
    settings: EvaluationSettings,
    progress: Progress,
) -> tuple[list[Share], dict[str, Any]]:
    """Return the models to judge each fold by, and what to report of the folds as the first contender has them."""
    assert settings.folds is not None
    images = truth.images
    fits = tuple(dict.fromkeys(each.counter for each in contenders.values()))
    sees_classes = any(each.mode.weighs_clusters for each in contenders.values())
    seen = features_from_images(
        images,
        network,
        workers=settings.workers or usable_cores(),
        heat=heat_source(model.manifest, model.parts.signatures) if sees_classes else None,
        advance=advancing(progress, "features", len(images)),
    )
    taken = seen.taken
    counts = np.array([images[place].count for place in taken])
    groups = as_groups(
        [images[place].class_name if settings.unseen_classes else images[place].group for place in taken],
        seen.digests,
    )
    held_out = held_out_counters(
        CountedImages(seen.features, counts, groups=groups, map_widths=map_widths(model.manifest)),
        settings.folds,
        truth.labels,
        truth.seed,
        heat=seen.heat,
        fits=fits,
        progress=lambda done, total: progress("counters", done, total),
    )
    first = held_out[fits[0]]
    return _shares_of(images, taken, held_out, model), {
        "k": settings.folds,
        "seed": settings.seed,
        "c": [fold.report.c for fold in first],
        "aim": fits[0].beside.aim,
        "coupled": [fold.report.coupled for fold in first],
        "clusters_weight": [fold.report.combined and fold.report.combined.weight for fold in first],
        "groups": None if groups is None else len({*groups}),
        "unseen_classes": settings.unseen_classes,
    }


def _shares_of(
    images: Sequence[LabelledImage],
    taken: Sequence[int],
    held_out: Mapping[FoldFit, Sequence[HeldOut]],
    model: Model,
) -> list[Share]:
    """Return the images of each fold with the models that did not see them, given which ones have features."""
    classes = Counter(images[place].class_name for place in taken)
    shares = []
    for of_fits in zip(*held_out.values(), strict=True):
        places = [taken[i] for i in of_fits[0].places]
        others = classes - Counter(images[place].class_name for place in places)
        class_shares = {name: n / others.total() for name, n in others.items()}
        models = {
            fit: replace(model, parts=FittedParts(fold.counter, model.parts.signatures))
            for fit, fold in zip(held_out, of_fits, strict=True)
        }
        shares.append(Share(places, models, class_shares))
    # An image without features gets its error row from any of them.
    shares[0] = replace(shares[0], places=[*shares[0].places, *sorted({*range(len(images))} - {*taken})])
    return shares


def _rows(
    images: Sequence[LabelledImage],
    shares: Sequence[Share],
    contenders: Mapping[str, Contender],
    network: Backbone,
    settings: EvaluationSettings,
    progress: Progress,
    read: Callable[[Path], SourceImage],
) -> tuple[dict[str, list[Result]], dict[str, list[Result]]]:
    """Return what `Judged` has as ``rows`` and ``told``, of files that are read as ``read`` says."""
    # What an image is told goes with it, not with its file, which labels may name twice.
    sources = [replace(read(image.path), count=image.count if image.boxes else 0) for image in images]
    rows: dict[str, dict[int, Result]] = {name: {} for name in contenders}
    told: dict[str, dict[int, Result]] = {}
    workers = settings.workers or usable_cores()
    advance = advancing(progress, "images", len(images))
    for share in shares:
        with ExitStack() as stack:
            engines = {
                name: stack.enter_context(
                    Engine(
                        each.of(share.models[each.counter]), mode=each.mode.name, cluster=each.cluster, network=network
                    )
                )
                for name, each in contenders.items()
            }
            able = {name: each for name, each in engines.items() if each.mode.takes_counts(each.settings)}
            recounts = [each.recount for each in contenders.values()]
            answer = partial(_answers, list(zip(engines.values(), recounts, strict=True)), list(able.values()))
            batches = map_batches((sources[i] for i in share.places), network, workers, answer)
            stack.enter_context(closing(batches))
            for place, answers in zip(share.places, chain.from_iterable(batches), strict=True):
                for name, row in zip(engines, answers, strict=False):
                    rows[name][place] = row
                for name, row in zip(able, answers[len(engines) :], strict=True):
                    told.setdefault(name, {})[place] = row
                advance(1)
    return _in_order(rows), _in_order(told)


def _answers(
    engines: Sequence[tuple[Engine, MixtureCount | None]], told: Sequence[Engine], batch: TapBatch
) -> list[tuple[Result, ...]]:
    """Return the rows of each entry of a batch, one an engine, then those of the engines that are told its count."""
    xp = get_array_module(batch.finite)
    known = xp.asarray([batch.entries[row].known_count for row in batch.rows], xp.int64)
    answers = []
    for engine, recount in engines:
        rows = engine.evaluate(batch)
        answers.append(rows if recount is None else recount(engine, batch, rows))
    answers += [engine.evaluate(batch, known) for engine in told]
    return list(zip(*answers, strict=True))


def _in_order(rows: Mapping[str, Mapping[int, Result]]) -> dict[str, list[Result]]:
    return {name: [of_one[place] for place in range(len(of_one))] for name, of_one in rows.items()}
