"""A small VGG, and VGG in plain PyTorch to compare with."""

import math

import numpy as np
import pytest

from pc_engine.export import VggSpec
from pc_engine.export.vgg import IMAGENET_MEAN, IMAGENET_STD

TAPS = ("conv_prev", "conv_last", "pool5", "fc6", "fc7", "logits")


@pytest.fixture(scope="session")
def tiny():
    """VGG16 in small: the same layers at a few channels, with a non-square number of everything."""
    return VggSpec("tiny", ((4, 5), (6, 7), (8, 9, 10), (11, 12, 13), (14, 15, 16)), fc_width=24, trained_size=64)


@pytest.fixture(scope="session")
def tiny_weights(tiny):
    """Random weights in torchvision's names with biases that are not zero, for 7 classes."""
    return make_weights(tiny, n_classes=7)


@pytest.fixture(scope="session")
def torch_taps():
    """Return the function that runs VGG in PyTorch."""
    return run_torch


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
