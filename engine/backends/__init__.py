"""The backends, by the name that ``--backend`` takes."""

from __future__ import annotations

from pc_engine.backbone import Backend
from pc_engine.backends.cudnn import CudnnBackend
from pc_engine.backends.onnxruntime import OnnxRuntimeBackend
from pc_engine.backends.openvino import OpenVinoBackend
from pc_engine.backends.tensorrt import TensorRtBackend

#: In the order in which they are tried where none was measured yet. To add one: write its module, list it here.
BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (OnnxRuntimeBackend(), OpenVinoBackend(), TensorRtBackend(), CudnnBackend())
}

#: The backend whose fp32 results the others are compared with.
REFERENCE = "onnxruntime"

__all__ = ["BACKENDS", "REFERENCE"]
