"""``pc-engine report``: an HTML page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pc_engine.cli import options
from pc_engine.cli.console import print_json, print_line, progress, remark

# A page with more thumbnails than this is too large to be mailed, and takes a while to be opened.
_MANY_THUMBNAILS = 100_000_000


def report(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="The folder given to 'pc-engine run --out'.")],
    out: Annotated[Path | None, typer.Option("--out", help="The file to write; left out, report.html in RUN.")] = None,
    compare: Annotated[
        Path | None,
        typer.Option("--compare", metavar="RUN", help="Another run over the same photos, to see where they disagree."),
    ] = None,
    thumbnails: Annotated[
        bool,
        typer.Option("--thumbnails", help="Put a small picture of every photo into the page, so that it can be sent."),
    ] = False,
    workers: options.Workers = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Make one HTML page of a run: figures, failures, and a gallery of the photos with what was found in them.

    The page shows the photos where they lie, by addresses relative to its own, unless --thumbnails puts them inside.
    """
    from pc_engine.report import write_report

    with progress("thumbnails", quiet=quiet or as_json or not thumbnails) as tracker:
        written = write_report(
            directory,
            out,
            compare=compare,
            thumbnails=thumbnails,
            workers=workers,
            shrinking=lambda done, total: tracker.restart("thumbnails", done, total, "images"),
        )
    if thumbnails and written.size > _MANY_THUMBNAILS:
        remark(quiet)(f"The page has {written.size / 1e6:,.0f} MB: without --thumbnails it would open faster.")
    if written.without_photo:
        remark(quiet)(
            f"{written.without_photo:,} of {written.done:,} photos were not found or could not be read, and the page "
            f"does not show them: bring them back, or start the command in the folder that the run was started in."
        )
    if as_json:
        print_json(
            {
                "report": str(written.path),
                "images": written.images,
                "without_photo": written.without_photo,
                "bytes": written.size,
            }
        )
    elif not quiet:
        print_line(f"The report on {written.images:,} images is {written.path} ({written.size / 1e6:.1f} MB).")
