import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pc_engine.export import Readout, import_classifier
from pc_engine.manifest import NetworkInput

PIXELS = NetworkInput("", 0, 0, layout="", std=(255.0,) * 3)


def said_of(path, out, **readout):
    said: list[str] = []
    import_classifier(path, out, name="net", pixels=PIXELS, readout=Readout(**readout), report=said.append)
    return said


def test_maps_ahead_of_most_layers_and_attention_are_said(tmp_path, save_transformer):
    path = save_transformer(tmp_path / "given.onnx")
    assert (
        "The maps of conv_last come ahead of most of the network: 6 of its 7 layers follow, attention among them, and "
        "nothing of what these see is counted or pointed at. Tokens can be maps, too: --tap conv_last=block."
    ) in said_of(path, tmp_path / "early", taps={"conv_last": "patches"})
    said = said_of(path, tmp_path / "late", taps={"conv_last": "block"})
    assert not any("come ahead" in sentence for sentence in said)


@pytest.mark.parametrize("n", [1, 2])
def test_a_network_of_one_class_is_said_to_know_no_other(tmp_path, n):
    rng = np.random.default_rng(0)
    weights = {"kernel": (5, 3, 3, 3), "first": (5, 5), "second": (5, 5), "third": (5, n)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["data", "kernel"], ["maps"]),
            helper.make_node("GlobalAveragePool", ["maps"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["values"]),
            helper.make_node("MatMul", ["values", "first"], ["a"]),
            helper.make_node("MatMul", ["a", "second"], ["b"]),
            helper.make_node("MatMul", ["b", "third"], ["scores"]),
            helper.make_node("Sigmoid", ["scores"], ["probability"]),
        ],
        "binary",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", n])],
        [
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "x.onnx")
    said = said_of(tmp_path / "x.onnx", tmp_path / "m")
    one = (
        "The network has one logit, so it knows one class: p2c and combined take that for the class of every picture, "
        "with a score of 1, whether it shows any or not."
    )
    assert (one in said) == (n == 1)
    assert not any("come ahead" in sentence for sentence in said)  # linear layers follow, and no attention
