"""``pc-engine evaluate``: count accuracy on labelled images."""

from __future__ import annotations

from typing import Annotated

import typer

from pc_engine.cli import options
from pc_engine.cli.console import print_json, print_line, print_table, progress, remark
from pc_engine.datasets import read_labelled
from pc_engine.engine import Engine
from pc_engine.errors import DataError


def evaluate(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A folder with labels.json, sos:DIR, mso:DIR, coco:FILE or lego:DIR.")
    ],
    mode: options.Mode = "c2p",
    model: options.Model = None,
    backend: options.Backend = "auto",
    precision: options.Precision = "auto",
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    cluster: options.Cluster = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Run a mode on images whose count is known, and compare: Table 1 of the paper."""
    from pc_engine.bench.accuracy import PUBLISHED, count_accuracy

    labelled = read_labelled(data)
    images = [image for image in labelled.images if image.count is not None]
    if not images:
        raise DataError(f"None of the images of {data} has a count.")
    silent = quiet or as_json
    true: list[int] = []
    predicted: list[int] = []
    classified = right_class = failed = 0
    with (
        Engine(
            model,
            mode=mode,
            backend=backend,
            precision=precision,
            device=device,
            batch_size=batch_size,
            workers=workers,
            cluster=cluster,
            report=remark(quiet),
        ) as engine,
        progress(mode, quiet=silent, total=len(images)) as tracker,
    ):
        for image, result in zip(images, engine.run_paths(image.path for image in images), strict=True):
            tracker.advance()
            if result.count is None or image.count is None:
                failed += 1
                continue
            true.append(image.count)
            predicted.append(result.count)
            if result.class_name is not None and image.class_name in engine.model.manifest.classes and image.count:
                classified += 1
                right_class += result.class_name == image.class_name
        accuracy = count_accuracy(true, predicted)
        identity = {"model": engine.model.name, "backend": engine.backend, "precision": engine.precision}
    class_accuracy = right_class / classified if classified else None
    if as_json:
        print_json(
            {"data": data, "mode": mode, **identity, **accuracy.to_dict(), "class_accuracy": class_accuracy}
            | {"failed": failed, "skipped": len(labelled.skipped)}
        )
        return
    if quiet:
        return
    names = (*accuracy.labels, "mean")
    rows = [(name, *("-" if value is None else str(value) for value in values)) for name, values in PUBLISHED.items()]
    ours = accuracy.accuracy
    rows.append((f"{mode}, here", *(f"{ours[name]:.0%}".rstrip("%") if name in ours else "-" for name in names)))
    print_table(
        f"Count accuracy in per cent ({identity['model']} on {data}; the published rows are on SOS)",
        ("method", *(f">{name}" for name in names)),
        rows,
    )
    low, high = accuracy.intervals["mean"]
    print_line(
        f"{accuracy.n} images; mean over labels {ours['mean']:.1%} (95 % interval {low:.1%} to {high:.1%}), overall "
        f"{ours['overall']:.1%}, mean absolute error {accuracy.mean_absolute_error:.2f}."
    )
    if class_accuracy is not None:
        print_line(f"Class right in {class_accuracy:.1%} of {classified} images.")
    if failed or labelled.skipped:
        print_line(f"{failed} images could not be read, {len(labelled.skipped)} entries were skipped.")
