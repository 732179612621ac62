"""Which maps are found: by their number, their grid and their depth."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from pc_engine.export import Cooccurrence
from pc_engine.export.finer_maps import find_finer_maps, usual_cooccurrences
from pc_engine.graph import shapes as graph_shapes
from pc_engine.manifest import NetworkInput


def network(*layers, size=(64, 64), opset=13):
    """Convolutions of 1 x 1, each with so many maps and a stride; the tensors are called by their number."""
    nodes, weights, channels, tensor = [], [], 3, "image"
    for k, (maps, stride) in enumerate(layers):
        weights.append(numpy_helper.from_array(np.zeros((maps, channels, 1, 1), np.float32), f"w{k}"))
        nodes.append(helper.make_node("Conv", [tensor, f"w{k}"], [str(k)], strides=[stride] * 2))
        channels, tensor = maps, str(k)
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, *size])
    graph = helper.make_graph(nodes, "net", [given], [helper.make_empty_tensor_value_info(tensor)], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


def found(*layers, size=(64, 64), last=None, **given):
    model = network(*layers, size=size, **given)
    pixels, last = NetworkInput("image", *size), str(len(layers) - 1) if last is None else last
    return find_finer_maps(model, pixels, last, graph_shapes.infer(model))


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_the_deepest_on_the_coarsest_finer_grid_is_found(size):
    assert found((64, 4), (80, 1), (96, 2), (112, 1), (512, 2), size=size) == "3"


def test_too_few_and_too_many_are_passed_over():
    assert found((64, 4), (256, 2), (32, 1), (257, 1), (512, 2)) == "1"
    assert found((100, 4), (300, 2), (512, 2)) == "0"  # on the next grid, as this one has none
    assert found((32, 4), (300, 2), (512, 2)) is None


def test_the_first_stages_and_the_last_grid_itself_are_not_asked():
    assert found((100, 2), (32, 2), (32, 2), (100, 2)) is None
    assert found((100, 8), (100, 1), (512, 1)) is None


def test_what_the_last_maps_do_not_depend_on_is_passed_over():
    assert found((64, 4), (512, 2), (100, 1), (100, 1), last="1") == "0"
    assert found((300, 4), (512, 2), (100, 1), last="1") is None


def test_maps_whose_channels_come_last_are_passed_over():
    size = (128, 128)
    model = network((48, 2), (512, 2), size=size)
    model.graph.node[1].input[0] = "back"
    model.graph.node.insert(1, helper.make_node("Transpose", ["0"], ["turned"], perm=[0, 2, 3, 1]))
    model.graph.node.insert(2, helper.make_node("Transpose", ["turned"], ["back"], perm=[0, 3, 1, 2]))
    # By their second axis these would be 64 maps of 64 x 48 cells.
    assert find_finer_maps(model, NetworkInput("image", *size), "1", graph_shapes.infer(model)) is None


def test_matrices_of_attention_are_passed_over():
    size = (128, 128)
    model = network((64, 2), (320, 1), (512, 4), size=size)
    model.graph.node[1].CopyFrom(helper.make_node("Concat", ["mixed"] * 5, ["1"], axis=1))
    model.graph.node.insert(1, helper.make_node("MatMul", ["0", "0"], ["scores"]))
    model.graph.node.insert(2, helper.make_node("Softmax", ["scores"], ["shares"], axis=3))
    model.graph.node.insert(3, helper.make_node("MatMul", ["shares", "0"], ["mixed"]))
    assert find_finer_maps(model, NetworkInput("image", *size), "2", graph_shapes.infer(model)) == "0"


def test_an_opset_without_cooccurrence_has_none():
    layers = ((64, 4), (512, 2))
    assert found(*layers, opset=9) == "0"
    assert found(*layers, opset=8) is None


@pytest.mark.parametrize(("grid", "apart"), [((14, 14), 3), ((28, 28), 6), ((14, 21), 4), ((4, 4), 1), ((2, 2), 1)])
def test_cells_some_way_apart_are_three_in_fourteen(grid, apart):
    assert usual_cooccurrences("middle", *grid) == (Cooccurrence("middle", 0), Cooccurrence("middle", apart))
