"""Networks whose exporter wrote down the batch size of the image that it was given."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pc_engine.errors import ModelError
from pc_engine.export import Readout, import_classifier
from pc_engine.export.fixed_batch import free_batch
from pc_engine.manifest import NetworkInput

GIVEN = NetworkInput("data", 6, 8, layout="NCHW", dtype="float32")
TARGETS = ["stored", "joined", "literal zeros"]


def shuffling_network(target="stored", batch=1, rest=(2, 2, 6, 8)):
    """A ShuffleNet in small, as PyTorch's older exporter writes it: a half of the channels, up to a computed place, is
    convolved, and both halves are interleaved by Reshape nodes with the batch size in them.
    """
    rng = np.random.default_rng(3)
    arrays = {
        "first": rng.standard_normal((4, 3, 1, 1)).astype(np.float32),
        "second": rng.standard_normal((2, 2, 1, 1)).astype(np.float32),
        "head": rng.standard_normal((4, 5)).astype(np.float32),
        **{f"int_{k}": np.array([k]) for k in (0, 1, 2)},
        "split": np.array([batch, *rest]),
        "one": np.array(batch),
        "others": np.array(rest),
        "merged": np.array([batch, 4, 6, 8]),
    }
    nodes = [
        helper.make_node("Conv", ["data", "first"], ["maps"]),
        helper.make_node("Shape", ["maps"], ["shape"]),
        helper.make_node("Gather", ["shape", "int_1"], ["channels"]),
        helper.make_node("Div", ["channels", "int_2"], ["half"]),
        helper.make_node("Slice", ["maps", "int_0", "half", "int_1"], ["lower"]),
        helper.make_node("Slice", ["maps", "half", "channels", "int_1"], ["upper"]),
        helper.make_node("Conv", ["upper", "second"], ["changed"]),
        helper.make_node("Concat", ["lower", "changed"], ["both"], axis=1),
        helper.make_node("Unsqueeze", ["one", "int_0"], ["ones"]),
        helper.make_node("Concat", ["ones", "others"], ["joined"], axis=0),
        helper.make_node(
            "Reshape",
            ["both", "joined" if target == "joined" else "split"],
            ["halves"],
            **({"allowzero": 1} if target == "literal zeros" else {}),
        ),
        helper.make_node("Transpose", ["halves"], ["turned"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["turned", "merged"], ["shuffled"]),
        helper.make_node("Relu", ["shuffled"], ["last"]),
        helper.make_node("GlobalAveragePool", ["last"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["row"]),
        helper.make_node("MatMul", ["row", "head"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "shuffling",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, 6, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def import_network(model, folder):
    """Make a model directory of a network, ``folder / "model"``."""
    onnx.save_model(model, folder / "given.onnx")
    import_classifier(
        folder / "given.onnx",
        folder / "model",
        name="shuffling",
        pixels=GIVEN,
        readout=Readout(taps={"conv_last": "last", "logits": "scores"}, count_features=("conv_last",)),
    )


def run(model, images, name):
    model.graph.output.add(name=name)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([name], {session.get_inputs()[0].name: images})[0]


@pytest.mark.parametrize("target", TARGETS)
def test_a_batch_gives_what_single_images_do(tmp_path, target):
    import_network(shuffling_network(target), tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)
    found = run(onnx.load(tmp_path / "model/model.onnx"), images, "conv_last")
    planes = images.transpose(0, 3, 1, 2).astype(np.float32)
    for k in range(3):
        np.testing.assert_allclose(found[k], run(shuffling_network(target), planes[k : k + 1], "last")[0], rtol=1e-5)


def test_what_does_not_begin_with_the_batch_size_stays():
    model = shuffling_network(batch=2, rest=(-1,))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, -1]), "flat"))
    model.graph.node.append(helper.make_node("Reshape", ["both", "flat"], ["all"]))
    free_batch(model, ["halves", "all"], GIVEN)
    targets = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    stored = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in model.graph.initializer}
    # What nobody wants is not looked at.
    assert {name: stored[target] for name, target in targets.items()} == {
        "halves": [0, -1],
        "shuffled": [2, 4, 6, 8],
        "all": [1, -1],
    }


@pytest.mark.parametrize("change", ["dynamic", "broken"])
def test_a_network_that_is_free_or_cannot_run_is_left_as_it_is(change):
    model = shuffling_network()
    if change == "dynamic":
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    else:
        model.graph.node[0].op_type = "Nothing"
    before = model.SerializeToString(deterministic=True)
    free_batch(model, ["scores"], GIVEN)
    assert model.SerializeToString(deterministic=True) == before


def test_a_batch_that_stays_fixed_is_refused(tmp_path):
    model = shuffling_network()
    model.graph.initializer.append(numpy_helper.from_array(np.array([192]), "places"))
    model.graph.node.insert(13, helper.make_node("Reshape", ["shuffled", "places"], ["line"]))
    model.graph.node.insert(14, helper.make_node("Reshape", ["line", "merged"], ["again"]))
    model.graph.node[15].input[0] = "again"
    with pytest.raises(ModelError, match=r"on a batch of two 6x8 images|fixes the batch size at 1"):
        import_network(model, tmp_path)
