"""Dependencies point one way: bench -> export -> engine -> kernels."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("kernels", "engine", "export", "bench")  # each may import itself and those before it
# What is slow to import, or not installed everywhere, is imported where it is used.
HEAVY = ("torch", "cupy", "openvino", "ray", "pc_engine.export", "pc_engine.bench")
# What a run has no use for whose network is kept, and whose rows are only shown.
OTHERS = ("onnx", "onnxruntime", "pyarrow", "pc_engine.graph.prepare", "pc_engine.datasets", "pc_engine.fitting")


def modules() -> Iterator[tuple[str, Path]]:
    for layer in LAYERS:
        for path in sorted((ROOT / layer).rglob("*.py")):
            yield layer, path


MODULES = list(modules())


def layer_of(name: str) -> str:
    """The layer of a module of ``pc_engine``, by its dotted name."""
    part = name.split(".")[1] if "." in name else "engine"
    return part if part in LAYERS else "engine"


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module of ``pc_engine`` that a file imports, and whether it does so inside a function."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno} imports relatively"
                module = child.module or ""
                # "from pc_engine import export" names a layer in its list.
                names = [alias.name for alias in child.names if module == "pc_engine" and alias.name in LAYERS]
                yield from ((f"{module}.{name}", inside) for name in names or [""])
            else:
                function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, inside or function)

    for name, inside in walk(ast.parse(path.read_text(encoding="utf-8")), inside=False):
        name = name.rstrip(".")
        if name == "pc_engine" or name.startswith("pc_engine."):
            yield name, inside


def test_there_are_files_in_every_layer() -> None:
    assert {layer for layer, _ in MODULES} == set(LAYERS)


@pytest.mark.parametrize(("layer", "path"), MODULES, ids=[str(path.relative_to(ROOT)) for _, path in MODULES])
def test_no_module_imports_from_a_layer_above(layer: str, path: Path) -> None:
    if path.is_relative_to(ROOT / "engine" / "cli"):
        return  # the command line puts the parts together
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    for name, inside in imports(path):
        # See the next test.
        if path == ROOT / "engine" / "catalogue.py" and layer_of(name) == "export" and inside:
            continue
        assert layer_of(name) in allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_one_function_of_the_engine_imports_the_exporter() -> None:
    """It makes a model that is named and not installed."""
    tree = ast.parse((ROOT / "engine" / "catalogue.py").read_text(encoding="utf-8"))
    reaching = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.walk(node)
        if isinstance(child, ast.ImportFrom) and layer_of(child.module or "") == "export"
    }
    assert reaching == {"_make"}


def engine_part(name: str) -> str | None:
    """The folder or module of ``engine/`` that a dotted name is of; None where it is of no such."""
    if layer_of(name) != "engine" or "." not in name:
        return None
    return name.split(".")[1]


def test_no_two_parts_of_the_engine_need_each_other() -> None:
    """Each folder of ``engine/``, and each module beside them, can be read without those that are built on it."""
    needs: dict[str, set[str]] = {}
    for layer, path in MODULES:
        if layer == "engine" and path.parent != ROOT / "engine" / "cli":
            me = path.relative_to(ROOT / "engine").parts[0].removesuffix(".py")
            found = {engine_part(name) for name, _ in imports(path)} - {me, None}
            needs.setdefault(me, set()).update(part for part in found if part)
    assert {"sources", "decoding", "runs", "engine", "errors"} <= needs.keys()
    list(graphlib.TopologicalSorter(needs).static_order())  # raises CycleError, which names the circle


def test_the_check_sees_imports_of_every_form(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "import pc_engine.export.vgg\nfrom pc_engine import bench, Engine\nfrom pc_engine.kernels import dbscan\n"
        "import os\ndef f():\n    from pc_engine.export.fetch import fetch_vgg\n    return fetch_vgg\n"
        "if True:\n    from pc_engine.errors import UsageError\n"
    )
    assert list(imports(tmp_path / "a.py")) == [
        ("pc_engine.export.vgg", False),
        ("pc_engine.bench", False),
        ("pc_engine.kernels", False),
        ("pc_engine.export.fetch", True),
        ("pc_engine.errors", False),
    ]
    assert [layer_of(name) for name, _ in imports(tmp_path / "a.py")] == [
        *("export", "bench", "kernels", "export", "engine")
    ]


@pytest.mark.parametrize(
    ("module", "absent"), [("pc_engine", HEAVY), ("pc_engine.kernels", HEAVY), ("pc_engine.cli.run", HEAVY + OTHERS)]
)
def test_importing_the_package_imports_nothing_heavy(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*[name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_kernels_know_nothing_of_the_engine() -> None:
    """Arrays in, arrays out: beside NumPy, CuPy and the standard library they import only one another."""
    for layer, path in MODULES:
        if layer == "kernels":
            for name, _ in imports(path):
                assert name.startswith("pc_engine.kernels"), f"{path.name} imports {name}"


def test_names_say_what_is_inside() -> None:
    for _, path in MODULES:
        for part in path.relative_to(ROOT).parts:
            assert Path(part).stem not in {"utils", "util", "helpers", "helper", "common", "misc", "manager"}, path


def test_modules_stay_readable_in_one_sitting() -> None:
    long = {
        str(path.relative_to(ROOT)): n
        for _, path in MODULES
        if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert long == {}
