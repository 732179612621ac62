"""What rounding does to activations; `test_quantise` has what becomes of networks."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pc_engine.export.int8 import INT8, render


@settings(max_examples=30)
@given(st.floats(-1e3, 0), st.floats(0, 1e3), st.integers(0, 10_000))
def test_values_are_rendered_as_onnx_rounds_them(round_by_onnx, low, high, seed):
    assume(high == low or high - low > 1e-6)  # ONNX's evaluator counts steps in 32 bits
    values = np.random.default_rng(seed).uniform(1.2 * low - 1, 1.2 * high + 1, 50).astype(np.float32)
    step = (high - low) / 255 if high - low > 1e-20 else 1.0
    zero = round(-low / step)
    expected = round_by_onnx(values, step, zero)
    found = render(values, low, high)
    # Half-way between two levels it may be either.
    assert np.abs(found - expected).max() <= step * 1.001
    assert np.mean(np.abs(found - expected) > 1e-3 * step) <= 0.04


def test_weights_have_127_levels_on_either_side():
    weights = np.random.default_rng(0).standard_normal((4, 3, 2, 2)).astype(np.float32)
    weights[2] = 0
    steps = INT8.grid.steps(weights, 0)
    assert steps.shape == (4, 1, 1, 1)
    assert steps[2] == 1
    levels = INT8.grid.nearest(weights, steps) / steps
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    np.testing.assert_allclose(np.abs(levels).max(axis=(1, 2, 3)), [127, 127, 0, 127], rtol=1e-6)
