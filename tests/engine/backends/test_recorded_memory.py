"""Memory of a program that is recorded as a CUDA graph, on a pool that does as CuPy's when memory is short."""

from __future__ import annotations

import contextlib
import gc
import sys
import weakref
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pc_engine.backends.recorded_memory import RecordedMemory
from pc_engine.errors import BackendError


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"cudaError {status}")
        self.status = status


class Pool:
    """Blocks by the stream that they were freed on; without memory for a new one, it frees these and tries again."""

    def __init__(self, allocator: Any) -> None:
        self.allocator, self.unused, self.freed = allocator, [], []

    def malloc(self, size: int) -> Any:
        if size in self.unused:
            self.unused.remove(size)
            return size
        try:
            return self.allocator(size)
        except CUDARuntimeError as error:
            if error.status != 2:
                raise
            self.free_all_blocks()
            return self.allocator(size)

    def give_back(self, size: int) -> None:
        self.unused.append(size)

    def free_all_blocks(self) -> None:
        self.gpu.left += sum(self.unused)
        self.freed += self.unused
        self.unused.clear()


class Gpu:
    def __init__(self, left: int) -> None:
        self.left, self.recording, self.error = left, False, 2
        self.kept = 0  # by CuPy's own pool, for later
        self.pools: list[Pool] = []

    def pool(self, allocator: Any) -> Pool:
        self.pools.append(Pool(allocator))
        self.pools[-1].gpu = self
        return self.pools[-1]

    def give_up_what_is_kept(self) -> None:
        self.left, self.kept = self.left + self.kept, 0

    def allocate(self, size: int) -> int:
        if size > self.left:
            raise CUDARuntimeError(self.error)
        self.left -= size
        return size


@pytest.fixture
def gpu(monkeypatch):
    made = Gpu(left=100)
    cupy: Any = ModuleType("cupy")
    cupy.cuda = SimpleNamespace(
        runtime=SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            cudaDevAttrMemoryPoolsSupported=115,
            deviceGetAttribute=lambda attribute, index: 0,
        ),
        Device=lambda: SimpleNamespace(id=0),
        MemoryPool=made.pool,
        Memory=made.allocate,
        MemoryPointer=lambda memory, offset: memory + offset,
        using_allocator=lambda malloc: contextlib.nullcontext(malloc),
        get_current_stream=lambda: SimpleNamespace(is_capturing=lambda: made.recording),
    )
    cupy.get_default_memory_pool = lambda: SimpleNamespace(free_all_blocks=made.give_up_what_is_kept)
    cupy.get_default_pinned_memory_pool = lambda: SimpleNamespace(free_all_blocks=lambda: None)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return made


def test_no_block_is_freed_while_a_run_is_recorded(gpu):
    memory, stream = RecordedMemory(), SimpleNamespace(ptr=1)
    with memory.serve(stream) as malloc:
        gpu.pools[0].give_back(malloc(60))
        gpu.recording = True
        gpu.pools[0].give_back(malloc(60))  # the kernels recorded with it go on using it
        with pytest.raises(BackendError, match="no 50 bytes of memory were left for recording it"):
            malloc(50)
        assert gpu.pools[0].freed == []
        gpu.recording = False
        assert malloc(50) == 50
    assert gpu.pools[0].freed == [60]


def test_other_errors_are_cudas(gpu):
    memory = RecordedMemory()
    gpu.error, gpu.recording = 700, True
    with memory.serve(SimpleNamespace(ptr=1)) as malloc, pytest.raises(CUDARuntimeError):
        malloc(200)


def test_another_stream_gets_the_memory_of_the_one_before(gpu):
    memory = RecordedMemory()
    for ptr, freed in ((1, []), (1, []), (2, [70])):
        with memory.serve(SimpleNamespace(ptr=ptr)) as malloc:
            assert gpu.pools[0].freed == freed
            gpu.pools[0].give_back(malloc(70))
    memory.close()
    assert gpu.left == 100


def test_what_cupys_own_pool_keeps_for_later_is_taken(gpu):
    memory, gpu.left, gpu.kept = RecordedMemory(), 0, 100
    with memory.serve(SimpleNamespace(ptr=1)) as malloc:
        assert malloc(80) == 80


def test_the_pool_is_gone_with_what_it_was_for(gpu):
    memory = RecordedMemory()
    pool = weakref.ref(gpu.pools.pop())
    gc.disable()  # which would find circles, but late
    try:
        del memory
        assert pool() is None
    finally:
        gc.enable()
