import json
import os

import pytest

from pc_engine.datasets.imagenet import imagenet_class_names
from pc_engine.errors import UsageError
from pc_engine.export import read_class_names
from pc_engine.export.class_names import names_of_logits

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
    with pytest.raises(UsageError, match=r"none\.txt cannot be read .*: name a text or JSON file with --classes\."):
        read_class_names(tmp_path / "none.txt")


def test_there_is_one_name_per_logit_or_none():
    assert names_of_logits(list(NAMES), 3, -1) == NAMES
    assert names_of_logits((), 3, 0) == ()
    for n_logits in (1, 2, 5):
        with pytest.raises(UsageError) as refused:
            names_of_logits(NAMES, n_logits, -1)
        assert str(refused.value) == (
            f"There are 3 class names, but the network has {n_logits} logits: give one name per logit with --classes, "
            f"or leave it out."
        )


def test_where_one_name_is_missing_a_background_class_is_hinted_at():
    for background_class in (-1, 0):  # which may be named, and another class be missing
        with pytest.raises(UsageError, match=r"add a name for it at the top of the file, and --background-class 0\.$"):
            names_of_logits(NAMES, 4, background_class)
    with pytest.raises(UsageError, match=r"1,000 class names, .* 1,001 logits: .* for it add --background-class 0\.$"):
        names_of_logits(imagenet_class_names(), 1001, -1)
    with pytest.raises(UsageError, match=r"or leave it out\.$"):  # of a VGG, which has none
        names_of_logits(NAMES, 4)


def test_imagenet_gets_a_name_for_the_background_class_that_is_counted_besides():
    imagenet, said = imagenet_class_names(), []
    names = names_of_logits(imagenet, 1001, 0, said.append)
    assert names == ("background", *imagenet)
    assert said == ["ImageNet's names have none for a background class: class 0 is 'background'."]
    assert names_of_logits(imagenet, 1001, 1000) == (*imagenet, "background")
    assert names_of_logits(imagenet, 1000, 0) == imagenet


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "names.txt")
    with pytest.raises(UsageError, match=r"names\.txt cannot be read \(it is not a regular file\): name a text"):
        read_class_names(tmp_path / "names.txt")
