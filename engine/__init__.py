"""pc-engine: count the salient objects in every photo of a folder and point at each.

An implementation of "Learning to Point and Count" (Shao, Wang, Xue, Zhang, 2015) as a batch inference engine.

>>> from pc_engine import Engine
>>> for result in Engine("lego", mode="c2p").run(["photos"]):
...     print(result.path, result.count, result.pointers)
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pc_engine.decoding.settings import Decoding
    from pc_engine.engine import Engine
    from pc_engine.errors import (
        BackendError,
        DataError,
        DeviceLostError,
        DeviceMemoryError,
        DownloadError,
        ImageError,
        ManifestError,
        MissingPackageError,
        MissingPartError,
        ModelError,
        PcEngineError,
        UsageError,
        WeightsError,
    )
    from pc_engine.model import Model, load_model
    from pc_engine.pointers import BoxPointer, EllipsePointer, Pointer
    from pc_engine.result import Result
    from pc_engine.runs.rows import iter_rows
    from pc_engine.sources import SourceImage

    __version__: str

__all__ = [
    "BackendError",
    "BoxPointer",
    "DataError",
    "Decoding",
    "DeviceLostError",
    "DeviceMemoryError",
    "DownloadError",
    "EllipsePointer",
    "Engine",
    "ImageError",
    "ManifestError",
    "MissingPackageError",
    "MissingPartError",
    "Model",
    "ModelError",
    "PcEngineError",
    "Pointer",
    "Result",
    "SourceImage",
    "UsageError",
    "WeightsError",
    "__version__",
    "iter_rows",
    "load_model",
]

# ONNX Runtime sends telemetry to Microsoft unless this is set before it is imported, here or in a process of a run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Imported when first asked for: the command line has to answer Ctrl-C before NumPy and the rest are there.
_MODULES = {
    "decoding.settings": ("Decoding",),
    "engine": ("Engine",),
    "model": ("Model", "load_model"),
    "pointers": ("BoxPointer", "EllipsePointer", "Pointer"),
    "result": ("Result",),
    "runs.rows": ("iter_rows",),
    "sources": ("SourceImage",),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = importlib.import_module("importlib.metadata").version("pc-engine")
    elif name in _MODULE_OF:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    else:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
