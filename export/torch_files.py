"""Reading PyTorch's weight files without PyTorch, and without running anything that a file says.

A file is a pickle of the containers around its tensors, which are laid beside it: in a ZIP archive since PyTorch 1.6,
behind the pickle before. Pickles are programs. The few instructions and names that a state_dict consists of are
followed here, on values that only stand for what they name; whatever else a file asks for, it is refused. No
instruction makes more than what it takes, so that memory and time are in proportion to the length of the file.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import pickletools
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from pc_engine.errors import WeightsError, first_line, system_reason
from pc_engine.shown_text import for_sentence

#: Where training scripts keep the state_dict inside what they save.
_NESTED = ("state_dict", "model", "model_state_dict")
# What the first pickle of a file of before PyTorch 1.6 is.
_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES: Mapping[str, np.dtype[Any]] = {
    f"torch {name}Storage": np.dtype(dtype)
    for name, dtype in {
        "Double": np.float64,
        "Float": np.float32,
        "Half": np.float16,
        "BFloat16": ml_dtypes.bfloat16,
        "Long": np.int64,
        "Int": np.int32,
        "Short": np.int16,
        "Char": np.int8,
        "Byte": np.uint8,
        "Bool": np.bool_,
    }.items()
}
# Of the numbers that tell how a tensor lies in its storage, far more than any has; of axes, NumPy's most.
_LARGEST, _MOST_AXES = 1 << 48, 64
# Far more than a state_dict takes, whose tensors take some thirty instructions each: each makes a value, which takes
# much more memory than it has bytes in the file.
_MOST_INSTRUCTIONS = 4_000_000
# Keys of dictionaries are texts and small numbers: large ones can be chosen so that they all collide.
_LARGEST_KEY = 1 << 31


@dataclass(frozen=True)
class _Named:
    """What a pickle names: a class or a function, as ``module name``."""

    name: str


class _Other:
    """What stands for a value that nobody asks for."""


@dataclass(frozen=True)
class _Storage:
    """Numbers that tensors are parts of, by the key of their place in the file."""

    dtype: np.dtype[Any]
    key: str
    n: int

    @property
    def n_bytes(self) -> int:
        """Its length in the file."""
        return self.n * self.dtype.itemsize


@dataclass(frozen=True)
class _Tensor:
    """A part of a storage, lengths in numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """Return the tensor as a part of its storage's ``numbers`` (n,)."""
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        n_values = math.prod(self.shape)
        if n_values > len(numbers) and 0 in self.strides:  # it could be of any size in memory
            raise _RefusedError("a tensor that repeats its numbers, as expand() makes it")
        if n_values > len(numbers) or (n_values and last >= len(numbers)):
            raise _DamagedError(f"a tensor of shape {self.shape} lies beyond its {len(numbers)} numbers")
        strides = [stride * numbers.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides, writeable=False)


class _DamagedError(Exception):
    """A file that is cut off, or none of PyTorch's."""


class _RefusedError(Exception):
    """A file that asks for what no state_dict needs."""


