"""Reading PyTorch's weight files without PyTorch, and without running anything that a file says.

A file is a pickle of the containers around its tensors, which are laid beside it: in a ZIP archive since PyTorch 1.6,
behind the pickle before. Pickles are programs. The few instructions and names that a state_dict consists of are
followed here, on values that only stand for what they name; whatever else a file asks for, it is refused.
"""

from __future__ import annotations

import functools
import io
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

from pc_engine.errors import WeightsError, first_line

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
# Of the numbers that tell how a tensor lies in its storage, far more than any has.
_LARGEST = 1 << 48


@dataclass(frozen=True)
class _Named:
    """What a pickle names: a class or a function, as ``module name``."""

    name: str


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
        # One that repeats its storage, as expanded ones do, could be of any size in memory.
        n_values = math.prod(self.shape)
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
        What ``torch.save`` wrote, of any version. Names lose a leading ``module.``, which parallel training adds.

    Returns
    -------
    dict
        By their names read-only arrays, bfloat16 ones of the type ``ml_dtypes.bfloat16``.

    Raises
    ------
    WeightsError
        If the file is damaged, holds more than tensors and plain containers, or no state_dict.
    """
    try:
        with path.open("rb") as file:
            content, read = _read_archive(file) if zipfile.is_zipfile(file) else _read_sequence(file)
            numbers_of = functools.cache(read)  # tensors may share a storage
            for key in _NESTED:
                if isinstance(content, dict) and isinstance(content.get(key), dict):
                    content = content[key]
            if not isinstance(content, dict):
                raise WeightsError(f"{path} holds a {type(content).__name__}, expected a state_dict of named tensors.")
            return {
                str(name).removeprefix("module."): value.of(numbers_of(value.storage))
                for name, value in content.items()
                if isinstance(value, _Tensor)
            }
    except WeightsError:
        raise
    except _RefusedError as error:
        raise WeightsError(
            f"{path} holds Python objects that could run code when loaded ({error}), and is refused: save the weights "
            f"alone with torch.save(model.state_dict(), FILE), or as safetensors."
        ) from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror or error}).") from None
    except Exception as error:  # whatever zipfile, pickletools and this machine make of a damaged file
        raise WeightsError(
            f"{path} is damaged, cut off or no PyTorch file ({first_line(error).rstrip('.')}); get it again."
        ) from None


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

    def read(name: str) -> bytes:
        # PyTorch compresses nothing: what is stored is no longer than the file.
        if members[folder + name].compress_type != zipfile.ZIP_STORED:
            raise _DamagedError(f"{name} is compressed")
        return archive.read(members[folder + name])

    order = read("byteorder").decode("ascii", "replace") if f"{folder}byteorder" in members else "little"
    return _follow(io.BytesIO(read("data.pkl"))), lambda storage: _as_numbers(
        read(f"data/{storage.key}"), storage, order
    )


def _read_sequence(file: BinaryIO) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    """Return what a file of before PyTorch 1.6 holds, pickle behind pickle, and what gives its storages' numbers."""
    file.seek(0)
    if _follow(file) != _MAGIC:
        raise _DamagedError("it does not begin as such")
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
            raise _DamagedError(f"its storage {key} is not the one that tensors name")
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
        raise _DamagedError(f"its storage {storage.key} has {len(data)} bytes")
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
    for instruction, argument, _ in pickletools.genops(stream):
        if instruction.name == "STOP":
            return machine.pop()
        machine.do(instruction.name, argument)
    raise _DamagedError("a pickle does not end")  # genops raises before


_MARK = _Named("the beginning of a container")
# Instructions of the protocols 2 to 4, by what they put on the stack. That of the text protocol, and all that call
# methods or make objects, no version of PyTorch needs for a state_dict.
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK}
_EMPTY: Mapping[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
_TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING", "BINSTRING")


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
        elif name in _NUMBERS or name in _TEXTS:
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
            self.pop()  # what is kept beside a state_dict: the versions of its layers
            self._top(dict)
        elif name not in ("PROTO", "FRAME"):
            raise _RefusedError(f"the instruction {name}")

    def _top(self, kind: type | None = None) -> Any:
        if not self._stack or not (kind is None or isinstance(self._stack[-1], kind)):
            raise _DamagedError("a pickle fills what is no container")
        return self._stack[-1]

    def _last(self, n: int) -> list[Any]:
        return [self.pop() for _ in range(n)][::-1]

    def _to_mark(self) -> list[Any]:
        values = []
        while (value := self.pop()) is not _MARK:
            values.append(value)
        return values[::-1]


_TENSORS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
_PARAMETER = "torch._utils _rebuild_parameter"
_ORDERED = "collections OrderedDict"
_SIZE = "torch Size"
_KNOWN = frozenset((*_DTYPES, *_TENSORS, _PARAMETER, _ORDERED, _SIZE))


def _allowed(module_and_name: list[Any]) -> _Named:
    if not all(isinstance(part, str) for part in module_and_name):  # what else it is may be endless when written out
        raise _DamagedError("a name is no text")
    name = " ".join(module_and_name)
    if name not in _KNOWN:
        raise _RefusedError(f"it names {name.replace(' ', '.')[:60]}")
    return _Named(name)


def _called(function: Any, arguments: Any) -> Any:
    """Return what one of the known functions makes of its arguments."""
    name = function.name if isinstance(function, _Named) else ""
    if not isinstance(arguments, tuple):
        raise _DamagedError("a function is called without arguments")
    if name == _ORDERED:
        pairs = arguments[0] if arguments else []
        return _pairs([value for pair in pairs for value in pair])
    if name == _SIZE and len(arguments) == 1:
        return arguments[0]
    if name == _PARAMETER and arguments and isinstance(arguments[0], _Tensor):
        return arguments[0]
    if name in _TENSORS and len(arguments) >= 4:
        storage, offset, shape, strides = arguments[:4]
        numbers = [offset, *shape, *strides]
        sound = all(type(number) is int and 0 <= number < _LARGEST for number in numbers)
        if isinstance(storage, _Storage) and sound and len(shape) == len(strides) <= 64:
            return _Tensor(storage, offset, tuple(shape), tuple(strides))
    raise _DamagedError(f"{name or 'what is no function'} is called with what it does not take")


def _storage(description: Any) -> _Storage:
    """Return the storage that a persistent id describes: its kind, type, key, device and size."""
    kind, dtype, key, _, n = description[:5] if isinstance(description, tuple) else ()
    of_view = description[5] if len(description) > 5 else None
    if kind != "storage" or not isinstance(dtype, _Named) or dtype.name not in _DTYPES or of_view is not None:
        raise _DamagedError("a storage is of no known type")
    if type(n) is not int or not 0 <= n < _LARGEST or not isinstance(key, str | int):
        raise _DamagedError("a storage has no size, or no name")
    return _Storage(_DTYPES[dtype.name], str(key), n)


def _pairs(values: list[Any]) -> dict[Any, Any]:
    """Return a dictionary of keys and values in turn."""
    keys, entries = values[::2], values[1::2]
    if not all(isinstance(key, str | int | float | bytes | None) for key in keys):
        raise _RefusedError("a dictionary has keys that are no text")
    return dict(zip(keys, entries, strict=True))
