"""``pc-engine fit-counter`` and ``pc-engine fit-signatures``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from pc_engine.catalogue import find_model
from pc_engine.cli import options
from pc_engine.cli.console import (
    print_json,
    print_line,
    print_skipped,
    print_table,
    progress,
    remark,
    skipped_said_first,
)
from pc_engine.cli.data_notes import counts_of_a_run
from pc_engine.cli.target import target_of
from pc_engine.datasets import LabelledImage, read_labelled, resolve_class_ids
from pc_engine.files.storage import model_argument
from pc_engine.fitted.counter import CountSVM, count_label, labels_up_to
from pc_engine.fitting.learnable import learnable_labels
from pc_engine.fitting.signatures import check_depth, check_ranking
from pc_engine.hardware.machine import usable_cores
from pc_engine.manifest import Manifest
from pc_engine.modes import MODES
from pc_engine.modes.p2c_manifest import p2c_taps
from pc_engine.networks import open_network
from pc_engine.say import Say
from pc_engine.selection.execution import Execution

if TYPE_CHECKING:
    from pc_engine.fitting.counter_report import CounterReport

ModelToFit = Annotated[str, typer.Option("--model", help="A model's name or directory.")]
OutCopy = Annotated[
    Path | None,
    options.out("Write a copy of the model with what was fitted; if omitted, change the model itself."),
]


def fit_counter(
    data: Annotated[str, options.labelled_data("train")],
    model: ModelToFit,
    out: OutCopy = None,
    aim: options.Aim = "mean",
    max_count: Annotated[
        int, typer.Option("--max-count", help="The last label is this number with a plus, as in 4+.")
    ] = 4,
    folds: Annotated[int, options.folds("Folds of the cross-validation that chooses C.")] = 5,
    seed: Annotated[int, options.seed("Seed of the folds and of the solver.")] = 0,
    backend: options.Backend = "auto",
    precision: options.Precision = "auto",
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Fit the count SVM of a model, which modes c2p and combined need, on images whose count is known."""
    # scikit-learn takes a second to import, which every other command would wait for.
    from pc_engine.fitting.aim import Aim
    from pc_engine.fitting.class_heat import heat_source
    from pc_engine.fitting.from_images import counter_from_images, store_parts

    aimed, every_label = Aim.named(aim), labels_up_to(max_count)
    # Ahead of the model, which may have to be fetched first.
    labelled = read_labelled(data)
    images = [image for image in labelled.images if image.count is not None]
    if labelled.by_run:
        remark(quiet)(counts_of_a_run(labelled.by_run, len(images)))
    with skipped_said_first(labelled.skipped, quiet):
        labels, images, left_out = _learnable(images, every_label, remark(quiet))
    loaded, target = target_of(find_model(model, remark(quiet)), out)
    # Where the model points by itself, mode combined learns how far to believe what it finds.
    sees_classes = not loaded.missing_parts(MODES["p2c"])
    backbone = open_network(
        loaded,
        tuple(dict.fromkeys((*loaded.manifest.count_features, *(p2c_taps(loaded.manifest) if sees_classes else ())))),
        Execution(backend, precision, device, batch_size),
        report=remark(quiet),
    )
    silent = quiet or as_json
    with (
        skipped_said_first(labelled.skipped, quiet),
        closing(backbone),
        progress("features", quiet=silent, total=len(images)) as tracker,
    ):
        counter, report, unreadable = counter_from_images(
            images,
            backbone,
            workers=workers or usable_cores(),
            labels=labels,
            aim=aimed,
            folds=folds,
            seed=seed,
            heat=heat_source(loaded.manifest, loaded.parts.signatures) if sees_classes else None,
            advance=tracker.advance,
            fitting=lambda done, total: tracker.restart("SVM", done, total, "fits"),
        )
    store_parts(loaded, target, counter=counter)
    if lost := [label for label in labels if label not in report.labels]:
        remark(quiet)(
            f"Fewer than 2 images of the count {' or '.join(lost)} can be read, so the counter will never answer that."
        )
    if report.only_answer is not None:
        remark(quiet)(
            f"The counter is no better than always answering {report.only_answer}, by cross-validation: fit it on more "
            "images. It is kept all the same; --mode p2c counts without it."
        )
    skipped = [*labelled.skipped, *left_out, *unreadable]
    if as_json:
        print_json({**report.to_dict(), "model": str(target), "skipped": len(skipped)})
    elif not quiet:
        _print_report(report, folds)
        print_skipped(skipped)
        print_line(f"The count SVM is in {target}{_in_the_place_of(loaded.parts.counter)}.")


