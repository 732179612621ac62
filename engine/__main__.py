"""``python -m pc_engine``, and where the command ``pc-engine`` begins."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from pc_engine.errors import first_line


def main() -> None:
    """Run the command line. A signal that ends it gives its exit code, Ctrl-C also while its parts are imported."""
    _open_streams()
    try:
        from pc_engine.cli import main as run

        run()
    except KeyboardInterrupt as error:
        _say("stopped.")
        sys.exit(128 + int(getattr(error, "signal", signal.SIGINT)))
    except ImportError as error:
        if os.environ.get("PC_ENGINE_DEBUG"):
            raise
        _say(_not_loaded(error))
        sys.exit(1)


def _say(sentence: str) -> None:
    """Print on stderr by one system call: what a stream could not write, it would try again as the interpreter ends."""
    with contextlib.suppress(OSError):
        os.write(2, f"pc-engine: {sentence}\n".encode(errors="backslashreplace"))


def _not_loaded(error: BaseException) -> str:
    """Return what to do about a library that is there and cannot be imported; its own text may be a page."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (
        f"A library cannot be loaded ({first_line(error)}): see whether memory runs out, or install pc-engine anew, on "
        "a disk that programs may be loaded from."
    )


def _open_streams() -> None:
    """Give standard streams that are closed to nobody, as under some schedulers: the next file would become one."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest number that is free
    # Python has none for one that was closed, and what is printed there would go to stdout.
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


if __name__ == "__main__":
    main()