def read_torch_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a PyTorch state_dict, bare or under a training script's usual keys.

    Parameters
    ----------
    path
        What ``torch.save`` wrote, of version 0.4 or newer, by the pickle protocols 2 (its default) to 4. Names lose a
        leading ``module.``, which parallel training adds.

    Returns
    -------
    dict
        By their names read-only arrays, bfloat16 ones of the type ``ml_dtypes.bfloat16``.

    Raises
    ------
    WeightsError
        If the file is damaged, holds more than tensors, plain containers, and what training scripts keep beside them,
        or no state_dict.
    """
    try:
        with path.open("rb") as file:
            is_archive = file.read(2) == b"PK" or zipfile.is_zipfile(file)  # the end of which may be cut off
            content, read = _read_archive(file) if is_archive else _read_sequence(file)
            numbers_of = functools.cache(read)  # tensors may share a storage
            for _ in _NESTED:  # no deeper than it has names
                inner = [content[key] for key in _NESTED if isinstance(content, dict) and key in content]
                content = next((value for value in inner if isinstance(value, dict)), content)
            if not isinstance(content, dict):
                kind = "tensor" if isinstance(content, _Tensor) else type(content).__name__.strip("_").lower()
                raise WeightsError(f"{path} holds a {kind}, expected a state_dict of named tensors.")
            return {
                str(name).removeprefix("module."): value.of(numbers_of(value.storage))
                for name, value in content.items()
                if isinstance(value, _Tensor)
            }
    except WeightsError:
        raise
    except _RefusedError as error:
        raise WeightsError(
            f"{path} holds more than tensors and plain containers ({error}), and is refused, as it could run code when "
            f"loaded: save the weights alone with torch.save(model.state_dict(), FILE), or as safetensors."
        ) from None
    except MemoryError:
        raise WeightsError(f"{path} does not fit into memory.") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({system_reason(error)}): name another with --weights.") from None
    except Exception as error:  # whatever zipfile, pickletools and this machine make of a damaged file
        why = first_line(error).rstrip(".")
        raise WeightsError(f"{path} is damaged, cut off or not a PyTorch file ({why}); get it again.") from None


def _read_archive(file: BinaryIO) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    """Return what a ZIP archive holds, and what gives the numbers of its storages."""
    archive = zipfile.ZipFile(file)
    members = {member.filename: member for member in archive.infolist()}
    pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise _DamagedError(f"{len(pickles)} of its members are called data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in members:
        raise _RefusedError("it is a TorchScript program")
    # PyTorch compresses nothing. Members that lie in one another would be longer together than the file.
    compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members.values())
    if compressed or sum(member.file_size for member in archive.infolist()) > file.seek(0, io.SEEK_END):
        raise _DamagedError("its members are compressed, or overlap")

    def read(name: str) -> bytes:
        return archive.read(members[folder + name])

    order = read("byteorder").decode("ascii", "replace") if f"{folder}byteorder" in members else "little"
    if order not in ("little", "big"):
        raise _DamagedError("the order of its bytes is not known")
    return _follow(io.BytesIO(read("data.pkl"))), lambda storage: _as_numbers(
        read(f"data/{storage.key}"), storage, order
    )


def _read_sequence(file: BinaryIO) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    """Return what a file of before PyTorch 1.6 holds, pickle behind pickle, and what gives its storages' numbers."""
    file.seek(0)
    if _follow(file) != _MAGIC:
        raise _DamagedError("it does not begin like one")
    _follow(file)  # the version of the format
    system = _follow(file)
    order = "little" if isinstance(system, dict) and system.get("little_endian") is True else "big"
    content, keys = _follow(file), _follow(file)
    if not isinstance(keys, list):
        raise _DamagedError("it does not name its storages")
    places: dict[_Storage, int] = {}
    known = {tensor.storage.key: tensor.storage for tensor in _tensors_in(content)}
    for key in keys:
        if not isinstance(key, str | int):
            raise _DamagedError("a storage has no name")
        # How many numbers lie there; how long each is, the tensors say.
        (n,) = struct.unpack("<q", _read_exactly(file, 8))
        storage = known.get(str(key))
        if storage is None or n != storage.n:
            raise _DamagedError(f"its storage {for_sentence(str(key))[:60]} is not the one that tensors name")
        places[storage] = file.tell()
        file.seek(storage.n_bytes, 1)

    def numbers_of(storage: _Storage) -> np.ndarray:
        file.seek(places[storage])
        return _as_numbers(_read_exactly(file, storage.n_bytes), storage, order)

    return content, numbers_of


def _tensors_in(content: Any) -> Iterator[_Tensor]:
    """Yield the tensors inside containers, each container once."""
    seen: set[int] = set()
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, _Tensor):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            left.extend(value.values() if isinstance(value, dict) else value)


def _read_exactly(file: BinaryIO, n: int) -> bytes:
    # A length that the file does not have would be asked of memory first.
    here = file.tell()
    end = file.seek(0, 2)
    file.seek(here)
    if n > end - here:
        raise _DamagedError(f"it ends {n - (end - here)} bytes early")
    return file.read(n)


def _as_numbers(data: bytes, storage: _Storage, order: str) -> np.ndarray:
    if len(data) != storage.n_bytes:
        raise _DamagedError(f"its storage {for_sentence(storage.key)[:60]} has {len(data)} bytes")
    numbers = np.frombuffer(data, storage.dtype)
    return numbers if order == sys.byteorder else numbers.byteswap()


def _follow(stream: Any) -> Any:
    """Return what the pickle that a stream goes on with makes, and leave the stream behind it.

    Raises
    ------
    _RefusedError
        Where it names what it may not, or has an instruction that no state_dict needs.
    _DamagedError, ValueError
        Where it is none.
    """
    machine = _Machine()
    for instruction, argument, _ in itertools.islice(pickletools.genops(stream), _MOST_INSTRUCTIONS):
        if instruction.name == "STOP":
            return machine.pop()
        machine.do(instruction.name, argument)
    raise _RefusedError(f"more than {_MOST_INSTRUCTIONS:,} instructions")


_MARK = _Named("the beginning of a container")
# Instructions of the protocols 2 to 4, by what they put on the stack. That of the text protocol, and all that call
# methods or make objects, no version of PyTorch needs for a state_dict.
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK}
_EMPTY: Mapping[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING", "BINSTRING"),
)


