import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from pc_engine.errors import ManifestError, UsageError
from pc_engine.export import Readout, import_classifier
from pc_engine.export.token_maps import TokenGrid, token_grid
from pc_engine.graph.shapes import Value
from pc_engine.manifest import NetworkInput

PIXELS = NetworkInput("", 0, 0, layout="", std=(255.0,) * 3)


def convert(path, out, said=None, **readout):
    report = (lambda _: None) if said is None else said.append
    return import_classifier(path, out, name="vit", pixels=PIXELS, readout=Readout(**readout), report=report)


def run(path, name, values, output):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run([output], {name: values})[0]


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("leading", [0, 1])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 12)])
def test_tokens_are_read_as_maps_of_their_places(tmp_path, save_transformer, height, width, leading, opset):
    path, said = save_transformer(tmp_path / "given.onnx", height, width, leading, opset=opset), []
    manifest = convert(path, tmp_path / "m", said, taps={"conv_last": "block", "fine": "tokens"}, heat=("fine",))
    rows, columns = height // 2, width // 2
    assert manifest.taps["conv_last"].shape == manifest.taps["fine"].shape == (6, rows, columns)
    n = rows * columns + leading
    left_out = ", the first one left out" if leading else ""
    assert f"The tap 'conv_last' names {n} tokens{left_out}: they are read as maps of {rows} x {columns}." in said
    images = np.random.default_rng(0).integers(0, 256, (3, height, width, 3)).astype(np.uint8)
    given = onnx.load(path)
    given.graph.output.append(helper.make_tensor_value_info("block", TensorProto.FLOAT, None))
    given = given.SerializeToString()
    tokens = run(given, "data", (images / np.float32(255)).transpose(0, 3, 1, 2), "block")[:, leading:]
    found = run(tmp_path / "m/model.onnx", "image", images, "conv_last")
    np.testing.assert_allclose(found.transpose(0, 2, 3, 1).reshape(3, -1, 6), tokens, rtol=1e-4, atol=1e-5)
    patches = run(tmp_path / "m/model.onnx", "image", images, "fine")
    changed = images.copy()
    changed[:, 2:4, 4:6] = 255 - changed[:, 2:4, 4:6]  # the patch of row 1, column 2
    differs = (run(tmp_path / "m/model.onnx", "image", changed, "fine") != patches).any(axis=(0, 1))
    assert np.argwhere(differs).tolist() == [[1, 2]]


def test_tokens_that_fill_no_grid_are_refused(tmp_path, save_transformer):
    path = save_transformer(tmp_path / "given.onnx", leading=2)
    with pytest.raises(ManifestError) as caught:
        convert(path, tmp_path / "m", taps={"conv_last": "block"})
    assert str(caught.value) == (
        "The tap 'conv_last' names 18 x 6 values an image, which are neither maps nor tokens, with or without one of "
        "the class, that fill a grid of the proportions of 8 x 8 pixels: name others with --tap conv_last=NAME."
    )
    assert not (tmp_path / "m").exists()


def test_a_transformer_without_named_maps_is_told_which_there_are(tmp_path, save_transformer):
    with pytest.raises(UsageError) as caught:
        convert(save_transformer(tmp_path / "given.onnx"), tmp_path / "m")
    assert str(caught.value) == (
        "No tensor was named for the tap 'conv_last': add --tap conv_last=NAME; the last feature maps of the network "
        "are patches (6 x 4 x 4) and the last tokens on a grid of the network are block (17 x 6)."
    )


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        (("N", 196, 768), (224, 224), TokenGrid(0, 14, 14)),
        (("N", 197, 768), (224, 224), TokenGrid(1, 14, 14)),
        (("N", 281, 384), (224, 320), TokenGrid(1, 14, 20)),
        (("N", 280, 384), (320, 224), TokenGrid(0, 20, 14)),
        (("N", 198, 768), (224, 224), None),
        (("N", 2, 768), (224, 224), None),
        ((197, "N", 768), (224, 224), None),
        (("N", "T", 768), (224, 224), None),
        (("N", 768), (224, 224), None),
        (None, (224, 224), None),
    ],
)
def test_the_grid_has_the_proportions_of_the_images(shape, size, expected):
    assert token_grid(Value(TensorProto.FLOAT, shape), NetworkInput("image", *size)) == expected
