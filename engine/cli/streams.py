"""Standard streams that cannot be written any more."""

from __future__ import annotations

import contextlib
import os
from typing import TextIO


def let_go(stream: TextIO) -> None:
    """Send what could not be printed nowhere: it would be tried again as the interpreter ends, and fail there too."""
    with contextlib.suppress(OSError):  # of a stream that is no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
