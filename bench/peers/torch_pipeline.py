"""Mode c2p as one would write it with PyTorch, Pillow and scikit-learn, from the weights of a model directory.

Imports PyTorch: `pc_engine.bench.peers.comparison` imports this module only where it is installed.
"""

from __future__ import annotations

import copy
import multiprocessing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from PIL import Image, ImageOps
from sklearn.mixture import GaussianMixture
from torch import nn

from pc_engine.bench.environment import seconds_of
from pc_engine.bench.peers.child_signal import child_signal_kept
from pc_engine.bench.peers.contract import Scope, Workload
from pc_engine.errors import ModelError, first_line
from pc_engine.fitted.counter import CountSVM, label_counts
from pc_engine.graph.attributes import attributes
from pc_engine.graph.prepare import load_graph
from pc_engine.graph.pruning import part_behind
from pc_engine.hardware.machine import usable_cores
from pc_engine.manifest import EVIDENCE, Manifest
from pc_engine.modes.c2p import C2PSettings

# The hottest cell is repeated so often in the sample that the mixture is fitted to, the others in proportion.
_REPEATS_OF_PEAK = 50
# The constant channel of `pc_engine.export.vgg_graph` is checked to this share of its largest weight.
_FOLD_TOLERANCE = 1e-4


@dataclass(frozen=True)
class TorchNetwork:
    """Layers in order, and after which of them each wanted tap is read.

    Attributes
    ----------
    layers
        Convolution, ReLU, maximum pooling, flattening and linear layers.
    taps
        Tap name to the index of the layer whose output it is.
    mean, std
        Of the pixels, 0..255 in RGB, that the first layer expects to be normalised with.
    """

    layers: nn.ModuleList
    taps: dict[str, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def torch_vgg(network: Path, manifest: Manifest, taps: Sequence[str]) -> TorchNetwork:
    """Rebuild a VGG in plain PyTorch from the ONNX file that `pc_engine.export.vgg_graph.build_vgg` made.

    Normalisation is taken out of the first convolution again, so that the layers are those that torchvision defines;
    those behind the last of ``taps`` are left out.

    Raises
    ------
    ModelError
        If the graph is no such VGG.
    """
    graph = load_graph(network).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    layers: list[nn.Module] = []
    position: dict[str, int] = {}
    tensor = graph.input[0].name
    way_back = _only_for_evidence(graph, manifest)
    for k, node in enumerate(graph.node):
        if k in way_back:
            continue
        if tensor not in node.input:
            raise _no_vgg(manifest, f"its graph is not a chain at '{node.name or node.output[0]}'")
        tensor = node.output[0]
        if node.op_type in ("Cast", "Transpose", "Pad") and not layers:
            continue  # pixels to float, to planes, and the constant channel: see _unfolded
        layers.append(_layer(node, weights, manifest, first=not layers))
        position[tensor] = len(layers) - 1
    tensors = {name: manifest.taps[name].tensor for name in taps}
    missing = [name for name, tensor in tensors.items() if tensor not in position]
    if missing:
        raise _no_vgg(manifest, f"it has no tensor for the tap '{missing[0]}'")
    where = {name: position[tensor] for name, tensor in tensors.items()}
    layers = layers[: max(where.values()) + 1]
    mean, std = manifest.input.mean, manifest.input.std
    return TorchNetwork(nn.ModuleList(layers).eval(), where, mean, std)


def _only_for_evidence(graph: onnx.GraphProto, manifest: Manifest) -> frozenset[int]:
    """Return the indices of the nodes behind no other tap than the evidence, which goes back through the layers."""
    if EVIDENCE not in manifest.taps:
        return frozenset()
    others = [tap.tensor for name, tap in manifest.taps.items() if name != EVIDENCE]
    return part_behind(graph, [manifest.taps[EVIDENCE].tensor]).nodes - part_behind(graph, others).nodes


def tapped(layers: Iterable[nn.Module], taps: Mapping[str, int]) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """Return a function that runs ``layers`` in turn, and gives what came out behind the indices of ``taps``."""
    names = {index: name for name, index in taps.items()}

    def forward(x: torch.Tensor) -> dict[str, torch.Tensor]:
        found = {}
        for index, layer in enumerate(layers):
            x = layer(x)
            if index in names:
                found[names[index]] = x
        return found

    return forward


class TorchRunner:
    """A `TorchNetwork` ready to run on uint8 batches.

    Parameters
    ----------
    network
        What to run.
    precision
        ``"fp32"``, or ``"bf16"`` for autocast.
    channels_last
        Lay out activations and weights with the channels innermost.
    compiled
        Compile with `torch.compile`.
    """

    def __init__(
        self, network: TorchNetwork, *, precision: str = "fp32", channels_last: bool = False, compiled: bool = False
    ) -> None:
        torch.set_num_threads(usable_cores())
        self._network = network
        self._precision = precision
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        layers = _with_channels_last(network.layers) if channels_last else network.layers
        self._mean = torch.tensor(network.mean).view(1, 3, 1, 1)
        self._std = torch.tensor(network.std).view(1, 3, 1, 1)
        forward = tapped(layers, network.taps)
        self._forward = torch.compile(forward) if compiled else forward

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return tap name to float32 (n, ...) for uint8 (n, H, W, 3) RGB."""
        bf16 = self._precision == "bf16"
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            x = torch.from_numpy(images).permute(0, 3, 1, 2).float().contiguous(memory_format=self._format)
            found = self._forward((x - self._mean) / self._std)
            return {name: tap.float().contiguous().numpy() for name, tap in found.items()}


class EagerPeer:
    """PyTorch eager, Pillow and scikit-learn, photo by photo; the network also in batches."""

    letter = "a"
    scope: Scope = "end to end"

    def __init__(self, network: TorchNetwork, manifest: Manifest, counting: ImageByImage, batch_size: int) -> None:
        self.name = self.name_for(batch_size)
        self.precision = "fp32"
        self.note = "eager, Pillow, scikit-learn"
        self._run = TorchRunner(network)
        self._counting = counting
        self._size = manifest.input.height, manifest.input.width
        self._batch_size = batch_size

    @staticmethod
    def name_for(batch_size: int) -> str:
        """Return what this peer is called with that many images a batch."""
        return "PyTorch" if batch_size == 1 else "PyTorch in batches"

    def taps(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the network says about uint8 images (n, H, W, 3)."""
        return self._run(images)

    def run(self, work: Workload) -> list[int]:
        """Count, and point, from files."""
        counts: list[int] = []
        for start in range(0, len(work.paths), self._batch_size):
            images = np.stack([load_photo(path, *self._size) for path in work.paths[start : start + self._batch_size]])
            counts += self._counting(self._run(images))
        return counts

    def close(self) -> None:
        """Free the network."""
        del self._run


class TunedPeer:
    """PyTorch with worker processes that load, channels_last, autocast, and torch.compile where that is faster."""

    name = "PyTorch tuned"
    letter = "b"
    scope: Scope = "end to end"

    def __init__(
        self,
        runner: TorchRunner,
        note: str,
        precision: str,
        manifest: Manifest,
        counting: ImageByImage,
        batch_size: int,
    ) -> None:
        self.precision = precision
        self.note = f"DataLoader workers, channels_last, {note}"
        self._run = runner
        self._counting = counting
        self._order = _Order(batch_size)
        self._loader = torch.utils.data.DataLoader(
            _Photos((manifest.input.height, manifest.input.width)),
            batch_sampler=self._order,
            num_workers=usable_cores(),
            # Else the start of the processes would count against the peer in every run.
            persistent_workers=True,
            multiprocessing_context=_start_method(),
        )

    def taps(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the network says about uint8 images (n, H, W, 3)."""
        return self._run(images)

    def run(self, work: Workload) -> list[int]:
        """Count, and point, from files."""
        self._order.paths = list(work.paths)
        counts: list[int] = []
        with child_signal_kept():
            for images in self._loader:
                counts += self._counting(self._run(images.numpy()))
        return counts

    def close(self) -> None:
        """End the worker processes and free the network."""
        del self._run, self._loader


class _Photos(torch.utils.data.Dataset[np.ndarray]):
    """Photos by path, as pixels of the network's size."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size

    def __getitem__(self, path: Path) -> np.ndarray:
        return load_photo(path, *self._size)


def _start_method() -> str:
    """Return how worker processes are started: forking a process that runs threads, as this one does, may lock up."""
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


class _Order(torch.utils.data.Sampler[list[Path]]):
    """Batches of whatever ``paths`` are set, so that the same processes serve every run."""

    def __init__(self, batch_size: int) -> None:
        self.paths: list[Path] = []
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[list[Path]]:
        for start in range(0, len(self.paths), self._batch_size):
            yield self.paths[start : start + self._batch_size]


class ImageByImage:
    """Count with the SVM in NumPy and fit scikit-learn's mixture, one image after the other."""

    def __init__(self, counter: CountSVM, settings: C2PSettings) -> None:
        self._features = counter.features
        self._weights = np.concatenate([counter.weights[name] for name in counter.features], axis=1)
        self._bias = counter.bias
        self._counts = label_counts(counter.labels)
        self._settings = settings

    def __call__(self, taps: dict[str, np.ndarray]) -> list[int]:
        """Return the count of each image, having fitted as many Gaussians."""
        with warnings.catch_warnings(action="ignore"):  # scikit-learn's, that a mixture has not converged
            return [len(found) for found in self._pointers(taps)]

    def _pointers(self, taps: dict[str, np.ndarray]) -> Iterator[list[tuple[float, float, float, float]]]:
        for n in range(len(taps["conv_last"])):
            parts = [taps[name][n].ravel() for name in self._features]
            feature = np.concatenate([part / (np.linalg.norm(part) or 1.0) for part in parts])
            count = int(self._counts[np.argmax(self._weights @ feature + self._bias)])
            yield self._fit(taps["conv_last"][n], count)

    def _fit(self, maps: np.ndarray, count: int) -> list[tuple[float, float, float, float]]:
        """Return ``count`` ellipses x, y, rx, ry in cells."""
        if count == 0:
            return []
        mean = maps.mean(axis=0)
        heat = np.maximum(mean - self._settings.mean_factor * mean.mean(), 0)
        if not heat.any():
            heat = np.maximum(mean, 0) if mean.max() > 0 else np.ones_like(mean)
        times = np.rint(heat / heat.max() * _REPEATS_OF_PEAK).astype(int)
        points = np.repeat(np.argwhere(times > 0), times[times > 0], axis=0)
        mixture = GaussianMixture(
            count,
            covariance_type="diag",
            reg_covar=self._settings.min_deviation**2,
            tol=self._settings.tol,
            max_iter=self._settings.max_iter,
            random_state=0,
        ).fit(np.resize(points, (max(len(points), count), 2)))
        sizes = np.sqrt(mixture.covariances_)
        return [(x, y, rx, ry) for (y, x), (ry, rx) in zip(mixture.means_, sizes, strict=True)]


def load_photo(path: Path, height: int, width: int) -> np.ndarray:
    """Return uint8 (height, width, 3) RGB by Pillow."""
    with Image.open(path) as photo:
        upright = ImageOps.exif_transpose(photo).convert("RGB")
    return np.array(upright.resize((width, height), Image.Resampling.BILINEAR))


def tuned_runner(
    network: TorchNetwork, precision: str, images: np.ndarray, *, try_compile: bool
) -> tuple[TorchRunner, str]:
    """Return the faster of eager and compiled with channels_last on ``images``, and a note on which and why."""
    eager = TorchRunner(network, precision=precision, channels_last=True)
    eager(images)
    if not try_compile:
        return eager, "eager, torch.compile not asked for"
    try:
        compiled = TorchRunner(network, precision=precision, channels_last=True, compiled=True)
        compiled(images)
    except Exception as error:  # inductor fails with whatever the compiler, the file system or the graph lead it to
        return eager, f"eager, as torch.compile does not work here ({type(error).__name__}: {first_line(error)})"
    slow, fast = (min(seconds_of(partial(run, images)) for _ in range(3)) for run in (eager, compiled))
    if fast < slow:
        return compiled, f"torch.compile, {slow / fast:.2f} x eager"
    return eager, f"eager, which was {fast / slow:.2f} x torch.compile"


def _with_channels_last(layers: nn.ModuleList) -> nn.ModuleList:
    """Return the layers with convolutions whose weights have the channels innermost; linear layers are shared."""
    laid_out = copy.deepcopy([layer for layer in layers if isinstance(layer, nn.Conv2d)])
    for layer in laid_out:
        layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    convolutions = iter(laid_out)
    return nn.ModuleList(next(convolutions) if isinstance(layer, nn.Conv2d) else layer for layer in layers)


def _layer(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto], manifest: Manifest, first: bool) -> nn.Module:
    """Return the layer of a node; the first one takes normalised pixels."""
    settings = attributes(node)
    match node.op_type:
        case "Conv" if settings == {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}:
            kernel, bias = _stored(node, weights, manifest)
            kernel = _unfolded(kernel, manifest) if first else kernel
            return _with_weights(nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1, device="meta"), kernel, bias)
        case "Gemm" if settings == {"transB": 1}:
            matrix, bias = _stored(node, weights, manifest)
            return _with_weights(nn.Linear(matrix.shape[1], matrix.shape[0], device="meta"), matrix, bias)
        case "MaxPool" if settings == {"kernel_shape": [2, 2], "strides": [2, 2]}:
            return nn.MaxPool2d(2)
        case "Relu":
            return nn.ReLU()
        case "Flatten":
            return nn.Flatten()
    raise _no_vgg(manifest, f"it has a {node.op_type} with {settings}")


