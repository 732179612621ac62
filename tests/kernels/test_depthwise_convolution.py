import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pc_engine.kernels import depthwise_convolution


def convolved_by_onnx(maps, weights, bias, stride, pads):
    """ONNX Runtime's grouped Conv, which keeps the channels first."""
    channels = maps.shape[3]
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], strides=stride, pads=pads, group=channels)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xwby"]
    model = helper.make_model(
        helper.make_graph([node], "conv", ends[:3], ends[3:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    filters = weights.transpose(2, 0, 1)[:, None]
    return session.run(None, {"x": maps.transpose(0, 3, 1, 2), "w": filters, "b": bias})[0].transpose(0, 2, 3, 1)


@given(data=st.data())
@settings(max_examples=40)
def test_equals_onnx_runtimes(data):
    draw = data.draw
    window, stride = (draw(st.tuples(st.integers(1, 4), st.integers(1, 4))) for _ in range(2))
    pads = tuple(draw(st.integers(0, extent - 1)) for extent in (*window, *window))
    height, width = (draw(st.integers(max(1, extent), 9)) for extent in window)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    shapes = ((2, height, width, 3), (*window, 3), (3,))
    maps, weights, bias = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    found = depthwise_convolution(maps, weights, bias, stride=stride, pads=pads)
    np.testing.assert_allclose(found, convolved_by_onnx(maps, weights, bias, stride, pads), rtol=1e-5, atol=1e-5)


def test_results_keep_to_the_bounds():
    maps = np.linspace(-9, 9, 12, dtype=np.float16).reshape(1, 3, 4, 1)
    one, none = np.ones((1, 1, 1), np.float16), np.zeros(1, np.float16)
    np.testing.assert_array_equal(depthwise_convolution(maps, one, none, bounds=(0, 6)), np.clip(maps, 0, 6))


@pytest.mark.parametrize(
    ("maps", "weights", "bias"),
    [
        (np.zeros((2, 3, 4)), np.zeros((1, 1, 4)), np.zeros(4)),
        (np.zeros((1, 3, 3, 4)), np.zeros((4, 1, 4)), np.zeros(4)),
        (np.zeros((1, 3, 3, 4)), np.zeros((1, 1, 5)), np.zeros(4)),
        (np.zeros((1, 3, 3, 4)), np.zeros((1, 1, 4)), np.zeros(5)),
        (np.zeros((1, 3, 3, 4)), np.zeros((1, 1, 4), np.float32), np.zeros(4)),
    ],
)
def test_refuses_others(maps, weights, bias):
    with pytest.raises(ValueError, match="depthwise_convolution needs"):
        depthwise_convolution(maps, weights, bias)
