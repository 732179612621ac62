"""Fit a model's count SVM and its signatures on labelled images, and store them beside its manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pc_engine.backbone import Backbone
from pc_engine.datasets import LabelledImage
from pc_engine.errors import DataError
from pc_engine.files.out_folder import folder_error
from pc_engine.fitted.counter import DEFAULT_LABELS, CountSVM, count_label
from pc_engine.fitted.fitted_images import FittedImages
from pc_engine.fitted.signatures import SignatureDictionary
from pc_engine.fitting.aim import Aim
from pc_engine.fitting.class_heat import ClassHeat, HeatSource
from pc_engine.fitting.counter import CountedImages, CounterFit, check_counts, fit_counter, fit_svms
from pc_engine.fitting.counter_report import CounterReport
from pc_engine.fitting.features import FeatureCollector, map_widths
from pc_engine.fitting.file_digests import FileDigests
from pc_engine.fitting.folds import as_groups
from pc_engine.fitting.learnable import learnable_labels
from pc_engine.fitting.signatures import SIGNATURE_TAPS, SignatureAccumulator
from pc_engine.hardware.device_work import working_on
from pc_engine.kernels.unit_products import row_norms
from pc_engine.manifest import Manifest
from pc_engine.model import PART_FILES, Model, write_model
from pc_engine.modes import Part
from pc_engine.modes.classify import predict_class
from pc_engine.pipeline import TapBatch, tap_batches
from pc_engine.progress import Advance


class Unreadable(NamedTuple):
    """An image that took no part, and why."""

    name: str
    reason: str


def counter_from_images(
    images: Sequence[LabelledImage],
    backbone: Backbone,
    *,
    workers: int,
    labels: Sequence[str] = DEFAULT_LABELS,
    aim: Aim = Aim.MEAN,
    folds: int = 5,
    seed: int = 0,
    heat: HeatSource | None = None,
    advance: Advance = lambda _: None,
    fitting: Callable[[int, int], None] | None = None,
) -> tuple[CountSVM, CounterReport, tuple[Unreadable, ...]]:
    """Fit a count SVM on images whose count is known (paper 3.1).

    A label of which fewer than two images can be read is not learnt: what is left of it is with the unreadable ones.

    Parameters
    ----------
    images
        Images with counts; those without are left out.
    backbone
        A compiled network that keeps the model's count features, and what ``heat`` reads.
    workers
        Decoding threads.
    labels, folds, seed
        See `pc_engine.fitting.counter.fit_svms`.
    aim
        Which accuracy to fit for; see `pc_engine.fitting.counter.CounterFit`.
    heat
        How the model sees classes, where mode combined is to weigh in what it clusters; None for the SVM alone.
    advance
        Called with the number of images done after every batch.
    fitting
        Called as ``fitting(done, total)`` while the SVM is fitted.

    Raises
    ------
    DataError
        If no image can be read, or as `pc_engine.fitting.counter.check_counts` does.
    """
    counted = [image for image in images if image.count is not None]
    check_counts([image.count for image in counted if image.count is not None], labels)
    seen = features_from_images(counted, backbone, workers=workers, heat=heat, advance=advance)
    labels, seen = _learnable(counted, seen, labels)
    fitted_on = CountedImages(
        seen.features,
        np.array([counted[i].count for i in seen.taken]),
        groups=as_groups([counted[i].group for i in seen.taken], seen.digests),
        map_widths=map_widths(backbone.request.manifest),
    )
    svms = fit_svms(fitted_on, labels=labels, folds=folds, seed=seed, progress=fitting)
    counter, report = fit_counter(svms, CounterFit(aim), heat=seen.heat, compare_aims=True)
    return replace(counter, images=FittedImages.of(seen.digests)), report, seen.unreadable


@dataclass(frozen=True, eq=False)
class CountFeatures:
    """What a network says about labelled images.

    Attributes
    ----------
    features
        Tap name to rows, (n, D) float32.
    heat
        What p2c sees of them, if that was asked for.
    taken
        The places of the n images among those that were asked about.
    unreadable
        The others.
    digests
        Of the files of the n images, see `pc_engine.fitting.file_digests`.
    """

    features: dict[str, np.ndarray]
    heat: ClassHeat | None
    taken: list[int]
    unreadable: tuple[Unreadable, ...]
    digests: list[int]

    def of(self, places: Sequence[int], left_out: tuple[Unreadable, ...]) -> CountFeatures:
        """Return those at these places among the n images, the others being ``left_out``."""
        return CountFeatures(
            {name: rows[places] for name, rows in self.features.items()},
            None if self.heat is None else self.heat.of(np.asarray(places)),
            [self.taken[k] for k in places],
            (*self.unreadable, *left_out),
            [self.digests[k] for k in places],
        )


def _learnable(
    counted: Sequence[LabelledImage], seen: CountFeatures, labels: Sequence[str]
) -> tuple[tuple[str, ...], CountFeatures]:
    """Return the labels that the images which can be read are enough for, and these images."""
    counts = {place: count for place in seen.taken if (count := counted[place].count) is not None}
    learnt, alone = learnable_labels(counts.values(), labels)
    if not alone:
        return learnt, seen
    label_of = {place: count_label(count, labels) for place, count in counts.items()}
    left_out = tuple(
        Unreadable(
            str(counted[place].path), f"of the images that can be read it is the only one with the count {label}"
        )
        for place, label in label_of.items()
        if label in alone
    )
    return learnt, seen.of([k for k, place in enumerate(seen.taken) if label_of[place] not in alone], left_out)


def features_from_images(
    images: Sequence[LabelledImage],
    backbone: Backbone,
    *,
    workers: int,
    heat: HeatSource | None = None,
    advance: Advance = lambda _: None,
) -> CountFeatures:
    """Gather the count features of all images that can be read, and what p2c sees of them.

    Parameters
    ----------
    images, backbone, workers, heat, advance
        See `counter_from_images`.

    Raises
    ------
    DataError
        If no image can be read.
    """
    collector = FeatureCollector(backbone.request.manifest.count_features, capacity=len(images))
    maps: list[np.ndarray] = []
    taken: list[int] = []
    unreadable: list[Unreadable] = []
    position = 0
    digests = FileDigests()
    for batch in tap_batches([digests.image(image.path) for image in images], backbone, workers):
        taken += [position + i for i in _usable(batch, unreadable)]
        if batch.taps is not None:
            with working_on(backbone.request.device):
                taps = batch.finite_taps()
                collector.add(taps)
                if heat is not None:
                    maps.append(heat.maps(taps))
        position += len(batch.entries)
        advance(len(batch.entries))
    if not taken:
        raise DataError(f"None of the {len(images)} images can be read; the first: {unreadable[0].reason}")
    seen = None if heat is None else heat.gathered(np.concatenate(maps))
    return _without_too_large(
        CountFeatures(collector.features(), seen, taken, tuple(unreadable), digests.of(images[i].path for i in taken)),
        images,
    )


def _without_too_large(seen: CountFeatures, images: Sequence[LabelledImage]) -> CountFeatures:
    """Leave out images whose features no counter can score: in a run they get an error row, too."""
    with np.errstate(over="ignore"):
        fits = np.logical_and.reduce([np.isfinite(row_norms(rows)) for rows in seen.features.values()])
    if fits.all() or not fits.any():  # of which a fit says what to do
        return seen
    left_out = tuple(
        Unreadable(str(images[seen.taken[k]].path), "The network's features of it are too large.")
        for k in np.flatnonzero(~fits)
    )
    return seen.of(np.flatnonzero(fits).tolist(), left_out)


def signatures_from_images(
    images: Sequence[LabelledImage],
    class_ids: np.ndarray | None,
    backbone: Backbone,
    *,
    workers: int,
    rank: str = "max",
    depth: int | None = None,
    advance: Advance = lambda _: None,
) -> tuple[SignatureDictionary, tuple[Unreadable, ...]]:
    """Build a signature dictionary from images whose class is known, or decided by the network (paper 3.2, 4).

    Parameters
    ----------
    images, class_ids
        Images, and the logit index (n,) of each one's class; a negative one leaves the image out. None takes the class
        that the network predicts, as `pc_engine.modes.p2c.p2c` will.
    backbone
        A compiled network that keeps `signature_taps` of its manifest, and ``logits`` if it is to predict classes.
    workers
        Decoding threads.
    rank, depth
        See `pc_engine.fitting.signatures.SignatureAccumulator`; such as `pc_engine.fitting.signatures.check_depth`
        lets pass.
    advance
        Called with the number of images done after every batch.

    Raises
    ------
    DataError
        If no image is taken, or none can be read.
    """
    manifest = backbone.request.manifest
    taken = range(len(images)) if class_ids is None else np.flatnonzero(class_ids >= 0).tolist()
    accumulator = SignatureAccumulator(manifest.n_classes, rank, signature_taps(manifest))
    unreadable: list[Unreadable] = []
    seen: list[Path] = []
    position = 0
    digests = FileDigests()
    for batch in tap_batches([digests.image(images[i].path) for i in taken], backbone, workers):
        usable = [position + i for i in _usable(batch, unreadable)]
        seen += [images[taken[i]].path for i in usable]
        if batch.taps is not None and usable:
            with working_on(backbone.request.device):
                taps = batch.finite_taps()
                ids = predict_class(taps["logits"])[0] if class_ids is None else class_ids[[taken[i] for i in usable]]
                accumulator.add(taps, ids)
        position += len(batch.entries)
        advance(len(batch.entries))
    signatures = accumulator.finish(depth)
    return replace(signatures, images=FittedImages.of(digests.of(seen))), tuple(unreadable)


def signature_taps(manifest: Manifest) -> tuple[str, ...]:
    """Return the taps that signatures rank: ``conv_last``, and ``conv_prev`` where the network names one."""
    return tuple(name for name in SIGNATURE_TAPS if name in manifest.taps)


def store_parts(
    model: Model,
    directory: Path,
    *,
    counter: CountSVM | None = None,
    signatures: SignatureDictionary | None = None,
) -> None:
    """Write fitted parts into ``directory``: the model's own, or a new one that becomes a copy of the model.

    Raises
    ------
    UsageError
        If the directory cannot be written.
    """
    parts: dict[Part, CountSVM | SignatureDictionary | None] = {"counter": counter, "signatures": signatures}
    changes = {PART_FILES[part]: fitted.save for part, fitted in parts.items() if fitted is not None}
    try:
        write_model(model, directory, model.manifest, changes)
    except OSError as error:
        raise folder_error(directory, error, "choose another with --out") from None


def _usable(batch: TapBatch, unreadable: list[Unreadable]) -> list[int]:
    """Return the positions of the batch's images that have taps, and note the others."""
    usable = [row for row, finite in zip(batch.rows, batch.finite, strict=True) if finite]
    kept = set(usable)
    for i, entry in enumerate(batch.entries):
        if i not in kept:
            reason = entry.error or "The network returned values that are not finite."
            unreadable.append(Unreadable(entry.name, reason))
    return usable
