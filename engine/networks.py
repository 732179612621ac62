"""The network of a model, compiled for this machine, in batches that suit it and its memory."""

from __future__ import annotations

from dataclasses import replace

from pc_engine.arguments import maybe_whole_number
from pc_engine.backbone import Backbone, CompileRequest
from pc_engine.errors import DeviceMemoryError
from pc_engine.graph.tensor_reach import within_reach
from pc_engine.hardware.machine import usable_cores
from pc_engine.model import Model
from pc_engine.say import Say
from pc_engine.selection.device_choice import choose_device
from pc_engine.selection.execution import DEFAULT_EXECUTION, Execution
from pc_engine.selection.selection import open_backbone

# A network above this size keeps all cores busy with few images; a small one needs many to be worth a call.
_LARGE_NETWORK_BYTES = 100_000_000
_BATCH_LARGE, _BATCH_SMALL = 8, 32
# A GPU takes more: what follows the network costs as many calls for a few images as for many. Where its memory does not
# hold them, batches are halved.
_GPU_BATCH = 256


def network_request(
    model: Model,
    taps: tuple[str, ...],
    *,
    batch_size: int | None = None,
    threads: int | None = None,
    device: str = "cpu",
) -> CompileRequest:
    """Return the request to compile the network of ``model`` with ``taps``, at fp32, in batches that suit it.

    ``device`` is ``"cpu"`` or ``"cuda:N"``, which may take fewer images (see
    `pc_engine.graph.tensor_reach`); ``threads`` are all usable cores if it is None.
    """
    on_cpu = _BATCH_LARGE if model.network.stat().st_size > _LARGE_NETWORK_BYTES else _BATCH_SMALL
    request = CompileRequest(
        network=model.network,
        manifest=model.manifest,
        taps=taps,
        precision="fp32",
        batch_size=maybe_whole_number("batch_size", batch_size) or (on_cpu if device == "cpu" else _GPU_BATCH),
        threads=threads or usable_cores(),
        device=device,
    )
    return within_reach(request)


def open_network(
    model: Model,
    taps: tuple[str, ...],
    execution: Execution = DEFAULT_EXECUTION,
    *,
    threads: int | None = None,
    mode: str | None = None,
    report: Say = lambda _: None,
) -> Backbone:
    """Compile the network of ``model`` for this machine, keeping ``taps``, to be run as asked for.

    ``mode`` is what the taps are for; None if they are for fitting, where ``"auto"`` has to suit every mode. Where a
    GPU's memory does not hold the network with its batches, these are halved until it does.
    """
    place = choose_device(execution, report)
    request = network_request(model, taps, batch_size=execution.batch_size, threads=threads, device=place)
    if request.batch_size < (execution.batch_size or 0):
        report(
            f"Batches are limited to {request.batch_size} images: more would need tensors too large for libraries "
            "on a GPU."
        )
    while True:
        try:
            return open_backbone(request, execution.backend, execution.precision, report, mode=mode)
        except DeviceMemoryError:
            if request.batch_size == 1:
                raise
        request = replace(request, batch_size=request.batch_size // 2)
        report(f"That does not fit into the GPU's memory: trying batches of {request.batch_size}.")
