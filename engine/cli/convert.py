"""``pc-engine convert``: from the rows of a run to a data set for other tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pc_engine.cli import options
from pc_engine.cli.console import Tracker, number_of_images, print_answer, print_line, progress, remark
from pc_engine.cli.status import unfinished
from pc_engine.converters import DATASET_FORMATS, Conversion, ConversionSettings, default_out
from pc_engine.converters import convert as convert_rows
from pc_engine.runs.rows import iter_rows
from pc_engine.say import Say
from pc_engine.shown_text import number_of

_SOME_LEFT_OUT = 3


def convert(
    run: options.Run,
    to: Annotated[
        str,
        typer.Option(
            "--to", help=f"{', '.join(DATASET_FORMATS[:-1])} or {DATASET_FORMATS[-1]}.", callback=options.any_case
        ),
    ],
    out: Annotated[
        Path | None,
        options.out(
            "What to write: a file for coco and cvat, else a folder; if omitted, RUN-coco.json and the like, "
            "beside RUN.",
        ),
    ] = None,
    min_score: Annotated[
        float, typer.Option("--min-score", help="Leave out pointers with a smaller share of their picture's heat.")
    ] = 0.0,
    relative_to: Annotated[
        str | None,
        typer.Option("--relative-to", help="Folder that image names are relative to; if omitted, the one they share."),
    ] = None,
    photos: options.Photos = None,
    image_root: Annotated[
        str | None,
        typer.Option(
            "--image-root", help="label-studio: prefix of image names; if omitted, that of its local storage."
        ),
    ] = None,
    one_class: Annotated[
        str | None,
        typer.Option("--one-class", metavar="NAME", help="One category for all objects, whatever class was predicted."),
    ] = None,
    categories: Annotated[
        Path | None,
        typer.Option(
            "--categories",
            metavar="TABLE",
            help="A CSV with the columns class and category: which category each class becomes, numbered in this "
            "order. An empty category drops its class; the class * means all others, which otherwise keep their names.",
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace an earlier data set at --out.")] = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Write the counts and pointers of RUN in a form that labelling tools and training code read.

    Exit code: 0 all images of the run are in it, 3 some were left out (how many and why is printed) or the run has not
    finished, 2 wrong use, 1 it could not be written.
    """
    lacking = unfinished(run)
    with progress("reading", quiet=quiet or as_json) as tracker:
        rows = _Rows(run, tracker, to)
        settings = ConversionSettings(
            min_score=min_score,
            relative_to=relative_to,
            image_root=image_root,
            run=run,
            photos=photos,
            one_class=one_class,
            categories=categories,
        )
        conversion = convert_rows(rows, to, default_out(run, to) if out is None else out, settings, fresh=fresh)
    # Those who are told by the exit code that something is not in it are told what that is.
    if lacking is not None:
        remark(quiet=False)(lacking)
    if quiet and not as_json:
        _print_left_out(conversion, remark(quiet=False))
    answer = {**conversion.to_dict(), "unfinished": lacking is not None}
    print_answer(answer, lambda _: _print(conversion), quiet=quiet, as_json=as_json)
    raise typer.Exit(_SOME_LEFT_OUT if conversion.left_out or lacking else 0)


class _Rows:
    """The rows of a run from the first on, each time it is called, with progress; the first time tells their number."""

    def __init__(self, run: Path, tracker: Tracker, description: str) -> None:
        self._run = run
        self._tracker = tracker
        self._description = description
        self._total: int | None = None

    def __call__(self) -> Iterator[Mapping[str, Any]]:
        rows = iter_rows(self._run, corrected=True)
        if self._total is not None:
            self._tracker.restart(self._description, 0, self._total, "images")
        return self._watched(rows)

    def _watched(self, rows: Iterator[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        n = 0
        for n, row in enumerate(rows, start=1):  # noqa: B007 (the last number is the total)
            yield row
            self._tracker.advance()
        self._total = n


def _print(conversion: Conversion) -> None:
    below = f" Image names are relative to {conversion.folder}." if conversion.folder else ""
    pointers = number_of(conversion.pointers, "pointer")
    print_line(f"{number_of_images(conversion.images)} with {pointers}: {conversion.out}.{below}")
    _print_left_out(conversion, print_line)
    if conversion.remark:
        print_line(conversion.remark)


def _print_left_out(conversion: Conversion, say: Say) -> None:
    for reason, n in conversion.left_out.items():
        say(f"Left out: {number_of_images(n)} that {reason} (such as {conversion.examples[reason]}).")
