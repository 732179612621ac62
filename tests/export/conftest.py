"""A small VGG and a small EfficientNet-Lite, and both in plain PyTorch to compare with; a small transformer."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import save_file

from pc_engine.export import LiteSpec, VggSpec
from pc_engine.export.efficientnet_graph import LiteConvolution
from pc_engine.export.vgg_graph import IMAGENET_MEAN, IMAGENET_STD

TAPS = ("conv_prev", "conv_last", "pool5", "fc6", "fc7", "logits")


@pytest.fixture(scope="session")
def tiny():
    """VGG16 in small: the same layers at a few channels, with a non-square number of everything."""
    return VggSpec("tiny", ((4, 5), (6, 7), (8, 9, 10), (11, 12, 13), (14, 15, 16)), fc_width=24, trained_size=64)


@pytest.fixture(scope="session")
def tiny_weights(tiny):
    """Random weights in torchvision's names with biases that are not zero, for 7 classes."""
    return make_weights(tiny, n_classes=7)


@pytest.fixture
def weights(tmp_path, tiny_weights):
    """A file with these."""
    save_file(tiny_weights, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.fixture(scope="session")
def torch_taps():
    """Return the function that runs VGG in PyTorch."""
    return run_torch


@pytest.fixture(scope="session")
def round_by_onnx() -> Callable[[np.ndarray, float, int], np.ndarray]:
    """Return the function that rounds values as ONNX's own QuantizeLinear and DequantizeLinear do."""
    return round_to_levels


def round_to_levels(values: np.ndarray, scale: float, zero: int) -> np.ndarray:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "rounding",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [len(values)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [len(values)])],
        [numpy_helper.from_array(np.float32(scale), "scale"), numpy_helper.from_array(np.uint8(zero), "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    [rounded] = ReferenceEvaluator(model).run(None, {"x": values})
    return rounded


def make_weights(spec, n_classes, seed=3):
    rng = np.random.default_rng(seed)
    weights, position, channels = {}, 0, 3
    for widths in spec.blocks:
        for width in widths:
            weights[f"features.{position}.weight"] = rng.standard_normal((width, channels, 3, 3)) * 0.3
            weights[f"features.{position}.bias"] = rng.standard_normal(width) * 0.3
            position, channels = position + 2, width
        position += 1
    side = spec.trained_size // 2 ** len(spec.blocks)
    for name, n_in, n_out in (
        ("classifier.0", channels * side**2, spec.fc_width),
        ("classifier.3", spec.fc_width, spec.fc_width),
        ("classifier.6", spec.fc_width, n_classes),
    ):
        weights[f"{name}.weight"] = rng.standard_normal((n_out, n_in)) * n_in**-0.5
        weights[f"{name}.bias"] = rng.standard_normal(n_out) * 0.3
    return {name: array.astype(np.float32) for name, array in weights.items()}


def run_torch(blocks, weights, images, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """Run VGG as torchvision defines it (features, classifier) on uint8 NHWC RGB; return its taps by name."""
    torch = pytest.importorskip("torch")
    from torch import nn

    features, channels, marks = [], 3, {}
    n_out, n_in = weights["classifier.0.weight"].shape
    with torch.device("meta"):
        for widths in blocks:
            for width in widths:
                features += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            features.append(nn.MaxPool2d(2))
        features.append(nn.AdaptiveAvgPool2d(math.isqrt(n_in // channels)))
        classifier = [
            nn.Linear(n_in, n_out),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(n_out, n_out),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(n_out, weights["classifier.6.weight"].shape[0]),
        ]
        net = nn.ModuleDict({"features": nn.Sequential(*features), "classifier": nn.Sequential(*classifier)})
    net.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=True, assign=True)
    net.eval()
    marks = {len(features) - 5: "conv_prev", len(features) - 3: "conv_last", len(features) - 1: "pool5"}
    heads = {1: "fc6", 4: "fc7", 6: "logits"}
    taps = {}
    with torch.inference_mode():
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        x = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        for k, layer in enumerate(net["features"]):
            x = layer(x)
            if k in marks:
                taps[marks[k]] = x.numpy()
        x = torch.flatten(x, 1)
        for k, layer in enumerate(net["classifier"]):
            x = layer(x)
            if k in heads:
                taps[heads[k]] = x.numpy()
    return taps


@pytest.fixture(scope="session")
def tiny_lite() -> LiteSpec:
    """EfficientNet-Lite in small."""
    return TINY_LITE


@pytest.fixture(scope="session")
def lite_state() -> Callable[..., dict[str, np.ndarray]]:
    """Return the function that makes weights of an EfficientNet-Lite as files have them."""
    return make_lite_state


@pytest.fixture(scope="session")
def torch_lite() -> Callable[..., dict[str, np.ndarray]]:
    """Return the function that runs EfficientNet-Lite in PyTorch."""
    return run_lite_in_torch


# All kinds of blocks: the first, strides of 1 and 2, kernels of 3 and 5, with and without what is added.
TINY_LITE = LiteSpec("tiny", 0.25, 0.5, 64)

_LITE_NAMES = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


def _names_in_files(layer: LiteConvolution) -> tuple[str, str]:
    """What files call a convolution, and its normalisation."""
    if layer.name in ("stem", "head"):
        return f"_conv_{layer.name}", {"stem": "_bn0", "head": "_bn1"}[layer.name]
    _, number, part = layer.name.split("_")
    return tuple(f"_blocks.{number}.{name}" for name in _LITE_NAMES[part])


def make_lite_state(spec: LiteSpec, n_classes: int = 7, seed: int = 3) -> dict[str, np.ndarray]:
    """Weights as files have them, each with normalisations that do something."""
    rng = np.random.default_rng(seed)
    state: dict[str, np.ndarray] = {}
    for layer in spec.convolutions():
        weight, norm = _names_in_files(layer)
        fan_in = np.prod(layer.shape[1:])
        state[f"{weight}.weight"] = rng.standard_normal(layer.shape) * (2 / fan_in) ** 0.5
        state[f"{norm}.weight"] = rng.uniform(0.5, 1.5, layer.n_out)
        state[f"{norm}.bias"] = rng.standard_normal(layer.n_out) * 0.3
        state[f"{norm}.running_mean"] = rng.standard_normal(layer.n_out) * 0.3
        state[f"{norm}.running_var"] = rng.uniform(0.5, 1.5, layer.n_out)
        state[f"{norm}.num_batches_tracked"] = np.array(5, np.int64)
    state["_fc.weight"] = rng.standard_normal((n_classes, spec.head.n_out)) * 0.05
    state["_fc.bias"] = rng.standard_normal(n_classes)
    return {name: array.astype(np.float32) if array.ndim else array for name, array in state.items()}


def run_lite_in_torch(spec: LiteSpec, state: dict[str, np.ndarray], images: np.ndarray) -> dict[str, np.ndarray]:
    """Run the network on normalised images (N, 3, H, W), padded as TensorFlow's "same"; return its tensors by name."""
    torch = pytest.importorskip("torch")
    from torch.nn import functional

    given = {name: torch.from_numpy(array) for name, array in state.items()}
    found: dict[str, Any] = {}

    def convolved(layer: LiteConvolution, maps: Any) -> Any:
        weight, norm = _names_in_files(layer)
        sides = maps.shape[2:]
        total = [max((-(-side // layer.stride) - 1) * layer.stride + layer.kernel - side, 0) for side in sides]
        (top, left), (bottom, right) = [n // 2 for n in total], [n - n // 2 for n in total]
        maps = functional.pad(maps, (left, right, top, bottom))
        groups = layer.n_in if layer.is_depthwise else 1
        maps = functional.conv2d(maps, given[f"{weight}.weight"], stride=layer.stride, groups=groups)
        statistics = (given[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        maps = functional.batch_norm(maps, *statistics, eps=1e-3)
        found[layer.name] = functional.relu6(maps) if layer.is_clipped else maps
        return found[layer.name]

    with torch.no_grad():
        maps = convolved(spec.stem, torch.from_numpy(images))
        for block in spec.blocks():
            before = maps
            for layer in block.convolutions:
                maps = convolved(layer, maps)
            if maps.shape == before.shape:
                maps = found[f"block_{block.number}_add"] = maps + before
        found["pooled"] = convolved(spec.head, maps).mean(dim=(2, 3))
        found["logits"] = functional.linear(found["pooled"], given["_fc.weight"], given["_fc.bias"])
    return {name: tensor.numpy() for name, tensor in found.items()}


@pytest.fixture(scope="session")
def save_transformer() -> Callable[..., Any]:
    """Return the function that saves a vision transformer of one block."""
    return save_small_transformer


def save_small_transformer(path, height=8, width=8, leading=1, values=6, opset=17):
    """Patches of 2 x 2 pixels, ``leading`` tokens before theirs, one block of attention, and the class of the first."""
    rng = np.random.default_rng(0)
    shapes = {"patch": (values, 3, 2, 2), **dict.fromkeys(("query", "key", "value"), (values, values))}
    weights = [
        numpy_helper.from_array(0.3 * rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in {**shapes, "classes": (values, 4)}.items()
    ]
    nodes = [
        helper.make_node("Conv", ["data", "patch"], ["patches"], strides=[2, 2]),
        helper.make_node("Reshape", ["patches", "flat"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["of_places"], perm=[0, 2, 1]),
        helper.make_node("ReduceMean", ["of_places"], ["of_all"], axes=[1], keepdims=1),
        helper.make_node("Concat", [*["of_all"] * leading, "of_places"], ["tokens"], axis=1),
        *(helper.make_node("MatMul", ["tokens", name], [f"{name}s"]) for name in ("query", "key", "value")),
        helper.make_node("Transpose", ["keys"], ["keys_turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["querys", "keys_turned"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["attention"], axis=-1),
        helper.make_node("MatMul", ["attention", "values"], ["seen"]),
        helper.make_node("Add", ["tokens", "seen"], ["block"]),
        helper.make_node("Gather", ["block", "first"], ["chosen"], axis=1),
        helper.make_node("MatMul", ["chosen", "classes"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "transformer",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, height, width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
        [
            *weights,
            numpy_helper.from_array(np.array([0, values, -1]), "flat"),
            numpy_helper.from_array(np.array(0), "first"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path
