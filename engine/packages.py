"""Which optional packages are there, by their names alone: some take seconds to be imported."""

from __future__ import annotations

import importlib.util
import sys


def is_installed(package: str) -> bool:
    """Whether a package can be imported, as far as is known without doing so; one in `sys.modules` as None cannot."""
    if package in sys.modules:
        return sys.modules[package] is not None
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of a package in another, which is not there either
        return False
