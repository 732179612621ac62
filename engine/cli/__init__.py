"""The command line. It puts the parts together, so it alone may import the exporter and the benchmarks."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated

import typer

from pc_engine.cli import (
    bench,
    build,
    collage,
    convert,
    doctor,
    evaluate,
    fit,
    lego,
    models,
    report,
    review,
    run,
    status,
)
from pc_engine.cli.group import Group
from pc_engine.decode import silence_codecs
from pc_engine.errors import PcEngineError

app = typer.Typer(
    name="pc-engine",
    cls=Group,
    help="Count the salient objects in every photo of a folder and point at each.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("status")(status.status)
app.command("report")(report.report)
app.command("review")(review.review)
app.command("convert")(convert.convert)
app.command("models")(models.models)
app.command("doctor")(doctor.doctor)
app.command("export")(models.export)
app.command("build")(build.build)
app.command("fit-counter")(fit.fit_counter)
app.command("fit-signatures")(fit.fit_signatures)
app.command("evaluate")(evaluate.evaluate)
app.command("collage")(collage.collage)
app.add_typer(lego.app, name="lego")
app.add_typer(bench.app, name="bench")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"pc-engine {version('pc-engine')}")
        raise typer.Exit


@app.callback()
def _common(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; end with exit code 0, 1 (cannot go on), 2 (wrong use) or 3 (some images failed)."""
    # Pillow warns about odd files; what matters of that is said in their rows.
    warnings.filterwarnings("ignore", module="PIL")
    silence_codecs()
    for stream in (sys.stdout, sys.stderr):
        # What a terminal of another encoding lacks is no reason to end.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except PcEngineError as error:
        print(f"pc-engine: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # what is written to files says so itself
            print("pc-engine: What is printed cannot be written (No space left on device): make room.", file=sys.stderr)
            sys.exit(1)
        if os.environ.get("PC_ENGINE_DEBUG"):
            raise
        print(
            f"pc-engine: this should not have happened ({type(error).__name__}: {error}). "
            f"Set PC_ENGINE_DEBUG=1 to see where, and please report it.",
            file=sys.stderr,
        )
        sys.exit(1)
