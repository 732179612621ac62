"""Networks that see each image at two sizes, beside the same network run on both."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pc_engine.errors import ModelError, UsageError
from pc_engine.export import Readout, import_classifier
from pc_engine.export.two_scales import LARGER, add_larger_view, check_larger_view
from pc_engine.manifest import NetworkInput

PIXELS = NetworkInput("image", 8, 12, layout="NCHW", dtype="float32")
IN_MEMORY = ["CPUExecutionProvider"]


def network(layout="NCHW", sides=("h", "w")):
    """Two convolutions whose first weights are stored in half precision, with a head for four classes."""
    rng = np.random.default_rng(0)
    stored = {
        "first/half": rng.standard_normal((5, 3, 3, 3)).astype(np.float16),
        "second": rng.standard_normal((6, 5, 3, 3)).astype(np.float32),
        "head": rng.standard_normal((6, 4)).astype(np.float32),
    }
    node = helper.make_node
    turn = [node("Transpose", ["image"], ["channels_first"], perm=[0, 3, 1, 2])] if layout == "NHWC" else []
    nodes = [
        *turn,
        node("Cast", ["first/half"], ["first"], to=TensorProto.FLOAT),
        node("Conv", [turn[0].output[0] if turn else "image", "first"], ["fine"], name="fine", pads=[1, 1, 1, 1]),
        node("Relu", ["fine"], ["before"]),
        node("Conv", ["before", "second"], ["maps"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["maps"], ["last"]),
        node("GlobalAveragePool", ["last"], ["pooled"]),
        node("Flatten", ["pooled"], ["row"]),
        node("MatMul", ["row", "head"], ["logits"]),
    ]
    shape = ["n", 3, *sides] if layout == "NCHW" else ["n", *sides, 3]
    graph = helper.make_graph(
        nodes,
        "two convolutions",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(values, name) for name, values in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def outputs(model, names, image):
    wanted = onnx.ModelProto()
    wanted.CopyFrom(model)
    del wanted.graph.output[:]
    wanted.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(wanted.SerializeToString(), providers=IN_MEMORY)
    return session.run(names, {"image": image})


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_each_view_is_what_the_network_says_of_an_image_of_that_size(layout):
    given = network(layout)
    image = np.random.default_rng(1).uniform(0, 255, (2, 3, 16, 24)).astype(np.float32)
    halved = image.reshape(2, 3, 8, 2, 12, 2).mean(axis=(3, 5))
    if layout == "NHWC":
        image, halved = np.moveaxis(image, 1, -1).copy(), np.moveaxis(halved, 1, -1).copy()
    names = ["fine", "last", "logits"]
    both = network(layout)
    found = add_larger_view(both, NetworkInput("image", 8, 12, layout=layout, dtype="float32", mean=(1, 2, 3)))
    assert found == NetworkInput("image", 16, 24, layout=layout, dtype="float32", mean=(1, 2, 3))
    for view, expected in (("", halved), (LARGER, image)):
        got = outputs(both, [view + name for name in names], image)
        for own, alone in zip(got, outputs(given, names, expected), strict=True):
            np.testing.assert_allclose(own, alone, rtol=1e-4, atol=1e-3)
    # What is stored, and what is made of that alone, is there once.
    assert [tensor.name for tensor in both.graph.initializer] == [tensor.name for tensor in given.graph.initializer]
    assert sum(node.op_type == "Cast" for node in both.graph.node) == 1


def test_a_node_with_a_graph_of_its_own_stays_single_with_what_follows_it():
    model = network()
    branches = {
        name: helper.make_graph(
            [helper.make_node("Identity", ["before"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )
        for name in ("then_branch", "else_branch")
    }
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    chosen = helper.make_node("If", ["always"], ["chosen"], **branches)
    model.graph.node.insert(3, chosen)
    model.graph.node[4].input[0] = "chosen"
    add_larger_view(model, PIXELS)
    made = {name for node in model.graph.node for name in node.output}
    assert {LARGER + "fine", LARGER + "before"} <= made
    assert made.isdisjoint({LARGER + "chosen", LARGER + "maps", LARGER + "logits"})
    onnx.checker.check_model(model)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (network(sides=(8, 12)), "takes images of 8 x 12 pixels only"),
        (network(sides=("h", 12)), "with a dynamic height and width"),
    ],
)
def test_what_cannot_be_seen_at_two_sizes_is_refused(model, expected):
    with pytest.raises(ModelError, match=expected):
        add_larger_view(model, PIXELS)


def test_names_of_the_larger_view_have_to_be_free():
    model = network()
    add_larger_view(model, PIXELS)
    with pytest.raises(ModelError, match="has a tensor 'larger/fine' already"):
        add_larger_view(model, PIXELS)


def test_a_larger_view_that_nobody_looks_at_is_refused():
    check_larger_view(["last", LARGER + "last"])
    with pytest.raises(UsageError, match="No tap is from the larger view"):
        check_larger_view(["last", "logits"])


def test_an_imported_network_points_at_the_heat_of_both_sizes(tmp_path):
    onnx.save(network(), tmp_path / "net.onnx")
    manifest = import_classifier(
        tmp_path / "net.onnx",
        tmp_path / "model",
        name="both",
        pixels=NetworkInput("", 8, 12, layout="", mean=(128, 128, 128), std=(64, 64, 64)),
        readout=Readout(
            taps={"conv_last": "last", "logits": "logits", "closer": LARGER + "last"},
            heat=("conv_last", "closer"),
            two_scales=True,
        ),
    )
    assert (manifest.input.height, manifest.input.width) == (16, 24)
    assert manifest.taps["conv_last"].shape == (6, 4, 6)
    assert manifest.taps["closer"].shape == (6, 8, 12)
    assert manifest.settings["c2p.heat"] == "conv_last closer"
    # The pixels are normalised once for both.
    session = onnxruntime.InferenceSession(tmp_path / "model" / "model.onnx", providers=IN_MEMORY)
    pixels = np.random.default_rng(2).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    image = (np.moveaxis(pixels, -1, 1).astype(np.float32) - 128) / 64
    small = image.reshape(2, 3, 8, 2, 12, 2).mean(axis=(3, 5))
    last, closer = session.run(["conv_last", "closer"], {session.get_inputs()[0].name: pixels})
    np.testing.assert_allclose(closer, outputs(network(), ["last"], image)[0], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(last, outputs(network(), ["last"], small)[0], rtol=1e-3, atol=1e-3)


def test_an_imported_network_has_to_use_its_larger_view(tmp_path):
    onnx.save(network(), tmp_path / "net.onnx")
    with pytest.raises(UsageError, match="--tap fine=larger/NAME"):
        import_classifier(
            tmp_path / "net.onnx",
            tmp_path / "model",
            name="both",
            pixels=PIXELS,
            readout=Readout(taps={}, two_scales=True),
        )
