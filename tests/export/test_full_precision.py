"""Networks stored in half and double precision."""

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pc_engine.export import Readout, import_classifier
from pc_engine.export.full_precision import make_float32
from pc_engine.manifest import NetworkInput

OTHERS = {TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16, TensorProto.DOUBLE: np.float64}


def network(kind):
    """As torch's ``half()`` is exported: half weights, initializers and constants, a half input, a cast to half."""
    rng = np.random.default_rng(2)
    arrays = {"filters": rng.standard_normal((5, 3, 2, 2)), "head": rng.standard_normal((5, 4))}
    inside = [helper.make_node("Cast", ["means"], ["row"], to=kind)]
    branch = helper.make_graph(inside, "inside", [], [helper.make_tensor_value_info("row", kind, ["N", 5])])
    nodes = [
        helper.make_node("Constant", [], ["bias"], value=numpy_helper.from_array(np.arange(5).astype(OTHERS[kind]))),
        helper.make_node("Conv", ["data", "filters", "bias"], ["sums"], strides=[2, 2]),
        helper.make_node("Relu", ["sums"], ["maps"]),
        helper.make_node("Cast", ["maps"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("If", ["yes"], ["pooled"], then_branch=branch, else_branch=branch),
        helper.make_node("MatMul", ["pooled", "head"], ["scores"]),
    ]
    stored = [numpy_helper.from_array(array.astype(OTHERS[kind]), name) for name, array in arrays.items()]
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("data", kind, ["N", 3, 6, 8])],
        [helper.make_tensor_value_info("scores", kind, ["N", 4])],
        [*stored, numpy_helper.from_array(np.array(True), "yes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), arrays


@pytest.mark.parametrize("kind", OTHERS, ids=["float16", "bfloat16", "float64"])
def test_a_network_is_as_it_would_be_in_float32(kind):
    model, arrays = network(kind)
    assert make_float32(model)
    onnx.checker.check_model(model, full_check=True)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name, array in arrays.items():
        np.testing.assert_array_equal(stored[name], array.astype(OTHERS[kind]).astype(np.float32))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal((2, 3, 6, 8)).astype(np.float32)
    (scores,) = session.run(["scores"], {"data": images})
    windows = images.reshape(2, 3, 3, 2, 4, 2)
    maps = np.einsum("nciajb,ocab->noij", windows, stored["filters"]) + np.arange(5)[:, None, None]
    expected = np.maximum(maps, 0).mean(axis=(2, 3)) @ stored["head"]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    assert not make_float32(model)


def test_float64_inside_of_another_network_stays():
    model, _ = network(TensorProto.DOUBLE)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    model.graph.node.insert(0, helper.make_node("Cast", ["data"], ["doubles"], to=TensorProto.DOUBLE))
    model.graph.node[2].input[0] = "doubles"
    before = model.SerializeToString(deterministic=True)
    assert not make_float32(model)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.filterwarnings("error")
def test_the_lowest_float64_becomes_minus_infinity():
    model, _ = network(TensorProto.DOUBLE)
    model.graph.initializer.append(numpy_helper.from_array(np.array(np.finfo(np.float64).min), "lowest"))
    assert make_float32(model)
    assert numpy_helper.to_array(model.graph.initializer[-1]) == -np.inf


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_an_export_is_in_float32_and_says_so(tmp_path, kind):
    model, _ = network(kind)
    onnx.save_model(model, tmp_path / "half.onnx")
    said = []
    import_classifier(
        tmp_path / "half.onnx",
        tmp_path / "model",
        name="half",
        pixels=NetworkInput("", 0, 0, layout=""),
        report=said.append,
        readout=Readout(taps={"conv_last": "maps", "logits": "scores"}, count_features=("conv_last",)),
    )
    assert said[0] == (
        "The network is stored in another precision: it is kept in float32, which all precisions are made from."
    )
    written = onnx.load(tmp_path / "model/model.onnx")
    assert {tensor.data_type for tensor in written.graph.initializer} <= {TensorProto.FLOAT, TensorProto.BOOL}
