import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pc_engine.errors import ModelError
from pc_engine.export import Readout, import_classifier
from pc_engine.manifest import NetworkInput

SIZE = 8
READOUT = Readout({"conv_last": "maps"})
LUMINANCE = (0.299, 0.587, 0.114)


def save_grey(path, layout="NCHW", opset=17, dtype=TensorProto.FLOAT):
    """A network of one channel, whose maps are what its convolution gives."""
    weights = np.random.default_rng(0).standard_normal((5, 1, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["data"], ["float"], to=TensorProto.FLOAT),
        helper.make_node(*("Transpose", ["float"], ["chw"]), perm=[0, 3, 1, 2] if layout == "NHWC" else [0, 1, 2, 3]),
        helper.make_node("Conv", ["chw", "weights"], ["maps"], pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["maps"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["scores"]),
    ]
    dims = ["N", SIZE, SIZE, 1] if layout == "NHWC" else ["N", 1, SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        "grey",
        [helper.make_tensor_value_info("data", dtype, dims)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def run(path, name, values, output):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run([output], {name: values})[0]


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("channels", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_network_of_one_channel_is_shown_the_luminance(tmp_path, layout, channels, opset):
    path, said = save_grey(tmp_path / "grey.onnx", layout, opset), []
    pixels = NetworkInput("", 0, 0, layout="", channels=channels, mean=(33.0,) * 3, std=(78.0,) * 3)
    import_classifier(path, tmp_path / "m", name="grey", pixels=pixels, readout=READOUT, report=said.append)
    assert "The network sees no colours: it is shown 0.299 red + 0.587 green + 0.114 blue." in said
    images = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.uint8)
    grey = (((images @ np.array(LUMINANCE)) - 33) / 78).astype(np.float32)
    own = grey[..., None] if layout == "NHWC" else grey[:, None]
    given = run(path, "data", own, "scores")
    np.testing.assert_allclose(run(tmp_path / "m/model.onnx", "image", images, "logits"), given, rtol=1e-4, atol=1e-5)


def test_bytes_of_one_channel_are_refused(tmp_path):
    path = save_grey(tmp_path / "grey.onnx", "NHWC", dtype=TensorProto.UINT8)
    with pytest.raises(ModelError, match=r"has 1 channel\(s\) in the layout NHWC"):
        import_classifier(path, tmp_path / "m", name="grey", pixels=NetworkInput("", 0, 0, layout=""))
