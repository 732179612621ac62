from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pc_engine.errors import DataError, ModelError
from pc_engine.fitted.counter import (
    DEFAULT_LABELS,
    CountSVM,
    check_counter,
    count_label,
    label_counts,
    label_indices,
    labels_up_to,
    load_counter,
)
from pc_engine.manifest import Manifest, NetworkInput, Tap

SIZES = {"pool5": 12, "fc6": 5}


def make_counter(labels: tuple[str, ...] = DEFAULT_LABELS, seed: int = 0) -> CountSVM:
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(size=(len(labels), size)).astype(np.float32) for name, size in SIZES.items()}
    return CountSVM(tuple(SIZES), labels, weights, rng.normal(size=len(labels)).astype(np.float32))


def make_manifest(**taps: tuple[int, ...]) -> Manifest:
    shapes = {"pool5": (3, 2, 2), "fc6": (5,), "conv_last": (3, 4, 4), "logits": (10,), **taps}
    return Manifest(
        name="tiny",
        input=NetworkInput("image", 32, 32),
        taps={name: Tap(name, shape) for name, shape in shapes.items()},
        count_features=("pool5", "fc6"),
    )


def make_taps(n: int, dtype: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    return {"pool5": rng.random((n, 3, 2, 2)).astype(dtype), "fc6": rng.random((n, 5)).astype(dtype)}


def test_labels_go_up_to_a_number() -> None:
    assert labels_up_to(4) == DEFAULT_LABELS
    assert labels_up_to(1) == ("0", "1+")


def test_scores_equal_the_svm_on_the_concatenation_of_normalised_taps() -> None:
    counter, taps = make_counter(), make_taps(7)
    rows = [taps[name].reshape(7, -1).astype(np.float64) for name in SIZES]
    concatenated = np.concatenate([row / np.linalg.norm(row, axis=1)[:, None] for row in rows], axis=1)
    weights = np.concatenate([counter.weights[name] for name in SIZES], axis=1)
    scores = counter.scores(taps)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, concatenated @ weights.T + counter.bias, rtol=1e-5, atol=1e-5)


@settings(max_examples=30)
@given(scale=st.floats(1e-3, 1e3), dtype=st.sampled_from([np.float32, np.float64]))
def test_scores_do_not_depend_on_the_magnitude_of_a_tap(scale: float, dtype: type) -> None:
    counter, taps = make_counter(), make_taps(4, dtype)
    scaled = {**taps, "fc6": taps["fc6"] * dtype(scale)}
    np.testing.assert_allclose(counter.scores(scaled), counter.scores(taps), rtol=1e-4, atol=1e-5)


def test_an_all_zero_tap_adds_nothing_and_half_precision_is_scored_in_single() -> None:
    counter = make_counter()
    dark = {"pool5": np.zeros((2, 3, 2, 2), np.float16), "fc6": np.zeros((2, 5), np.float16)}
    np.testing.assert_array_equal(counter.scores(dark), np.stack([counter.bias] * 2))
    # The squares of these overflow float16, whose largest value is 65504.
    bright = {name: np.full((1, size), 1000, np.float16) for name, size in SIZES.items()}
    ones = {name: np.ones((1, size), np.float32) for name, size in SIZES.items()}
    np.testing.assert_allclose(counter.scores(bright), counter.scores(ones), rtol=1e-5)


def test_an_empty_batch_has_no_scores() -> None:
    assert make_counter().scores(make_taps(0)).shape == (0, 5)


def test_scores_leave_the_taps_as_they_are_and_ignore_other_taps() -> None:
    counter, taps = make_counter(), make_taps(3)
    before = {name: tap.copy() for name, tap in taps.items()}
    with_more = counter.scores({**taps, "conv_last": np.ones((3, 2, 2, 2), np.float32)})
    np.testing.assert_array_equal(with_more, counter.scores(taps))
    for name, tap in taps.items():
        np.testing.assert_array_equal(tap, before[name])


def test_scores_name_what_is_missing_or_of_another_size() -> None:
    counter, taps = make_counter(), make_taps(2)
    with pytest.raises(ModelError, match=r"\['fc6'\] are not among the outputs \['pool5'\]"):
        counter.scores({"pool5": taps["pool5"]})
    with pytest.raises(ModelError, match="expects 5 values from the tap 'fc6', but the network gives 4"):
        counter.scores({**taps, "fc6": taps["fc6"][:, :4]})


