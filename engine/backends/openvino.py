"""OpenVINO on the CPU: fp32, int8, and bf16 where the processor multiplies it natively."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from pc_engine.backbone import IMAGE, Backbone, CompileRequest, Probe, Taps, check_batch
from pc_engine.backends.idle import Idle
from pc_engine.backends.signal_stack import signal_stack_kept
from pc_engine.backends.tap_shapes import check_taps
from pc_engine.errors import BackendError
from pc_engine.hardware.machine import adds_bytes_exactly

_DEVICE = "CPU"
#: OpenVINO's names of the precisions. What is not between a QuantizeLinear and a DequantizeLinear of an int8 network
#: stays as exact as at fp32.
PRECISION_HINT = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
# The precisions that not every processor has, by OpenVINO's name for them.
_CAPABILITY = {"BF16": "bf16", "INT8": "int8"}
_INSTRUCTIONS = {"bf16": "bf16", "int8": "VNNI"}
_FIRST_USE = threading.Lock()
_TELEMETRY = "openvino_telemetry"


class OpenVinoBackbone:
    """A network compiled by OpenVINO."""

    backend = "openvino"

    def __init__(self, request: CompileRequest, compiled: Any) -> None:
        self.request = request
        self.remarks: tuple[str, ...] = ()
        self.parallel = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._compiled = compiled
        self._idle = Idle([compiled.create_infer_request() for _ in range(self.parallel)])

    def infer(self, images: np.ndarray, into: Taps | None = None) -> dict[str, np.ndarray]:  # noqa: ARG002 (on a CPU)
        """See `pc_engine.backbone.Backbone.infer`."""
        check_batch(len(images), self.request.batch_size)
        batch = np.ascontiguousarray(images)
        with self._idle.taken() as infer_request:
            try:
                infer_request.infer({IMAGE: batch}, share_inputs=True)
                # By their places: a tensor that a Dropout hands on loses its name. Copied, because the request's own
                # output memory is overwritten by its next batch.
                names = dict.fromkeys(self.request.taps)
                taps = {name: infer_request.get_output_tensor(k).data.copy() for k, name in enumerate(names)}
            except RuntimeError as error:
                raise BackendError(f"OpenVINO failed while running the network: {_first_line(error)}") from None
        check_taps(taps, self.request, len(images))
        return taps

    def close(self) -> None:
        """See `pc_engine.backbone.Backbone.close`."""
        self._compiled = None
        self._idle.close()


class OpenVinoBackend:
    """See `pc_engine.backbone.Backend`."""

    name = "openvino"
    devices: tuple[str, ...] = ("cpu",)

    def probe(self, device: str = "cpu") -> Probe:
        """See `pc_engine.backbone.Backend.probe`."""
        if device != "cpu":
            return Probe(False, "OpenVINO runs on the CPU only here: use the backend tensorrt on an NVIDIA GPU.")
        try:
            ov = import_openvino()
        except ImportError as error:
            return Probe(False, f"OpenVINO cannot be imported ({error}): pip install openvino.")
        try:
            capabilities = ov.Core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        except RuntimeError as error:
            return Probe(False, f"OpenVINO has no CPU device here: {_first_line(error)}")
        version = str(ov.get_version()).split("-")[0]
        native = [name for capability, name in _CAPABILITY.items() if capability in capabilities]
        # OpenVINO claims int8 wherever it has code for it, saturating or not.
        if "int8" in native and not adds_bytes_exactly():
            native.remove("int8")
        missing = [text for name, text in _INSTRUCTIONS.items() if name not in native]
        where = f"on the CPU at {', '.join(('fp32', *native))}"
        where += f" (no {' and no '.join(missing)} instructions are known here)" if missing else ""
        precisions = ("fp32", *native)
        return Probe(True, f"OpenVINO {version}, {where}.", version, precisions)

    def compile(self, request: CompileRequest, save_to: Path | None = None) -> Backbone:
        """See `pc_engine.backbone.Backend.compile`."""
        from pc_engine.graph.prepare import open_graph

        ov = import_openvino()
        graph = open_graph(request.network, request.manifest, request.taps)
        try:
            core = ov.Core()
            model = core.read_model(model=graph.SerializeToString())
            del graph
            shape = model.input(IMAGE).partial_shape
            # Any number up to the batch size: as fast as a fixed one, and a batch that is not full costs what it holds.
            shape[0] = ov.Dimension(1, request.batch_size)
            model.reshape({IMAGE: shape})
            with signal_stack_kept():
                compiled = core.compile_model(model, _DEVICE, _properties(request))
            if save_to is not None:
                save_to.write_bytes(compiled.export_model().getvalue())
        except RuntimeError as error:
            raise BackendError(f"OpenVINO cannot compile {request.network}: {_first_line(error)}") from None
        return OpenVinoBackbone(request, compiled)

    def load(self, request: CompileRequest, saved: Path) -> Backbone:
        """See `pc_engine.backbone.Backend.load`."""
        try:
            with signal_stack_kept():
                compiled = import_openvino().Core().import_model(saved.read_bytes(), _DEVICE, _properties(request))
        except RuntimeError as error:
            raise BackendError(f"OpenVINO cannot load the compiled {request.network}: {_first_line(error)}") from None
        return OpenVinoBackbone(request, compiled)


def import_openvino() -> Any:
    """Return the package ``openvino``, ready for several threads, and without its telemetry.

    Raises
    ------
    ImportError
        If it is not installed, or cannot be loaded.
    """
    with _FIRST_USE:
        if "openvino" in sys.modules or _TELEMETRY in sys.modules:
            import openvino
        else:
            # It reports its import to Google Analytics, unless the package that does so cannot be imported.
            sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
            try:
                import openvino
            finally:
                del sys.modules[_TELEMETRY]
        # It makes its table of NumPy's types when one is first asked for, and lets other threads of Python run
        # meanwhile: one that asks as well waits for the table with Python's lock in its hands, and nothing goes on.
        openvino.Type.u8.to_dtype()
    return openvino


def _properties(request: CompileRequest) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": PRECISION_HINT[request.precision],
        "INFERENCE_NUM_THREADS": request.threads,
        # One stream a core or a few: batches run side by side, and none waits for the slowest core of another.
        "PERFORMANCE_HINT": "THROUGHPUT",
    }


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    # OpenVINO puts source positions first and the reason last.
    return lines[-1].strip() if lines else type(error).__name__
