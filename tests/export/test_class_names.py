import json

import pytest

from pc_engine.errors import UsageError
from pc_engine.export import read_class_names

NAMES = ("tench, Tinca tinca", "goldfish", "été")


@pytest.mark.parametrize(
    "content",
    [
        list(NAMES),
        [[k, name] for k, name in enumerate(NAMES)],
        [[k, f"n0{k}", name] for k, name in reversed(list(enumerate(NAMES)))],
        {str(k): name for k, name in enumerate(NAMES)},
        {str(k): [f"n0{k}", name] for k, name in enumerate(NAMES)},
    ],
)
def test_json_forms(tmp_path, content):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert read_class_names(path) == NAMES


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_text(tmp_path, end, encoding):
    path = tmp_path / "classes.txt"
    path.write_bytes(("\n".join(NAMES) + end).encode(encoding))
    assert read_class_names(path) == NAMES


def test_an_empty_line_within_keeps_its_place(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("a\n\nb\n")
    assert read_class_names(path) == ("a", "", "b")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "cannot be read"),
        ("3", "holds no class names"),
        ("[1, 2]", "holds no class names"),
        ("[[0]]", "holds no class names"),
        ('["a", [1, "b"]]', "holds no class names"),
        ('[[0, "a"], [2, "b"]]', "must be 0 to 1"),
        ('[[0, "a"], [0, "b"]]', "must be 0 to 1"),
    ],
)
def test_other_contents(tmp_path, content, text):
    path = tmp_path / "classes.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=text):
        read_class_names(path)


def test_absent_file(tmp_path):
    with pytest.raises(UsageError, match=r"none\.txt cannot be read"):
        read_class_names(tmp_path / "none.txt")
