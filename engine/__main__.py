"""``python -m pc_engine``, and where the command ``pc-engine`` begins."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Run the command line. A signal that ends it gives its exit code, Ctrl-C also while its parts are imported."""
    _open_streams()
    try:
        from pc_engine.cli import main as run

        run()
    except KeyboardInterrupt as error:
        print("pc-engine: stopped.", file=sys.stderr)
        sys.exit(128 + int(getattr(error, "signal", signal.SIGINT)))


def _open_streams() -> None:
    """Give standard streams that are closed to nobody, as under some schedulers: the next file would become one."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest number that is free


if __name__ == "__main__":
    main()
