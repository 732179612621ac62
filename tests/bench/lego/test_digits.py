import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from pc_engine.bench.lego.digits import SIDE, Digits, load_digit_samples, make_bank
from pc_engine.errors import DataError, UsageError


@pytest.fixture
def idx_directory(tmp_path: Path) -> Path:
    for prefix, n, packed in (("train", 30, True), ("t10k", 20, False)):
        images = np.arange(n * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(n, 28, 28)
        labels = (np.arange(n) % 10).astype(np.uint8)
        for name, array, dimensions in (("images-idx3", images, 3), ("labels-idx1", labels, 1)):
            data = bytes([0, 0, 8, dimensions]) + struct.pack(f">{dimensions}I", *array.shape) + array.tobytes()
            path = tmp_path / f"{prefix}-{name}-ubyte"
            if packed:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(data))
            else:
                path.write_bytes(data)
    return tmp_path


def test_splits_share_no_sample_and_cover_all() -> None:
    train, held_out = load_digit_samples("train"), load_digit_samples("held-out")
    assert len(train.images) + len(held_out.images) == 1797
    known = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in known for image in held_out.images)


def test_enlarged_digits_keep_their_ink_where_it_was() -> None:
    from sklearn.datasets import load_digits

    samples = load_digits().data.reshape(-1, 8, 8)
    kept = np.arange(len(samples)) % 5 != 4
    images = load_digit_samples("train").images
    assert images.shape[1:] == (SIDE, SIDE)
    # The centre of mass, in fractions of the frame, moves by less than a tenth of it.
    small, large = samples[kept][:200], images[:200]
    for axis in (1, 2):
        before = (small.sum(axis=3 - axis) @ np.arange(8)) / small.sum(axis=(1, 2)) - 3.5
        after = (large.sum(axis=3 - axis) @ np.arange(SIDE)) / large.sum(axis=(1, 2)) - (SIDE - 1) / 2
        assert np.abs(before * 3.25 - after).max() < 0.1 * SIDE


def test_idx_files_plain_and_packed(idx_directory: Path) -> None:
    train, held_out = load_digit_samples("train", idx_directory), load_digit_samples("held-out", idx_directory)
    assert train.images.shape == (30, 28, 28)
    assert held_out.images.shape == (20, 28, 28)
    assert held_out.images[0, 0, 5] == np.float32(5 / 255)
    assert list(train.labels[:11]) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


@pytest.mark.parametrize("damage", ["absent", "cut", "no header", "not gzip", "bad gzip"])
def test_damaged_idx_files_are_data_errors(idx_directory: Path, damage: str) -> None:
    plain, packed = idx_directory / "t10k-images-idx3-ubyte", idx_directory / "train-images-idx3-ubyte.gz"
    split = "held-out"
    if damage == "absent":
        plain.unlink()
    elif damage == "cut":
        plain.write_bytes(plain.read_bytes()[:-1])
    elif damage == "no header":
        plain.write_bytes(b"\0")
    else:
        whole = packed.read_bytes()
        packed.write_bytes(b"no gzip" if damage == "not gzip" else whole[:10] + b"\xff" + whole[11:])
        split = "train"
    with pytest.raises(DataError, match="images-idx3"):
        load_digit_samples(split, idx_directory)  # type: ignore[arg-type]


def test_real_mnist_is_read(data_directory: Path) -> None:
    held_out = load_digit_samples("held-out", data_directory / "mnist")
    assert held_out.images.shape == (10000, 28, 28)
    assert list(held_out.labels[:5]) == [7, 2, 1, 0, 4]


def test_an_unknown_split_and_missing_digits_are_refused() -> None:
    with pytest.raises(UsageError, match="held-out"):
        load_digit_samples("test")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"\[9\]"):
        Digits(np.zeros((9, 28, 28), np.float32), np.arange(9))


def test_bank_is_deterministic_and_varied() -> None:
    digits = load_digit_samples("train")
    first, again, other = make_bank(digits, 3, 5), make_bank(digits, 3, 5), make_bank(digits, 3, 6)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (10, 3, SIDE, SIDE)
    assert first.min() >= 0
    assert first.max() <= 1
    # Every mask holds ink: between a twentieth and two thirds of its area.
    ink = (first > 0.5).mean(axis=(2, 3))
    assert ink.min() > 0.05
    assert ink.max() < 0.67
