from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path
from types import ModuleType

import pytest

from pc_engine.errors import MissingPackageError
from pc_engine.packages import EXTRA_OF, import_optional, is_installed, missing, require

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def test_a_package_is_found_by_its_name_and_not_imported(tmp_path, monkeypatch):
    (tmp_path / "that_may_be_there.py").write_text("raise RuntimeError('imported')\n")
    assert not is_installed("that_may_be_there")
    monkeypatch.syspath_prepend(tmp_path)
    assert is_installed("that_may_be_there")


@pytest.mark.parametrize(("module", "there"), [(None, False), (ModuleType("made_up"), True)])
def test_what_python_has_already_decides(monkeypatch, module, there):
    monkeypatch.setitem(sys.modules, "made_up", module)
    assert is_installed("made_up") is there


def test_a_package_within_one_that_is_not_there_is_not_there_either():
    assert not is_installed("no_such_package.part")


def test_an_optional_package_is_imported_or_its_absence_is_a_sentence(monkeypatch):
    module = ModuleType("h5py")
    monkeypatch.setitem(sys.modules, "h5py", module)
    assert import_optional("h5py", "read it") is module
    require("h5py", "read it")
    monkeypatch.setitem(sys.modules, "h5py", None)
    for ask in (import_optional, require):
        with pytest.raises(MissingPackageError) as met:
            ask("h5py", "read it")
        assert str(met.value) == str(missing("h5py", "read it"))
    assert str(met.value) == "The package 'h5py' is needed to read it: install it with pip install 'pc-engine[hdf5]'."


def brought_along(requirement: str) -> list[str]:
    """What a requirement names, and what the extras of it that it names require."""
    name, extras = re.fullmatch(r"([\w.-]+)(?:\[([\w,]+)\])?.*", requirement).groups()
    if not extras or not is_installed(name):
        return [name]
    wanted = re.compile(f"extra == ['\"]({extras.replace(',', '|')})['\"]")
    return [name, *(re.match(r"[\w.-]+", line)[0] for line in requires(name) or () if wanted.search(line))]


@pytest.mark.parametrize("package", EXTRA_OF)
def test_the_extra_that_is_named_brings_the_package_along(package):
    names = [name for requirement in EXTRAS[EXTRA_OF[package]] for name in brought_along(requirement)]
    wanted = re.sub("[._]", "-", package)  # of CUDA packages, the version comes last: cupy-cuda13x
    assert [name for name in names if re.fullmatch(rf"{wanted}(-c\w+)?", re.sub("[._]", "-", name))], names


def test_every_extra_that_a_remedy_names_is_there():
    text = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("e[nx]*/**/*.py"))
    named = set(re.findall(r"pc-engine\[(\w+)\]", text))
    assert {"gpu", "cudnn", "heif"} <= named <= set(EXTRAS)
