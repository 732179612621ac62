"""What runs in the processes of `pc_engine.decoding.isolated_decoder`: decoders that may die, and their keeper.

The keeper starts a decoder for each channel by forking, says on that channel when one has died, and starts the next.
Of what an image could have written it reads but the number of the request that was begun. A decoder that takes too long
is ended by the system's own timer, whatever code it is in at the time. When the run's end of a channel is closed, its
decoder ends, and with the last of them the keeper: nothing is left behind, however the run ended.

A channel is two pipes for short messages, and a file in memory through which images and pixels go. It is read and
written, not mapped: a decoder that cut it short would then take the run down with it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from pc_engine.decoding.decode import DecodedImage, Limits, decode_bytes, lift_pillow_limit
from pc_engine.decoding.pixel_room import BYTES_PER_PIXEL, FREE
from pc_engine.errors import TOO_LARGE_FOR_MEMORY, ImageError

#: To a decoder: what is asked; its number; bytes of the file; height and width of the pixels.
REQUEST = struct.Struct("<BQQII")
#: From a decoder: what it answers; to which number; width and height of the picture; pixels it needs room for; a
#: sentence. Short enough for a pipe to take it whole or not at all. Of one that died its keeper says which number was
#: begun last, and, as width and height, by which signal it ended or with which exit code.
REPLY = struct.Struct("<BQIIQ480s")
DECODE, GO_ON = 1, 2
PIXELS, REFUSED, NEEDS_ROOM, DIED = 3, 4, 5, 6

#: Where the number of the request that is being worked on stands in a channel's memory, and where its data begin.
BEGUN = struct.Struct("<Q")
DATA = 4096

# Of address space beside the pixels': the codecs', and the file's own bytes.
_BYTES_BESIDE = 6 << 30
_BYTES_FACTOR = 3  # 16-bit and floating pictures are twice to three times as large as the usual ones
_TRIES, _PAUSE = 50, 0.1
_FAILED = 1

Decode = Callable[..., DecodedImage]


class Channel(NamedTuple):
    """The decoder's ends of a channel, as file descriptors: requests, replies, and the memory."""

    requests: int
    replies: int
    memory: int


def main() -> None:
    """Keep decoders for the channels that the command line names, until all of them are closed."""
    settings = json.loads(sys.argv[1])
    channels = [Channel(*numbers) for numbers in settings["channels"]]
    module, _, name = settings["function"].partition(":")
    decode = getattr(importlib.import_module(module), name)
    warnings.simplefilter("ignore")
    gc.freeze()  # else the collector would write to pages that all decoders share
    keep(channels, lambda channel: serve(channel, decode, settings["max_pixels"], settings["seconds"]))


def keep(channels: Sequence[Channel], work: Callable[[Channel], None]) -> None:
    """Run ``work(channel)`` for each channel in a process of its own, and again in another one when that died.

    A process that ends with exit code 0 has finished. Returns with the last of them.
    """
    running = {_fork(channel, channels, work): channel for channel in channels}
    while running:
        pid, status = os.wait()
        channel = running.pop(pid, None)
        code = os.waitstatus_to_exitcode(status)
        if channel is None or code == 0:
            continue
        with contextlib.suppress(BrokenPipeError):  # the run has ended meanwhile, which the next decoder finds out
            os.write(channel.replies, REPLY.pack(DIED, begun(channel.memory), max(-code, 0), max(code, 0), 0, b""))
        running[_fork(channel, channels, work)] = channel


def _fork(channel: Channel, channels: Sequence[Channel], work: Callable[[Channel], None]) -> int:
    for _ in range(_TRIES):
        try:
            pid = os.fork()
        except OSError:  # too many processes, or too little memory, at the moment
            time.sleep(_PAUSE)
            continue
        if pid == 0:
            _run(channel, channels, work)
        return pid
    # The run sees its channels closed, and starts another keeper.
    os._exit(_FAILED)


def _run(channel: Channel, channels: Sequence[Channel], work: Callable[[Channel], None]) -> None:
    code = _FAILED
    try:
        for other in channels:
            if other is not channel:
                for number in other:
                    os.close(number)
        _be_the_first_to_go()
        work(channel)
        code = 0
    finally:
        os._exit(code)


