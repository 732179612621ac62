"""``python -m pc_engine``, and where the command ``pc-engine`` begins."""

from __future__ import annotations

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
        print("pc-engine: stopped.", file=sys.stderr)
        sys.exit(128 + int(getattr(error, "signal", signal.SIGINT)))
    except ImportError as error:
        if os.environ.get("PC_ENGINE_DEBUG"):
            raise
        print(f"pc-engine: {_not_loaded(error)}", file=sys.stderr)
        sys.exit(1)


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


if __name__ == "__main__":
    main()
