"""``pc-engine evaluate``: count and pointing accuracy on labelled images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from pc_engine.cli import options
from pc_engine.cli.box_notes import print_boxes, why_none_fit
from pc_engine.cli.console import (
    percent,
    percents,
    print_json,
    print_line,
    print_skipped,
    print_table,
    progress,
    remark,
)
from pc_engine.cli.failure_tables import print_failures
from pc_engine.cli.label_notes import notes_on_labels
from pc_engine.cli.target import check_report_folder
from pc_engine.datasets import read_labelled
from pc_engine.errors import MissingPackageError
from pc_engine.files.durable import write_json

_REPORT = "evaluation.json"
#: How the figures of labelled images begin.
REPORT_BEGINS = '{\n "data": "'


def evaluate(
    data: Annotated[str, options.labelled_data("test")],
    mode: Annotated[
        list[str] | None,
        typer.Option(
            "--mode", help="c2p (default), p2c or combined, repeatable; or all, for all that the model can run."
        ),
    ] = None,
    model: options.Model = None,
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds",
            help="Fit the counter in this many folds of DATA itself, each image judged by one that never saw it.",
        ),
    ] = None,
    unseen_classes: Annotated[
        bool,
        typer.Option("--unseen-classes", help="With --folds: judge each image by a counter that never saw its class."),
    ] = False,
    curves: Annotated[
        bool, typer.Option("--curves", help="Also print accuracy by scale, spacing and class of objects.")
    ] = False,
    aim: options.Aim = "mean",
    max_count: options.LastLabel = None,
    seed: Annotated[int, options.seed("Seed of the folds and of the bootstrap intervals.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help=f"Directory to write {_REPORT} and charts to: a new or empty one, or that of an earlier evaluation.",
        ),
    ] = None,
    backend: options.Backend = "auto",
    precision: options.Precision = "auto",
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    cluster: options.Cluster = None,
    pointer: options.Pointer = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Compare modes on images whose count is known: Tables 1 and 2, Figures 2 and 3 of the paper.

    Pointing is compared if the labels give boxes. Chance, and a counter of salient objects that has learnt nothing, are
    shown for comparison. Images that cannot be read are counted and listed. If the labels give boxes or classes, the
    curves of the paper's failure analysis follow: accuracy by the size of objects, their spacing, and how often the
    counter saw their class (--curves prints them, --out draws them).

    A labels.json holds {"images": [{"file": "1.jpg", "count": 1, "boxes": [{"c": "apple", "b": [x, y, width,
    height]}]}, ...]}, where "boxes" or "count" may be omitted; a table has the columns path and count.
    """
    from pc_engine.bench.accuracy.evaluation import evaluate as measure
    from pc_engine.bench.accuracy.settings import EvaluationSettings
    from pc_engine.fitting.aim import Aim

    settings = EvaluationSettings(
        model=model,
        modes=tuple(mode or ("c2p",)),
        backend=backend,
        precision=precision,
        device=device,
        batch_size=batch_size,
        workers=workers,
        cluster=cluster,
        pointer=pointer,
        folds=folds,
        unseen_classes=unseen_classes,
        aim=Aim.named(aim),
        seed=seed,
        max_count=max_count,
    )
    check_report_folder(out, _REPORT, REPORT_BEGINS, "evaluation")
    labelled = read_labelled(data)
    silent = quiet or as_json
    with progress("images", quiet=silent) as tracker:
        report = measure(
            data,
            labelled,
            settings,
            report=remark(quiet),
            progress=lambda stage, done, total: tracker.restart(stage, done, total, "done"),
        )
    # Printed, then stored: what took hours is not lost where either fails.
    with ExitStack() as at_last:
        if out is not None:
            at_last.callback(store_report, out, report, quiet)
        if as_json:
            print_json(report)
            for note in notes_on_labels(report):
                remark(quiet)(note)
        elif not quiet:
            print_report(report, labelled.skipped, curves=curves)


