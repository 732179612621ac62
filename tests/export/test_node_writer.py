import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pc_engine.export.node_writer import NodeWriter


def network() -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["part/size"])], "g", [value], [value])
    return helper.make_model(graph)


def test_names_are_those_of_the_part_and_none_of_the_networks():
    writer = NodeWriter(network(), "part")
    assert writer.add("Neg", ["x"], "size") == "part/size_1"
    assert writer.store("size", [1, 2]) == "part/size_2"
    assert writer.add("Neg", ["x"], "") == "part"
    assert writer.add("Neg", ["x"], "") == "part_1"


def test_the_network_is_changed_by_append_alone():
    model = network()
    before = model.SerializeToString()
    writer = NodeWriter(model, "part")
    axes = writer.store("axes", [1, 2])
    scale = writer.store("scale", np.array(0.5, np.float32))
    result = writer.add("Flatten", ["x"], "flat", axis=1)
    assert model.SerializeToString() == before
    writer.append()
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert (stored[axes].dtype, stored[axes].tolist()) == (np.int64, [1, 2])
    assert (stored[scale].dtype, stored[scale].shape) == (np.float32, ())
    assert [(node.op_type, node.name, list(node.output)) for node in model.graph.node[1:]] == [
        ("Flatten", result, [result])
    ]
