from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pc_engine.datasets import Box, matlab, matlab_child, read_labelled
from pc_engine.errors import DataError, MissingPackageError

Entry = dict[str, Any]

SOS: list[Entry] = [
    {"name": "a.jpg", "label": 0, "istest": 0},
    {"name": "b.jpg", "label": 4, "istest": 1},
    {"name": "c.jpg", "label": 2, "istest": 1},
]


@pytest.fixture
def write(request: pytest.FixtureRequest, matlab_writers: dict[str, Any]) -> Any:
    """The writer of the MATLAB version that a test is given as its parameter."""
    return matlab_writers[request.param]


def place(folder: Path, entries: list[Entry], below: str = "") -> Path:
    (folder / below).mkdir(parents=True, exist_ok=True)
    for entry in entries:
        (folder / below / entry["name"]).touch()
    return folder / "imgIdx.mat"


@pytest.mark.parametrize("write", ["7.3", "5"], indirect=True)
@pytest.mark.parametrize("below", ["", "img"])
def test_sos_and_esos(tmp_path: Path, write: Any, below: str) -> None:
    write(place(tmp_path, SOS, below), SOS)
    labelled = read_labelled(f"sos:{tmp_path}")
    assert labelled.name == "sos"
    found = [(image.path.relative_to(tmp_path).as_posix(), image.count) for image in labelled.images]
    prefix = below + "/" if below else ""
    assert found == [(f"{prefix}a.jpg", 0), (f"{prefix}b.jpg", 4), (f"{prefix}c.jpg", 2)]
    train, test = (read_labelled(f"sos:{tmp_path}#{split}") for split in ("train", "test"))
    assert [image.path.name for image in train.images] == ["a.jpg"]
    assert [image.path.name for image in test.images] == ["b.jpg", "c.jpg"]
    assert test.name == "sos-test"


@pytest.mark.parametrize("write", ["7.3", "5"], indirect=True)
def test_mso_boxes(tmp_path: Path, write: Any) -> None:
    entries: list[Entry] = [
        {"name": "none.jpg", "label": 0, "anno": []},
        {"name": "one.jpg", "label": 1, "anno": [[-3, 2, 10, 20]]},
        {"name": "four.jpg", "label": 4, "anno": [[i, i, i + 5.5, i + 6] for i in range(4)]},
        {"name": "six.jpg", "label": 4, "anno": [[i, i, i + 5, i + 6] for i in range(6)]},
    ]
    write(place(tmp_path, entries, "img"), entries)
    labelled = read_labelled(f"mso:{tmp_path}")
    assert [(image.count, len(image.boxes)) for image in labelled.images] == [(0, 0), (1, 1), (4, 4), (6, 6)]
    assert labelled.images[1].boxes == (Box(-3, 2, 10, 20),)
    assert labelled.images[2].boxes[1] == Box(1, 1, 6.5, 7)


def test_an_empty_annotation_without_its_mark_is_still_empty(tmp_path: Path, matlab_writers: dict[str, Any]) -> None:
    entries: list[Entry] = [
        {"name": "a.jpg", "label": 0, "anno": []},
        {"name": "b.jpg", "label": 1, "anno": [[0, 0, 2, 2]]},
    ]
    matlab_writers["7.3"](place(tmp_path, entries), entries, marked_empty=False)
    assert [len(image.boxes) for image in read_labelled(f"mso:{tmp_path}").images] == [0, 1]


@pytest.mark.parametrize("write", ["7.3", "5"], indirect=True)
def test_bad_entries_are_skipped(tmp_path: Path, write: Any) -> None:
    entries: list[Entry] = [
        {"name": "a.jpg", "label": 1, "anno": [[0, 0, 2, 2]]},
        {"name": "b.jpg", "label": 1, "anno": [[1, 2, 3]]},
        {"name": "c.jpg", "label": [1, 2], "anno": []},
        {"name": "d.jpg", "label": -1, "anno": []},
        {"name": "e.jpg", "label": 1, "anno": [[9, 9, 9, 12]]},
    ]
    write(place(tmp_path, entries), entries)
    (tmp_path / "a.jpg").rename(tmp_path / "moved.jpg")
    labelled = read_labelled(f"mso:{tmp_path}")
    assert [(image.path.name, image.boxes) for image in labelled.images] == [("e.jpg", ())]
    assert [item for item, _ in labelled.skipped] == [
        str(tmp_path / "a.jpg"),
        "entry 2",
        "entry 3",
        "entry 4",
        f"a box of {tmp_path / 'e.jpg'}",
    ]


def test_an_index_of_one_entry(tmp_path: Path) -> None:
    path = place(tmp_path, SOS[:1])
    with h5py.File(path, "w") as file:  # MATLAB stores a struct of size 1 without references
        group = file.create_group("imgIdx")
        group["name"] = np.array([[ord(letter)] for letter in "a.jpg"], np.uint16)
        group["label"] = np.array([[3.0]])
    (image,) = read_labelled(f"sos:{tmp_path}").images
    assert (image.path.name, image.count) == ("a.jpg", 3)


def test_an_index_of_another_name_is_taken_if_it_is_the_only_one(
    tmp_path: Path, matlab_writers: dict[str, Any]
) -> None:
    matlab_writers["5"](place(tmp_path, SOS).with_name("index.mat"), SOS)
    assert len(read_labelled(f"sos:{tmp_path}").images) == 3


