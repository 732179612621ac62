"""Kinds of ONNX operators that several readers of a graph tell apart, and the two orders of an image's axes in one."""

from __future__ import annotations

import onnx

from pc_engine.graph.attributes import attribute

#: Operators whose results are sums of what they read, times weights: the layers that are counted, rounded to 8 bits,
#: and gone back through.
LINEAR = ("Conv", "Gemm", "MatMul")
#: These and the one that networks for images seldom have: what computes with pixels begins here.
WEIGHTED = (*LINEAR, "ConvTranspose")

#: Operators that pool windows of maps, and with them those that pool whole maps.
WINDOW_POOLING = ("AveragePool", "MaxPool")
POOLING = (*WINDOW_POOLING, "GlobalAveragePool", "GlobalMaxPool")

#: From (N, H, W, C) to (N, C, H, W), and back.
CHANNELS_FIRST, CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def transposes(node: onnx.NodeProto, order: tuple[int, ...]) -> bool:
    """Whether a node changes the order of axes to this one."""
    return node.op_type == "Transpose" and tuple(attribute(node, "perm", ())) == order
