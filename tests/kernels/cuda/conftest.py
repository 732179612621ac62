"""The kernels' CUDA C on a machine without a GPU: NumPy posing as CuPy, and g++ as the compiler of its kernels.

`HostCupy` stands in for the module ``cupy`` while an operation runs, so that everything but CuPy itself is the code
that runs on a device: the seam, the preparation of arguments, the loader, and the text of the kernels.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from pc_engine.kernels import to_host

HEADER = Path(__file__).parent / "host" / "cuda_on_host.hpp"
# Few threads: they share two cores, and every barrier is a turn for each.
HOST_THREADS = 6
# A sanitizer's exit code, by which its reports are told from other failures.
SANITIZER_REPORTED = 66
# A block's memory on the smallest of today's GPUs.
BLOCK_BYTES = 99 << 10
_KERNEL = re.compile(r"^[A-Z_]+\((\w+_f\d\d), \w+\)$", re.MULTILINE)


class WaitedError(AssertionError):
    """Code for a device looked at a value there, which would wait for it."""


class HostArray(np.ndarray):
    """A NumPy array that behaves like CuPy's where that differs: its values cannot be looked at in passing."""

    may_wait = False

    def _value(self, convert):
        if not HostArray.may_wait:
            raise WaitedError("a value on the device was looked at")
        return convert(self.view(np.ndarray))

    def __bool__(self):
        return self._value(bool)

    def __int__(self):
        return self._value(int)

    def __float__(self):
        return self._value(float)

    def __index__(self):
        return self._value(lambda array: array.__index__())

    def item(self, *args):
        return self._value(lambda array: array.item(*args))

    def tolist(self):
        return self._value(lambda array: array.tolist())

    def __iter__(self):
        return self._value(iter)

    def nonzero(self):
        return self._value(lambda array: array.nonzero())

    def __getitem__(self, key):
        keys = key if isinstance(key, tuple) else (key,)
        if any(getattr(part, "dtype", None) == np.bool_ for part in keys) and not HostArray.may_wait:
            raise WaitedError("how many values a mask selects was looked at")
        return super().__getitem__(key)

    def get(self):
        return self.view(np.ndarray).copy()


def _bare(value):
    if isinstance(value, HostArray):
        return value.view(np.ndarray)
    return type(value)(_bare(part) for part in value) if type(value) in (tuple, list) else value


def _dressed(value):
    if isinstance(value, np.ndarray):
        return value.view(HostArray)
    return type(value)(_dressed(part) for part in value) if type(value) in (tuple, list) else value


def _refuse_host_arrays(name, values):
    for value in values:
        if type(value) in (tuple, list):
            _refuse_host_arrays(name, value)
        elif isinstance(value, np.ndarray) and not isinstance(value, HostArray):
            raise TypeError(f"{name} got an array of the host, of shape {value.shape}")


def _scatter(ufunc, array, indices, values):
    """What a ufunc's ``at`` does, for the types that CuPy has an atomic operation for."""
    if array.dtype.name not in ("int32", "uint32", "uint64", "float32", "float64"):
        raise TypeError(f"{ufunc.__name__}.at only supports int32, float32, float64, uint32, uint64 as data type")
    ufunc.at(_bare(array), _bare(indices), _bare(values))


class HostCupy(types.ModuleType):
    """NumPy under the name of CuPy, its arrays `HostArray`, its kernels run by g++."""

    ndarray = HostArray
    # How many arrays there are depends on values.
    _looks = frozenset({"flatnonzero", "nonzero", "array_equal"})
    # What copies an array of the host to the device; nothing else takes one.
    _brings = frozenset({"array", "asarray", "ascontiguousarray"})
    # Of more arrays than so many these bring the addresses to the device, which a CUDA graph must not do.
    _join, _most_joined = frozenset({"concatenate", "stack"}), 8

    def __init__(self, folder, *, threads=HOST_THREADS, block_bytes=BLOCK_BYTES):
        super().__init__("cupy")
        self.folder, self.launches, self.modules = folder, [], []
        attributes = {"MaxThreadsPerBlock": 1, "MaxSharedMemoryPerBlockOptin": 97}
        self.runtime = types.SimpleNamespace(
            deviceGetAttribute=lambda attribute, number: {1: threads, 97: block_bytes}[attribute],
            **{f"cudaDevAttr{name}": number for name, number in attributes.items()},
        )
        self.cuda = types.SimpleNamespace(Device=lambda: types.SimpleNamespace(id=0), runtime=self.runtime)

    def RawModule(self, **given):  # noqa: N802 (CuPy's name)
        self.modules.append(HostModule(self, **given))
        return self.modules[-1]

    def empty(self, shape, dtype=float):
        array = np.empty(shape, dtype=dtype)
        array.view(np.uint8 if array.ndim else array.dtype).fill(0x55)  # what no kernel writes is noticed
        return array.view(HostArray)

    def __getattr__(self, name):
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return found

        def function(*args, **kwargs):
            if name in self._looks and not HostArray.may_wait:
                raise WaitedError(name)
            if name not in self._brings:
                _refuse_host_arrays(name, [*args, *kwargs.values()])
            if name in self._join and len(args[0]) > self._most_joined:
                raise WaitedError(f"the addresses of {len(args[0])} arrays for {name} are copied from the host")
            out = kwargs.pop("out", None)
            if out is not None:
                kwargs["out"] = _bare(out)
            return _dressed(found(*(_bare(arg) for arg in args), **{key: _bare(arg) for key, arg in kwargs.items()}))

        if isinstance(found, np.ufunc):
            function.at = functools.partial(_scatter, found)
        return function