def fit_signatures(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A folder with one subfolder per class, a table with the columns path and class, or data that names "
            "the classes of its objects: a folder with labels.json, coco:FILE, yolo:FILE, voc:DIR, label-studio:FILE, "
            "cvat:FILE.",
        ),
    ],
    model: ModelToFit,
    out: OutCopy = None,
    rank: Annotated[
        str,
        typer.Option(
            "--rank",
            help="max (the paper's), or contrast, for networks that saturate, such as ReLU6.",
            callback=options.any_case,
        ),
    ] = "max",
    depth: Annotated[int | None, typer.Option("--depth", help="Maps kept per class; if omitted, all.")] = None,
    backend: options.Backend = "auto",
    precision: options.Precision = "auto",
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Build the signature dictionary of a model, by which modes p2c and combined choose a class's feature maps.

    It is needed by p2c --classes, and by networks that give no evidence of their own; otherwise it is optional.

    If the data names no classes, as in SOS, each image counts for the class that the network predicts.
    """
    from pc_engine.fitting.from_images import signature_taps, signatures_from_images, store_parts

    check_ranking(rank)
    labelled = read_labelled(data)
    loaded, target = target_of(find_model(model, remark(quiet)), out)
    check_depth(depth, loaded.manifest)
    class_ids = _class_ids(labelled.images, loaded.manifest, remark(quiet))
    backbone = open_network(
        loaded,
        (*signature_taps(loaded.manifest), *(() if class_ids is not None else ("logits",))),
        Execution(backend, precision, device, batch_size),
        report=remark(quiet),
    )
    known = len(labelled.images) if class_ids is None else int((class_ids >= 0).sum())
    with (
        skipped_said_first(labelled.skipped, quiet),
        closing(backbone),
        progress("signatures", quiet=quiet or as_json, total=known) as seen,
    ):
        signatures, unreadable = signatures_from_images(
            labelled.images,
            class_ids,
            backbone,
            workers=workers or usable_cores(),
            rank=rank,
            depth=depth,
            advance=seen.advance,
        )
    store_parts(loaded, target, signatures=signatures)
    if loaded.parts.counter is not None:
        remark(quiet or as_json)(
            "Mode combined does not yet know how far to trust the new signatures: fit the counter again with "
            f"'pc-engine fit-counter DATA --model {model_argument(target)}'."
        )
    skipped = [*labelled.skipped, *unreadable]
    n_known = int(signatures.known.sum())
    if as_json:
        print_json(
            {
                "n": known - len(unreadable),
                "classes": n_known,
                "of_classes": signatures.n_classes,
                "rank": rank,
                "model": str(target),
                "skipped": len(skipped),
            }
        )
    elif not quiet:
        print_skipped(skipped)
        print_line(
            f"Signatures of {n_known} of {signatures.n_classes} classes from {known - len(unreadable)} images are in "
            f"{target}. Classes without images use the ranking over all of them."
        )


def _learnable(
    images: Sequence[LabelledImage], labels: tuple[str, ...], report: Say
) -> tuple[tuple[str, ...], list[LabelledImage], list[tuple[str, str]]]:
    """Return those of the ``labels`` that an SVM can learn, their images, and the others with the reason."""
    from pc_engine.fitting.counter import check_counts

    counts = [image.count for image in images if image.count is not None]
    found, alone = learnable_labels(counts, labels)
    label_of = [count_label(count, labels) for count in counts]
    kept = [label not in alone for label in label_of]
    check_counts(list(compress(counts, kept)), found)
    if missing := [label for label in labels if label not in (*found, *alone)]:
        report(f"No image shows {' or '.join(missing)} objects, so the counter will never answer that.")
    if alone:
        which = f"image has the count {alone[0]}: it takes"
        if len(alone) > 1:
            which = f"image each has the counts {' and '.join(alone)}: they take"
        report(f"Only 1 {which} no part, and the counter will never answer that.")
    left_out = [
        (str(image.path), f"no other image has the count {label}")
        for image, label in zip(images, label_of, strict=True)
        if label in alone
    ]
    return found, list(compress(images, kept)), left_out


def _class_ids(images: Sequence[LabelledImage], manifest: Manifest, report: Say) -> np.ndarray | None:
    """Return the logit of each image's class, or None where the data names no classes at all."""
    if all(image.class_name is None and image.class_id is None and image.wnid is None for image in images):
        report("The data names no classes: each image counts for the class that the network predicts.")
        return None
    resolved = resolve_class_ids(images, manifest)
    if resolved.report:
        report(resolved.report)
    return resolved.class_ids


