import ast
from pathlib import Path

import pytest

from pc_engine import kernels

MODULES = sorted(path for path in Path(kernels.__file__).parent.rglob("*.py"))


def test_exported_names_exist_and_are_sorted():
    assert sorted(kernels.__all__) == kernels.__all__
    for name in kernels.__all__:
        assert getattr(kernels, name).__doc__


@pytest.mark.parametrize("module", MODULES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_kernels_depend_on_nothing_above_and_reach_numpy_through_the_seam_only(module):
    imported = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert all(name.startswith("pc_engine.kernels.") for name in imported if name.startswith("pc_engine"))
    if module.stem != "array_module":
        assert "numpy" not in imported, "a kernel that names NumPy cannot work on a device array"
