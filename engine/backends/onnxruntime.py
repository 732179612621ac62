"""ONNX Runtime: on the CPU the reference, and the backend that runs everywhere; on a GPU where its package has CUDA."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pc_engine.backbone import CLOSED, IMAGE, Backbone, CompileRequest, Probe, Taps, check_batch
from pc_engine.backends.onnxruntime_cuda import INTEGER_REWRITINGS, PRECISIONS, PROVIDER, OnnxRuntimeCudaBackbone
from pc_engine.backends.tap_shapes import check_taps
from pc_engine.errors import BackendError, first_line, system_reason
from pc_engine.hardware.cuda import describe_gpu
from pc_engine.hardware.devices import gpu_reason
from pc_engine.hardware.machine import adds_bytes_exactly
from pc_engine.manifest import QUANTISED_FILES

if TYPE_CHECKING:
    import onnx

_LEAST_BATCH = 2


class OnnxRuntimeBackbone:
    """A network in an ONNX Runtime session."""

    backend = "onnxruntime"
    parallel = 1
    remarks: tuple[str, ...] = ()

    def __init__(
        self, request: CompileRequest, graph: str | bytes, options: Any, without: Collection[str] = ()
    ) -> None:
        import onnxruntime as ort

        self.request = request
        self._session: Any = None
        try:
            self._session = ort.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=set(without)
            )
        except Exception as error:  # ONNX Runtime's exception classes share no public base
            raise BackendError(f"ONNX Runtime cannot load {request.network}: {first_line(error)}") from None

    def infer(self, images: np.ndarray, into: Taps | None = None) -> dict[str, np.ndarray]:  # noqa: ARG002 (on a CPU)
        """See `pc_engine.backbone.Backbone.infer`."""
        session = self._session  # which another thread may close meanwhile
        if session is None:
            raise BackendError(CLOSED)
        check_batch(len(images), self.request.batch_size)
        # A lone image runs as two: by itself it would be multiplied as a vector, whose sums round differently.
        batch = padded(images, min(max(len(images), _LEAST_BATCH), self.request.batch_size))
        try:
            outputs = session.run(list(self.request.taps), {IMAGE: batch})
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed while running the network: {first_line(error)}") from None
        taps = dict(zip(self.request.taps, outputs, strict=True))
        check_taps(taps, self.request, len(batch))
        return {name: tap[: len(images)] for name, tap in taps.items()}

    def close(self) -> None:
        """See `pc_engine.backbone.Backbone.close`."""
        self._session = None


def padded(images: np.ndarray, n: int) -> np.ndarray:
    """Return ``images`` (up to n, H, W, 3) with black images appended up to ``n``, itself if there is none to add."""
    missing = n - len(images)
    if missing == 0:
        return images
    return np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])


class OnnxRuntimeBackend:
    """See `pc_engine.backbone.Backend`."""

    name = "onnxruntime"
    devices: tuple[str, ...] = ("cpu", "cuda")

    def probe(self, device: str = "cpu") -> Probe:
        """See `pc_engine.backbone.Backend.probe`."""
        try:
            import onnxruntime as ort
        except ImportError as error:
            return Probe(False, f"ONNX Runtime cannot be imported ({error}): pip install onnxruntime.")
        version = str(ort.__version__)
        if device != "cpu":
            return _probe_gpu(ort, version, device)
        if not adds_bytes_exactly():
            reason = f"ONNX Runtime {version}, on the CPU at fp32 (no int8: no VNNI instructions are known here)."
            return Probe(True, reason, version, ("fp32",))
        return Probe(True, f"ONNX Runtime {version}, on the CPU at fp32, int8.", version, ("fp32", "int8"))

    def compile(self, request: CompileRequest, save_to: Path | None = None) -> Backbone:
        """See `pc_engine.backbone.Backend.compile`."""
        from pc_engine.graph.prepare import open_graph

        graph = open_graph(request.network, request.manifest, request.taps)
        if request.device != "cpu":
            return _compile_for_gpu(request, graph, save_to)
        if request.precision in ("fp16", "fp8"):
            # What a GPU gives, for comparisons: slower than fp32, and so none of what the probe offers.
            from pc_engine.graph.half_rounding import round_like_half

            round_like_half(graph)
        options = _session_options(request)
        if save_to is not None:
            options.optimized_model_filepath = str(save_to)
        without = INTEGER_REWRITINGS if _holds_fp8(graph) else ()
        return OnnxRuntimeBackbone(request, graph.SerializeToString(), options, without)

    def load(self, request: CompileRequest, saved: Path) -> Backbone:
        """See `pc_engine.backbone.Backend.load`."""
        import onnxruntime as ort

        if request.device != "cpu":
            return OnnxRuntimeCudaBackbone(request, _read(saved))
        options = _session_options(request)
        # The saved graph was optimised for this machine already: doing so again costs seconds for VGG.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return OnnxRuntimeBackbone(request, str(saved), options)


def _probe_gpu(ort: Any, version: str, device: str) -> Probe:
    reason = gpu_reason()
    if reason:
        return Probe(False, reason)
    if PROVIDER not in ort.get_available_providers():
        return Probe(
            False,
            f"ONNX Runtime {version} is the package for the CPU: pip uninstall onnxruntime, then pip install "
            f"onnxruntime-gpu (both together overwrite each other).",
        )
    try:
        gpu = describe_gpu(device)
    except BackendError as error:
        return Probe(False, str(error))
    version = f"{version} on {gpu}"
    return Probe(True, f"ONNX Runtime {version}, at {', '.join(PRECISIONS)}.", version, PRECISIONS)


def _compile_for_gpu(request: CompileRequest, graph: onnx.ModelProto, save_to: Path | None) -> Backbone:
    """Compile for a GPU. What is saved is the graph in its precision: the rest is done anew when it is loaded."""
    from pc_engine.graph.half import cast_to_half

    if request.precision == "fp16":
        cast_to_half(graph)
    content = graph.SerializeToString()
    if save_to is not None:
        save_to.write_bytes(content)
    return OnnxRuntimeCudaBackbone(request, content)


def _read(saved: Path) -> bytes:
    try:
        return saved.read_bytes()
    except OSError as error:
        raise BackendError(f"ONNX Runtime cannot load {saved} ({system_reason(error)}).") from None


def _holds_fp8(model: onnx.ModelProto) -> bool:
    """Whether a network has 8-bit floating point anywhere: stored, in a Constant node, cast or rounded to."""
    from onnx import TensorProto

    from pc_engine.graph.names import all_nodes, stored_tensors

    types = {value for name, value in TensorProto.DataType.items() if name.startswith("FLOAT8")}
    return any(tensor.data_type in types for tensor in stored_tensors(model)) or any(
        item.name in ("output_dtype", "to") and item.i in types for node in all_nodes(model) for item in node.attribute
    )


def _session_options(request: CompileRequest) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = request.threads
    if request.precision != "int8" and request.network.name in QUANTISED_FILES.values():
        # The reference for int8 and fp8: the network's own rounding, summed without any.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.log_severity_level = 4  # that a saved graph suits this machine only is what the cache is for
    return options
