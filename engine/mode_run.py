"""A mode in a run: what it says of each batch, on the host.

On a GPU a mode is some fifty to a hundred short kernels. Started one by one they would keep Python busy for longer than
the GPU, so that for whole batches they are recorded as a CUDA graph, which starts them all at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue

import numpy as np

from pc_engine.backbone import Taps
from pc_engine.backends.recorded_work import REFUSALS, RecordedWork
from pc_engine.errors import first_line
from pc_engine.hardware.device_arrays import pack, unpack
from pc_engine.host_outcome import HostOutcome, host_outcome, on_host, outcome_arrays
from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.model import Model
from pc_engine.modes import Mode, Outcome, Settings
from pc_engine.say import Say

# Name of the flags among what a recorded mode is given; no tap has a space in its name.
_FINITE = "finite images"


class ModeRun:
    """A mode of a model, on batches of taps.

    Parameters
    ----------
    mode, model, settings
        What is run.
    batch_size
        Images in a whole batch: others are few, and are not recorded.
    report
        Called with a sentence for the user, such as where a GPU does not let the mode be recorded: then its kernels are
        started one by one, with the same results.
    known_count
        How many objects each image shows, where that is known of all.
    """

    def __init__(
        self,
        mode: Mode,
        model: Model,
        settings: Settings,
        batch_size: int,
        report: Say,
        known_count: int | None = None,
    ) -> None:
        self._mode, self._parts, self._settings, self._known_count = mode, model.parts, settings, known_count
        self._taps = mode.taps(model.manifest)
        self._batch_size, self._report = batch_size, report
        self._closed = threading.Event()
        if not settings.p2c.recordable:
            self._closed.set()
        # Each is used by one batch at a time.
        self._idle: SimpleQueue[RecordedMode] = SimpleQueue()
        self._recording = threading.Lock()
        self._lent = _Lent()

    def room(self, n: int) -> Taps | None:
        """Return where the taps of a batch of ``n`` images may lie that `answer` gets next from the calling thread.

        What lies there need not be copied. None where they may lie anywhere.
        """
        lent = self._lent
        if self._closed.is_set():
            lent.recorded = None
        elif n == self._batch_size:
            if lent.recorded is None:
                with suppress(Empty):
                    lent.recorded = self._idle.get_nowait()
            return None if lent.recorded is None else lent.recorded.taps
        return None

    def answer(self, taps: Taps, finite: Array, known_count: Array | None = None) -> HostOutcome:
        """Return what the mode says of a batch.

        Parameters
        ----------
        taps
            Those that the mode reads; others are ignored.
        finite
            (N,) bool, on the device of the taps: which images have finite ones.
        known_count
            (N,) int64, beside the taps: how many objects to point at, where that is known; None for what is known of
            all, or to count them.
        """
        recorded = None if known_count is not None else self._recorded(taps, finite)
        if recorded is None:
            return on_host(self._evaluate(taps, known_count), finite)
        try:
            return recorded.answer(taps, finite)
        finally:
            if not self._closed.is_set():
                self._idle.put(recorded)

    def go_on_smaller(self, sentence: str) -> None:
        """Report that batches are smaller from now on, and free what was recorded of whole ones."""
        self.close()
        self._report(sentence)

    def close(self) -> None:
        """Free what was recorded, and record nothing any more: what follows is answered without.

        What another thread's batch uses is freed with it.
        """
        self._closed.set()
        self._lent.recorded = None
        with suppress(Empty):
            while True:
                self._idle.get_nowait().close()

    def _evaluate(self, taps: Taps, known_count: Array | None = None) -> Outcome:
        known = self._known_count if known_count is None else known_count
        return self._mode.evaluate(taps, self._parts, self._settings, known)

    def _recorded(self, taps: Taps, finite: Array) -> RecordedMode | None:
        """Return the mode recorded for a batch, which nobody else uses; None where it is not to be recorded."""
        if get_array_module(finite) is np or len(finite) != self._batch_size or self._closed.is_set():
            return None
        lent, self._lent.recorded = self._lent.recorded, None
        if lent is not None:
            return lent
        with suppress(Empty):
            return self._idle.get_nowait()
        with self._recording:
            if self._closed.is_set():
                return None
            try:
                return RecordedMode(self._evaluate, {name: taps[name] for name in self._taps}, finite)
            except REFUSALS as error:
                self.close()
                reason = first_line(error)
        self._report(f"No CUDA graph of mode {self._mode.name} could be recorded, so it runs slower ({reason}).")
        return None


class _Lent(threading.local):
    """Of each thread the one in whose memory its next taps may lie."""

    recorded: RecordedMode | None = None


class RecordedMode:
    """A mode, recorded for batches of one size on the current GPU.

    Parameters
    ----------
    evaluate
        What is recorded; see `pc_engine.backends.recorded_work.RecordedWork`.
    taps, finite
        A batch; see `ModeRun.answer`.

    Raises
    ------
    BackendError, RuntimeError, MemoryError
        If it cannot be recorded.
    """

    def __init__(self, evaluate: Callable[[Taps], Outcome], taps: Taps, finite: Array) -> None:
        self._names = tuple(taps)

        def packed(inputs: Mapping[str, Array]) -> Array:
            outcome = evaluate({name: inputs[name] for name in self._names})
            self._kind, self._arrays = outcome.kind, outcome_arrays(outcome, inputs[_FINITE])
            return pack(self._arrays)

        self._work = RecordedWork(packed, self._inputs(taps, finite))

    @property
    def taps(self) -> Taps:
        """The arrays that it reads taps from: others are copied there."""
        return {name: self._work.inputs[name] for name in self._names}

    def queue(self, taps: Taps, finite: Array) -> Array:
        """Queue it for a batch on the current stream; return what crosses to the host, until the next batch's."""
        return self._work(self._inputs(taps, finite))

    def answer(self, taps: Taps, finite: Array) -> HostOutcome:
        """Return what it says of a batch; see `ModeRun.answer`."""
        try:
            return host_outcome(self._kind, unpack(self.queue(taps, finite).get(), self._arrays))
        except BaseException:
            import cupy

            # Till then what was queued works in memory that another batch will have.
            cupy.cuda.get_current_stream().synchronize()
            raise

    def close(self) -> None:
        """Free its memory; no batch is under way."""
        self._arrays = ()
        self._work.close()

    def _inputs(self, taps: Taps, finite: Array) -> dict[str, Array]:
        return {**{name: taps[name] for name in self._names}, _FINITE: finite}
