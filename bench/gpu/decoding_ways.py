"""Ways to decode with nvImageCodec that a run might take; each in its own process, as CUDA is told some of it first.

What was tried before is in ``bench/results/gpu-h200/decoding-ways.json``.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pc_engine.bench.gpu.device import wall_rate
from pc_engine.bench.gpu.report import Row, measured, spread
from pc_engine.decoding.decode_device import keep_memory_of_pictures
from pc_engine.errors import BackendError
from pc_engine.hardware.cuda import device_index
from pc_engine.hardware.machine import usable_cores

_MODULE = "pc_engine.bench.gpu.decoding_ways"
_LONGEST = 60.0  # seconds for one way
_DRIVER = "libcuda.so.1"
_WAIT_SLEEPING = 4  # CU_CTX_SCHED_BLOCKING_SYNC
_AS_IN_A_RUN = ":fancy_upsampling=1"


@dataclass(frozen=True)
class Way:
    """A way to decode.

    Attributes
    ----------
    what
        How it is called in its row.
    threads
        Those of the codec on the host; 0 for one less than there are cores, as in a run.
    options
        What the codec is told beside what a run tells it.
    sleeps
        Whether threads that wait for the GPU sleep: by themselves they keep a core busy.
    reuses
        Whether a batch is decoded into the pictures of the one before.
    parsed
        Whether the codec has read the headers before.
    """

    what: str
    threads: int = 0
    options: str = ""
    sleeps: bool = False
    reuses: bool = False
    parsed: bool = False


WAYS = (
    Way("nvImageCodec itself"),
    Way("nvImageCodec, threads that wait sleep", sleeps=True),
    Way("nvImageCodec, into the pictures of the batch before", reuses=True),
    Way("nvImageCodec, 4 streams, 6 threads", threads=6, options=":num_cuda_streams=4"),
    Way("nvImageCodec, 4 streams, 8 threads", threads=8, options=":num_cuda_streams=4"),
    Way("nvImageCodec, headers read before", parsed=True),
)


def ways_rows(device: str, paths: Sequence[Path]) -> Iterator[Row]:
    """Yield the rate of each way on a batch of files."""
    for way in WAYS:
        yield measured({"what": way.what, "batch": len(paths)}, _in_a_process, way, device, paths)


def _in_a_process(way: Way, device: str, paths: Sequence[Path]) -> Row:
    told = json.dumps({"way": asdict(way), "index": device_index(device), "paths": [*map(str, paths)]})
    command = [sys.executable, "-m", _MODULE]
    done = subprocess.run(command, input=told, capture_output=True, text=True, timeout=_LONGEST, check=False)
    if done.returncode:
        raise BackendError((done.stderr.strip().splitlines() or ["It ended without a word."])[-1])
    row: Row = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def decoding_rate(way: Way, index: int, data: Sequence[bytes]) -> Row:
    """Return how many files a second are decoded in a way, by a process that has not used the GPU yet."""
    if way.sleeps:
        wait_sleeping(index)
    import cupy

    nvimgcodec: Any = import_module("nvidia.nvimgcodec")
    cupy.cuda.Device(index).use()
    keep_memory_of_pictures()
    stream = cupy.cuda.Stream(non_blocking=True)
    codec = nvimgcodec.Decoder(
        device_id=index,
        max_num_cpu_threads=way.threads or max(usable_cores() - 1, 1),
        options=f"{_AS_IN_A_RUN} {way.options}".strip(),
    )
    parameters = nvimgcodec.DecodeParams(apply_exif_orientation=True, color_spec=nvimgcodec.ColorSpec.SRGB)
    files = [nvimgcodec.CodeStream(one) for one in data] if way.parsed else list(data)
    pictures: Any = None

    def decode() -> int:
        nonlocal pictures
        pictures = codec.decode(
            files, images=pictures if way.reuses else None, params=parameters, cuda_stream=stream.ptr
        )
        stream.synchronize()
        if any(picture is None for picture in pictures):
            raise BackendError("It refused some of the files.")
        return len(files)

    rate, runs = wall_rate(decode)
    if way.sleeps and not waits_sleeping(index):
        raise BackendError("Threads that wait were told to sleep, and were told otherwise since.")
    return {"images_per_s": rate, "spread": spread(runs)}


def wait_sleeping(index: int) -> None:
    """Let threads that wait for a GPU sleep; to be called before its first use.

    The context is made here: whatever else uses CUDA finds it as it is.
    """
    cuda, device, context = ctypes.CDLL(_DRIVER), ctypes.c_int(), ctypes.c_void_p()
    _check(cuda.cuInit(0))
    _check(cuda.cuDeviceGet(ctypes.byref(device), index))
    _check(cuda.cuDevicePrimaryCtxSetFlags_v2(device, _WAIT_SLEEPING))
    _check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))


def waits_sleeping(index: int) -> bool:
    """Whether threads that wait for a GPU sleep."""
    cuda, device, flags, active = ctypes.CDLL(_DRIVER), ctypes.c_int(), ctypes.c_uint(), ctypes.c_int()
    _check(cuda.cuDeviceGet(ctypes.byref(device), index))
    _check(cuda.cuDevicePrimaryCtxGetState(device, ctypes.byref(flags), ctypes.byref(active)))
    return bool(active.value and flags.value & _WAIT_SLEEPING)


def _check(error: int) -> None:
    if error:
        raise BackendError(f"CUDA does not let threads sleep (error {error}).")


if __name__ == "__main__":
    task = json.load(sys.stdin)
    contents = [Path(path).read_bytes() for path in task["paths"]]
    print(json.dumps(decoding_rate(Way(**task["way"]), task["index"], contents)))
