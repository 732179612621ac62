"""Decoding in processes that may die: a crash or a hang of a codec costs the row of its image, and nothing else.

Each decoding thread has a process, which it hands one image at a time. When that process dies, its keeper
(`pc_engine.decoding.decode_process`) starts the next, and the image is tried once more: a decoder may have been damaged
by the image before. One that is ended by its time limit is not.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from pc_engine.decoding.decode import MAX_PIXELS, DecodedImage
from pc_engine.decoding.decode_process import (
    BEGUN,
    DATA,
    DECODE,
    DIED,
    FUNCTION,
    GO_ON,
    NEEDS_ROOM,
    PIXELS,
    REFUSED,
    REPLY,
    REQUEST,
    Channel,
    begun,
    read_message,
    write_memory,
)
from pc_engine.decoding.pixel_room import PixelRoom, room_for
from pc_engine.errors import ImageError, PcEngineError, UsageError, system_reason

#: Seconds that one image may take.
IMAGE_SECONDS = 60.0

# Processes that end before they have begun with what they were given: not the images' fault.
_MOST_FALSE_STARTS = 5
# A channel's memory that is kept from one image to the next.
_BYTES_KEPT = 32 << 20
_LAST_STREAM = 2
# Each process takes five when it is started, beside the images that are read.
_DESCRIPTORS = 4096
_CLOSED = "This decoder was closed: make another."
# Neither the folder of the run nor that of the photos is a place to import from.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from pc_engine.decoding.decode_process import main; main()"
)


class IsolatedDecoder:
    """Decodes images as `decode_bytes` does, in processes. Use it as a context manager, or close it.

    Parameters
    ----------
    workers
        Processes; so many threads can decode at a time, others wait.
    max_pixels
        Images with more are refused.
    seconds
        An image that takes longer is given up.
    room
        Shared by all processes; None for as much as the machine's memory holds.
    function
        What decodes, as ``module:name``; None for `pc_engine.decoding.decode.decode_bytes`.

    Raises
    ------
    UsageError
        On systems that cannot fork.
    """

    def __init__(
        self,
        workers: int,
        *,
        max_pixels: int = MAX_PIXELS,
        seconds: float = IMAGE_SECONDS,
        room: PixelRoom | None = None,
        function: str | None = None,
    ) -> None:
        if not hasattr(os, "fork"):
            raise UsageError("Decoding in separate processes needs Linux or macOS: omit --isolate.")
        self.max_pixels = max_pixels
        self._settings = {"max_pixels": max_pixels, "seconds": seconds, "function": function or FUNCTION}
        self._room = room or room_for(max_pixels)
        self._keepers: list[subprocess.Popen[bytes]] = []
        self._closed, self._changing = False, threading.Lock()
        _allow_descriptors()
        self._slots = [_Slot(self) for _ in range(workers)]
        self._free: queue.LifoQueue[_Slot] = queue.LifoQueue()
        # What is forgotten unclosed leaves nothing behind either; at exit the system closes the ends.
        ends = [slot.ends for slot in self._slots]
        weakref.finalize(self, _end_forgotten, ends, self._keepers).atexit = False
        self.start_keeper(*self._slots)
        for slot in self._slots:
            self._free.put(slot)

    def decode(self, data: bytes, height: int, width: int) -> DecodedImage:
        """Decode an image held in memory to ``height`` x ``width``; see `pc_engine.decoding.decode.decode_bytes`.

        Raises
        ------
        ImageError
            If it cannot be decoded, takes too long, or made the decoder crash.
        UsageError
            If the decoder is closed, or was meanwhile.
        PcEngineError
            If no process can be kept alive, whatever the image.
        """
        slot = self._free.get()
        try:
            outcome = slot.decode(data, height, width, self._room)
            if isinstance(outcome, _Death) and outcome.signal != signal.SIGALRM:
                outcome = slot.decode(data, height, width, self._room)
            if isinstance(outcome, _Death):
                raise ImageError(self._sentence(outcome))
            return outcome
        finally:
            with self._changing:
                if self._closed:
                    slot.close()
                self._free.put(slot)

    def start_keeper(self, *slots: _Slot) -> None:
        """Start a process that keeps decoders for these; raise UsageError if there are to be none any more."""
        with self._changing:
            if self._closed:
                raise UsageError(_CLOSED)
            self._start_keeper(slots)

    def _start_keeper(self, slots: Sequence[_Slot]) -> None:
        # One thread each: there are as many decoders as cores.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        channels: list[Channel] = []
        try:
            for slot in slots:
                channels.append(slot.open())  # noqa: PERF401 (those opened before one that fails are closed below)
            settings = json.dumps({**self._settings, "channels": channels})
            keeper = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, settings, json.dumps(sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # What codecs print about a file is no news to the user: its row says what is wrong.
                stderr=None if os.environ.get("PC_ENGINE_DEBUG") else subprocess.DEVNULL,
                pass_fds=[number for channel in channels for number in channel],
                env=environment,
                start_new_session=True,  # Ctrl-C is for the run, which finishes what it has in work
            )
        except OSError as error:
            raise PcEngineError(
                f"No process for decoding can be started ({system_reason(error)}): see which limit on memory, "
                "processes or open files it meets (ulimit -a), or go on without --isolate."
            ) from None
        finally:
            for channel in channels:
                os.close(channel.requests)
                os.close(channel.replies)
        self._keepers.append(keeper)

    @property
    def keepers(self) -> tuple[int, ...]:
        """Process numbers of the keepers that were started, each the first of its group."""
        return tuple(keeper.pid for keeper in self._keepers)

    def close(self) -> None:
        """End the processes. A thread that waits for one learns of it, and then lets go of what it had to itself."""
        with self._changing:
            self._closed = True
            # What a thread has in use has descriptors whose numbers would be those of other files, were they closed.
            with contextlib.suppress(queue.Empty):
                idle = []
                while True:
                    idle.append(self._free.get_nowait())
            for slot in idle:
                slot.close()
                self._free.put(slot)
        _end_keepers(self._keepers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sentence(self, death: _Death) -> str:
        if death.signal == signal.SIGALRM:
            return f"Decoding takes longer than {self._settings['seconds']:g} seconds, the limit (--image-seconds)."
        if death.signal == signal.SIGKILL:
            return "The process that decoded it was killed, perhaps as memory ran out: scale it down first."
        how = f"with {_name(death.signal)}" if death.signal else f"with exit code {death.code}"
        return f"It made the decoder crash ({how}): the file is damaged, or made to do that."


@dataclass(frozen=True)
class _Death:
    """How a process ended: by a signal, or with an exit code; and whether it had begun with the present image.

    If not, it ended before, as one may that waits for its next image where memory runs out.
    """

    signal: int
    code: int
    begun: bool


class _Slot:
    """One thread's process, whichever that is at the moment; ``ends`` are the descriptors of its channel."""

    def __init__(self, owner: IsolatedDecoder) -> None:
        self._owner = owner
        self.ends: list[int] = []
        self._number = 0
        # Whether any process ever did what it is for: if so, those that end now do for what they are given.
        self._answered = False

    def open(self) -> Channel:
        """Make a new channel, and return the ends that its process gets; these are for the caller to close."""
        self.close()
        requests, self._requests = map(_beyond_streams, os.pipe())
        self._replies, replies = map(_beyond_streams, os.pipe())
        self._memory = _beyond_streams(_shared_memory())
        self.ends += [self._requests, self._replies, self._memory]
        self._empty = True
        return Channel(requests, replies, self._memory)

    def close(self) -> None:
        """Close the run's ends: the process ends when it next looks for something to do."""
        while self.ends:
            os.close(self.ends.pop())

    def decode(self, data: bytes, height: int, width: int, room: PixelRoom) -> DecodedImage | _Death:
        """Decode one image, once."""
        if not self.ends:
            raise UsageError(_CLOSED)
        self._number += 1
        request = REQUEST.pack(DECODE, self._number, len(data), height, width)
        self._send(request, data)
        with contextlib.ExitStack() as held:
            for _ in range(_MOST_FALSE_STARTS):
                outcome = self._wait(held, room, height, width)
                if isinstance(outcome, DecodedImage) or outcome.begun:
                    return outcome
                # What no decoder has begun with is as it was put there.
                if self._empty:
                    self._send(request, data)
                else:
                    self._write(request)
        if self._answered:
            return outcome
        raise PcEngineError(
            f"The processes that decode exit as soon as they are started ({_MOST_FALSE_STARTS} did in a row): omit "
            "--isolate."
        )

    def _wait(self, held: contextlib.ExitStack, room: PixelRoom, height: int, width: int) -> DecodedImage | _Death:
        """Return the image, or how its process ended, which may have been before it began."""
        while True:
            reply = read_message(self._replies, REPLY)
            if reply is None:
                return self._lost()
            kind, number, picture_width, picture_height, pixels, sentence = reply
            if kind == DIED:
                # By then the next one may have begun with this image.
                return _Death(picture_width, picture_height, begun=number == self._number)
            if number != self._number:
                continue
            self._answered = True
            if kind == NEEDS_ROOM:
                held.close()  # a decoder out of its mind may ask twice
                held.enter_context(room.taken(pixels))
                self._write(REQUEST.pack(GO_ON, number, 0, 0, 0))
            elif kind == REFUSED:
                self._let_go_of_memory()
                raise ImageError(sentence.rstrip(b"\0").decode("utf-8", "replace"))
            elif kind == PIXELS:
                if not 0 < picture_width * picture_height <= self._owner.max_pixels:
                    raise ImageError("It made the decoder answer with a size that no picture has: the file is damaged.")
                small = self._pixels(height, width)
                image = DecodedImage(small, picture_width, picture_height, has_others=bool(pixels))
                self._let_go_of_memory()
                return image

    def _lost(self) -> _Death:
        """Start again where the keeper itself is gone, and with it whoever could say how the decoder ended."""
        had_begun = begun(self._memory) == self._number
        self._owner.start_keeper(self)
        if had_begun:
            os.pwrite(self._memory, BEGUN.pack(self._number), 0)
        return _Death(signal.SIGKILL, 0, had_begun)

    def _send(self, request: bytes, data: bytes) -> None:
        try:
            write_memory(self._memory, data)
            self._empty = False
        except OSError as error:
            raise ImageError(f"There is no memory to hand it to its decoder ({system_reason(error)}).") from None
        self._write(request)

    def _write(self, message: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # waiting for the answer finds out why
            os.write(self._requests, message)

    def _pixels(self, height: int, width: int) -> np.ndarray:
        pixels = np.empty((height, width, 3), np.uint8)
        view = pixels.data.cast("B")
        read = 0
        while read < len(view) and (n := os.preadv(self._memory, [view[read:]], DATA + read)):
            read += n
        if read < len(view):
            raise ImageError("It made the decoder answer with fewer pixels than a picture has: the file is damaged.")
        return pixels

    def _let_go_of_memory(self) -> None:
        if os.fstat(self._memory).st_size > _BYTES_KEPT:
            os.ftruncate(self._memory, DATA)


def _end_keepers(keepers: list[subprocess.Popen[bytes]]) -> None:
    for keeper in keepers:
        # Not yet waited for, so that the number is still its own. An image in work is of no use any more.
        if keeper.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(keeper.pid, signal.SIGKILL)
            keeper.wait()
    keepers.clear()


def _end_forgotten(ends: list[list[int]], keepers: list[subprocess.Popen[bytes]]) -> None:
    """Close a decoder that nobody has any more, so that none of its slots is in use; in a forked process its copies."""
    for numbers in ends:
        while numbers:
            os.close(numbers.pop())
    _end_keepers(keepers)


def _allow_descriptors() -> None:
    """Raise the number of files that this process may have open, and so its children, if it is low, as on macOS."""
    import resource  # not on systems that cannot fork

    may, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _DESCRIPTORS if most == resource.RLIM_INFINITY else min(most, _DESCRIPTORS)
    if may != resource.RLIM_INFINITY and may < allowed:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))


def _shared_memory() -> int:
    """Return a file in memory that has no name; where there is none such, or a container forbids it, one on disk."""
    with contextlib.suppress(AttributeError, OSError):
        return os.memfd_create("pc-engine-decode")
    with tempfile.TemporaryFile() as stream:
        return os.dup(stream.fileno())


def _beyond_streams(descriptor: int) -> int:
    """Return a descriptor that is none of a standard stream, which a process gets anew; there it may be free."""
    if descriptor > _LAST_STREAM:
        return descriptor
    import fcntl  # not on systems that cannot fork

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _LAST_STREAM + 1)
    os.close(descriptor)
    return moved


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
