"""nvImageCodec's decoder: plain JPEGs to pixels in the memory of a GPU, or of the host where there is none."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pc_engine.decoding.image_resize import DevicePicture
from pc_engine.decoding.quiet_import import import_quietly
from pc_engine.hardware.cuda import library_failure
from pc_engine.kernels.array_module import Array
from pc_engine.packages import missing

# Colours between the pixels that have some are interpolated, as libjpeg does.
_OPTIONS = ":fancy_upsampling=1"
_CHANNELS = 3
# Libraries for formats that are left to the cores; it prints that they are not installed.
_FOREIGN_LIBRARIES = ("nvjpeg2k", "nvJPEG2000", "nvtiff", "nvTIFF")


class NvImageCodec:
    """nvImageCodec's decoder, which shares a batch out among the card's JPEG engines, its cores and the host's.

    Parameters
    ----------
    index
        Number of the GPU; -1 for the host alone.
    threads
        Its threads on the host; 0 for one for each core, which several processes would share.
    """

    def __init__(self, index: int, threads: int = 0) -> None:
        try:
            nvimgcodec: Any = _imported()
        except ImportError:
            raise missing("nvidia.nvimgcodec", "decode on an NVIDIA GPU") from None
        self._on_host = index < 0
        self._lock = threading.Lock()
        kinds = nvimgcodec.BackendKind
        settings: dict[str, Any] = {"device_id": index, "max_num_cpu_threads": threads, "options": _OPTIONS}
        if self._on_host:
            settings |= {
                "device_id": nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
                "backends": [nvimgcodec.Backend(kinds.CPU_ONLY)],
            }
        try:
            self._decoder = nvimgcodec.Decoder(**settings)
        except RuntimeError as error:
            raise library_failure("nvImageCodec cannot be used here", error) from None
        self._parameters = nvimgcodec.DecodeParams(apply_exif_orientation=True, color_spec=nvimgcodec.ColorSpec.SRGB)

    def decode(self, data: Sequence[bytes]) -> list[Array | None] | list[DevicePicture | None]:
        """Return the picture of each file, None where it cannot: arrays on the host, else `DevicePicture`.

        Those are ready for what is queued on the current stream, not for the host or another stream.
        """
        if self._on_host:
            return [None if image is None else _on_host(image) for image in self._decode(data, 0)]
        import cupy

        stream = cupy.cuda.get_current_stream().ptr
        images = self._decode(data, stream)
        told = [None if image is None else image.__cuda_array_interface__ for image in images]
        # What it was told to synchronise with is what it names. An array of CuPy's for each image would wait for that
        # stream hundreds of times a batch, and each time other threads take turns with Python's lock.
        for other in {about["stream"] for about in told if about is not None and about.get("stream")} - {stream}:
            cupy.cuda.ExternalStream(other).synchronize()
        return [None if about is None else _on_device(about, image) for about, image in zip(told, images, strict=True)]

    def _decode(self, data: Sequence[bytes], stream: int) -> list[Any]:
        try:
            with self._lock:
                images: list[Any] = self._decoder.decode(list(data), params=self._parameters, cuda_stream=stream)
        except RuntimeError as error:
            raise library_failure("nvImageCodec failed", error) from None
        return images


def _imported() -> Any:
    # What it has to say of a file it says by None, and of itself by an error; printed, it would be about single files,
    # which have a row that says what is wrong, and about formats that are not its own here. It reads this once.
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
    return import_quietly("nvidia.nvimgcodec", _FOREIGN_LIBRARIES)


def _on_host(image: Any) -> Array | None:
    array: Array = np.asarray(image)
    return array if array.ndim == 3 and array.shape[2] == _CHANNELS and array.dtype == np.uint8 else None


def _on_device(about: Mapping[str, Any], image: Any) -> DevicePicture | None:
    """Return the picture that lies where its ``__cuda_array_interface__`` says; None if its pixels are no RGB."""
    shape, strides = about["shape"], about.get("strides")
    if len(shape) != 3 or shape[2] != _CHANNELS or about["typestr"][1:] != "u1":
        return None
    height, width, _ = shape
    if strides is not None and tuple(strides[1:]) != (_CHANNELS, 1):
        return None
    row_bytes = width * _CHANNELS if strides is None else strides[0]
    return DevicePicture(about["data"][0], row_bytes, height, width, image)
