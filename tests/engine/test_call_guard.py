from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from pc_engine.call_guard import CallGuard
from pc_engine.errors import UsageError


def test_closing_waits_for_the_calls_under_way_and_refuses_later_ones() -> None:
    guard = CallGuard()
    begun, end = threading.Event(), threading.Event()
    order: list[str] = []

    def call() -> None:
        with guard:
            begun.set()
            assert end.wait(120)
            order.append("called")

    def close() -> None:
        assert guard.close()
        order.append("closed")

    threads = [threading.Thread(target=target) for target in (call, close)]
    threads[0].start()
    assert begun.wait(120)
    threads[1].start()
    with suppress(UsageError):
        while True:  # until the other thread has begun to close it
            guard.check()
    with pytest.raises(UsageError, match="This engine was closed"), guard:
        pass
    assert order == []
    end.set()
    for thread in threads:
        thread.join(120)
    assert order == ["called", "closed"]
    assert not guard.close()


def test_a_call_that_fails_is_over() -> None:
    guard = CallGuard()
    with pytest.raises(ZeroDivisionError), guard:
        raise ZeroDivisionError
    assert guard.close()


FORKED = """
import os, signal, sys
from pc_engine import Engine, PcEngineError

engine = Engine("lego", backend="onnxruntime", precision="fp32")
assert next(engine.run("demo:")).ok
child = os.fork()
if not child:
    signal.alarm(600)  # it would wait for threads for ever
    for use in (lambda: list(engine.run("demo:")), lambda: Engine("lego", backend="onnxruntime", precision="fp32")):
        try:
            use()
        except PcEngineError as error:
            print(error, flush=True)
    engine.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert next(engine.run("demo:")).ok
engine.close()
try:
    Engine("lego", mode="nonsense")
except PcEngineError:
    pass
child = os.fork()
if not child:
    signal.alarm(600)
    with Engine("lego", backend="onnxruntime", precision="fp32") as another:
        assert next(another.run("demo:")).ok
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
def test_an_engine_says_in_a_forked_process_that_it_did_not_survive() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 2
    assert all(line.startswith("This process was forked while an engine was open") for line in said)


def test_what_it_guards_is_not_for_another_process() -> None:
    for send in (pickle.dumps, copy.deepcopy):
        with pytest.raises(UsageError, match="An engine cannot be pickled or copied"):
            send([CallGuard()])