def test_a_saved_counter_comes_back_equal(tmp_path: Path) -> None:
    counter = make_counter(labels=("1", "2", "6+"))
    path = tmp_path / "counter.safetensors"
    counter.save(path)
    loaded = load_counter(path)
    assert (loaded.features, loaded.labels) == (counter.features, counter.labels)
    np.testing.assert_array_equal(loaded.scores(make_taps(3)), counter.scores(make_taps(3)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["counter.safetensors"]


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "counter.safetensors"
    make_counter(seed=1).save(path)
    before = path.read_bytes()

    def full_disk(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        make_counter(seed=2).save(path)
    assert path.read_bytes() == before


def test_loading_says_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "counter.safetensors"
    with pytest.raises(ModelError, match=r"does not exist.*pc-engine fit-counter"):
        load_counter(path)
    path.write_bytes(b"\x80\x04 not a safetensors file")
    with pytest.raises(ModelError, match="cannot be read as a count SVM"):
        load_counter(path)
    save_file({"bias": np.zeros(5, np.float32)}, path)
    with pytest.raises(ModelError, match="has format None"):
        load_counter(path)
    make_counter().save(path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ModelError, match="cannot be read as a count SVM"):
        load_counter(path)


@pytest.mark.parametrize(
    ("tensors", "header", "sentence"),
    [
        ({}, {"features": '["fc6"]', "labels": '["0", "1"]'}, "lacks 'weights.fc6'"),
        ({"weights.fc6": (2, 4)}, {"features": '["fc6"]'}, "lacks 'labels'"),
        ({"weights.fc6": (3, 4)}, {"features": '["fc6"]', "labels": '["0", "1"]'}, r"have shape \(3, 4\)"),
        ({"weights.fc6": (2, 4)}, {"features": "fc6", "labels": '["0", "1"]'}, "cannot be read as a count SVM"),
        ({"weights.fc6": (2, 4)}, {"features": '["fc6"]', "labels": "7"}, "does not list"),
        ({"weights.fc6": (2, 4)}, {"features": "[]", "labels": '["0", "1"]'}, "at least one"),
    ],
)
def test_loading_refuses_files_that_do_not_fit_together(
    tmp_path: Path, tensors: dict[str, tuple[int, ...]], header: dict[str, str], sentence: str
) -> None:
    path = tmp_path / "counter.safetensors"
    arrays = {name: np.zeros(shape, np.float32) for name, shape in {**tensors, "bias": (2,)}.items()}
    save_file(arrays, path, metadata={"format": "pc-engine-counter-1", **header})
    with pytest.raises(ModelError, match=sentence):
        load_counter(path)


def test_a_counter_of_nan_or_another_type_is_refused() -> None:
    counter = make_counter()
    with pytest.raises(ModelError, match="not finite"):
        replace(counter, bias=np.full(5, np.nan, np.float32))
    with pytest.raises(ModelError, match="type float64"):
        replace(counter, bias=counter.bias.astype(np.float64))


def test_check_counter_names_the_tap_and_both_sizes() -> None:
    check_counter(make_counter(), make_manifest())
    with pytest.raises(ModelError, match="expects 12 values from the tap 'pool5', but the network gives 48"):
        check_counter(make_counter(), make_manifest(pool5=(3, 4, 4)))
    renamed = make_counter()
    renamed = CountSVM(
        ("pool5", "fc9"),
        renamed.labels,
        {"pool5": renamed.weights["pool5"], "fc9": renamed.weights["fc6"]},
        renamed.bias,
    )
    with pytest.raises(ModelError, match="reads the tap 'fc9', which the model 'tiny' does not have"):
        check_counter(renamed, make_manifest())


def test_labels_and_counts() -> None:
    assert label_counts(DEFAULT_LABELS).tolist() == [0, 1, 2, 3, 4]
    assert [count_label(count) for count in (0, 3, 4, 7)] == ["0", "3", "4+", "4+"]
    assert count_label(2, ("1", "2")) == "2"
    with pytest.raises(DataError, match="A count of 3 fits none of the labels 1, 2"):
        count_label(3, ("1", "2"))
    with pytest.raises(DataError, match="A count of 0 fits none"):
        count_label(0, ("1", "2+"))


@pytest.mark.parametrize(
    "labels",
    [
        (),
        ("1",),
        ("1+", "2"),
        ("a", "b"),
        ("2", "1"),
        ("1", "1+"),
        ("-1", "2"),
        ("1", "+"),
        ("0", "9" * 20),
        ("0", "9" * 5000),
    ],
)
def test_labels_that_are_no_counts_are_refused(labels: tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match="The count labels"):
        label_counts(labels)


@settings(max_examples=50)
@given(count=st.integers(0, 100), largest=st.integers(1, 20))
def test_a_label_stands_for_the_count_or_the_open_end(count: int, largest: int) -> None:
    labels = (*map(str, range(largest)), f"{largest}+")
    label = count_label(count, labels)
    assert label_counts(labels)[labels.index(label)] == min(count, largest)


def test_equal_counters_are_equal_files(tmp_path: Path) -> None:
    weights = {name: np.ones((5, 3), np.float32) for name in ("a", "b")}
    contents = set()
    for turn in range(8):
        path = tmp_path / f"{turn}.safetensors"
        CountSVM(("a", "b"), DEFAULT_LABELS, weights, np.zeros(5, np.float32)).save(path)
        contents.add(path.read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize("values", [3, 64, 1000, 1001, 4099, 25088])
def test_an_image_has_the_same_scores_to_the_last_bit_in_any_batch(values: int) -> None:
    """Else a run that was stopped and went on would not be the run that was not."""
    rng = np.random.default_rng(values)
    weights = rng.standard_normal((5, values)).astype(np.float32)
    counter = CountSVM(("a",), DEFAULT_LABELS, {"a": weights}, rng.random(5, np.float32))
    taps = rng.random((32, values), np.float32)
    whole = counter.scores({"a": taps})
    for size in (1, 2, 3, 7, 8, 31):
        parts = [counter.scores({"a": taps[start : start + size]}) for start in range(0, 32, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_indices_of_labels_are_those_of_each_count() -> None:
    assert label_indices([7, 0, 4, 2, 0], DEFAULT_LABELS).tolist() == [4, 0, 4, 2, 0]
    assert label_indices([], DEFAULT_LABELS).dtype == np.int64
    with pytest.raises(DataError, match="A count of 3 fits none"):
        label_indices([1, 3], ("1", "2"))
