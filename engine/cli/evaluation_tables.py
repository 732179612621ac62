"""The tables of ``pc-engine evaluate``: what was measured here first, the paper's figures below it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pc_engine.cli.console import number_of_images, percent, percents, print_line, print_skipped, print_table
from pc_engine.cli.data_notes import notes_on_labels, print_boxes, why_none_fit
from pc_engine.cli.failure_tables import print_failures


def print_report(report: Mapping[str, Any], skipped: Sequence[tuple[str, str]], *, curves: bool = False) -> None:
    """Print the tables of an evaluation, its ``curves`` if asked for, and what was ``skipped`` as (item, reason)."""
    _print_counts(report)
    _print_pointing(report)
    _print_gains(report)
    _print_shared_failures(report)
    if curves:
        print_failures(report)
    print_skipped([*skipped, *((path, reason) for path, reason in report["failures"])])


def _rows_here(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and figures of all that was measured here, the modes first."""
    for name, figures in (*report["modes"].items(), *report["baselines"].items()):
        yield f"{name}, here", figures


def _of_paper(name: str) -> str:
    return name if name.endswith("(paper)") else f"{name} (paper)"


def _print_counts(report: Mapping[str, Any]) -> None:
    labels = next(iter(report["modes"].values()))["confusion"]["labels"]
    names = (*labels, "mean", "overall")
    rows: list[tuple[str, ...]] = []
    for name, figures in _rows_here(report):
        found, intervals = figures["count_accuracy"], figures["count_accuracy_interval"]
        rows.append((name, *(percent(found.get(label)) for label in names)))
        rows.append(("  95 % interval", *(percents(intervals.get(label)) for label in names)))
    rows += [
        (_of_paper(name), *("-" if value is None else str(value) for value in values), "-")
        for name, values in report["published"]["count_accuracy"].items()
    ]
    published = "; the paper's rows are on SOS" if report["published"]["count_accuracy"] else ""
    print_table(
        f"Count accuracy in per cent: by true count, their mean, and over all images ({report['model']} on "
        f"{report['data']}{published})",
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
            f"{mode}: {number_of_images(figures['n'])}, overall {found['overall']:.1%} right, mean absolute error "
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
    all_boxes = [*report["modes"].values()][-1]["boxes"]
    if all(figures["boxes"]["judged"] == figures["boxes"]["wrong_count"] == 0 for _, figures in measured):
        print_line(f"Pointing was not measured: {why_none_fit(all_boxes)}.")
        if all_boxes["disagree"] or all_boxes["outside"]:
            print_boxes(all_boxes)
        return
    *exact, last = report["labels"][1:]
    names = (*exact, "mean", last)
    published = " (the paper's: on MSO)" if report["published"]["pointing"] else ""
    for ratio in measured[0][1]["pointing"]:
        rows = [row for name, figures in measured for row in _pointing_rows(name, figures, ratio, names)]
        rows += [
            (_of_paper(name), *map(_hundredths, table[ratio]), _hundredths(sum(table[ratio]) / len(table[ratio])), "-")
            for name, table in report["published"]["pointing"].items()
        ]
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
    print_table(
        "Pointers where the count is right: intersection over union (IoU) with the boxes, and share of the picture",
        ("method", ">images", ">mean IoU", ">95 % interval", ">mean share"),
        [(name, f"{figures['boxes']['judged']:,}", *_extent(figures)) for name, figures in measured],
    )
    print_boxes(all_boxes)


def _pointing_rows(
    name: str, figures: Mapping[str, Any], ratio: str, labels: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    found, intervals = figures["pointing"][ratio], figures["pointing_interval"][ratio]
    yield (name, *(_hundredths(found.get(label)) for label in labels))
    yield ("  95 % interval", *(_range(intervals.get(label)) for label in labels))


def _print_gains(report: Mapping[str, Any]) -> None:
    """Print by how much the last mode is better or worse than the others, image by image."""
    rows: list[tuple[str, ...]] = []
    last = [*report["modes"]][-1]
    for pair, gain in report["gains"].items():
        other = pair.removeprefix(f"{last} over ")
        rows.append((other, "counting", *_points(gain["mean"])))
        where = {"pointing": "where both count right", "known_count": "told the count"}
        for key, which in where.items():
            pointing = gain[key] or {}
            rows += [
                ("", f"pointing at {ratio}, {which} ({number_of_images(pointing['images'])})", *_points(at_ratio))
                for ratio, at_ratio in pointing.items()
                if ratio != "images" and at_ratio["gain"] is not None
            ]
    if rows:
        print_table(
            f"What {last} gains over other modes, in points of the mean; it may be chance where the interval holds 0",
            ("over", "in", ">points", ">95 % interval"),
            rows,
        )


def _print_shared_failures(report: Mapping[str, Any]) -> None:
    """Print how many images several modes count wrong, beside what modes that fail independently would leave."""
    names = (*report["labels"], "mean", "overall")
    rows: list[tuple[str, ...]] = []
    for group in report["shared_failures"]:
        found, intervals, chance = group["wrong"], group["wrong_interval"], group["independent"]
        rows.append((", ".join(group["modes"]), *(percent(found.get(name)) for name in names)))
        rows.append(("  95 % interval", *(percents(intervals.get(name)) for name in names)))
        rows.append(("  if independent", *(percent(chance.get(name)) for name in names)))
    if rows:
        print_table(
            "Images that every one of these modes counts wrong, in per cent: by true count, their mean, and of all "
            "images (independent: were one mode's failure no sign of another's at a true count)",
            ("modes", *(f">{name}" for name in names)),
            rows,
        )


def _points(gain: Mapping[str, Any]) -> tuple[str, str]:
    """Return a gain and its interval in points; not as -0.0: what is rounded away has no sign."""
    points, *ends = (round(100 * share, 1) + 0.0 for share in (gain["gain"], *(gain["interval"] or ())))
    return (f"{points:+.1f}" if points else "0.0"), " to ".join(f"{end:.1f}" for end in ends) or "-"


def _hundredths(value: float | None) -> str:
    """Return a share as the paper prints it: .87."""
    return "-" if value is None else f"{value:.2f}".removeprefix("0")


def _range(interval: Sequence[float] | None) -> str:
    return "-" if interval is None else "-".join(map(_hundredths, interval))


def _extent(figures: Mapping[str, Any]) -> tuple[str, str, str]:
    share = figures["mean_pointer_area"]
    overlap = _hundredths(figures["iou"]), _range(figures["iou_interval"])
    return *overlap, "-" if share is None else f"{share:.1%}"