class _Machine:
    """The stack machine that pickles are written for, of which only the plain instructions do anything."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def pop(self) -> Any:
        """Take the uppermost value from the stack."""
        if not self._stack:
            raise _DamagedError("a pickle takes more than it has")
        return self._stack.pop()

    def do(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            self._stack.append(argument)
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = self._top()
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            self._stack.append(tuple(self._to_mark() if name == "TUPLE" else self._last(int(name[-1]))))
        elif name in ("APPEND", "APPENDS"):
            values = [self.pop()] if name == "APPEND" else self._to_mark()
            self._top(list).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = self._last(2) if name == "SETITEM" else self._to_mark()
            self._top(dict).update(_pairs(values))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            self._stack.append(_allowed(argument.split(" ", 1) if name == "GLOBAL" else self._last(2)))
        elif name == "BINPERSID":
            self._stack.append(_storage(self.pop()))
        elif name == "REDUCE":
            function, arguments = self._last(2)
            self._stack.append(_called(function, arguments))
        elif name == "BUILD":
            self.pop()  # what is kept beside a state_dict, such as the versions of its layers
            self._top((dict, _Other))
        elif name not in ("PROTO", "FRAME"):
            raise _RefusedError(f"the instruction {name}")

    def _top(self, kind: type | tuple[type, ...] | None = None) -> Any:
        if not self._stack or not (kind is None or isinstance(self._stack[-1], kind)):
            raise _DamagedError("a pickle fills what is not a container")
        return self._stack[-1]

    def _last(self, n: int) -> list[Any]:
        return [self.pop() for _ in range(n)][::-1]

    def _to_mark(self) -> list[Any]:
        values = []
        while (value := self.pop()) is not _MARK:
            values.append(value)
        return values[::-1]


_TENSORS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
_PARAMETERS = ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state")
_ORDERED = "collections OrderedDict"
# What training scripts keep beside the weights: how they were trained, on what.
_OTHERS = (
    *("collections Counter", "builtins set", "__builtin__ set", "_codecs encode", "torch Size", "torch device"),
    *(f"torch {kind}" for kind in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool")),
)
_KNOWN = frozenset((*_DTYPES, *_TENSORS, *_PARAMETERS, _ORDERED, *_OTHERS))


def _allowed(module_and_name: list[Any]) -> _Named:
    if not all(isinstance(part, str) for part in module_and_name):  # what else it is may be endless when written out
        raise _DamagedError("a name is not text")
    name = " ".join(module_and_name)
    if name not in _KNOWN:
        raise _RefusedError(f"it names {for_sentence(name).replace(' ', '.')[:60]}")
    return _Named(name)


def _called(function: Any, arguments: Any) -> Any:
    """Return what one of the known functions makes of its arguments."""
    name = function.name if isinstance(function, _Named) else ""
    if not isinstance(arguments, tuple):
        raise _DamagedError("a function is called without arguments")
    if name == _ORDERED and not arguments:
        return {}
    if name in _OTHERS:
        return _Other()
    if name in _PARAMETERS and arguments and isinstance(arguments[0], _Tensor):
        return arguments[0]
    if name in _TENSORS and len(arguments) >= 4:
        if any(arguments[6:]):
            raise _RefusedError("a tensor that is negative or conjugate when it is read")
        storage, offset, shape, strides = arguments[:4]
        laid = isinstance(storage, _Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)
        if laid and len(shape) == len(strides) <= _MOST_AXES:
            numbers = (offset, *shape, *strides)
            if all(type(number) is int and 0 <= number < _LARGEST for number in numbers):
                return _Tensor(storage, offset, shape, strides)
    raise _DamagedError(f"{name or 'what is not a function'} is called with what it does not take")


def _storage(description: Any) -> _Storage:
    """Return the storage that a persistent id describes: its kind, type, key, device and size."""
    kind, dtype, key, _, n = description[:5] if isinstance(description, tuple) else ()
    of_view = description[5] if len(description) > 5 else None
    if kind != "storage" or not isinstance(dtype, _Named) or dtype.name not in _DTYPES or of_view is not None:
        raise _DamagedError("a storage is of an unknown type")
    if type(n) is not int or not 0 <= n < _LARGEST or not isinstance(key, str | int):
        raise _DamagedError("a storage has no size, or no name")
    return _Storage(_DTYPES[dtype.name], str(key), n)


def _pairs(values: list[Any]) -> dict[Any, Any]:
    """Return a dictionary of keys and values in turn."""
    keys, entries = values[::2], values[1::2]
    if not all(isinstance(key, str) or (isinstance(key, int) and abs(key) < _LARGEST_KEY) for key in keys):
        raise _RefusedError("a dictionary with keys that are neither texts nor small numbers")
    return dict(zip(keys, entries, strict=True))
