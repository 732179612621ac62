from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from pc_engine.graph.pruning import prune


def test_only_what_outputs_need_stays_bodies_of_conditions_included():
    body = helper.make_graph(
        [helper.make_node("Add", ["outer", "inner_weight"], ["r"])],
        "body",
        [],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.float32([1]), "inner_weight")],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["outer"]),
            helper.make_node("Add", ["outer", "unused"], ["dead"]),
            helper.make_node("Neg", ["dead"], ["deader"]),
            helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=body),
        ],
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(True), "yes"), numpy_helper.from_array(np.float32([1]), "unused")],
    )
    prune(graph)
    assert [node.op_type for node in graph.node] == ["Relu", "If"]
    assert [tensor.name for tensor in graph.initializer] == ["yes"]
    assert [value.name for value in graph.input] == ["x"]
