"""Tests of pc_engine.graph.shapes: what is known of a network's tensors, and which reshapes repeat the batch size."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from pc_engine.graph.shapes import UNKNOWN, Value, free_reshapes, infer, is_whole, repeats_batch

FLOAT = TensorProto.FLOAT


def network(nodes, initializers=(), shape=(2, 3), value_info=(), output="y"):
    x, y = helper.make_tensor_value_info("x", FLOAT, shape), helper.make_tensor_value_info(output, FLOAT, None)
    graph = helper.make_graph(nodes, "graph", [x], [y], list(initializers), value_info=list(value_info))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("other", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_shapes_go_by_shapes_that_are_stored_and_through_weights_that_are_not_looked_at():
    weight = numpy_helper.from_array(np.zeros((3, 5000), np.float32), "w")
    constant = numpy_helper.from_array(np.zeros((5000, 7), np.float32))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["wide"]),
        helper.make_node("Constant", [], ["v"], value=constant),
        helper.make_node("MatMul", ["wide", "v"], ["narrow"]),
        helper.make_node("Reshape", ["narrow", "shape"], ["y"]),
    ]
    model = network(nodes, [weight, numpy_helper.from_array(np.array([7, 2, 1]), "shape")])
    before = model.SerializeToString()
    found = infer(model)
    assert found["wide"] == Value(FLOAT, (2, 5000))
    assert found["narrow"] == Value(FLOAT, (2, 7))
    assert found["y"] == Value(FLOAT, (7, 2, 1))
    assert model.SerializeToString() == before


def test_what_a_network_notes_stands_for_what_is_not_found():
    nodes = [helper.make_node("Odd", ["x"], ["odd"], domain="other"), helper.make_node("Relu", ["x"], ["y"])]
    noted = [helper.make_tensor_value_info(name, FLOAT, [None, 9]) for name in ("odd", "y")]
    found = infer(network(nodes, value_info=noted[:1]))
    assert found["odd"] == Value(FLOAT, (None, 9))
    assert found["y"] == Value(FLOAT, (2, 3))
    assert "z" not in found


@pytest.mark.parametrize(
    ("value", "whole"),
    [
        (Value(FLOAT, (None, 3, 4)), True),
        (Value(FLOAT, ("N", 3)), True),
        (Value(FLOAT, ()), True),
        (Value(FLOAT, (1, None, 4)), False),
        (Value(FLOAT, (1, "H")), False),
        (Value(FLOAT, None), False),
        (Value(None, (1, 3)), False),
        (UNKNOWN, False),
    ],
)
def test_a_value_is_whole_but_for_the_batch(value, whole):
    assert is_whole(value) is whole


@pytest.mark.parametrize(
    ("source", "target", "settings", "repeats"),
    [
        ((4, 6), [4, 3, 2], {}, True),
        ((4, 6), [4, 0], {}, True),
        ((4, 6), [4, 3, 2], {"allowzero": 1}, True),
        ((4, 0), [4, 0], {"allowzero": 1}, False),
        ((2, 12), [4, 6], {}, False),
        ((4, 6), [2, 12], {}, False),
        ((2, 6), [2, 3, 2], {}, False),
        ((), [4], {}, False),
        ((4, 6), [], {}, False),
        ((4,), 4, {}, False),
    ],
)
def test_a_reshape_repeats_the_batch_where_both_shapes_begin_with_it(source, target, settings, repeats):
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], **settings)
    assert repeats_batch(node, source, np.array(target, np.int64), 4) is repeats


def test_reshapes_that_repeat_the_batch_give_the_same_for_another():
    nodes = [
        helper.make_node("Reshape", ["x", "apart"], ["a"]),
        helper.make_node("Reshape", ["a", "flat"], ["b"]),
        # A tensor of so many twos, of which the network holds one.
        helper.make_node("ConstantOfShape", ["rank"], ["twos"], value=numpy_helper.from_array(np.array([2]))),
        helper.make_node("Reshape", ["x", "twos"], ["c"]),
        # To what is no reshape a 0 would mean an empty axis.
        helper.make_node("Expand", ["x", "wide"], ["y"]),
    ]
    shapes = {"apart": [2, 2, 2], "flat": [4, 2], "wide": [2, 4], "rank": [3]}
    stored = [numpy_helper.from_array(np.array(shape), name) for name, shape in shapes.items()]
    model = network(nodes, stored, shape=(2, 4))
    free_reshapes(model, 2)
    targets = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in model.graph.initializer}
    read = {node.output[0]: node.input[-1] for node in model.graph.node}
    assert targets[read["a"]] == [0, 2, 2]
    assert (read["b"], read["c"], read["y"]) == ("flat", "twos", "wide")
    assert {name: targets[name] for name in shapes} == shapes
