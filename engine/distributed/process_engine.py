"""A run by several processes of this machine, each with an interpreter and, on a GPU, a context of its own.

One process hands over every file and every row, which takes its interpreter longer than a fast GPU takes for the image.
Several share the GPU, or have one each where there are several.

A thread here keeps each process: it asks for a block, and waits for what became of it. A process that dies is started
again, and its block is done again, which doubles no row (`pc_engine.runs.block_folder`).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from pc_engine.arguments import whole_number
from pc_engine.distributed.block_worker import BlockAnswer, BlockWorker, Choice, Refusal, WorkerSettings, choose
from pc_engine.distributed.shared_engine import Announce, SharedEngine, SharedRun
from pc_engine.errors import PcEngineError, first_line, system_reason
from pc_engine.hardware.devices import open_gpus
from pc_engine.hardware.machine import usable_cores

Question = TypeVar("Question")
Reply = TypeVar("Reply")

# A fork would take over the threads' locks, and a GPU's context, which does not survive it.
_CONTEXT = multiprocessing.get_context("spawn")
# Times in a row that a process may die over the same question. A block counts those who took it, too.
_MOST_DEATHS = 5
# How long processes that are asked to end may take for it, all together.
_SECONDS_TO_END = 5.0
# Ctrl-Break is Windows'.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name))
# Python's own, of the environment that the processes begin with: one at a time, as the environment is everybody's.
_SAFE_PATH = "PYTHONSAFEPATH"
_STARTING = threading.Lock()
_ADVICE = "see whether memory runs out, then run the same command again, with fewer --processes"


class ProcessEngine(SharedEngine):
    """`pc_engine.Engine` in several processes of this machine. Use it as a context manager.

    Parameters
    ----------
    run
        What is shared out.
    processes
        How many. They share the cores; each has a GPU, all of them take turns, or the one that the device names.
    options
        Of `Engine`, save ``threads`` and ``report``.

    Raises
    ------
    PcEngineError
        If what is asked for cannot be done.
    """

    def __init__(self, run: SharedRun, *, processes: int, **options: Any) -> None:
        self.workers = whole_number("--processes", processes)
        super().__init__()
        self._kept: list[_Keeper[int, BlockAnswer]] = []
        threads = max(usable_cores() // processes, 1)
        self._begin(run, {**options, "threads": threads})
        device = str(self._choice.about["device"])
        self._devices = [device] * processes
        if gpus := open_gpus(options["device"], device):
            self._devices = [f"cuda:{number % gpus}" for number in range(processes)]

    def close(self) -> None:
        """End the processes; what one of them is doing is left, and done again by the next run."""
        end = time.monotonic() + _SECONDS_TO_END
        for keeper in self._kept:
            keeper.hang_up()
        for keeper in self._kept:
            keeper.end(end - time.monotonic())
        self._kept = []

    def _choose(self, settings: WorkerSettings) -> Choice:
        # Not here: where this process had a context on the GPU, the others would have less of its memory.
        keeper: _Keeper[WorkerSettings, Choice] = _Keeper(_answer_with_a_choice, ())
        try:
            return keeper.ask(settings)
        except ChildProcessError as error:
            raise PcEngineError(f"{error}: {_ADVICE}.") from None
        finally:
            keeper.end()

    def _answers(self) -> tuple[Announce, Iterator[BlockAnswer]]:
        # Of the blocks' numbers; None where there are no more.
        waiting: SimpleQueue[int | None] = SimpleQueue()
        announced = 0

        def announce(blocks: int, complete: bool) -> None:
            nonlocal announced
            for number in range(announced, blocks):
                waiting.put(number)
            announced = blocks
            if complete:
                for _ in range(self.workers):
                    waiting.put(None)

        return announce, self._answers_to(waiting)

    def _answers_to(self, waiting: SimpleQueue[int | None]) -> Iterator[BlockAnswer]:
        answers: SimpleQueue[BlockAnswer | None] = SimpleQueue()

        def keep(keeper: _Keeper[int, BlockAnswer]) -> None:
            given_up = False
            try:
                while (number := waiting.get()) is not None:
                    if given_up:
                        continue
                    try:
                        answers.put(keeper.ask(number))
                    except Exception as error:  # also of an answer that cannot be read
                        given_up = True
                        refusal = Refusal(f"{first_line(error)}: {_ADVICE}.", PcEngineError.exit_code)
                        answers.put(BlockAnswer(number, refusal=refusal))
            finally:
                answers.put(None)  # or it would be waited for without end

        for device in self._devices:
            settings = replace(self._settings, engine={**self._settings.engine, "device": device})
            keeper: _Keeper[int, BlockAnswer] = _Keeper(_answer_with_blocks, (settings,))
            self._kept.append(keeper)
            threading.Thread(target=keep, args=(keeper,), name="keeper", daemon=True).start()
        for _ in self._devices:
            yield from iter(answers.get, None)


class _Keeper(Generic[Question, Reply]):
    """Keeps a process that answers questions, one after the other; a new one where it dies."""

    def __init__(self, serve: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._serve, self._arguments = serve, arguments
        self._process: Any = None
        self._connection: Connection | None = None
        self._ended = False
        self._lock = threading.Lock()

    def ask(self, question: Question) -> Reply:
        """Return the answer.

        Raises
        ------
        ChildProcessError
            If one process after the other dies over it, or none can be started; the message has no full stop.
        """
        for _ in range(_MOST_DEATHS):
            connection = self._started()
            # Of a line that is hung up meanwhile multiprocessing reads nothing, with a TypeError.
            with contextlib.suppress(EOFError, OSError, TypeError):
                connection.send(question)
                answer: Reply = connection.recv()
                return answer
            code = self._reap(_SECONDS_TO_END)
        raise ChildProcessError(
            f"{_MOST_DEATHS} processes in turn died on the same images, or on starting, the last one {_how(code)}"
        )

    def hang_up(self) -> None:
        """Ask the process to end, which it does once it has answered."""
        with self._lock:
            self._ended = True
            if self._connection is not None:
                self._connection.close()

    def end(self, seconds: float = _SECONDS_TO_END) -> None:
        """Ask the process to end, wait so long for it, then kill it."""
        self.hang_up()
        self._reap(seconds)

    def _started(self) -> Connection:
        with self._lock:
            if self._ended:
                raise ChildProcessError("The processes were ended")
            if self._connection is None:
                try:
                    self._process, self._connection = self._start()
                except OSError as error:
                    raise ChildProcessError(f"A process cannot be started ({system_reason(error)})") from None
            return self._connection

    def _start(self) -> tuple[Any, Connection]:
        ours, theirs = _CONTEXT.Pipe()
        try:
            with _safe_path() as before, _signals_held():
                # No daemon, which may have no processes of its own, as decoding may need.
                process = _CONTEXT.Process(target=_serve, args=(before, self._serve, theirs, *self._arguments))
                process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            # Else its end would not be seen, as this one would hold the line, too.
            theirs.close()
        return process, ours

    def _reap(self, seconds: float) -> int | None:
        """Wait so long for the process to end, then kill it; return its exit code."""
        with self._lock:
            process, connection = self._process, self._connection
            self._process = self._connection = None
        if process is None or connection is None:
            return None
        connection.close()
        process.join(max(seconds, 0))
        if process.is_alive():
            process.kill()
            process.join()
        code: int | None = process.exitcode
        process.close()
        return code


@contextlib.contextmanager
def _safe_path() -> Iterator[str | None]:
    """Let a process that is started meanwhile import nothing of the current folder, where a ``random.py`` may lie.

    Yield what the environment said of it before.
    """
    with _STARTING:
        before = os.environ.get(_SAFE_PATH)
        os.environ[_SAFE_PATH] = "1"
        try:
            yield before
        finally:
            _set_safe_path(before)


def _set_safe_path(value: str | None) -> None:
    if value is None:
        del os.environ[_SAFE_PATH]
    else:
        os.environ[_SAFE_PATH] = value


def _serve(safe_path: str | None, serve: Callable[..., None], *arguments: Any) -> None:
    """Begin a process: what it starts itself, such as what fetches credentials, has the user's environment."""
    _set_safe_path(safe_path)
    serve(*arguments)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Let a process that is started meanwhile begin with signals held back, until it can say that it ignores them."""
    if not hasattr(signal, "pthread_sigmask"):  # as on Windows
        yield
        return
    # Else it is started with the first process, and lets signals through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"by signal {-code}"
    return f"with exit code {code}"


def _answer_with_a_choice(connection: Connection) -> None:
    """Answer settings with what this machine makes of them."""
    _answer_all(connection, lambda: choose)


def _answer_with_blocks(connection: Connection, settings: WorkerSettings) -> None:
    """Answer the numbers of blocks with what became of them."""
    _answer_all(connection, lambda: BlockWorker(settings).answer)


def _answer_all(connection: Connection, prepare: Callable[[], Callable[[Any], object]]) -> None:
    """Answer every question with what the function that ``prepare`` returns makes of it."""
    # Signals go to all processes at a terminal. What they ask for comes to this one by the blocks' folder.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    # The line is cut where the run is over, or whoever started this process is gone.
    answer = prepare()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            connection.send(answer(connection.recv()))
