"""Takes down what a pretended GPU does, and finds accesses to its memory that nothing puts in an order.

The arrays of `conftest.PretendedGpu` are computed at once, so that numbers are right whatever the streams. Here each
operation, copy, event and wait is put down with the stream that it was queued on, and each thread and stream has a
vector clock: what it knows to be done before. Two accesses to one array, or to memory that was handed from one to
another, of which one writes, have to be ordered by a stream, an event, or a host that waited: whatever the timing was.
Threads of the host know of each other what queues, locks and futures tell them, and no more.
"""

from __future__ import annotations

import contextlib
import functools
import linecache
import re
import sys
import threading
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class Actor:
    """A thread of the host, or a stream: by actor, how much of what it did is known to be done."""

    def __init__(self) -> None:
        self.clock: dict[Actor, int] = {}

    def learn(self, clock: Mapping[Actor, int]) -> None:
        for actor, time in clock.items():
            if self.clock.get(actor, 0) < time:
                self.clock[actor] = time

    def act(self) -> int:
        self.clock[self] = self.clock.get(self, 0) + 1
        return self.clock[self]


@dataclass(eq=False)
class Memory:
    """What an array lies in: who wrote it last and who read it since, and where that was done in the source."""

    place: Any = None
    freed: Mapping[Actor, int] = field(default_factory=dict)
    written: tuple[Actor, int, str] | None = None
    read: dict[Actor, tuple[int, str]] = field(default_factory=dict)


def _where() -> str:
    """Return the line of the package that an access comes from."""
    frame: Any = sys._getframe(1)
    while frame is not None and "/tests/" in frame.f_code.co_filename:
        frame = frame.f_back
    while frame is not None and "pc_engine" not in frame.f_globals.get("__name__", ""):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_globals['__name__']}:{frame.f_lineno}"


