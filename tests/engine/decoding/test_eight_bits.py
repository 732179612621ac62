from __future__ import annotations

import numpy as np
import pytest

from pc_engine.decoding.eight_bits import to_eight_bits

GREY = (np.arange(60 * 80).reshape(60, 80) * 37 % 256).astype(np.uint8)


def of_depth(depth: int) -> np.ndarray:
    """The grey picture as a camera of so many bits writes it into 16."""
    return np.rint(GREY * ((2**depth - 1) / 255)).astype(np.uint16)


@pytest.mark.parametrize("depth", [10, 12, 14, 16])
def test_the_greatest_value_tells_the_depth(depth: int) -> None:
    np.testing.assert_allclose(to_eight_bits(of_depth(depth)), GREY, atol=1)
    np.testing.assert_allclose(to_eight_bits(of_depth(depth).astype(np.int32)), GREY, atol=1)


def test_values_of_all_sixteen_bits_keep_their_highest_eight() -> None:
    values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(to_eight_bits(values), values // 257)


def test_what_the_file_says_is_white_holds_where_no_value_is_greater() -> None:
    np.testing.assert_array_equal(to_eight_bits(of_depth(12), 65535), of_depth(12) // 257)
    np.testing.assert_allclose(to_eight_bits(of_depth(12) // 2, 4095), GREY // 2, atol=1)
    np.testing.assert_array_equal(to_eight_bits(of_depth(12), 1023), to_eight_bits(of_depth(12)))
    assert not to_eight_bits(np.zeros((2, 2), np.uint16), 0).any()


def test_other_integers() -> None:
    np.testing.assert_array_equal(to_eight_bits(GREY.astype(np.int32)), GREY)
    np.testing.assert_array_equal(to_eight_bits((GREY.astype(np.int16) - 128).astype(np.int8)), GREY)
    np.testing.assert_array_equal(to_eight_bits(GREY.astype(np.uint32) * np.uint32(16843009)), GREY)
    np.testing.assert_array_equal(to_eight_bits(GREY.astype(np.int32) * -1000), 255 - GREY)


def test_floats_of_a_known_range() -> None:
    np.testing.assert_array_equal(to_eight_bits((GREY / 255).astype(np.float32)), GREY)
    np.testing.assert_array_equal(to_eight_bits(GREY.astype(np.float32)), GREY)


@pytest.mark.parametrize("hot", [2.0, 200.0, 50_000.0, 1e9])
def test_a_hot_pixel_leaves_the_others_as_they_are(hot: float) -> None:
    values = (GREY / 255).astype(np.float32)
    values[7, 9] = hot
    grey = to_eight_bits(values)
    assert grey[7, 9] == 255
    grey[7, 9] = GREY[7, 9]
    np.testing.assert_allclose(grey, GREY, atol=1)


def test_a_dead_pixel_and_few_spots() -> None:
    values = 300 + (GREY / 16).astype(np.float32)
    values[0, 0] = -1e6
    np.testing.assert_allclose(to_eight_bits(values)[1:], GREY[1:], atol=1)
    spots = np.zeros((100, 100), np.float32)
    spots[5, 5] = 1000
    np.testing.assert_array_equal(to_eight_bits(spots), spots * 0.255)


def test_what_is_no_number_is_black() -> None:
    values = 300 + GREY.astype(np.float32)
    values[3], values[4] = np.nan, np.inf
    grey = to_eight_bits(values)
    assert not grey[3:5].any()
    np.testing.assert_allclose(grey[5:], GREY[5:], atol=1)
    assert not to_eight_bits(np.full((2, 3), np.nan, np.float32)).any()
    np.testing.assert_array_equal(to_eight_bits(np.array([[0.6, np.nan, 1]], np.float32)), [[153, 0, 255]])


@pytest.mark.parametrize("value", [0.0, 1e9, -3.0])
def test_pictures_of_one_value_are_black(value: float) -> None:
    assert not to_eight_bits(np.full((1, 1), value, np.float32)).any()


def test_large_pictures_are_looked_at_in_part() -> None:
    values = np.tile(np.linspace(-1, 3, 2000, dtype=np.float32), (1500, 1))
    expected = np.rint(np.linspace(0, 255, 2000))
    np.testing.assert_allclose(to_eight_bits(values)[9], expected, atol=1)
