"""``pc-engine bench ablation``: what each setting of the modes is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pc_engine.cli import options
from pc_engine.cli.console import print_answer, print_line, print_skipped, print_table, progress, remark
from pc_engine.cli.data_notes import notes_on_labels
from pc_engine.cli.evaluate import REPORT_BEGINS
from pc_engine.cli.target import check_report_folder
from pc_engine.datasets import read_labelled
from pc_engine.errors import UsageError
from pc_engine.files.durable import write_json
from pc_engine.files.out_folder import make_folder
from pc_engine.selection.execution import Execution

_REPORT = "ablation.json"


def ablation(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Labelled images, as for pc-engine evaluate.")],
    mode: options.Modes = None,
    model: options.Model = None,
    folds: options.Folds = None,
    try_: Annotated[
        list[str] | None,
        typer.Option(
            "--try",
            metavar="SETTING=VALUES",
            help="Repeatable: such as p2c.trim=0,0.3,0.7; if omitted, the usual ones.",
        ),
    ] = None,
    aim: options.AimOfFolds = "mean",
    max_count: options.LastLabel = None,
    seed: Annotated[int, options.seed("Seed of the folds and of the bootstrap intervals.")] = 0,
    out: Annotated[
        Path | None,
        options.out(f"Directory to write {_REPORT} to: a new or empty one, or that of an earlier ablation."),
    ] = None,
    backend: options.Backend = "auto",
    precision: options.Precision = "auto",
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Try alternatives to each default setting of a mode, one at a time, on labelled images.

    The gain in mean count accuracy is over the same images with the model's own settings, with its 95 % interval: one
    that contains 0 shows nothing.
    """
    from pc_engine.bench.accuracy.ablation import ablate
    from pc_engine.bench.accuracy.settings import EvaluationSettings
    from pc_engine.fitting.aim import Aim

    settings = EvaluationSettings(
        model=model,
        modes=tuple(mode or ("c2p",)),
        execution=Execution(backend, precision, device, batch_size),
        workers=workers,
        folds=folds,
        aim=Aim.named(aim),
        seed=seed,
        max_count=max_count,
    )
    alternatives: dict[str, list[float | str]] = {}
    for setting, values in map(_alternative, try_ or ()):
        alternatives.setdefault(setting, []).extend(values)
    check_report_folder(out, _REPORT, REPORT_BEGINS, "ablation")
    labelled = read_labelled(data)
    with progress("images", quiet=quiet or as_json, unit="done") as tracker:
        found = ablate(
            data,
            labelled,
            settings,
            alternatives or None,
            report=remark(quiet),
            progress=tracker.restart,
        )
    print_answer(
        found,
        lambda found: _print(found, labelled.skipped),
        quiet=quiet,
        as_json=as_json,
        notes=notes_on_labels(found),
        store=lambda: None if out is None else _store(out, found),
    )


def _store(out: Path, found: Mapping[str, Any]) -> None:
    make_folder(out)
    write_json(out / _REPORT, found)


def _print(found: Mapping[str, Any], skipped: Sequence[tuple[str, str]]) -> None:
    for name, trials in found["modes"].items():
        print_table(_title(name, found), _HEAD, _lines(trials))
    print_skipped([*skipped, *((path, reason) for path, reason in found["failures"])])
    for note in notes_on_labels(found):
        print_line(note)
    print_line(
        "Pointing: containment at .5 and .8, where the count is right, and on all images where modes are told it; "
        "area: of a pointer, as a share of the picture."
    )


_HEAD = ("setting", "value", "count mean", "gain [95 %]", "pointing .5", ".8", "told .5", ".8", "IoU", "area")


def _title(mode: str, found: Mapping[str, Any]) -> str:
    return f"{mode}, model {found['model']}, {found['images']} images of {found['data']}"


def _lines(trials: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    before = None
    for trial in trials:
        # Said once for each setting: that of the counter's features is long.
        default = "" if trial["setting"] in (None, before) else f" (default {trial['default']})"
        before = trial["setting"]
        pointing = (
            _percent(figures["pointing"][ratio]["mean"]) if figures else ""
            for figures in (trial, trial["known_count"])
            for ratio in ("0.5", "0.8")
        )
        area = trial["mean_pointer_area"]
        yield (
            trial["setting"] or "as it is",
            "" if trial["setting"] is None else f"{trial['value']}{default}",
            _percent(trial["count_accuracy"]["mean"]),
            "" if trial["setting"] is None else _gain(trial),
            *pointing,
            "" if trial["iou"] is None else f"{trial['iou']:.2f}",
            "" if area is None else f"{area:.3f}",
        )


def _gain(trial: Mapping[str, Any]) -> str:
    if not trial["counts_changed"]:  # as by a setting of pointers alone, of which an interval would say that it might
        return "no count changes"
    if not trial["labels_changed"]:  # as by another number under the open-ended label, which is right as it was
        return "no label changes"
    gain = trial["gain"]["mean"]
    ends = gain["interval"]
    between = "-" if ends is None else f"{100 * ends[0]:+.1f}, {100 * ends[1]:+.1f}"
    return f"{100 * gain['gain']:+.1f} [{between}]"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _alternative(text: str) -> tuple[str, list[float | str]]:
    setting, equals, values = text.partition("=")
    if not equals or not values:
        raise UsageError(f"'{text}' is not a setting with values: write it as p2c.trim=0,0.3,0.7.")
    return setting, [_value(value) for value in values.split(",")]


def _value(text: str) -> float | str:
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() and "." not in text else number
