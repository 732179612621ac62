"""Run Python with this checkout as the package ``pc_engine``, where it cannot be installed.

    python bench/from_checkout.py -m pc_engine.bench.gpu_acceptance --part kernels
    python bench/from_checkout.py -m pytest -m gpu tests

The folders of a checkout are not laid out as the package that they become, so that setting PYTHONPATH alone does not
do: this makes a temporary folder of links that is, metadata included, and starts Python with it on its path. It needs
the standard library alone, and nothing is installed or changed.

Of the packages that pc-engine requires, only simplejpeg is likely to be missing on a machine for computing: Pillow
then decodes in its place, which costs speed and changes no more than roundings. What else is missing is named.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_CHECKOUT = Path(__file__).resolve().parents[1]
_PACKAGE = "pc_engine"
_NAME = re.compile(r"[A-Za-z0-9._-]+")
# `pc_engine.decoding.decode` leaves a file to Pillow where simplejpeg raises ValueError.
_NO_SIMPLEJPEG = '''"""Stands in for simplejpeg, which is not installed: every file is left to Pillow."""


def decode_jpeg(*arguments, **keywords):
    raise ValueError("simplejpeg is not installed")
'''


def lay_out(checkout: Path, folder: Path) -> None:
    """Fill ``folder`` with links under which the checkout is the package ``pc_engine``, and its metadata."""
    project = _project(checkout)
    package = folder / _PACKAGE
    package.mkdir(parents=True)
    for path in (checkout / "engine").iterdir():
        (package / path.name).symlink_to(path)
    for name in ("export", "kernels", "bench"):
        (package / name).symlink_to(checkout / name)
    metadata = folder / f"{_PACKAGE}-{project['version']}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8"
    )


def missing_packages(checkout: Path) -> list[str]:
    """Return the packages that pc-engine requires and that are not installed."""
    names = [found.group() for entry in _project(checkout)["dependencies"] if (found := _NAME.match(entry))]
    return [name for name in names if not _is_installed(name)]


def stand_in_for_simplejpeg(folder: Path) -> None:
    """Write a module ``simplejpeg`` that leaves every file to Pillow."""
    (folder / "simplejpeg.py").write_text(_NO_SIMPLEJPEG, encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """Run ``python ARGUMENTS`` with the checkout on its path; return its exit code."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="pc-engine-checkout-") as name:
        folder = Path(name)
        lay_out(_CHECKOUT, folder)
        missing = missing_packages(_CHECKOUT)
        if "simplejpeg" in missing:
            stand_in_for_simplejpeg(folder)
            print("simplejpeg is not installed: Pillow decodes instead, slower.", file=sys.stderr)
        others = [package for package in missing if package != "simplejpeg"]
        if others:
            print(f"Not installed, so what needs it fails: {', '.join(others)}.", file=sys.stderr)
        path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", ""))))
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.run([sys.executable, *arguments], env=environment, check=False).returncode


def _project(checkout: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
