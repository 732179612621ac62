"""Whether a network gives what its manifest says, where that cannot be read off its graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pc_engine.backbone import CompileRequest
from pc_engine.errors import ManifestError


def check_taps(taps: Mapping[str, np.ndarray], request: CompileRequest, n: int) -> None:
    """Raise `ManifestError` unless each tap is float32 and of its declared shape, for ``n`` images."""
    for name, values in taps.items():
        expected = (n, *request.manifest.taps[name].shape)
        if values.shape != expected or values.dtype != np.float32:
            raise ManifestError(
                f"By its manifest, the tap '{name}' of '{request.manifest.name}' has shape {expected} and type "
                f"float32, but the network gives {values.shape} and {values.dtype}; correct the manifest."
            )