def compile_for_host(code, folder, *flags, may_fail=False):
    """Compile CUDA C with g++ and return the path of what comes out; None if that fails and may.

    What is in ``folder`` already, by this process or another one, is not compiled again.
    """
    header = _compile_header(folder, flags)
    known = "".join(f"HOST_KERNEL({name})\n" for name in _KERNEL.findall(code))
    source = _place(folder, f"{code}\n{known}", flags, ".cu")
    command = ["-include", str(header), "-x", "c++", str(source)]
    return _compile(command, flags, source.with_suffix(".out"), may_fail=may_fail)


def _compile_header(folder, flags):
    """Return the header's copy, beside which is what g++ reads in its place: most of a kernel's text is the header."""
    header = _place(folder, HEADER.read_text(encoding="utf-8"), flags, ".hpp")
    # The main() of a file that is included is no mistake, nor is its "#pragma once".
    _compile(["-w", "-x", "c++-header", str(header)], flags, header.with_name(f"{header.name}.gch"), may_fail=True)
    return header


def _place(folder, text, flags, suffix):
    """Return a path for a text that is to be compiled so, and for no other."""
    folder.mkdir(exist_ok=True)
    name = hashlib.sha256("\0".join([*flags, text]).encode()).hexdigest()[:16]
    path = folder / f"{name}{suffix}"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            path.write_text(text, encoding="utf-8")
    return path


