"""What the ways to bring a network to 8 bits differ in; `pc_engine.export.quantise` does the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from pc_engine.export.activations import Render
from pc_engine.export.weight_rounding import WeightGrid


@dataclass(frozen=True)
class RoundingScheme:
    """A way to bring a network to 8 bits.

    Attributes
    ----------
    opset
        The oldest ONNX opset that its nodes are in.
    target_opset
        What older networks are converted to.
    grid
        What weights are rounded to.
    render
        What rounding does to activations.
    layers
        Returns the nodes of a network whose weights are rounded.
    tensors
        Returns the names of the tensors that are rounded, given the network and its layers.
    insert
        Returns the network with its nodes for rounding, given the network, its layers (whose weights are on the grid),
        and the range of each tensor. The network may be changed.
    """

    opset: int
    target_opset: int
    grid: WeightGrid
    render: Render
    layers: Callable[[onnx.ModelProto], Sequence[onnx.NodeProto]]
    tensors: Callable[[onnx.ModelProto, Sequence[onnx.NodeProto]], Sequence[str]]
    insert: Callable[[onnx.ModelProto, Sequence[onnx.NodeProto], Mapping[str, tuple[float, float]]], onnx.ModelProto]
