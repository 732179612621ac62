"""``pc-engine evaluate``: count and pointing accuracy on labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pc_engine.cli import options
from pc_engine.cli.console import print_answer, progress, remark, skipped_said_first
from pc_engine.cli.data_notes import notes_on_labels
from pc_engine.cli.evaluation_tables import print_report
from pc_engine.cli.target import check_report_folder
from pc_engine.datasets import read_labelled
from pc_engine.errors import MissingPackageError
from pc_engine.files.durable import write_json
from pc_engine.files.out_folder import make_folder
from pc_engine.selection.execution import Execution

_REPORT = "evaluation.json"
#: How the figures of labelled images begin.
REPORT_BEGINS = '{\n "data": "'


def evaluate(
    data: Annotated[str, options.labelled_data("test")],
    mode: options.Modes = None,
    model: options.Model = None,
    folds: options.Folds = None,
    unseen_classes: Annotated[
        bool,
        typer.Option("--unseen-classes", help="With --folds: judge each image by a counter that never saw its class."),
    ] = False,
    curves: Annotated[
        bool, typer.Option("--curves", help="Also print accuracy by scale, spacing and class of objects.")
    ] = False,
    aim: options.AimOfFolds = "mean",
    max_count: options.LastLabel = None,
    seed: Annotated[int, options.seed("Seed of the folds and of the bootstrap intervals.")] = 0,
    out: Annotated[
        Path | None,
        options.out(
            f"Directory to write {_REPORT} and charts to: a new or empty one, or that of an earlier evaluation."
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
        execution=Execution(backend, precision, device, batch_size),
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
    with (
        skipped_said_first(labelled.skipped, quiet),
        progress("images", quiet=quiet or as_json, unit="done") as tracker,
    ):
        report = measure(
            data,
            labelled,
            settings,
            report=remark(quiet),
            progress=tracker.restart,
        )
    print_answer(
        report,
        lambda report: print_report(report, labelled.skipped, curves=curves),
        quiet=quiet,
        as_json=as_json,
        notes=notes_on_labels(report),
        store=lambda: None if out is None else store_report(out, report, quiet),
    )


def store_report(out: Path, report: Mapping[str, Any], quiet: bool) -> None:
    """Write an evaluation and its charts to the folder ``out``."""
    from pc_engine.bench.accuracy.charts import confusion_chart, count_chart, pointing_chart
    from pc_engine.bench.accuracy.failure_charts import failure_charts

    make_folder(out)
    write_json(out / _REPORT, report)
    try:
        count_chart(report, out / "count-accuracy.png")
        confusion_chart(report, out / "confusion.png")
        pointing_chart(report, out / "pointing-accuracy.png")
        failure_charts(report, out)
    except MissingPackageError as error:
        remark(quiet)(f"{error} The tables are in {out / _REPORT}.")
