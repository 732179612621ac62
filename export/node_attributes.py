"""What the nodes of a graph have as attributes."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute of a node, or ``default`` where it has none of that name."""
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)
