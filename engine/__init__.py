"""pc-engine: count the salient objects in every photo of a folder and point at each.

An implementation of "Learning to Point and Count" (Shao, Wang, Xue, Zhang, 2015) as a batch inference engine.

>>> from pc_engine import Engine
>>> for result in Engine("lego", mode="c2p").run(["photos"]):
...     print(result.path, result.count, result.pointers)
"""

from __future__ import annotations

import os
from importlib.metadata import version

from pc_engine.decoding import Decoding
from pc_engine.engine import Engine
from pc_engine.errors import (
    BackendError,
    DataError,
    DownloadError,
    ImageError,
    ManifestError,
    MissingPackageError,
    ModelError,
    PcEngineError,
    UsageError,
    WeightsError,
)
from pc_engine.model import Model, load_model
from pc_engine.result import BoxPointer, EllipsePointer, Pointer, Result

__version__ = version("pc-engine")

# ONNX Runtime sends telemetry to Microsoft unless this is set before it is imported, here or in a process of a run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "BackendError",
    "BoxPointer",
    "DataError",
    "Decoding",
    "DownloadError",
    "EllipsePointer",
    "Engine",
    "ImageError",
    "ManifestError",
    "MissingPackageError",
    "Model",
    "ModelError",
    "PcEngineError",
    "Pointer",
    "Result",
    "UsageError",
    "WeightsError",
    "__version__",
    "load_model",
]
