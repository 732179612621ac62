"""Optional packages: which are there, what installs them, and the one sentence about one that is needed and absent."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

from pc_engine.errors import MissingPackageError

#: The extra of pc-engine that installs each optional package, by the name it is imported by.
EXTRA_OF = {
    "pillow_heif": "heif",
    "h5py": "hdf5",
    "s3fs": "remote",
    "gcsfs": "remote",
    "aiohttp": "remote",
    "ray": "ray",
    "torch": "train",
    "matplotlib": "bench",
    "supervision": "supervision",
    "cupy": "gpu",
    "nvidia.nvimgcodec": "gpu",
    "cuml": "cuml",
}


def is_installed(package: str) -> bool:
    """Whether a package can be imported, as far as is known without doing so; one in `sys.modules` as None cannot.

    Its name is enough to tell, and some take seconds to be imported.
    """
    if package in sys.modules:
        return sys.modules[package] is not None
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of a package in another, which is not there either
        return False


def missing(package: str, purpose: str) -> MissingPackageError:
    """Return the error that says how to install a package; ``purpose`` completes "is needed to …"."""
    return MissingPackageError(package, EXTRA_OF[package], purpose)


def require(package: str, purpose: str) -> None:
    """Raise `missing` unless the package is installed; imports nothing."""
    if not is_installed(package):
        raise missing(package, purpose)


def import_optional(package: str, purpose: str) -> Any:
    """Import a package, and raise `missing` where that fails."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise missing(package, purpose) from None