def _compile(command, flags, output, *, may_fail):
    with FileLock(f"{output}.lock"):
        if not output.exists():
            command = ["g++", "-std=c++20", "-ffp-contract=off", "-pthread", *flags, *command, "-o", str(output)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert may_fail or done.returncode == 0, done.stderr
            if done.returncode:
                output.unlink(missing_ok=True)
    return output if output.exists() else None


@dataclass
class HostLaunch:
    """A launch as a kernel got it; arrays are copies from before."""

    kernel: str
    blocks: int
    threads: int
    shared_bytes: int
    arguments: list

    def write(self, path):
        """Write it in the form that the replaying main() reads."""
        parts = [f"{self.kernel}\n".encode()]
        parts.append(np.array([self.blocks, self.threads, self.shared_bytes, len(self.arguments)], np.int64).tobytes())
        for argument in self.arguments:
            content = argument.tobytes()
            parts += [np.array([isinstance(argument, np.ndarray), len(content)], np.int64).tobytes(), content]
        path.write_bytes(b"".join(parts))
        return path


@functools.cache
def host_library(code, folder):
    """Compile and load a source, once."""
    # Else the two forms of a source, whose kernels have the same names, would share the table of these.
    flags = ("-O1", "-shared", "-fPIC", "-fno-gnu-unique")
    library = ctypes.CDLL(str(compile_for_host(code, folder, *flags)))
    library.kernel_signature.restype = ctypes.c_char_p
    return library


class HostModule:
    def __init__(self, cupy, *, code, options):
        self.cupy, self.code, self.options, self.library = cupy, code, options, host_library(code, cupy.folder)

    def get_function(self, name):
        signature = self.library.kernel_signature(name.encode())
        assert signature is not None, f"there is no kernel {name}"
        return HostKernel(self, name, signature.decode().split())


class HostKernel:
    max_dynamic_shared_size_bytes = 48 << 10

    def __init__(self, module, name, signature):
        self.module, self.name, self.signature = module, name, signature

    def __call__(self, grid, block, arguments, *, shared_mem):
        assert len(arguments) == len(self.signature), f"{self.name} takes {len(self.signature)} arguments"
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        pointers = []
        for argument, expected in zip(arguments, self.signature, strict=True):
            if isinstance(argument, np.ndarray):
                assert isinstance(argument, HostArray), f"{self.name} got an array of the host"
                assert f"{argument.dtype.str[1:]}*" == expected, f"{self.name} wants {expected}, got {argument.dtype}"
                assert argument.flags.c_contiguous
                pointers.append(ctypes.pointer(ctypes.c_void_p(argument.ctypes.data)))
            else:
                assert isinstance(argument, np.generic), f"CuPy would guess the type of {argument!r}"
                is_null = expected.endswith("*") and argument.dtype == np.uintp and argument == 0
                assert is_null or argument.dtype.str[1:] == expected, f"{self.name} wants {expected}, got {argument!r}"
                pointers.append(ctypes.pointer(ctypes.create_string_buffer(argument.tobytes(), argument.nbytes)))
        copies = [np.array(one.view(np.ndarray)) if isinstance(one, np.ndarray) else one for one in arguments]
        self.module.cupy.launches.append(HostLaunch(self.name, grid[0], block[0], shared_mem, copies))
        table = (ctypes.c_void_p * len(pointers))(*(ctypes.cast(pointer, ctypes.c_void_p) for pointer in pointers))
        size, threads, shared = ctypes.c_uint(grid[0]), ctypes.c_uint(block[0]), ctypes.c_size_t(shared_mem)
        failed = self.module.library.launch_kernel(self.name.encode(), size, threads, shared, table)
        assert not failed, f"{self.name} wrote beyond its {shared_mem} bytes of shared memory"


class OnDevice:
    """Runs an operation on device arrays: the arguments go there, the results come back."""

    def __init__(self, cupy):
        self.cupy = cupy

    def put(self, value):
        if isinstance(value, np.ndarray):
            return self.cupy.asarray(value)
        return type(value)(self.put(part) for part in value) if type(value) in (tuple, list) else value

    @contextlib.contextmanager
    def active(self):
        yield

    def __call__(self, operation, *args, **kwargs):
        with self.active():
            found = operation(*(self.put(arg) for arg in args), **{key: self.put(arg) for key, arg in kwargs.items()})
            if is_dataclass(found):
                assert all(isinstance(getattr(found, field.name), self.cupy.ndarray) for field in fields(found))
                return type(found)(*(to_host(getattr(found, field.name)) for field in fields(found)))
            assert isinstance(found, self.cupy.ndarray)
            return to_host(found)


class OnHostDevice(OnDevice):
    @contextlib.contextmanager
    def active(self):
        before = sys.modules.get("cupy")
        sys.modules["cupy"] = self.cupy
        try:
            yield
        finally:
            del sys.modules["cupy"]
            if before is not None:
                sys.modules["cupy"] = before

    @contextlib.contextmanager
    def allowed_to_wait(self):
        HostArray.may_wait = True
        try:
            yield
        finally:
            HostArray.may_wait = False


def require_compiler():
    if shutil.which("g++") is None:
        pytest.skip("there is no g++ to run the kernels' source on the host")


@pytest.fixture(scope="session")
def make_host(compiled_kernels):
    """Make a stand-in for a device that runs the kernels' source on the host."""
    require_compiler()
    return lambda **properties: OnHostDevice(HostCupy(compiled_kernels, **properties))


def real_device():
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("CuPy is not installed")
    import cupy

    if not cupy.is_available():
        pytest.skip("there is no NVIDIA GPU")
    return OnDevice(cupy)


@pytest.fixture(scope="session", params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request):
    """Where kernels run: the host's stand-in for a device, and a device where there is one."""
    return request.getfixturevalue("make_host")() if request.param == "host" else real_device()


@pytest.fixture(scope="session")
def waited():
    """What the host's stand-in raises where a device would be waited for."""
    return WaitedError


@dataclass(frozen=True)
class Replay:
    """A source under one of g++'s sanitizers, as a program that replays launches."""

    command: list[str]
    launches: list[Path]

    def run(self, *, omit_barrier_at_line=0):
        options = f"halt_on_error=1:exitcode={SANITIZER_REPORTED}"
        environment = {**os.environ, "TSAN_OPTIONS": options, "ASAN_OPTIONS": options}
        environment["OMIT_BARRIER_AT_LINE"] = str(omit_barrier_at_line)
        command = [*self.command, *map(str, self.launches)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def _replaying(sanitizer):
    return ("-Og", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-DREPLAY")


@functools.cache
def start_under(sanitizer, folder):
    """What to put before a program that was compiled with this sanitizer; None if such programs do not work here."""
    probe = compile_for_host("", folder, *_replaying(sanitizer), may_fail=True)
    # Older runtimes of ThreadSanitizer cannot place their memory where addresses are randomised a lot.
    for start in ([], ["setarch", os.uname().machine, "-R"]):
        if probe is None or (start and not shutil.which(start[0])):
            return None
        if subprocess.run([*start, str(probe)], capture_output=True, check=False).returncode == 0:
            return start
    return None


def replay_under(sanitizer, cupy, folder):
    """Compile the sources that `cupy` has loaded with a sanitizer, to replay its launches: source text to `Replay`."""
    start = start_under(sanitizer, cupy.folder)
    if start is None:
        pytest.skip(f"g++ has no sanitizer '{sanitizer}' that works on this machine")

    def replay(module):
        place = folder / str(cupy.modules.index(module))
        place.mkdir()
        own = [launch for launch in cupy.launches if f"({launch.kernel}, " in module.code]
        program = compile_for_host(module.code, cupy.folder, *_replaying(sanitizer))
        files = [launch.write(place / f"launch{number}") for number, launch in enumerate(own)]
        return Replay([*start, str(program)], files)

    with ThreadPoolExecutor(2) as compilers:
        return dict(zip((module.code for module in cupy.modules), compilers.map(replay, cupy.modules), strict=True))


@pytest.fixture(scope="session")
def replay():
    """Replay launches under a sanitizer."""
    return replay_under
