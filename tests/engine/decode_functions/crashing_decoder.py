"""A decoder with faults that files call for by the mark they end with; it runs in processes that may die of it."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from pathlib import Path
from typing import Any

from pc_engine.decoding.decode import DecodedImage, decode_bytes


def decode(data: bytes, height: int, width: int, **options: Any) -> DecodedImage:
    mark = data.rpartition(b"#")[2]
    if mark == b"segfault":
        ctypes.string_at(0)
    if mark == b"abort":
        os.abort()
    if mark == b"exit":
        os._exit(7)
    if mark == b"bug":
        raise RuntimeError("a bug")
    if mark == b"killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if mark.startswith(b"hang:"):
        with open(mark[5:], "ab") as tries:
            tries.write(b"x")
    if mark == b"late":  # hangs until the limit of its time, of which all has passed
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
        signal.setitimer(signal.ITIMER_REAL, 1e-3)
    if mark.startswith(b"hang") or mark == b"late":
        ctypes.CDLL(None).pause()  # in C, where Python sees no signal
    if mark == b"memory":
        mmap.mmap(-1, 1 << 46)
    if mark == b"many":
        bytearray(1 << 40)
    if mark == b"size":
        return DecodedImage(decode_bytes(data, height, width, **options).pixels, 2**32 - 1, 7)
    if mark in (b"cut", b"wipe"):
        for number in range(3, 1024):  # whichever is the channel's memory, as tests before may have files open
            try:
                os.ftruncate(number, 0)
            except OSError:
                continue
        if mark == b"wipe":
            os.abort()
    # Once only: the next decoder finds the file there.
    if mark.startswith(b"once:") and not (been := Path(os.fsdecode(mark[5:]))).exists():
        been.touch()
        ctypes.string_at(0)
    return decode_bytes(data, height, width, **options)
