"""``python -m pc_engine``, and where the command ``pc-engine`` begins."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line. A signal that ends it gives its exit code, Ctrl-C also while its parts are imported."""
    try:
        from pc_engine.cli import main as run

        run()
    except KeyboardInterrupt as error:
        print("pc-engine: stopped.", file=sys.stderr)
        sys.exit(128 + int(getattr(error, "signal", signal.SIGINT)))


if __name__ == "__main__":
    main()
