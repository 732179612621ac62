"""TensorRT on an NVIDIA GPU: fp32, fp16, and int8 and fp8 where a model was quantised."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pc_engine.backbone import Backbone, CompileRequest, Probe
from pc_engine.backends.tensorrt_build import (
    NO_INT8,
    Target,
    build_engine,
    precisions_of,
    refuse_other_precisions,
    typed_graph,
)
from pc_engine.backends.tensorrt_library import Library, choose_library, listed, missing_library
from pc_engine.backends.tensorrt_run import TensorRtBackbone
from pc_engine.errors import BackendError, system_reason
from pc_engine.files.storage import FileCache, cache_key, distrust
from pc_engine.hardware.cuda import Gpu, cuda_errors, describe_gpu, on_device
from pc_engine.hardware.devices import gpu_reason

_MAGIC = b"pc-engine TensorRT engine 2\n"  # another number where engines are built in another way


class TensorRtBackend:
    """See `pc_engine.backbone.Backend`."""

    name = "tensorrt"
    devices: tuple[str, ...] = ("cuda",)

    def probe(self, device: str = "cpu") -> Probe:
        """See `pc_engine.backbone.Backend.probe`."""
        if device == "cpu":
            return Probe(False, "TensorRT runs on NVIDIA GPUs only: use it with --device cuda.")
        reason = gpu_reason()
        if reason:
            # All that is missing, so that nobody installs one thing to be told of the next.
            return Probe(False, " ".join(filter(None, (reason, missing_library()))))
        try:
            gpu = describe_gpu(device)
            library = choose_library(gpu)
        except BackendError as error:
            return Probe(False, str(error))
        except Exception as error:  # a probe never raises, whatever a driver or a half-installed package does
            return Probe(False, f"TensorRT cannot be used here ({type(error).__name__}: {error}).")
        # The version is part of the names of cached engines, and an engine suits one driver and card.
        version = f"{library.title} {library.version} on {gpu}"
        remark = "" if listed(library, gpu) else ", a card that NVIDIA does not list for it"
        precisions = precisions_of(library, gpu.capability)
        lacking = "" if "int8" in precisions else f" ({NO_INT8})"
        return Probe(True, f"{version}{remark}, at {', '.join(precisions)}{lacking}.", version, precisions)

    def compile(self, request: CompileRequest, save_to: Path | None = None) -> Backbone:
        """See `pc_engine.backbone.Backend.compile`."""
        gpu = describe_gpu(request.device)
        library = choose_library(gpu)
        refuse_other_precisions(request.precision, library, gpu.capability)
        graph = typed_graph(request).SerializeToString()
        facts = _facts(request, library, gpu)
        target = Target(
            batch_size=request.batch_size,
            current=True,
            timings="timings-" + cache_key({name: facts[name] for name in ("library", "version", "gpu", "driver")}),
        )
        with cuda_errors("building the engine"), on_device(gpu.index):
            engine = build_engine(library, graph, target)
        del graph
        if save_to is not None:
            save_engine(save_to, facts, engine)
        return _run(request, library, gpu, engine, facts)

    def load(self, request: CompileRequest, saved: Path) -> Backbone:
        """See `pc_engine.backbone.Backend.load`."""
        gpu = describe_gpu(request.device)
        library = choose_library(gpu)
        facts = _facts(request, library, gpu)
        return _run(request, library, gpu, read_engine(saved, facts), facts)


def save_engine(path: Path, facts: dict[str, Any], engine: bytes) -> None:
    """Write an engine with the facts that it was built from ahead of it, for this user alone."""
    _write_private(path, _MAGIC + json.dumps(facts, sort_keys=True).encode() + b"\n", engine)


def read_engine(path: Path, facts: dict[str, Any]) -> memoryview:
    """Return the engine of a file that `save_engine` wrote for equal ``facts``.

    An engine is machine code that runs with the rights of its user. So one is read only if it says that it was built
    here for this, and if nobody else could have written it: the file is this user's own, and so is its folder.

    Raises
    ------
    BackendError
        If it is another's, another one, or cannot be read.
    """
    try:
        _check_ownership(path)
        content = path.read_bytes()
    except OSError as error:
        raise BackendError(f"The engine {path} cannot be read ({system_reason(error)}).") from None
    header, _, _ = content[len(_MAGIC) :].partition(b"\n")
    if not content.startswith(_MAGIC) or header != json.dumps(facts, sort_keys=True).encode():
        raise BackendError(f"The engine {path} was not built here for this network and GPU: delete it.")
    return memoryview(content)[len(_MAGIC) + len(header) + 1 :]


def _check_ownership(path: Path) -> None:
    reasons = map(distrust, (path, path.parent.resolve()))
    reason = next(filter(None, reasons), "")
    if reason:
        raise BackendError(
            f"The engine is not loaded, as {reason}: delete the folder {path.parent}, or make it private."
        )


def _facts(request: CompileRequest, library: Library, gpu: Gpu) -> dict[str, Any]:
    """Return all that an engine depends on."""
    return {
        "network": request.network_sha256,
        "input": asdict(request.manifest.input),
        "taps": {name: request.manifest.taps[name].tensor for name in request.taps},
        "precision": request.precision,
        "batch_size": request.batch_size,
        "library": library.name,
        "version": library.version,
        "gpu": gpu.name,
        "capability": list(gpu.capability),
        "driver": gpu.driver,
    }


def _run(
    request: CompileRequest, library: Library, gpu: Gpu, engine: bytes | memoryview, facts: dict[str, Any]
) -> TensorRtBackbone:
    files, name = FileCache(), "kernels-" + cache_key(facts)

    def load_kernels() -> bytes | None:
        path = files.get(name)
        if path is None:
            return None
        # They run as an engine does, and are compiled again where there is any doubt.
        with contextlib.suppress(OSError, BackendError):
            _check_ownership(path)
            return path.read_bytes()
        return None

    def keep_kernels(kernels: bytes) -> None:
        with contextlib.suppress(OSError):
            files.put(name, lambda path: _write_private(path, kernels))

    return TensorRtBackbone(request, library, gpu, engine, load_kernels, keep_kernels)


def _write_private(path: Path, *parts: bytes) -> None:
    """Write a file that its user alone may read and write, whatever others would be by default."""
    path.touch(mode=0o600)
    path.chmod(0o600)
    with path.open("wb") as file:
        for part in parts:
            file.write(part)
