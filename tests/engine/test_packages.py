from __future__ import annotations

import sys
from types import ModuleType

import pytest

from pc_engine.packages import is_installed


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