class Order:
    """The clocks, the memory, and what was found.

    Attributes
    ----------
    races
        Accesses that nothing orders, each a sentence.
    done
        How often each kind of operation was queued.
    skip
        Waits in lines of source that hold one of these words are left out, for tests of this checker.
    """

    def __init__(self, gpu: Any) -> None:
        self.gpu, self.races, self.done = gpu, set[str](), Counter[str]()
        # Arrays and streams by the numbers that libraries are given.
        self.at: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self.skip: tuple[str, ...] = ()
        self.skipped: set[str] = set()
        self._local, self._lock = threading.local(), threading.RLock()
        self._of: dict[int, tuple[Any, Memory]] = {}
        # Memory that was freed, by pool, stream and size: where CuPy looks for more.
        self._free: defaultdict[Any, list[Memory]] = defaultdict(list)

    # The host

    def host(self) -> Actor:
        if not hasattr(self._local, "actor"):
            self._local.actor = Actor()
        actor: Actor = self._local.actor
        return actor

    def tell(self) -> dict[Actor, int]:
        """Return what the calling thread knows, for another one to `hear`."""
        self.host().act()
        return dict(self.host().clock)

    def hear(self, clock: Mapping[Actor, int] | None) -> None:
        self.host().learn(clock or {})

    def leaves_out(self) -> bool:
        """Whether the calling line's wait is one to be left out."""
        frame: Any = sys._getframe(2)
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        found = {words for words in self.skip if words in line}
        self.skipped |= found
        return bool(found)

    @contextlib.contextmanager
    def quietly(self) -> Iterator[None]:
        before, self._local.quiet = self.is_quiet(), True
        try:
            yield
        finally:
            self._local.quiet = before

    def is_quiet(self) -> bool:
        return getattr(self._local, "quiet", False)

    @contextlib.contextmanager
    def pool(self, pool: Any) -> Iterator[None]:
        """Allocate from a pool of its own."""
        before, self._local.pool = getattr(self._local, "pool", None), pool
        try:
            yield
        finally:
            self._local.pool = before

    # Memory

    def memory(self, array: np.ndarray, stream: Stream | None = None) -> Memory:
        """Return what an array lies in; memory of an array that is new comes from what was freed on its stream."""
        root: Any = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        with self._lock:
            found = self._of.get(id(root))
            if found is not None and found[0]() is root:
                return found[1]
            place = (getattr(self._local, "pool", None), stream or self.gpu.current(), root.nbytes)
            memory = self._free[place].pop() if self._free[place] else Memory(place)
            self.hear(memory.freed)  # as the pool has a lock
            key = id(root)
            self._of[key] = weakref.ref(root, lambda gone: self._forget(key, gone)), memory
            return memory

    def _forget(self, key: int, gone: Any) -> None:
        with self._lock:
            if self._of.get(key, (None,))[0] is gone:
                memory = self._of.pop(key)[1]
                memory.freed = self.tell()
                self._free[memory.place].append(memory)

    def free_all(self) -> None:
        """Give memory back to CUDA, which waits for the GPU."""
        with self._lock:
            self._free.clear()

    def access(self, actor: Actor, memory: Memory, writes: bool) -> None:
        """Note an access of what the actor does now."""
        where, time = _where(), actor.clock[actor]
        known = actor.clock
        others = [memory.written] if memory.written else []
        if writes:
            others += [(other, at, place) for other, (at, place) in memory.read.items()]
        for other, at, place in others:
            if known.get(other, 0) < at:
                self.races.add(f"{'write' if writes else 'read'} at {where}, not ordered behind {place}")
        if writes:
            memory.written, memory.read = (actor, time, where), {}
        else:
            memory.read[actor] = time, where

    def queue(self, name: str, reads: Any = (), writes: Any = (), stream: Stream | None = None) -> None:
        """Note an operation on arrays, queued on a stream, by default on the current one."""
        if self.is_quiet():
            return
        stream = stream or self.gpu.current()
        places = [(self.memory(array, stream), False) for array in reads]
        places += [(self.memory(array, stream), True) for array in writes]
        with self._lock:
            if stream.captured is not None:
                stream.captured.append((name, places))
                return
            self.run(stream, name, places)

    def run(self, stream: Stream, name: str, places: Any) -> None:
        with self._lock:
            self.done[name] += 1
            stream.learn(self.tell())
            stream.act()
            for memory, writes in places:
                self.access(stream, memory, writes)

    def on_host(self, array: np.ndarray, *, writes: bool) -> None:
        """Note that the calling thread looks at memory that the GPU can reach, or changes it."""
        self.host().act()
        with self._lock:
            self.access(self.host(), self.memory(array), writes)

    # What threads tell each other

    def simple_queue(self) -> Any:
        return _Queue(self)

    def mutex(self) -> Any:
        return _Mutex(self)

    def executor(self, workers: int, thread_name_prefix: str = "") -> Any:
        return _Executor(self, workers, thread_name_prefix)


class _Queue:
    def __init__(self, order: Order) -> None:
        self.order, self.inner = order, SimpleQueue[Any]()

    def put(self, item: Any) -> None:
        self.inner.put((item, self.order.tell()))

    def get(self, block: bool = True) -> Any:
        item, clock = self.inner.get(block)
        self.order.hear(clock)
        return item

    def get_nowait(self) -> Any:
        return self.get(False)


class _Mutex:
    def __init__(self, order: Order) -> None:
        self.order, self.inner, self.clock = order, threading.Lock(), dict[Actor, int]()

    def __enter__(self) -> None:
        self.inner.acquire()
        self.order.hear(self.clock)

    def __exit__(self, *_: object) -> None:
        self.clock = self.order.tell()
        self.inner.release()


class _Executor(ThreadPoolExecutor):
    def __init__(self, order: Order, workers: int, prefix: str) -> None:
        super().__init__(workers, prefix)
        self.order = order

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        before, after = self.order.tell(), list[Any]()

        def run() -> Any:
            self.order.hear(before)
            try:
                return work(*args, **kwargs)
            finally:
                after.append(self.order.tell())

        future = super().submit(run)
        plain = future.result

        def result(timeout: float | None = None) -> Any:
            try:
                return plain(timeout)
            finally:
                self.order.hear(after[0])

        future.result = result  # type: ignore[method-assign]
        return future


