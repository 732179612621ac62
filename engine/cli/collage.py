"""``pc-engine collage``: labelled images of 0 to n real objects, cut out of labelled photos."""

from __future__ import annotations

from typing import Annotated

import typer

from pc_engine.cli import options
from pc_engine.cli.console import print_answer, print_line, print_skipped, progress


def collage(
    data: Annotated[
        list[str],
        typer.Argument(metavar="DATA", help="Photos with boxes, in any form that evaluate reads; one set or more."),
    ],
    out: options.OutFolder,
    n: Annotated[int, typer.Option("--n", help="Number of collages.")] = 500,
    seed: Annotated[int, options.seed("The same photos and seed give the same collages.")] = 1,
    max_count: Annotated[int, typer.Option("--max-count", help="Objects in a collage: 0 to this number.")] = 5,
    size: Annotated[int, typer.Option("--size", help="Side of a collage in pixels.")] = 256,
    min_scale: Annotated[float, typer.Option("--min-scale", help="Smallest object, as a share of the side.")] = 0.2,
    max_scale: Annotated[float, typer.Option("--max-scale", help="Largest object, as a share of the side.")] = 0.4,
    spacing: Annotated[
        float, typer.Option("--spacing", help="Smallest gap between two objects, as a share of the side.")
    ] = 0.04,
    groups: Annotated[
        int, typer.Option("--groups", help="Groups with no photo in common: the most folds that evaluate can judge by.")
    ] = 5,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Paste boxed objects of one class, set apart, onto parts of photos that show none, with count and boxes known.

    A class is used in a group of photos if at least --max-count of its objects can be cut out of them. The folds of
    evaluate keep the collages of a group together, so that a counter is judged on photos that it never saw.
    """
    from pc_engine.bench.collages.collages import CollageSettings, make_collages
    from pc_engine.datasets import read_labelled

    settings = CollageSettings(
        size=size, max_count=max_count, scale=(min_scale, max_scale), spacing=spacing, groups=groups
    )
    sets = [read_labelled(spec) for spec in data]
    with progress("photos", quiet=quiet or as_json) as tracker:
        made = make_collages(
            sets,
            out,
            n,
            seed,
            settings,
            progress=lambda stage, done, total: tracker.restart(stage, done, total, stage),
        )
    skipped = [*(item for labelled in sets for item in labelled.skipped), *made.unreadable]
    answer = {
        "collages": n,
        "labels": str(made.labels),
        "classes": made.classes,
        "objects": made.objects,
        "backgrounds": made.grounds,
        "skipped": [{"item": item, "reason": reason} for item, reason in skipped],
    }

    def table(_: object) -> None:
        classes = f"{len(made.classes)} classes" if made.classes else "any class"
        print_line(
            f"{n} collages of {classes}, made of {made.objects} objects and {made.grounds} backgrounds, and their "
            f"labels are in {out} ({made.labels.name})."
        )
        print_skipped(skipped)

    print_answer(answer, table, quiet=quiet, as_json=as_json)
