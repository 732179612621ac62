"""The process that Keras files are read in; what it reads of them is tested by `test_weights`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pc_engine.errors import WeightsError
from pc_engine.export import keras_child, keras_files
from pc_engine.export.keras_files import read_keras

h5py = pytest.importorskip("h5py")


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of the reader's, to be written."""
    path = tmp_path / "child.py"
    monkeypatch.setattr(keras_child, "__file__", str(path))
    (tmp_path / "w.h5").touch()
    return path


@pytest.mark.parametrize(
    "program",
    [
        "import os; os.abort()",
        "print('{')",
        "print('{}')",
        """print('{"tensors": [["a", "<f4", [2]]], "numbered": false}', end="\\n1234567")""",
        "import time; time.sleep(600)",
    ],
    ids=["dies", "half an answer", "an answer without a word", "seven bytes of eight", "never comes back"],
)
def test_a_file_that_its_reader_dies_of_is_damaged(
    child: Path, tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras_files, "_SECONDS", 2)
    child.write_text(program)
    with pytest.raises(WeightsError) as caught:
        read_keras(tmp_path / "w.h5")
    assert str(caught.value) == (
        f"{tmp_path / 'w.h5'} is damaged, cut off or not an HDF5 file (its reader crashed, or took more than 2 "
        "seconds); get it again."
    )


def test_whatever_a_library_raises_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "h5py.py").write_text("def File(*_): raise AssertionError('a page is odd')")
    own = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), own])))
    (tmp_path / "w.h5").touch()
    with pytest.raises(WeightsError, match=r"not an HDF5 file \(a page is odd\); get it again"):
        read_keras(tmp_path / "w.h5")


def test_what_libraries_print_is_no_part_of_the_answer(child: Path, tmp_path: Path) -> None:
    real = Path(keras_files.__file__).with_name("keras_child.py").read_text()
    child.write_text(
        real.replace("def _read_layers(", "def _unused(").replace("import math\n", "import math\n" + _NOISY)
    )
    assert read_keras(tmp_path / "w.h5").tensors == {}


_NOISY = """
def _read_layers(*_):
    print("a warning")
    yield _line({"tensors": [], "numbered": False})
"""


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f2", "<f8", "|u1", "<i8"])
def test_numbers_of_every_kind_and_order_arrive_as_they_are(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 99, shape).astype(kind) for shape in ((3, 2, 4, 5), (5,), (0, 7))]
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for k, array in enumerate(arrays):
            file[f"layer{k}/w"] = array
    found = read_keras(tmp_path / "w.h5").tensors
    assert list(found) == ["layer0/kernel", "layer1/bias", "layer2/kernel"]
    for array, (name, values) in zip(arrays, found.items(), strict=True):
        assert values.dtype == array.dtype, name
        np.testing.assert_array_equal(values, array)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"w\.h5 cannot be read \(No such file"):
        read_keras(tmp_path / "w.h5")