class Stream(Actor):
    """A stream, which is a clock. While it is captured, what is queued on it is a graph's."""

    def __init__(self, order: Order, non_blocking: bool = False) -> None:
        super().__init__()
        self.order, self.non_blocking, self.ptr = order, non_blocking, id(self)
        order.at[self.ptr] = self
        self.captured: list[Any] | None = None

    def __enter__(self) -> Stream:
        self.order.gpu.stack().append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.order.gpu.stack().pop()

    def is_capturing(self) -> bool:
        return self.captured is not None

    def refuse_while_captured(self) -> None:
        if self.captured is not None:
            raise sys.modules["cupy"].cuda.runtime.CUDARuntimeError(900, "cudaErrorStreamCaptureUnsupported")  # type: ignore[attr-defined]

    def synchronize(self) -> None:
        if not self.order.is_quiet():
            self.refuse_while_captured()
            if not self.order.leaves_out():
                self.order.hear(self.clock)

    def record(self, event: Event | None = None) -> Event:
        event = event or Event(self.order)
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        if not self.order.leaves_out():
            self.learn(self.order.tell())
            self.learn(event.clock)

    def begin_capture(self) -> None:
        self.captured = []

    def end_capture(self) -> Graph:
        captured, self.captured = self.captured, None
        assert captured is not None
        return Graph(self.order, captured)


class Event:
    def __init__(self, order: Order, block: bool = False, disable_timing: bool = False) -> None:
        self.order, self.block, self.clock = order, block, dict[Actor, int]()

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or self.order.gpu.current()
        stream.learn(self.order.tell())
        self.clock = dict(stream.clock)

    def synchronize(self) -> None:
        if not self.order.leaves_out():
            self.order.hear(self.clock)


class Graph:
    """What was captured. A launch touches the memory that the capture did; the values are computed anew."""

    def __init__(self, order: Order, captured: list[Any]) -> None:
        self.order, self.captured = order, captured
        self.again: Callable[[], Any] = lambda: None
        self.given: Any = None

    def launch(self, stream: Stream) -> None:
        self.order.done["graph"] += 1
        for name, places in self.captured:
            self.order.run(stream, f"{name} in a graph", places)
        with self.order.quietly(), stream:
            fresh = self.again()
        pairs = (
            zip(self.given.values(), fresh.values(), strict=True) if isinstance(fresh, dict) else [(self.given, fresh)]
        )
        for place, value in pairs:
            np.copyto(place.view(np.ndarray), value.view(np.ndarray))


def recorded(record: Callable[..., Any]) -> Callable[..., Any]:
    """`record`, whose graphs know how to compute their values again."""

    def call(stream: Any, work: Callable[[], Any]) -> Any:
        graph, given = record(stream, work)
        graph.again, graph.given = work, given
        return graph, given

    return call


@functools.cache
def parameters(code: str, kernel: str) -> tuple[bool, ...]:
    """Return of each parameter of a kernel whether it is an array that it may write to."""
    flat = code.replace("\\\n", " ")
    macros = dict(re.findall(r"^#define (\w+)(?:\(\w+\))? (.*)$", flat, re.MULTILINE))
    used = re.search(rf"^([A-Z_]+)\({kernel}, \w+\)$", flat, re.MULTILINE)
    assert used is not None
    found = re.search(rf"^#define {used[1]}\(name, \w+\) .*? name\((.*?)\) \{{", flat, re.MULTILINE)
    assert found is not None
    state = macros["STATE_PARAMETERS"] if "#define STATE_IN_ARRAY" in code.splitlines()[0] else ""
    text = found[1].replace("STATE_PARAMETERS", state).replace("TAP_PARAMETERS(T)", macros.get("TAP_PARAMETERS", ""))
    text = re.sub(r"\bWINDOWS\b", macros.get("WINDOWS", ""), text)
    return tuple("*" in one and "const" not in one for one in text.split(","))


class _Kernel:
    def __init__(self, order: Order, kernel: Any, name: str, code: str) -> None:
        self.order, self.kernel, self.name, self.writes = order, kernel, name, parameters(code, name)

    def __call__(self, grid: Any, block: Any, arguments: Any, *, shared_mem: int) -> None:
        self.kernel.max_dynamic_shared_size_bytes = self.max_dynamic_shared_size_bytes
        arrays = [(a, w) for a, w in zip(arguments, self.writes, strict=True) if isinstance(a, np.ndarray)]
        self.order.queue(self.name, [a for a, w in arrays if not w], [a for a, w in arrays if w])
        self.kernel(grid, block, arguments, shared_mem=shared_mem)

    max_dynamic_shared_size_bytes = 48 << 10


