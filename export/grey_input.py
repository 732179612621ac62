"""Networks of one channel: they see the luminance of photos, computed from red, green and blue in the graph."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pc_engine.export.classifier_input import CHANNEL_AXES
from pc_engine.graph.names import fresh_name, names_of, stored_names
from pc_engine.graph.prepare import opset_of
from pc_engine.graph.shapes import MAP_RANK
from pc_engine.manifest import NetworkInput
from pc_engine.say import Say

# Of red, green and blue, by ITU-R BT.601. They add up to 1: a mean and a deviation do the same before as after.
_LUMINANCE = (0.299, 0.587, 0.114)
_AXES_ARE_READ = 13  # the first opset whose ReduceSum takes its axes as an input


def take_colours(model: onnx.ModelProto, pixels: NetworkInput, report: Say) -> None:
    """Make a network whose image has one channel of floats take three, in place; leave any other as it is.

    Parameters
    ----------
    model
        The network.
    pixels
        What is known of its input: an empty ``tensor`` or ``layout`` is open.
    report
        Called with a sentence if it takes three now.
    """
    graph, stored = model.graph, set(stored_names(model.graph))
    images = [
        value for value in graph.input if value.name not in stored and len(value.type.tensor_type.shape.dim) == MAP_RANK
    ]
    images = [value for value in images if value.name == pixels.tensor] or images
    if len(images) != 1 or images[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        return
    name, dims = images[0].name, images[0].type.tensor_type.shape.dim
    layouts = [pixels.layout] if pixels.layout else list(CHANNEL_AXES)
    axis = next((CHANNEL_AXES[layout] for layout in layouts if dims[CHANNEL_AXES[layout]].dim_value == 1), None)
    if axis is None:
        return
    dims[axis].dim_value = len(_LUMINANCE)
    taken = set(names_of(graph))
    weights, axes, shares, luminance = (
        fresh_name(f"{name}/{what}", taken) for what in ("luminance_weights", "channel_axis", "shares", "luminance")
    )
    for node in graph.node:
        node.input[:] = [luminance if read == name else read for read in node.input]
    order = _LUMINANCE[::-1] if pixels.channels == "BGR" else _LUMINANCE
    shape = [-1 if k == axis else 1 for k in range(MAP_RANK)]
    graph.initializer.append(numpy_helper.from_array(np.array(order, np.float32).reshape(shape), weights))
    graph.node.insert(0, helper.make_node("Mul", [name, weights], [shares]))
    if opset_of(model) < _AXES_ARE_READ:
        graph.node.insert(1, helper.make_node("ReduceSum", [shares], [luminance], axes=[axis], keepdims=1))
    else:
        graph.initializer.append(numpy_helper.from_array(np.array([axis]), axes))
        graph.node.insert(1, helper.make_node("ReduceSum", [shares, axes], [luminance], keepdims=1))
    red, green, blue = _LUMINANCE
    report(f"The network sees no colours: it is shown {red} red + {green} green + {blue} blue.")
