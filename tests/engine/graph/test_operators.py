import numpy as np
from onnx import helper

from pc_engine.graph.operators import CHANNELS_FIRST, CHANNELS_LAST, transposes


def test_the_two_orders_of_axes_undo_each_other():
    images = np.zeros((2, 3, 4, 5))
    assert images.transpose(CHANNELS_LAST).shape == (2, 4, 5, 3)
    assert images.transpose(CHANNELS_LAST).transpose(CHANNELS_FIRST).shape == images.shape


def test_a_transpose_is_told_by_its_axes():
    node = helper.make_node("Transpose", ["x"], ["y"], perm=[0, 3, 1, 2])
    assert transposes(node, CHANNELS_FIRST)
    assert not transposes(node, CHANNELS_LAST)
    assert not transposes(helper.make_node("Transpose", ["x"], ["y"]), CHANNELS_FIRST)
    assert not transposes(helper.make_node("Relu", ["x"], ["y"]), CHANNELS_FIRST)