@dataclass
class Pointer:
    order: Order
    array: np.ndarray

    @property
    def ptr(self) -> int:
        """An address that is aligned as CuPy's are: those of arrays begin at multiples of 512."""
        root: Any = self.array
        while isinstance(root.base, np.ndarray):
            root = root.base
        address = id(root) * 512 + self.array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
        self.order.at[address] = self.array
        return address

    def _copy(self, name: str, source: np.ndarray, size: int, stream: Stream) -> None:
        self.order.queue(name, [source], [self.array], stream)
        assert self.array.flags.c_contiguous
        assert source.flags.c_contiguous
        self.array.view(np.ndarray).reshape(-1).view(np.uint8)[:size] = (
            source.view(np.ndarray).reshape(-1).view(np.uint8)[:size]
        )

    def copy_from_host_async(self, source: int, size: int, stream: Stream) -> None:
        self._copy("to device", self.order.at[source], size, stream)

    def copy_from_device_async(self, source: Pointer, size: int, stream: Stream) -> None:
        self._copy("copy", source.array, size, stream)


class _Pinned(np.ndarray):
    """Page-locked memory: the GPU reads it while the host may fill it again."""

    order: Any = None

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        assert function is np.copyto
        place, values = args
        self.order.on_host(place, writes=True)
        return np.copyto(place.view(np.ndarray), values)


def _numpy_without(device_array: type) -> Any:
    """Return NumPy to whom arrays of the device are none of its own, as CuPy's are not."""

    class OfHost(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, np.ndarray) and not isinstance(value, device_array)

    module: Any = ModuleType("numpy")
    module.__getattr__ = lambda name: getattr(np, name)
    module.ndarray = OfHost("ndarray", (), {})
    return module


def _arrays(host: ModuleType, values: Any) -> list[Any]:
    found = []
    for value in values:
        if isinstance(value, host.HostArray):
            found.append(value)
        elif type(value) in (tuple, list):
            found += _arrays(host, value)
    return found


