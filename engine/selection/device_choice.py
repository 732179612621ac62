"""Which device a run takes: the one that is named, or the GPU where there is one that a backend runs on."""

from __future__ import annotations

from pc_engine.backends import BACKENDS
from pc_engine.errors import BackendError, DeviceError
from pc_engine.hardware.cuda import describe_gpu, device_index
from pc_engine.hardware.devices import check_device_name, driver_found, gpu_reason
from pc_engine.say import Say
from pc_engine.selection.execution import AUTO, DEFAULT_EXECUTION, Execution

_FIRST_GPU = "cuda:0"
_NO_BACKEND = "No backend runs on the GPU here as asked for; 'pc-engine doctor' says what each one needs."


def choose_device(execution: Execution = DEFAULT_EXECUTION, report: Say = lambda _: None) -> str:
    """Return the device that a run takes, ``"cpu"`` or ``"cuda:N"``.

    Parameters
    ----------
    execution
        What is asked for: its device is ``"cpu"``, ``"cuda"``, ``"cuda:N"``, or ``"auto"`` for the first GPU if its
        backend runs there at its precision.
    report
        Called with a sentence where ``"auto"`` leaves out a GPU that may be there.

    Raises
    ------
    UsageError
        If there is no such device name.
    DeviceError
        If it names a GPU that cannot be used; the message is one sentence that says why.
    """
    device, backend = execution.device, execution.backend
    check_device_name(device)
    if device == "cpu":
        return device
    if device == AUTO:
        return _automatic(backend, execution.precision, report)
    place = f"cuda:{device_index(device)}"
    reason = gpu_reason()
    if reason:
        raise DeviceError(reason)
    try:
        describe_gpu(place)
    except BackendError as error:
        raise DeviceError(str(error)) from None
    # What one backend lacks is for `pc_engine.selection.selection` to say.
    if backend == AUTO and not _runs(place, backend, AUTO):
        raise DeviceError(_NO_BACKEND)
    return place


def _automatic(backend: str, precision: str, report: Say) -> str:
    devices = BACKENDS[backend].devices if backend in BACKENDS else ("cpu", "cuda")
    if "cpu" not in devices:
        return _FIRST_GPU  # whose absence that backend explains
    # Without a driver nothing more is imported: a run on the CPU starts sooner.
    if "cuda" not in devices or not driver_found():
        return "cpu"
    reason = gpu_reason() or ("" if _runs(_FIRST_GPU, backend, precision) else _NO_BACKEND)
    if reason:
        report(f"The run uses the CPU. {reason}")
        return "cpu"
    return _FIRST_GPU


def _runs(device: str, backend: str, precision: str) -> bool:
    """Whether a backend, or that of the given name, runs on a GPU at the precision asked for."""
    named = BACKENDS.values() if backend == AUTO else [BACKENDS[backend]] if backend in BACKENDS else []
    probes = [candidate.probe(device) for candidate in named if "cuda" in candidate.devices]
    return any(probe.available and precision in (AUTO, *probe.precisions) for probe in probes)