def _in_the_place_of(before: CountSVM | None) -> str:
    """Say that a counter is gone, which a new one does not learn from."""
    if before is None:
        return ""
    return ", replacing one" + ("" if before.images is None else f" that was fitted on {before.images.n:,} images")


def _print_report(report: CounterReport, folds: int) -> None:
    precision = report.precision
    rows = [
        (
            label,
            str(report.images[label]),
            f"{report.recall[label]:.1%}",
            "-" if (value := precision[label]) is None else f"{value:.1%}",
        )
        for label in report.labels
    ]
    rows.append(("mean", str(report.n), f"{report.mean_accuracy:.1%}", ""))
    rows.append(("overall", str(report.n), f"{report.overall_accuracy:.1%}", ""))
    print_table(
        f"Fitted for the {report.aim} accuracy, cross-validated over {report.folds} folds, C = {report.c:g}",
        (">count", ">images", ">accuracy", ">precision"),
        rows,
    )
    if report.folds < folds:
        rarest = min(report.images, key=lambda label: report.images[label])
        few = f"only {report.images[rarest]} images show {rarest}"
        if report.images[rarest] >= folds:
            few = "the images fall into few groups, such as parts of the same photos"
        print_line(
            f"{report.folds} folds were used, not {folds}, as {few}: with more images, the figures and the choice of C "
            "are better."
        )
    if report.parted:
        several = len(report.parted) > 1
        print_line(
            f"The images of the label{'s' if several else ''} {', '.join(report.parted)} belong together, as copies of "
            f"one photo do: {'their' if several else 'its'} accuracy, and with it the mean, is too good."
        )
    if report.other_aim == (report.mean_accuracy, report.overall_accuracy):
        print_line(f"With --aim {report.aim.other} it would be the same.")
    elif report.other_aim is not None:
        mean, overall = report.other_aim
        print_line(f"With --aim {report.aim.other} it would be {mean:.1%} (mean) and {overall:.1%} (overall).")
    if report.combined is not None:
        print_line(
            f"Mode combined, which also weighs the clusters it finds: {report.combined.mean_accuracy:.1%} (mean), "
            f"{report.combined.overall_accuracy:.1%} (overall)."
        )
    if report.beyond is not None:
        error, by_clusters = report.beyond
        print_line(
            f"Mode combined goes on counting within {report.labels[-1]}: off by {error:.1f} on average, where clusters "
            f"are off by {by_clusters:.1f}."
        )
