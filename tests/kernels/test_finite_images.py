import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pc_engine.kernels import finite_images

NOT_FINITE = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("value", NOT_FINITE)
def test_one_value_that_is_not_finite_is_found_and_large_ones_are_fine(value):
    taps = [np.full((3, 2, 4), 3e38, np.float32), np.ones((3, 5), np.float32)]
    taps[0][1, 1, 2] = value
    np.testing.assert_array_equal(finite_images(taps), [True, False, True])
    for tap, own in zip(taps, (np.float32(3e38), 1), strict=True):
        assert not tap[1].any()
        assert (tap[[0, 2]] == own).all()


def test_infinities_of_both_signs_do_not_cancel():
    np.testing.assert_array_equal(finite_images([np.array([[np.inf, -np.inf]], np.float32)]), [False])


VALUES = [0.0, 1.0, -60_000.0, *NOT_FINITE]


@given(
    st.lists(
        st.one_of(arrays(dtype, (4, 3), elements=st.sampled_from(VALUES)) for dtype in (np.float16, np.float32)),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=50)
def test_equals_a_look_at_every_value(taps):
    expected = np.all([np.isfinite(tap).all(axis=1) for tap in taps], axis=0)
    kept = [np.where(expected[:, None], tap, 0) for tap in taps]
    np.testing.assert_array_equal(finite_images(taps), expected)
    for tap, own in zip(taps, kept, strict=True):
        np.testing.assert_array_equal(tap, own)


def test_nothing_is_written_where_all_is_finite():
    tap = np.ones((2, 3), np.float32)
    tap.flags.writeable = False
    assert finite_images([tap]).all()


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_nothing_is_finite(shape):
    np.testing.assert_array_equal(finite_images([np.zeros(shape, np.float32)]), np.ones(shape[0], bool))


@pytest.mark.parametrize("taps", [[], [np.zeros((2, 3)), np.zeros((3, 3))], [np.zeros(())]])
def test_refuses_taps_of_no_common_number_of_images(taps):
    with pytest.raises(ValueError, match="finite_images needs taps"):
        finite_images(taps)
