"""The exported VGG against PyTorch, on both CPU runtimes.

Parity is measured per tap as |found - wanted| / |wanted| in the 2-norm over the batch; 1e-4 is allowed, as fp32
accumulates in another order.
"""

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest

from pc_engine.backends.signal_stack import signal_stack_kept
from pc_engine.errors import UsageError
from pc_engine.export import ARCHITECTURES, VggSpec, build_vgg, random_weights
from pc_engine.export.vgg_graph import vgg_taps

TAPS = ("conv_prev", "conv_last", "pool5", "fc6", "fc7", "logits")
TOLERANCE = 1e-4


def images_of(spec, n, seed=0):
    """Return one image of noise, and one of a smooth ramp with a saturated corner: borders that are not mean grey."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, *spec.size, 3), dtype=np.uint8)
    images[-1] = np.linspace(0, 255, spec.size[0]).astype(np.uint8)[:, None, None]
    images[-1, :8, :8] = 255
    return images


def run_onnxruntime(content, images):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return dict(
        zip((output.name for output in session.get_outputs()), session.run(None, {"image": images}), strict=True)
    )


def run_openvino(content, images):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed on this platform")
    core = openvino.Core()
    with signal_stack_kept():
        compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    result = compiled(images)
    return {output.any_name: np.array(result[output]) for output in compiled.outputs}


RUNTIMES = {"onnxruntime": run_onnxruntime, "openvino": run_openvino}


def relative_error(found, wanted):
    return np.linalg.norm(found.astype(np.float64) - wanted) / np.linalg.norm(wanted.astype(np.float64))


def assert_parity(found, wanted):
    assert set(found) == {*TAPS, "evidence"}  # which has tests of its own
    errors = {tap: relative_error(found[tap], wanted[tap]) for tap in TAPS}
    print({tap: f"{error:.1e}" for tap, error in errors.items()})
    for tap in TAPS:
        assert found[tap].shape == wanted[tap].shape
        assert found[tap].dtype == np.float32
        assert np.linalg.norm(wanted[tap]) > 0
        assert errors[tap] < TOLERANCE, (tap, errors)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_small_network_agrees_with_torch(tiny, tiny_weights, torch_taps, runtime):
    images = images_of(tiny, 3)
    content = build_vgg(tiny, tiny_weights).SerializeToString()
    assert_parity(RUNTIMES[runtime](content, images), torch_taps(tiny.blocks, tiny_weights, images))


@pytest.mark.slow
# Of VGG19 the convolutions alone are others: one classifier of half a gigabyte is enough.
@pytest.mark.parametrize(("name", "changes"), [("vgg16", {}), ("vgg19", {"fc_width": 64})], ids=["vgg16", "vgg19"])
def test_full_size_agrees_with_torch(name, changes, torch_taps):
    spec = dataclasses.replace(ARCHITECTURES[name], **changes)
    weights = random_weights(spec, seed=0)
    rng = np.random.default_rng(1)
    for key, array in weights.items():
        if key.endswith("bias"):
            weights[key] = rng.standard_normal(array.shape).astype(np.float32) * 0.1
    images = images_of(spec, 2)
    wanted = torch_taps(spec.blocks, weights, images)
    content = build_vgg(spec, weights).SerializeToString()
    del weights
    for run in RUNTIMES.values():
        assert_parity(run(content, images), wanted)


def test_padding_is_of_normalised_zeros():
    """An image of the mean colour normalises to zero, so conv1 gives its bias everywhere, the border included."""
    spec = VggSpec("one", ((6, 5),), fc_width=4, trained_size=8)
    weights = random_weights(spec, seed=2, n_classes=3)
    bias = np.array([0.5, 1.0, 0.25, 2.0, 0.125, 3.0], np.float32)
    weights["features.0.bias"] = bias
    mean = (100.0, 37.0, 201.0)
    model = build_vgg(spec, weights, mean=mean, std=(60.0, 50.0, 40.0))
    images = np.broadcast_to(np.array(mean, np.uint8), (2, 8, 8, 3)).copy()
    found = run_onnxruntime(model.SerializeToString(), images)["conv_prev"]
    np.testing.assert_allclose(found, np.broadcast_to(bias[:, None, None], found.shape), atol=1e-5)


def test_mean_and_std_are_folded(tiny, tiny_weights, torch_taps):
    images = images_of(tiny, 2)
    mean, std = (10.0, 120.0, 90.0), (20.0, 64.0, 255.0)
    wanted = torch_taps(tiny.blocks, tiny_weights, images, mean, std)
    assert_parity(run_onnxruntime(build_vgg(tiny, tiny_weights, mean, std).SerializeToString(), images), wanted)
    assert relative_error(torch_taps(tiny.blocks, tiny_weights, images)["logits"], wanted["logits"]) > 0.01


def test_graph_is_canonical(tiny, tiny_weights):
    model = build_vgg(tiny, tiny_weights)
    onnx.checker.check_model(model, full_check=True)
    (value,) = model.graph.input
    assert value.name == "image"
    assert value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] == ["N", 64, 64, 3]
    declared = {
        output.name: tuple(dim.dim_value for dim in output.type.tensor_type.shape.dim[1:])
        for output in model.graph.output
    }
    assert declared == {name: tap.shape for name, tap in vgg_taps(tiny, 7).items()}
    assert model.ir_version <= 10  # what onnxruntime 1.20 reads


def test_taps_of_the_published_networks():
    for name, prev in (("vgg16", "features.26"), ("vgg19", "features.32")):
        spec = ARCHITECTURES[name]
        assert {tap: value.shape for tap, value in vgg_taps(spec, 20000).items()} == {
            "conv_prev": (512, 14, 14),
            "conv_last": (512, 14, 14),
            "pool5": (512, 7, 7),
            "fc6": (4096,),
            "fc7": (4096,),
            "logits": (20000,),
            "evidence": (512,),
        }
        convs = [layer for layer in spec.layers() if layer.is_conv]
        assert len(convs) == int(name[3:]) - 3
        assert (convs[-2].name, convs[-2].block, convs[-2].index) == (prev, 5, len(spec.blocks[-1]) - 1)


def test_random_weights_keep_the_signal(tiny):
    spec = dataclasses.replace(tiny, blocks=((32, 32), (32, 32), (64, 64)), trained_size=32)
    found = run_onnxruntime(build_vgg(spec, random_weights(spec, 0)).SerializeToString(), images_of(spec, 4))
    assert 0.1 < np.abs(found["logits"]).mean() < 10
    again = random_weights(spec, 0)
    assert all(np.array_equal(again[name], array) for name, array in random_weights(spec, 0).items())
    assert not np.array_equal(again["classifier.6.weight"], random_weights(spec, 1)["classifier.6.weight"])


@pytest.mark.parametrize(("height", "width"), [(128, 128), (64, 192), (128, 64)])
def test_a_larger_input_gives_finer_maps_and_the_same_classifier(tiny, tiny_weights, torch_taps, height, width):
    large = tiny.at_size(height, width)
    model = build_vgg(large, tiny_weights)
    onnx.checker.check_model(model, full_check=True)
    images = images_of(large, 3)
    wanted = torch_taps(large.blocks, tiny_weights, images)
    assert wanted["conv_last"].shape == (3, 16, height // 16, width // 16)
    assert (3, *vgg_taps(large, 7)["conv_last"].shape) == wanted["conv_last"].shape
    assert wanted["pool5"].shape == (3, *tiny.pooled_shape)
    for run in RUNTIMES.values():
        assert_parity(run(model.SerializeToString(), images), wanted)


@pytest.mark.parametrize("size", [0, 63, 65, 96, -64])
def test_a_size_that_is_no_multiple_is_wrong_use(tiny, size):
    expected = f"tiny takes multiples of 64 pixels, but {size} is not one: choose one of 64, 128"
    with pytest.raises(UsageError, match=expected):
        tiny.at_size(64, size)