def test_what_is_wrong_is_named(tmp_path: Path, matlab_writers: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"has no imgIdx.mat: name the folder"):
        read_labelled(f"sos:{tmp_path}")
    path = place(tmp_path, SOS)
    path.write_bytes(b"MATLAB 7.3 MAT-file, but cut off")
    with pytest.raises(DataError, match="cannot be read as a MATLAB file"):
        read_labelled(f"sos:{tmp_path}")
    path.write_bytes(b"no MATLAB file" * 20)
    with pytest.raises(DataError, match="cannot be read as a MATLAB file"):
        read_labelled(f"sos:{tmp_path}")
    path.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read as a MATLAB file"):
        read_labelled(f"sos:{tmp_path}")
    matlab_writers["5"](path, SOS)
    with pytest.raises(DataError, match="no struct array with the fields name, label, anno"):
        read_labelled(f"mso:{tmp_path}")
    with pytest.raises(DataError, match=r"The split 'val' .* is not known: write #train, #test"):
        read_labelled(f"sos:{tmp_path}#val")
    matlab_writers["5"](path, [{"name": "a.jpg", "label": 1}])
    with pytest.raises(DataError, match="does not mark a test split"):
        read_labelled(f"sos:{tmp_path}#test")


@pytest.mark.parametrize("write", ["7.3", "5", "5 compressed"], indirect=True)
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_a_cut_off_index_is_an_error_of_one_sentence(tmp_path: Path, write: Any, keep: float) -> None:
    path = place(tmp_path, SOS)
    write(path, SOS)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DataError, match=r"imgIdx\.mat"):
        read_labelled(f"sos:{tmp_path}")


def test_a_folder_whose_name_holds_a_hash(tmp_path: Path, matlab_writers: dict[str, Any]) -> None:
    folder = tmp_path / "SOS#1"
    matlab_writers["5"](place(folder, SOS), SOS)
    assert len(read_labelled(f"sos:{folder}").images) == 3
    assert len(read_labelled(f"sos:{folder}#test").images) == 2


@pytest.mark.skipif(not hasattr(os, "kill"), reason="nothing can be killed here")
@pytest.mark.parametrize("ending", ["os.kill(os.getpid(), signal.SIGSEGV)", "os._exit(3)", "print('{')"])
def test_a_reader_that_dies_of_a_file_is_an_error_of_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, matlab_writers: dict[str, Any], ending: str
) -> None:
    matlab_writers["5"](place(tmp_path, SOS), SOS)
    child = tmp_path / "child.py"
    child.write_text(f"import os, signal\n{ending}")
    monkeypatch.setattr(matlab_child, "__file__", str(child))
    with pytest.raises(DataError, match="it is damaged and crashed its reader"):
        read_labelled(f"sos:{tmp_path}")


def test_a_file_that_takes_forever_is_an_error_of_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, matlab_writers: dict[str, Any]
) -> None:
    matlab_writers["5"](place(tmp_path, SOS), SOS)
    child = tmp_path / "child.py"
    child.write_text("import time\ntime.sleep(60)")
    monkeypatch.setattr(matlab_child, "__file__", str(child))
    monkeypatch.setattr(matlab, "_SECONDS", 0.1)
    with pytest.raises(DataError, match=r"took more than 0\.1 seconds"):
        read_labelled(f"sos:{tmp_path}")


def test_names_that_are_no_text_and_values_of_other_types_are_skipped(tmp_path: Path) -> None:
    path = place(tmp_path, [{"name": "a.jpg"}])
    with h5py.File(path, "w") as file:
        group = file.create_group("imgIdx")
        names = [[ord(letter) for letter in "a.jpg"], [0x110000], [2**31]]
        labels = [3.0, 1.0, 1.0]
        for field, values in (("name", names), ("label", labels)):
            references = np.empty((3, 1), dtype=h5py.ref_dtype)
            for row, value in enumerate(values):
                data = np.atleast_2d(np.array(value, np.uint32 if field == "name" else np.float64)).T
                references[row, 0] = file.create_dataset(f"#refs#/{field}{row}", data=data).ref
            group.create_dataset(field, data=references)
        # What holds no values of its own is no field.
        group.create_group("folder")
        group["elsewhere"] = h5py.ExternalLink("other.mat", "/imgIdx")
    labelled = read_labelled(f"sos:{tmp_path}")
    assert [image.count for image in labelled.images] == [3]
    assert [item for item, _ in labelled.skipped] == ["entry 2", "entry 3"]


def test_h5py_is_asked_for_by_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, matlab_writers: dict[str, Any]
) -> None:
    matlab_writers["7.3"](place(tmp_path, SOS), SOS)
    put_in_the_place_of_h5py("raise ImportError", tmp_path, monkeypatch)
    with pytest.raises(MissingPackageError, match=r"pc-engine\[hdf5\]"):
        read_labelled(f"sos:{tmp_path}")


def test_whatever_a_library_raises_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, matlab_writers: dict[str, Any]
) -> None:
    matlab_writers["7.3"](place(tmp_path, SOS), SOS)
    put_in_the_place_of_h5py("def File(*_): raise AssertionError('a page is odd')", tmp_path, monkeypatch)
    with pytest.raises(DataError, match=r"cannot be read as a MATLAB file: a page is odd\."):
        read_labelled(f"sos:{tmp_path}")


def put_in_the_place_of_h5py(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "h5py.py").write_text(program)
    own = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path / "hidden"), own])))