def _watch_arrays(order: Order, host: ModuleType, monkeypatch: Any) -> None:
    """Let each way to compute with arrays tell what it reads and writes."""
    array = host.HostArray
    ufunc, get = array.__array_ufunc__, array.get

    def traced_ufunc(self: Any, function: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        result = ufunc(self, function, method, *inputs, **kwargs)
        order.queue("ufunc", _arrays(host, inputs), [kwargs["out"][0] if kwargs.get("out") else result])
        return result

    def finalize(self: Any, parent: Any) -> None:
        if isinstance(parent, array) and not np.may_share_memory(self, parent):
            order.queue("method", [parent], [self])

    def setitem(self: Any, key: Any, value: Any) -> None:
        keys = key if isinstance(key, tuple) else (key,)
        order.queue("setitem", _arrays(host, [value, *keys]), [self])
        np.ndarray.__setitem__(self.view(np.ndarray), host._bare(key), host._bare(value))

    def traced_get(self: Any) -> Any:
        stream = order.gpu.current()
        stream.refuse_while_captured()
        order.queue("to host", [self])
        order.hear(stream.clock)
        return get(self)

    monkeypatch.setattr(array, "__array_ufunc__", traced_ufunc, raising=False)
    monkeypatch.setattr(array, "__array_finalize__", finalize, raising=False)
    monkeypatch.setattr(array, "__setitem__", setitem, raising=False)
    monkeypatch.setattr(array, "get", traced_get)
    monkeypatch.setattr(array, "device", property(lambda _: SimpleNamespace(id=0)), raising=False)
    monkeypatch.setattr(array, "data", property(lambda self: Pointer(order, self)), raising=False)


def _watch_cupy(order: Order, host: ModuleType, cupy: Any) -> None:
    def traced(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with order.quietly():
                result = function(*args, **kwargs)
            given = _arrays(host, [*args, *kwargs.values()])
            made = [args[0]] if name == "copyto" else _arrays(host, [result])
            if name == "empty":
                order.memory(result)
            elif name == "copyto" or not any(np.may_share_memory(a, b) for a in made for b in given):
                order.queue(name, given, made)
            return result

        if hasattr(function, "at"):
            at = function.at

            def scatter(place: Any, indices: Any, values: Any) -> None:
                order.queue("at", _arrays(host, [indices, values]), [place])
                at(place, indices, values)

            call.at = scatter  # type: ignore[attr-defined]
        return call

    look_up, raw_module = type(cupy).__getattr__, cupy.RawModule

    def get(self: Any, name: str) -> Any:
        found = look_up(self, name)
        return found if isinstance(found, type) or not callable(found) else traced(name, found)

    def module(**given: Any) -> Any:
        made = raw_module(**given)
        return SimpleNamespace(get_function=lambda name: _Kernel(order, made.get_function(name), name, given["code"]))

    type(cupy).__getattr__ = get
    cupy.RawModule = module
    cupy.empty, cupy.asarray = traced("empty", cupy.empty), traced("asarray", cupy.asarray)
    cupy.cuda.Stream = lambda non_blocking=False: Stream(order, non_blocking)
    cupy.cuda.Event = functools.partial(Event, order)
    cupy.cuda.using_allocator = lambda malloc: order.pool(malloc.__self__)
    cupy.cuda.MemoryPool = _Pool
    for pool in ("get_default_memory_pool", "get_default_pinned_memory_pool"):
        before = getattr(cupy, pool)().free_all_blocks
        both = functools.partial(lambda *each: [one() for one in each], before, order.free_all)
        setattr(cupy, pool, functools.partial(SimpleNamespace, free_all_blocks=both))


class _Pool:
    def __init__(self, allocator: Any) -> None: ...

    def malloc(self, size: int) -> Any: ...

    def free_all_blocks(self) -> None: ...


def watch(gpu: Any, host: ModuleType, monkeypatch: Any) -> Order:
    """Let a pretended GPU, with all that is on its way there, be watched from now on."""
    from pc_engine.backends import idle, recorded_work
    from pc_engine.hardware.device_arrays import DeviceConstants

    order = Order(gpu)
    gpu.default = Stream(order)
    cupyx: Any = ModuleType("cupyx")

    def empty_pinned(shape: Any, dtype: Any) -> Any:
        made = np.empty(shape, dtype).view(_Pinned)
        order.at[made.ctypes.data] = made
        return made

    cupyx.empty_pinned = empty_pinned
    monkeypatch.setattr(_Pinned, "order", order)
    monkeypatch.setattr("pc_engine.hardware.cuda.np", _numpy_without(host.HostArray))
    monkeypatch.setitem(sys.modules, "cupyx", cupyx)
    _watch_arrays(order, host, monkeypatch)
    _watch_cupy(order, host, sys.modules["cupy"])

    record = recorded(recorded_work.record)
    for module in ("recorded_work", "lanes"):
        monkeypatch.setattr(f"pc_engine.backends.{module}.record", record)
    monkeypatch.setattr("pc_engine.mode_run.RecordedWork", recorded_work.RecordedWork)
    monkeypatch.setattr("pc_engine.hardware.device_work._IDLE_STREAMS", defaultdict(order.simple_queue))
    for module in ("mode_run", "decoding.decode_device"):
        monkeypatch.setattr(f"pc_engine.{module}.SimpleQueue", order.simple_queue)
    monkeypatch.setattr("pc_engine.pipeline.ThreadPoolExecutor", order.executor)
    mutexes = SimpleNamespace(Lock=order.mutex, Event=threading.Event)
    for module in ("mode_run", "backends.lanes"):
        monkeypatch.setattr(f"pc_engine.{module}.threading", mutexes)

    taken, get, clocks = idle.Idle.taken, DeviceConstants.get, dict[Any, Any]()

    @contextlib.contextmanager
    def traced_taken(self: Any) -> Iterator[Any]:
        with taken(self) as member:
            order.hear(clocks.get(member))
            try:
                yield member
            finally:
                clocks[member] = order.tell()

    def traced_get(self: Any, xp: Any, name: Any, array: Any) -> Any:
        order.hear(clocks.get((id(self), name)))
        found = get(self, xp, name, array)
        clocks[id(self), name] = order.tell()
        return found

    monkeypatch.setattr(idle.Idle, "taken", traced_taken)
    monkeypatch.setattr(DeviceConstants, "get", traced_get)
    return order
