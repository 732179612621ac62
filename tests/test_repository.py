"""What is kept in the repository: code, tests and what was measured, and nothing that somebody's trials left behind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KNOWN = {".ci", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "pyproject.toml"} | {
    *("bench", "engine", "export", "kernels", "tests")
}
LARGEST = 4_000_000


def test_only_known_files_are_kept() -> None:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no clone of the repository")
    names = [Path(name) for name in listed.stdout.split("\0") if name]
    assert {name.parts[0] for name in names} <= KNOWN
    assert [name for name in names if (ROOT / name).is_file() and (ROOT / name).stat().st_size > LARGEST] == []
