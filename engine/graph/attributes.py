"""What the nodes of a graph have as attributes.

One that stands for an argument of a function around the node, and so has no value of its own, counts as absent.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute of a node, or ``default`` where it has none of that name."""
    found = (item for item in node.attribute if item.name == name and not item.ref_attr_name)
    return next(map(helper.get_attribute_value, found), default)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of a node by name."""
    return {item.name: helper.get_attribute_value(item) for item in node.attribute if not item.ref_attr_name}


def remove_attribute(node: onnx.NodeProto, name: str) -> None:
    """Remove the attribute of this name, if a node has one."""
    for item in [each for each in node.attribute if each.name == name]:
        node.attribute.remove(item)


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return the tensor of a Constant node, itself and no copy; None where it holds its value in another form."""
    return next((item.t for item in node.attribute if item.name == "value"), None)
