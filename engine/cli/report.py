"""``pc-engine report``: an HTML page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pc_engine.cli import options
from pc_engine.cli.console import number_of_images, print_json, print_line, progress, remark
from pc_engine.cli.status import unfinished

# A page with more thumbnails than this is too large to be mailed, and takes a while to be opened.
_MANY_THUMBNAILS = 100_000_000


def report(
    directory: options.Run,
    out: Annotated[Path | None, options.out("The file to write; if omitted, report.html in RUN.")] = None,
    compare: Annotated[
        Path | None,
        typer.Option("--compare", metavar="RUN", help="Another run over the same photos, to see where they disagree."),
    ] = None,
    photos: options.Photos = None,
    thumbnails: Annotated[
        bool | None,
        typer.Option(
            "--thumbnails/--no-thumbnails",
            help="Put a small picture of every photo into the page, so that it can be sent, or of none; if omitted, of "
            "those that browsers cannot show, such as HEIC and TIFF.",
        ),
    ] = None,
    workers: options.Workers = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Make one HTML page of a run: figures, failures, and a gallery of the photos with what was found in them.

    The page shows the photos from where they are, by addresses relative to its own, unless --thumbnails puts small
    pictures inside.
    """
    from pc_engine.report import write_report

    lacking = unfinished(directory)
    with progress("thumbnails", quiet=quiet or as_json or thumbnails is False) as tracker:
        written = write_report(
            directory,
            out,
            compare=compare,
            photos=photos,
            thumbnails=thumbnails,
            workers=workers,
            shrinking=lambda done, total: tracker.restart("thumbnails", done, total, "images"),
        )
    if written.thumbnails and written.size > _MANY_THUMBNAILS:
        remark(quiet)(f"The page is {written.size / 1e6:,.0f} MB: with --no-thumbnails it would open faster.")
    if written.without_photo:
        remark(quiet)(
            f"{written.without_photo:,} of {written.done:,} photos were not found or could not be read, such as "
            f"{written.missing}, and the page does not show them: if they have moved, say where "
            "with --photos DIR."
        )
    if written.in_archives:
        remark(quiet)(
            f"{written.in_archives:,} of {written.done:,} photos are in archives or at addresses, where a page cannot "
            "reach them: --thumbnails puts a small picture of each into it."
        )
    if lacking is not None:
        remark(quiet)(lacking)
    if as_json:
        print_json(
            {
                "report": str(written.path),
                "images": written.images,
                "without_photo": written.without_photo,
                "in_archives": written.in_archives,
                "thumbnails": written.thumbnails,
                "bytes": written.size,
                "unfinished": lacking is not None,
            }
        )
    elif not quiet:
        print_line(f"The report on {number_of_images(written.images)} is {written.path} ({written.size / 1e6:.1f} MB).")
