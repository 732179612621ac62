"""What a run does with Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pc_engine.cli import stopping
from pc_engine.cli.stopping import Stopped, Stopping

_RUN = """
import signal, sys, threading
from pc_engine import __main__, cli
from pc_engine.cli import stopping
stopping._SECONDS_TO_END = 1.0
def run():
    with stopping.Stopping(lambda sentence: print(sentence, flush=True)) as asked:
        for number in sys.argv[1].split(","):
            signal.raise_signal(int(number))
        if sys.argv[2] == "hangs":
            threading.Event().wait()
cli.main = run
def hang():
    threading.Event().wait()
if sys.argv[2] == "hangs":
    threading.Thread(target=hang).start()
__main__.main()
"""


def ended(*signals: int, how: str = "ends") -> subprocess.CompletedProcess[str]:
    numbers = ",".join(str(int(number)) for number in signals)
    command = [sys.executable, "-c", _RUN, numbers, how]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.parametrize(("second", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("how", ["ends", "hangs"])
def test_the_second_signal_ends_it_whatever_hangs(second: signal.Signals, code: int, how: str) -> None:
    done = ended(signal.SIGINT, second, how=how)
    assert done.returncode == code
    assert done.stdout.count("Stopping after the images in progress") == 1
    assert "Traceback" not in done.stderr


def test_the_first_signal_ends_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with Stopping(said.append) as asked:
        taken = []
        for image in asked.until_asked(range(10)):
            taken.append(image)
            if image == 3:
                signal.raise_signal(signal.SIGTERM)
    assert taken == [0, 1, 2, 3]
    assert asked.signal == signal.SIGTERM
    assert len(said) == 1


def test_the_first_signal_ends_the_wait_for_the_next_image() -> None:
    closed: list[str] = []

    def images() -> Iterator[int]:
        try:
            yield 0
            threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
            threading.Event().wait(600)  # as for a bucket that does not answer
            yield 1
        except Exception:
            yield 2
        finally:
            closed.append("listing")

    start = time.monotonic()
    with Stopping(lambda _: None) as asked:
        assert list(asked.until_asked(images())) == [0]
    assert time.monotonic() - start < 300
    assert asked.signal == signal.SIGINT
    assert closed == ["listing"]


def test_a_signal_does_not_break_into_the_main_thread_where_another_one_waits() -> None:
    began, go_on = threading.Event(), threading.Event()

    def images() -> Iterator[int]:
        began.set()
        go_on.wait(600)
        yield 0

    with Stopping(lambda _: None) as asked, ThreadPoolExecutor(1) as pool:
        taken = pool.submit(list, asked.until_asked(images()))
        assert began.wait(600)
        signal.raise_signal(signal.SIGINT)
        go_on.set()
        assert taken.result() == []


def test_the_second_says_which_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_SECONDS_TO_END", 1e6)
    with Stopping(lambda _: None):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Stopped) as caught:
            signal.raise_signal(signal.SIGTERM)
    assert caught.value.signal == signal.SIGTERM


def test_signals_that_whoever_started_it_ignores_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stopping(lambda _: pytest.fail("it was asked to stop")) as asked:
            signal.raise_signal(signal.SIGINT)
        assert asked.signal is None
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there is no signal to take for Windows' own")
def test_ctrl_break_of_windows_is_such_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    with Stopping(lambda _: None) as asked:
        signal.raise_signal(signal.SIGUSR1)
        assert asked.signal == signal.SIGUSR1
