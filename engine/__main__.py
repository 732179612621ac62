"""``python -m pc_engine``, and where the command ``pc-engine`` begins."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it with exit code 130, also while its parts are being imported."""
    try:
        from pc_engine.cli import main as run

        run()
    except KeyboardInterrupt:
        print("pc-engine: stopped.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