def print_report(report: Mapping[str, Any], skipped: Sequence[tuple[str, str]], *, curves: bool = False) -> None:
    """Print the tables of an evaluation, its ``curves`` if asked for, and what was ``skipped`` as (item, reason)."""
    _print_counts(report)
    _print_pointing(report)
    _print_gains(report)
    if curves:
        print_failures(report)
    print_skipped([*skipped, *((path, reason) for path, reason in report["failures"])])


def store_report(out: Path, report: Mapping[str, Any], quiet: bool) -> None:
    """Write an evaluation and its charts to the folder ``out``."""
    from pc_engine.bench.accuracy.charts import confusion_chart, count_chart, pointing_chart
    from pc_engine.bench.accuracy.failure_charts import failure_charts

    write_json(out / _REPORT, report)
    try:
        count_chart(report, out / "count-accuracy.png")
        confusion_chart(report, out / "confusion.png")
        pointing_chart(report, out / "pointing-accuracy.png")
        failure_charts(report, out)
    except MissingPackageError as error:
        remark(quiet)(f"{error} The tables are in {out / _REPORT}.")


def _rows_here(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and figures of all that was measured here, the modes last."""
    for name, figures in (*report["baselines"].items(), *report["modes"].items()):
        yield f"{name}, here", figures


def _print_counts(report: Mapping[str, Any]) -> None:
    labels = next(iter(report["modes"].values()))["confusion"]["labels"]
    names = (*labels, "mean")
    rows = [
        (name, *("-" if value is None else str(value) for value in values))
        for name, values in report["published"]["count_accuracy"].items()
    ]
    for name, figures in _rows_here(report):
        found, intervals = figures["count_accuracy"], figures["count_accuracy_interval"]
        rows.append((name, *(percent(found.get(label)) for label in names)))
        rows.append(("  95 % interval", *(percents(intervals.get(label)) for label in names)))
    published = "; the published rows are on SOS" if report["published"]["count_accuracy"] else ""
    print_table(
        f"Count accuracy in per cent ({report['model']} on {report['data']}{published})",
        ("method", *(f">{name}" for name in names)),
        rows,
    )
    if report["folds"]:
        unseen = "its class" if report["folds"]["unseen_classes"] else "it"
        print_line(
            f"The counter was fitted in {report['folds']['k']} folds for its {report['folds']['aim']} accuracy, each "
            f"image judged by one that did not see {unseen}."
        )
    for note in notes_on_labels(report):
        print_line(note)
    for mode, figures in report["modes"].items():
        found = figures["count_accuracy"]
        error = figures["mean_absolute_error_interval"]
        between = "" if error is None else f" ({error[0]:.2f} to {error[1]:.2f})"
        print_line(
            f"{mode}: {figures['n']} images, overall {found['overall']:.1%} right, mean absolute error "
            f"{figures['mean_absolute_error']:.2f}{between}." + _class_sentence(figures)
        )
        confusion = figures["confusion"]["rows_true"]
        print_table(
            f"Confusion of {mode}: images by true count (rows) and count found (columns)",
            ("true", *(f">{label}" for label in labels)),
            [(label, *map(str, row)) for label, row in zip(labels, confusion, strict=True)],
        )


def _class_sentence(figures: Mapping[str, Any]) -> str:
    if not figures["class_images"]:
        return ""
    low, high = figures["class_accuracy_interval"]
    by_count = ", ".join(f"{label}: {share:.1%}" for label, share in figures["class_accuracy_by_count"].items())
    return (
        f" Class right in {figures['class_accuracy']:.1%} ({100 * low:.1f} to {100 * high:.1f}) of "
        f"{figures['class_images']} images with objects; by their number, {by_count}."
    )


def _print_pointing(report: Mapping[str, Any]) -> None:
    measured = [(name, figures) for name, figures in _rows_here(report) if "pointing" in figures]
    all_boxes = measured[-1][1]["boxes"]
    if all(figures["boxes"]["judged"] == figures["boxes"]["wrong_count"] == 0 for _, figures in measured):
        print_line(f"Pointing was not measured: {why_none_fit(all_boxes)}.")
        if all_boxes["disagree"] or all_boxes["outside"]:
            print_boxes(all_boxes)
        return
    *exact, last = report["labels"][1:]
    names = (*exact, "mean", last)
    published = " (published: on MSO)" if report["published"]["pointing"] else ""
    for ratio in measured[0][1]["pointing"]:
        rows = [
            (name, *map(_hundredths, table[ratio]), _hundredths(sum(table[ratio]) / len(table[ratio])), "-")
            for name, table in report["published"]["pointing"].items()
        ]
        for name, figures in measured:
            rows += _pointing_rows(name, figures, ratio, names)
        print_table(
            f"Pointing accuracy at overlap {ratio} where the count is right, by true count{published}",
            ("method", *(f">{name}" for name in names)),
            rows,
        )
    told = [(f"{name}, here", mode["known_count"]) for name, mode in report["modes"].items() if mode["known_count"]]
    if told:
        for ratio in told[0][1]["pointing"]:
            print_table(
                f"Pointing accuracy at overlap {ratio} on all images, by modes that are told the true count",
                ("method", *(f">{name}" for name in names)),
                [row for name, figures in told for row in _pointing_rows(name, figures, ratio, names)],
            )
    for name, figures in measured:
        boxes = figures["boxes"]
        print_line(
            f"{name}: {boxes['judged']} images judged; mean intersection over union {_hundredths(figures['iou'])} "
            f"({_range(figures['iou_interval'])}), mean pointer {_share(figures['mean_pointer_area'])} of the picture."
        )
    print_boxes(all_boxes)


def _pointing_rows(
    name: str, figures: Mapping[str, Any], ratio: str, labels: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    found, intervals = figures["pointing"][ratio], figures["pointing_interval"][ratio]
    yield (name, *(_hundredths(found.get(label)) for label in labels))
    yield ("  95 % interval", *(_range(intervals.get(label)) for label in labels))


def _print_gains(report: Mapping[str, Any]) -> None:
    """Say by how much the last mode is better or worse than the others, image by image."""
    for pair, gain in report["gains"].items():
        mode, _, other = pair.partition(" over ")
        compared = f"{mode} counts {_compared(gain['mean'], other)}"
        where = {"pointing": "that both count right", "known_count": "of which both are told the count"}
        pointing = [
            f"{ratios} on the {gain[key]['images']} {images}"
            for key, images in where.items()
            if (ratios := _at_ratios(gain[key] or {}))
        ]
        if pointing:
            compared += f"; it points {', and '.join(pointing)}"
        print_line(f"{compared} (points of the means; 95 % interval).")


def _at_ratios(pointing: Mapping[str, Any]) -> str:
    gains = {ratio: gain for ratio, gain in pointing.items() if ratio != "images" and gain["gain"] is not None}
    return ", ".join(f"{_compared(gain)} at {ratio}" for ratio, gain in gains.items())


def _compared(gain: Mapping[str, Any], other: str = "") -> str:
    """Return how a gain reads; where it is a loss, its interval is that of the loss."""
    points = round(100 * gain["gain"], 1)
    ends = [(-100 if points < 0 else 100) * end for end in gain["interval"] or ()]
    # Not -0.0: what is rounded away has no sign.
    between = " to ".join(f"{round(end, 1) + 0.0:.1f}" for end in sorted(ends))
    if points:
        text = f"{'worse' if points < 0 else 'better'}{other and f' than {other}'} by {abs(points):.1f}"
    else:
        text = f"as well{other and f' as {other}'}"
    return f"{text} ({between})" if between else text


def _hundredths(value: float | None) -> str:
    """Return a share as the paper prints it: .87."""
    return "-" if value is None else f"{value:.2f}".removeprefix("0")


def _range(interval: Sequence[float] | None) -> str:
    return "-" if interval is None else "-".join(map(_hundredths, interval))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
