"""The network of MNIST-LEGO (paper section 5) in PyTorch, and its folding into plain convolutions."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from pc_engine.packages import import_optional

# PyTorch is optional, so its types are not spelt out: a Module is a torch.nn.Module, a Tensor a torch.Tensor.
Module = Any
Tensor = Any

#: Mean and standard deviation of pixels that the network was made for, 0..255.
PIXEL_MEAN, PIXEL_STD = 127.5, 63.75
#: Pixels of the input per cell of the feature maps.
STRIDE = 8


@dataclass(frozen=True)
class NetworkSettings:
    """Widths of the network, and where its maps get coarser.

    Attributes
    ----------
    size
        Side of the input in pixels, a multiple of 32.
    kernels
        Kernels of the four 5x5 convolutions (the paper: 32 to 256).
    nin
        Kernels of the 1x1 convolution (network in network).
    pooled_after
        The two 5x5 convolutions, counted from 1, whose maps are halved by max pooling. The later, the finer are the
        maps that small digits are told apart on, and the longer it takes.
    count_kernels, fc6, fc7
        Widths of the counting branch: a 3x3 convolution, and two fully connected layers on its global average.
    """

    size: int = 128
    kernels: tuple[int, int, int, int] = (32, 64, 96, 256)
    nin: int = 128
    pooled_after: tuple[int, int] = (1, 2)
    count_kernels: int = 64
    fc6: int = 256
    fc7: int = 128

    @property
    def grid(self) -> int:
        """Side of the feature maps in cells."""
        return self.size // STRIDE


#: Weight and bias of a layer.
Layer = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class FoldedNetwork:
    """The trained network without batch normalisation: what inference needs.

    Attributes
    ----------
    settings
        Those of the network.
    weights
        float32 (out, in, k, k) of conv1..conv4 and the 1x1 convolution; conv1 takes normalised RGB.
    biases
        float32 (out,) of the same.
    logits, count_conv, fc6, fc7
        Weight and bias of the layers after the trunk: ``logits`` (n_logits, nin) takes the global average of
        ``conv_last``, ``count_conv`` (out, nin, 3, 3) ``conv_last`` itself, ``fc6`` the global average of that.
    """

    settings: NetworkSettings
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    logits: Layer
    count_conv: Layer
    fc6: Layer
    fc7: Layer


def import_torch() -> Any:
    """Import PyTorch.

    Raises
    ------
    MissingPackageError
        If it is not installed.
    """
    return import_optional("torch", "train the MNIST-LEGO network")


@dataclass(frozen=True)
class Outputs:
    """What the network says in training.

    Attributes
    ----------
    logits
        (N, n_logits), class scores of the image.
    counts
        (N, n_counts), scores of every count; not exported.
    activity
        Mean of ``conv_last``, a scalar.
    """

    logits: Tensor
    counts: Tensor
    activity: Tensor


def build_network(settings: NetworkSettings, n_logits: int, n_counts: int) -> Module:
    """Build the trainable network, a ``torch.nn.Module``.

    Its ``forward`` takes normalised float (N, 3, size, size), in training of any size, and returns `Outputs`. The
    image's logits are a linear function of the globally averaged ``conv_last``. The counting branch gets ``conv_last``
    without a gradient back, so that no count ever shapes the feature maps.
    """
    torch = import_torch()
    nn = torch.nn

    def block(n_in: int, n_out: int, kernel: int, stride: int = 1) -> list[Any]:
        convolution = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, bias=False)
        return [convolution, nn.BatchNorm2d(n_out), nn.ReLU()]

    class LegoNetwork(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            layers: list[Any] = []
            widths = itertools.pairwise((3, *settings.kernels))
            for place, (n_in, n_out) in enumerate(widths, start=1):
                layers += block(n_in, n_out, 5, stride=2 if place == 1 else 1)
                if place in settings.pooled_after:
                    layers.append(nn.MaxPool2d(2))
            self.trunk = nn.Sequential(*layers, *block(settings.kernels[-1], settings.nin, 1))
            # Draws numbers from the seed, as the embedded model began with those behind them.
            nn.Conv2d(settings.nin, n_logits, 1)
            self.image_head = nn.Linear(settings.nin, n_logits)
            self.count_conv = nn.Conv2d(settings.nin, settings.count_kernels, 3, padding=1)
            self.fc6 = nn.Linear(settings.count_kernels, settings.fc6)
            self.fc7 = nn.Linear(settings.fc6, settings.fc7)
            self.count_head = nn.Linear(settings.fc7, n_counts)

        def forward(self, pixels: Tensor) -> Outputs:
            conv_last = self.trunk(pixels)
            counted = self.count_conv(conv_last.detach()).relu()
            fc6 = self.fc6(_pooled(counted)).relu()
            return Outputs(
                logits=self.image_head(_pooled(conv_last)),
                counts=self.count_head(self.fc7(fc6).relu()),
                activity=conv_last.float().mean(),
            )

    return LegoNetwork()


def _pooled(maps: Tensor) -> Tensor:
    """Average maps globally, times an eighth of the cells: objects cover a few cells, and this keeps sums near 1."""
    return maps.float().mean(dim=(2, 3)) * _pool_scale(maps.shape[2])


def _pool_scale(grid: int) -> float:
    return grid**2 / 8


def fold(network: Module, settings: NetworkSettings) -> FoldedNetwork:
    """Fold batch normalisation into the convolutions before it."""
    torch = import_torch()
    modules = list(network.trunk)
    weights, biases = [], []
    for place, module in enumerate(modules):
        if not isinstance(module, torch.nn.Conv2d):
            continue
        norm = modules[place + 1]
        gain = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().float()
        weights.append((module.weight.detach().float() * gain[:, None, None, None]).contiguous().numpy())
        biases.append((norm.bias.detach() - norm.running_mean * gain).float().numpy())
    scale = _pool_scale(settings.grid)
    return FoldedNetwork(
        settings=settings,
        weights=tuple(weights),
        biases=tuple(biases),
        logits=_layer(network.image_head, scale),
        count_conv=_layer(network.count_conv),
        fc6=_layer(network.fc6, scale),
        fc7=_layer(network.fc7),
    )


def _layer(module: Module, input_scale: float = 1.0) -> Layer:
    return module.weight.detach().float().numpy() * np.float32(input_scale), module.bias.detach().float().numpy()
