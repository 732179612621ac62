"""``pc-engine review``: correct a run by hand, in a browser."""

from __future__ import annotations

import contextlib
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from pc_engine.cli import options
from pc_engine.cli.console import number_of_images, print_line
from pc_engine.shown_text import for_shell


def review(
    directory: options.Run,
    photos: options.Photos = None,
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0 takes a free one.")] = 0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address without opening a browser.")
    ] = False,
) -> None:
    """Look through a run in a browser and correct its counts and pointers, which are saved at once.

    The page is served to this machine only, under an address that nobody else knows. Ctrl-C ends it.
    """
    from pc_engine.review import ReviewServer, ReviewSession
    from pc_engine.runs.corrections import check_correctable

    session = ReviewSession(directory, photos)
    check_correctable(directory)
    if (missing := session.missing()) is not None:
        print_line(f"{missing} is not there: if the photos have moved, say where with --photos DIR.")
    with ReviewServer(session, port) as server:
        print_line(
            f"Reviewing {number_of_images(session.n_images)}, {session.n_reviewed:,} of them already reviewed, at"
        )
        print_line(server.url)
        print_line("Changes are saved at once. Press Ctrl-C when you are done.")
        if not no_browser:
            webbrowser.open(server.opening_url)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    print_line(_farewell(session.n_changed, session.n_reviewed, directory, photos))


def _farewell(changed: int, reviewed: int, directory: Path, photos: Path | None) -> str:
    if not reviewed:
        return "No image was reviewed."
    run = for_shell(f"run:{directory}" + ("" if photos is None else f"@{photos}"))
    return (
        f"Images reviewed: {changed:,} now, {reviewed:,} of the run so far. 'pc-engine convert "
        f"{for_shell(str(directory))} --to FORM' uses the corrections, and 'pc-engine fit-counter {run} --model MODEL' "
        "lets the next run learn from it."
    )
