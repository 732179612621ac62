import numpy as np
import onnx
from onnx import helper, numpy_helper

from pc_engine.graph.attributes import attribute, attributes, constant_tensor, remove_attribute


def test_attributes_are_read_by_name_and_removed():
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], group=2, auto_pad="VALID")
    assert attribute(node, "pads", None) == [1, 1, 1, 1]
    assert attribute(node, "strides", (1, 1)) == (1, 1)
    assert attributes(node) == {"pads": [1, 1, 1, 1], "group": 2, "auto_pad": b"VALID"}
    remove_attribute(node, "group")
    remove_attribute(node, "strides")
    assert list(attributes(node)) == ["auto_pad", "pads"]  # as the helper sorts them


def test_what_stands_for_an_argument_of_a_function_counts_as_absent():
    node = helper.make_node("Flatten", ["x"], ["y"])
    node.attribute.append(onnx.AttributeProto(name="axis", ref_attr_name="of_the_caller", type=onnx.AttributeProto.INT))
    assert attribute(node, "axis", 1) == 1
    assert attributes(node) == {}


def test_the_tensor_of_a_constant_is_its_own_and_other_forms_have_none():
    node = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.arange(3), "held"))
    held = constant_tensor(node)
    assert held is not None
    held.name = "renamed"
    assert node.attribute[0].t.name == "renamed"
    assert constant_tensor(helper.make_node("Constant", [], ["c"], value_ints=[1, 2])) is None
