from __future__ import annotations

import sys
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pc_engine.modes.classify import predict_class, predict_classes


def test_the_largest_logit_names_the_class_and_its_softmax_the_score() -> None:
    logits = np.array([[0, np.log(3), 0], [5, 5, 5]], np.float32)
    class_id, score = predict_class(logits)
    np.testing.assert_array_equal(class_id, [1, 0])
    np.testing.assert_allclose(score, [3 / 5, 1 / 3], rtol=1e-6)
    assert class_id.dtype == np.int64
    assert score.dtype == np.float32


def test_large_logits_do_not_overflow() -> None:
    class_id, score = predict_class(np.array([[1e30, -1e30], [-3e4, -2e4]], np.float32))
    np.testing.assert_array_equal(class_id, [0, 1])
    np.testing.assert_array_equal(score, [1, 1])


@settings(max_examples=50)
@given(arrays(np.float32, (4, 6), elements=st.floats(-50, 50, width=32)))
def test_the_score_is_that_of_a_softmax(logits: np.ndarray) -> None:
    class_id, score = predict_class(logits)
    wide = np.exp(logits.astype(np.float64))
    softmax = wide / wide.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(score, softmax.max(axis=1), rtol=1e-4)
    np.testing.assert_allclose(softmax[np.arange(4), class_id], softmax.max(axis=1))


def test_a_class_left_out_is_not_chosen_and_takes_no_share() -> None:
    logits = np.array([[9, 0, np.log(3)], [9, 9, 9]], np.float32)
    class_id, score = predict_class(logits, without=0)
    np.testing.assert_array_equal(class_id, [2, 1])
    np.testing.assert_allclose(score, [3 / 4, 1 / 2], rtol=1e-6)
    assert score.dtype == np.float32


def test_a_class_can_be_left_out_of_the_choice() -> None:
    logits = np.array([[0, np.log(3), 0], [0, 0, 9]], np.float32)
    class_id, score = predict_class(logits, without=1)
    np.testing.assert_array_equal(class_id, [0, 2])
    np.testing.assert_allclose(score, [1 / 2, 1 / (1 + np.exp(-9))], rtol=1e-6)
    assert score.dtype == np.float32


def test_the_most_probable_classes_come_first_and_of_equal_ones_the_first() -> None:
    logits = np.array([[0, np.log(3), 0, np.log(2)], [1, 1, 1, 1]], np.float32)
    class_ids, scores = predict_classes(logits, 3)
    np.testing.assert_array_equal(class_ids, [[1, 3, 0], [0, 1, 2]])
    np.testing.assert_allclose(scores, [[3 / 7, 2 / 7, 1 / 7], [1 / 4] * 3], rtol=1e-6)
    assert class_ids.dtype == np.int64
    assert scores.dtype == np.float32


def test_the_most_probable_classes_are_found_on_a_device_without_a_look(pretended_gpu: Any) -> None:
    cupy: Any = sys.modules["cupy"]
    logits = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32)
    found = predict_classes(cupy.asarray(logits), 5)
    assert (pretended_gpu.to_host, pretended_gpu.to_device) == (0, 1)
    for one, other in zip(found, predict_classes(logits, 5), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one.get(), other)
