import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pc_engine.kernels import max_pool


def pooled_by_onnx(maps, window, stride, pads):
    """ONNX Runtime's MaxPool, which keeps the channels first."""
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=window, strides=stride, pads=pads)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in "xy"]
    graph = helper.make_graph([node], "pool", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": maps.transpose(0, 3, 1, 2)})[0].transpose(0, 2, 3, 1)


@given(data=st.data())
@settings(max_examples=60)
def test_equals_onnx_runtimes(data):
    draw = data.draw
    window, stride = (draw(st.tuples(st.integers(1, 4), st.integers(1, 4))) for _ in range(2))
    pads = tuple(draw(st.integers(0, extent - 1)) for extent in (*window, *window))
    height, width = (draw(st.integers(max(1, extent), 9)) for extent in window)
    maps = np.random.default_rng(draw(st.integers(0, 99))).standard_normal((2, height, width, 3)).astype(np.float32)
    np.testing.assert_array_equal(max_pool(maps, window, stride, pads), pooled_by_onnx(maps, window, stride, pads))


def test_windows_overlap_and_end_with_the_maps_unless_told_otherwise():
    maps = np.random.default_rng(0).standard_normal((2, 4, 5, 3)).astype(np.float32)
    expected = pooled_by_onnx(maps, (2, 3), (1, 1), (0, 0, 0, 0))
    np.testing.assert_array_equal(max_pool(maps, (2, 3)), expected)


def test_nan_is_not_hidden():
    maps = np.zeros((1, 2, 4, 1), np.float16)
    maps[0, 1, 2] = np.nan
    np.testing.assert_array_equal(max_pool(maps, (2, 2), (2, 2)).ravel(), [0, np.nan])


def test_empty_batch():
    assert max_pool(np.zeros((0, 4, 4, 3), np.float16), (2, 2), (2, 2)).shape == (0, 2, 2, 3)


@pytest.mark.parametrize(
    ("shape", "window", "pads"),
    [((2, 3, 4), (1, 1), (0, 0, 0, 0)), ((1, 2, 2, 1), (3, 1), (0, 0, 0, 0)), ((1, 4, 4, 1), (2, 2), (0, 2, 0, 0))],
)
def test_refuses_windows_that_do_not_fit(shape, window, pads):
    with pytest.raises(ValueError, match="max_pool needs"):
        max_pool(np.zeros(shape, np.float32), window, pads=pads)