def _stored(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto], manifest: Manifest) -> list[np.ndarray]:
    names = node.input[1:3]
    if len(names) < 2 or not weights.keys() >= {*names}:
        raise _no_vgg(manifest, f"it has a {node.op_type} without stored weights and bias")
    return [numpy_helper.to_array(weights[name]) for name in names]


def _with_weights(layer: nn.Module, weight: np.ndarray, bias: np.ndarray) -> nn.Module:
    state = {"weight": torch.from_numpy(weight.copy()), "bias": torch.from_numpy(bias.copy())}
    layer.load_state_dict(state, assign=True)
    return layer.requires_grad_(requires_grad=False)


def _unfolded(kernel: np.ndarray, manifest: Manifest) -> np.ndarray:
    """Return the kernel [out, 3, 3, 3] for normalised pixels, from the one [out, 4, 3, 3] they are folded into."""
    mean, std = (np.array(value)[:, None, None] for value in (manifest.input.mean, manifest.input.std))
    colours, constant = kernel[:, :3].astype(np.float64), kernel[:, 3:]
    expected = -(colours * mean).sum(axis=1, keepdims=True) / 255
    if constant.shape != expected.shape or not np.allclose(
        constant, expected, rtol=0, atol=_FOLD_TOLERANCE * np.abs(expected).max()
    ):
        raise _no_vgg(manifest, "its first convolution does not hold the normalisation of its manifest")
    plain: np.ndarray = colours * std
    return plain.astype(np.float32)


def _no_vgg(manifest: Manifest, reason: str) -> ModelError:
    return ModelError(
        f"The model '{manifest.name}' cannot be rebuilt in PyTorch, as {reason}: only the VGG networks of 'pc-engine "
        f"export' can."
    )
