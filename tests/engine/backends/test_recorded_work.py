"""Work that is recorded once and repeated on other arrays, on a pretended GPU whose streams are lazy."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest

from pc_engine.backends import recorded_work
from pc_engine.backends.recorded_work import REFUSALS, RecordedWork


class Memory:
    """`RecordedMemory` of a GPU that has enough."""

    closed = 0

    serves = False

    @contextlib.contextmanager
    def serve(self, stream: Any) -> Any:
        Memory.serves = True
        yield
        Memory.serves = False

    def close(self) -> None:
        Memory.closed += 1


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_work, "RecordedMemory", Memory)
    Memory.closed = 0


class Adding:
    """Adds two arrays on the current stream, as a kernel does, into an array of its own each time."""

    def __init__(self, gpu: Any) -> None:
        self.gpu, self.calls = gpu, 0
        self.served: list[bool] = []

    def __call__(self, inputs: Any) -> Any:
        self.calls += 1
        self.served.append(Memory.serves)
        a, b = inputs["a"], inputs["b"]
        result = self.gpu.allocate(a.shape, a.dtype)
        self.gpu.current().enqueue(lambda: np.add(a.values, b.values, out=result.values))
        return result


def batch(gpu: Any, first: float) -> dict[str, Any]:
    return {name: gpu.array(np.arange(6, dtype=np.float32) * scale + first) for name, scale in (("a", 1), ("b", 10))}


def test_what_was_recorded_is_repeated_on_other_arrays(gpu: Any) -> None:
    adding = Adding(gpu)
    with gpu.cupy().cuda.Stream(non_blocking=True) as stream:
        work = RecordedWork(adding, batch(gpu, 0))
        # Once to compile, with memory of its own for what will be read by others, once to allocate, once recorded.
        assert adding.served == [False, True, True]
        for first in (3.0, 7.0):
            result = work(batch(gpu, first))
            stream.synchronize()
            np.testing.assert_array_equal(result.get(), np.arange(6) * 11 + 2 * first)
        assert (gpu.graph_launches, adding.calls) == (2, 3)
    work.close()
    assert Memory.closed == 1


def test_inputs_are_waited_for_that_the_caller_s_stream_has_yet_to_fill(gpu: Any) -> None:
    seen = []
    with gpu.cupy().cuda.Stream(non_blocking=True):
        late = batch(gpu, 0)
        late["a"][...] = 5.0  # queued, not done

        def look(inputs: Any) -> Any:
            gpu.current().enqueue(lambda: seen.append(inputs["a"].values.copy()))
            return inputs["a"]

        RecordedWork(look, late)
    np.testing.assert_array_equal(seen[0], np.full(6, 5.0))


def test_a_gpu_that_was_lost_has_nothing_left_to_free(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = gpu.cupy().cuda.runtime.CUDARuntimeError(700)

    def fail(self: Memory) -> None:
        raise lost

    with gpu.cupy().cuda.Stream(non_blocking=True):
        work = RecordedWork(Adding(gpu), batch(gpu, 0))
    gpu.faults["leave device"] = lost
    monkeypatch.setattr(Memory, "close", fail)
    work.close()


@pytest.mark.parametrize("error", [NotImplementedError("no capture"), MemoryError("full"), None])
def test_a_refusal_leaves_the_callers_stream_as_it_was(gpu: Any, error: Exception | None) -> None:
    """Waiting is refused by CUDA itself, which ends the recording."""

    def refuse(inputs: Any) -> Any:
        if gpu.current().is_capturing():
            if error is not None:
                raise error
            gpu.current().synchronize()
        return inputs["a"]

    adding = Adding(gpu)
    with gpu.cupy().cuda.Stream(non_blocking=True) as stream:
        with pytest.raises(REFUSALS):
            RecordedWork(refuse, batch(gpu, 0))
        assert not any(other.is_capturing() for other in gpu.streams.values())
        result = adding(batch(gpu, 1))
        stream.synchronize()
    np.testing.assert_array_equal(result.get(), np.arange(6) * 11 + 2)
