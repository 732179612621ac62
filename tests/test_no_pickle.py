"""Nothing that is read from a file can run code: no module unpickles, evaluates, or loads what does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for part in ("engine", "export", "kernels", "bench") for path in (ROOT / part).rglob("*.py"))
MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib", "code"}  # pickletools only reads
CALLS = {"eval", "exec", "__import__", "pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.unsafe_load", "np.load"}
# Calls that are safe with an argument, and what that has to be.
WITH = {"torch.load": ("weights_only", True)}


def dangers(tree: ast.AST) -> Iterator[str]:
    """Yield what in a module could run code that a file holds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (name for name in names if name.partition(".")[0] in MODULES)
            if isinstance(node, ast.ImportFrom) and node.module == "pickle":
                yield "from pickle import"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
        if name in CALLS or given.get("allow_pickle"):
            yield name
        if name == "yaml.load" and not (len(node.args) == 2 and ast.unparse(node.args[1]).endswith("Loader")):
            yield name
        if name in WITH and given.get(WITH[name][0]) is not WITH[name][1]:
            yield name


def test_no_module_runs_code_from_files() -> None:
    found = {
        str(path.relative_to(ROOT)): list(dangers(ast.parse(path.read_text(encoding="utf-8")))) for path in SOURCES
    }
    assert len(found) > 100
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import joblib",
        "from pickle import loads",
        "pickle.load(stream)",
        "np.load(path)",
        "numpy.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text)",
        "eval(text)",
    ],
)
def test_what_could_is_found(text: str) -> None:
    assert list(dangers(ast.parse(text)))