def _be_the_first_to_go() -> None:
    """Where memory runs out, have the system end a decoder, which costs a row, and not the run."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as stream:
        stream.write("1000")


def serve(channel: Channel, decode: Decode, max_pixels: int, seconds: float) -> None:
    """Decode what comes through a channel until it is closed."""
    _limit_process(max_pixels)
    lift_pillow_limit(max_pixels)
    # A decoder that died may have been asked twice, and have done it once.
    last = begun(channel.memory)
    while (message := read_message(channel.requests, REQUEST)) is not None:
        asked, number, size, height, width = message
        if asked != DECODE or number <= last:
            continue
        last = number
        os.pwrite(channel.memory, BEGUN.pack(number), 0)
        with _time_limit(seconds):
            reply = _answer(channel, decode, max_pixels, number, size, height, width)
        os.write(channel.replies, reply)


def _answer(
    channel: Channel, decode: Decode, max_pixels: int, number: int, size: int, height: int, width: int
) -> bytes:
    room = _Room(channel, number, max_pixels)
    try:
        data = read_memory(channel.memory, size)
        if len(data) < size:
            raise RuntimeError("The decoder before this one has cut the channel's memory short.")
        image = decode(data, height, width, limits=Limits(max_pixels, room.taken))
        write_memory(channel.memory, np.ascontiguousarray(image.pixels).data.cast("B"))
    except ImageError as error:
        sentence = str(error).encode()[:480]
        return REPLY.pack(REFUSED, number, 0, 0, 0, sentence.decode("utf-8", "ignore").encode())
    except MemoryError:
        return REPLY.pack(REFUSED, number, 0, 0, 0, TOO_LARGE_FOR_MEMORY.encode())
    return REPLY.pack(PIXELS, number, image.width, image.height, image.has_others, b"")


class _Room:
    """Asks the run for room, which it has for all decoders together."""

    def __init__(self, channel: Channel, number: int, max_pixels: int) -> None:
        self._channel, self._number, self._free = channel, number, max_pixels // FREE

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        if pixels > self._free:
            with _stopped_timer():
                os.write(self._channel.replies, REPLY.pack(NEEDS_ROOM, self._number, 0, 0, pixels, b""))
                while (message := read_message(self._channel.requests, REQUEST)) is not None and message[0] != GO_ON:
                    pass
        yield


def _limit_process(max_pixels: int) -> None:
    """Let allocations of this process fail beyond what the largest picture takes, and have it leave no core file."""
    import resource

    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the system's own answer to it, whatever the run was started with
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = max_pixels * BYTES_PER_PIXEL * _BYTES_FACTOR + _BYTES_BESIDE
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    # Nobody handles the signal, so the system itself ends the process.
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def _stopped_timer() -> Iterator[None]:
    left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3))


def read_message(pipe: int, form: struct.Struct) -> tuple[Any, ...] | None:
    """Return the next message, or None if the other end was closed."""
    message = b""
    while len(message) < form.size:
        part = os.read(pipe, form.size - len(message))
        if not part:
            return None
        message += part
    return form.unpack(message)


def begun(memory: int) -> int:
    """Return the number of the last request that was taken up through a channel; 0 before the first."""
    stored = os.pread(memory, BEGUN.size, 0)
    number: int = BEGUN.unpack(stored)[0] if len(stored) == BEGUN.size else 0
    return number


def read_memory(memory: int, size: int) -> bytes:
    """Return the data of a channel, which are of ``size`` bytes; fewer if it holds fewer."""
    parts = []
    place = DATA
    while size > 0 and (part := os.pread(memory, size, place)):
        parts.append(part)
        place += len(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_memory(memory: int, data: bytes | memoryview) -> None:
    """Put data into a channel."""
    place, left = DATA, memoryview(data)
    while left:
        written = os.pwrite(memory, left, place)
        place, left = place + written, left[written:]


#: Where the decoders find what decodes, unless they are told another function.
FUNCTION = f"{decode_bytes.__module__}:{decode_bytes.__qualname__}"
