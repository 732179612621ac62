"""Where a run takes place: the CPU, or an NVIDIA GPU."""

from __future__ import annotations

import re

from pc_engine.errors import BackendError, MissingPackageError, UsageError


class DeviceError(BackendError):
    """The device asked for is not to be had here."""

    exit_code = 2


def require_device(device: str) -> None:
    """Check that a run can take place on ``device``: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Raises
    ------
    UsageError
        If there is no such device name.
    MissingPackageError, DeviceError
        If it names a GPU that cannot be used; the message is one sentence that says why.
    """
    if device in ("auto", "cpu"):
        return
    if not re.fullmatch(r"cuda(:\d+)?", device):
        raise UsageError(f"There is no device '{device}': choose auto, cpu, cuda or cuda:NUMBER.")
    raise DeviceError(gpu_reason() or "This version runs its networks on the CPU only: leave --device out.")


def gpu_reason() -> str:
    """Return one sentence that says why no NVIDIA GPU can be used here, or an empty string if one is there."""
    try:
        import cupy
    except ImportError:
        return str(MissingPackageError("cupy", "gpu", "run on an NVIDIA GPU"))
    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CuPy finds no NVIDIA GPU ({str(error).split(': ')[-1]}): install a driver, or use --device cpu."
    return "" if count else "This machine has no NVIDIA GPU: use --device cpu."
