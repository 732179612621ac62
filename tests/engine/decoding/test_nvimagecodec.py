"""What is asked of nvImageCodec and what is made of its answers, with a module that stands in for it."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

import pytest

from pc_engine.decoding.nvimagecodec import NvImageCodec
from pc_engine.errors import BackendError, DeviceMemoryError, MissingPackageError


def pretend_nvimagecodec(monkeypatch: pytest.MonkeyPatch, decoder: Any) -> None:
    module: Any = ModuleType("nvidia.nvimgcodec")
    module.Decoder = decoder
    for name in ("BackendKind", "ColorSpec", "DecodeParams", "Backend"):
        setattr(module, name, type(name, (), {"CPU_ONLY": 1, "SRGB": 1, "__init__": lambda self, *_, **__: None}))
    module.NVIMGCODEC_DEVICE_CPU_ONLY = -99999
    package: Any = ModuleType("nvidia")
    package.nvimgcodec = module
    monkeypatch.setitem(sys.modules, "nvidia", package)
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", module)


def test_nvimagecodec_has_as_many_threads_as_decode_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each of several processes would have one for each core."""

    class Decoder:
        def __init__(
            self, device_id: int = -1, max_num_cpu_threads: int = 0, backends: Any = None, options: str = ""
        ) -> None:
            made.append((device_id, max_num_cpu_threads))

    made: list[tuple[int, int]] = []
    pretend_nvimagecodec(monkeypatch, Decoder)
    NvImageCodec(1, 3)
    assert made == [(1, 3)]


def test_what_nvimagecodec_would_print_is_left_to_whoever_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, expected in ((None, "0"), ("3", "3")):
        monkeypatch.delenv("PYNVIMGCODEC_VERBOSITY", raising=False)
        if given is not None:
            monkeypatch.setenv("PYNVIMGCODEC_VERBOSITY", given)
        pretend_nvimagecodec(monkeypatch, lambda **_: None)
        NvImageCodec(0)
        assert os.environ["PYNVIMGCODEC_VERBOSITY"] == expected


def test_what_nvimagecodec_raises_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Decoder:
        broken = True
        reason = "CUDA is gone\nsomewhere"

        def __init__(self, **_: Any) -> None:
            if Decoder.broken:
                raise RuntimeError("Internal error - Could not create decoder. Code: 8")

        def decode(self, *_: Any, **__: Any) -> None:
            raise RuntimeError(Decoder.reason)

    pretend_nvimagecodec(monkeypatch, Decoder)
    with pytest.raises(
        BackendError, match=r"cannot be used here \(Internal error - Could not create decoder. Code: 8\)"
    ):
        NvImageCodec(-1)
    Decoder.broken = False
    with pytest.raises(BackendError, match=r"nvImageCodec failed \(CUDA is gone\)\.$"):
        NvImageCodec(-1).decode([b""])
    Decoder.reason = "nvImageCodec failure: NVIMGCODEC_STATUS_ALLOCATOR_FAILURE"
    with pytest.raises(DeviceMemoryError, match="use a smaller batch size"):
        NvImageCodec(-1).decode([b""])


def test_without_nvimagecodec_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    with pytest.raises(MissingPackageError, match=r"'nvidia.nvimgcodec' is needed to decode"):
        NvImageCodec(0)


class Image:
    """What nvImageCodec returns on a GPU, as far as it is looked at."""

    def __init__(self, shape: tuple[int, ...], strides: tuple[int, ...] | None, stream: int, kind: str = "|u1") -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "strides": strides,
            "typestr": kind,
            "data": (4096, False),
            "version": 3,
            **({"stream": stream} if stream else {}),
        }


@pytest.mark.parametrize(("streams", "waited"), [((7, 7, 7), []), ((7, 1, 1), [1]), ((0, 7, 7), [])])
def test_pictures_on_a_gpu_are_told_by_their_addresses_and_only_other_streams_are_waited_for(
    streams: tuple[int, int, int], waited: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stream:
        def __init__(self, ptr: int) -> None:
            self.ptr = ptr

        def synchronize(self) -> None:
            waits.append(self.ptr)

    class Decoder:
        def __init__(self, **_: Any) -> None: ...

        def decode(self, data: list[bytes], *, params: Any, cuda_stream: int) -> list[Image | None]:
            assert (data, cuda_stream) == ([b"a"] * 6, 7)
            return images

    images = [
        Image((4, 5, 3), None, streams[0]),
        None,
        Image((6, 5, 3), (16, 3, 1), streams[1]),
        Image((3, 6, 5), (30, 5, 1), streams[2]),  # channel by channel
        Image((6, 5, 3), None, streams[2], "<u2"),
        Image((6, 5, 3), (32, 6, 2), streams[2]),
    ]
    waits: list[int] = []
    cupy: Any = ModuleType("cupy")
    cupy.cuda = type("cuda", (), {"get_current_stream": lambda: Stream(7), "ExternalStream": Stream})
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    pretend_nvimagecodec(monkeypatch, Decoder)
    assert NvImageCodec(0).decode([b"a"] * 6) == [
        (4096, 15, 4, 5, images[0]),
        None,
        (4096, 16, 6, 5, images[2]),
        None,
        None,
        None,
    ]
    assert waits == waited
