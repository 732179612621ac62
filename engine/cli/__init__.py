"""The command line. It puts the parts together, so it alone may import the exporter and the benchmarks."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer
from typer.main import get_group

from pc_engine.cli.group import Group
from pc_engine.cli.streams import let_go
from pc_engine.decoding.decode import silence_codecs
from pc_engine.errors import PcEngineError, UsageError, system_reason
from pc_engine.shown_text import for_shell, lines_for_terminal

# No room for what is written: a disk that is full, a user's share of it that is, or a limit on the size of files.
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows has no EDQUOT
# What the system has against a file, whatever the code around it expects: no fault of the program.
_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EIO)

# Where each command is: a module of this package, and the function or group of commands in it.
_COMMANDS = {
    "run": ("run", "run"),
    "status": ("status", "status"),
    "report": ("report", "report"),
    "review": ("review", "review"),
    "convert": ("convert", "convert"),
    "models": ("models", "models"),
    "doctor": ("doctor", "doctor"),
    "export": ("models", "export"),
    "build": ("build", "build"),
    "fit-counter": ("fit", "fit_counter"),
    "fit-signatures": ("fit", "fit_signatures"),
    "evaluate": ("evaluate", "evaluate"),
    "collage": ("collage", "collage"),
    "lego": ("lego", "app"),
    "bench": ("bench", "app"),
}


class _Commands(Group):
    """The commands, each imported when it is asked for: a run need not wait for what the others import."""

    def list_commands(self, _: Any) -> list[str]:
        return list(_COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        # A command that was mistyped is what it is like, whatever else is called so.
        if os.path.exists(args[0]) and not get_close_matches(args[0], _COMMANDS):
            from pc_engine.sources.lists import MARK, is_table

            listed = f"{MARK}{args[0]}"
            source = for_shell(listed if is_table(listed) else args[0])
            raise UsageError(f"'{args[0]}' is no command; to count in it: pc-engine run {source}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        # All of them where there is none of that name, so that the one that was meant can be suggested.
        for name in [cmd_name] if cmd_name in _COMMANDS else _COMMANDS:
            if name not in self.commands:
                self.commands[name] = _command(name)
        return super().get_command(ctx, cmd_name)


def _command(name: str) -> Any:
    module, attribute = _COMMANDS[name]
    found = getattr(import_module(f"{__name__}.{module}"), attribute)
    alone = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
    if isinstance(found, typer.Typer):
        alone.add_typer(found, name=name)
    else:
        alone.command(name)(found)
    return get_group(alone).commands[name]


app = typer.Typer(
    name="pc-engine",
    cls=_Commands,
    help="Count the salient objects in every photo of a folder and point at each.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"pc-engine {version('pc-engine')}")
        raise typer.Exit


@app.callback()
def _common(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _check_arguments(arguments: Sequence[str]) -> None:
    """Raise UsageError where one is empty, as ``--out "$DIR"`` without DIR is: it would be the current folder."""
    takes_options = True
    for before, argument in zip(("", *arguments), arguments, strict=False):
        takes_options = takes_options and argument != "--"  # what follows is no option
        option, has_value, value = argument.partition("=")
        if not argument or (takes_options and has_value and not value and option.startswith("--")):
            said = option or before
            is_option = takes_options and said.startswith("--") and "=" not in said
            place = f"after {said}" if is_option else "on the command line"
            raise UsageError(f"The value {place} is empty, perhaps from an unset variable: give one.")


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
        try:
            _check_arguments(sys.argv[1:])
            # Patterns are for the sources alone, which a pattern names in order, and where "a [1]" may be a folder.
            app(windows_expand_args=False)
        except SystemExit:
            # What is held back meets a full disk here, where that can be said, rather than as the interpreter ends.
            if sys.stdout is not None:
                sys.stdout.flush()
            raise
    except BrokenPipeError:  # whoever reads has enough
        let_go(sys.stdout)
        sys.exit(1)
    except PcEngineError as error:
        _end(str(error), error.exit_code)
    except SystemExit as error:
        # Typer makes a bare exit of it.
        interrupt = getattr(error.__context__, "__cause__", None)
        if isinstance(interrupt, KeyboardInterrupt):
            raise interrupt from None
        raise
    except ImportError:
        raise  # said where the command line begins, which may itself lack a library
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in _NO_ROOM  # what is written to files says so itself
        if os.environ.get("PC_ENGINE_DEBUG") and not full:
            raise
        reason = _of_the_system(error)
        _end(
            reason
            or f"this should not have happened ({type(error).__name__}: {error}). "
            "Set PC_ENGINE_DEBUG=1 to see where, and please report it.",
            1,
        )


def _end(sentence: str, code: int) -> NoReturn:
    """Say why the command ends, which may repeat what files say, and end it, after what it has printed."""
    for stream, text in ((sys.stdout, ""), (sys.stderr, f"pc-engine: {lines_for_terminal(sentence)}\n")):
        try:
            print(text, end="", file=stream, flush=True)
        except OSError:  # a log that is on a full disk, say: the exit code tells that much
            let_go(stream)
    sys.exit(code)


def _of_the_system(error: Exception) -> str | None:
    """Return what an error says that is no fault of the program, and what to do; None where it may be one."""
    if isinstance(error, MemoryError):
        return "Memory ran out: end other programs, or do less at once, by a smaller --batch-size or fewer --processes."
    if not isinstance(error, OSError):
        return None
    if error.errno in _NO_ROOM:
        return f"The output cannot be written ({system_reason(error)}): make room."
    if error.errno in _REFUSALS and isinstance(error.filename, str):
        return f"{error.filename} cannot be used ({system_reason(error)}): see that you may use it, or name another."
    if error.errno == errno.ENOENT:
        try:
            os.getcwd()
        except OSError:
            return "The current folder is gone: change to one that is there."
    return None
