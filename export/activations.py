"""What the activations of a network are on real images: the ranges and the means that quantising it needs.

Everything is gathered batch by batch, so that memory does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pc_engine.backbone import IMAGE
from pc_engine.export.run_shapes import quiet_session
from pc_engine.graph import shapes as graph_shapes
from pc_engine.progress import Advance

#: Returns values as 8 bits over a range render them, given the values, the lowest and the highest of the range.
Render = Callable[[np.ndarray, float, float], np.ndarray]

_BATCH = 4
_VECTOR_RANK = 2  # images by values, as a linear layer reads them
_POOLED_RANKS = (3, 4, 5)
_ROW = "pc_engine/one_row_an_image"
#: `choose_ranges` looks at so many images.
RANGE_IMAGES = 32
# Shares of the full range that are tried. Below a half, what is cut off always outweighs finer steps.
_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
# Values looked at in one tensor of one image: the errors of a range are means, and this many give two digits.
_SAMPLED = 32768


@dataclass(frozen=True)
class Activation:
    """What a tensor held over all images.

    Attributes
    ----------
    low, high
        Its extremes.
    mean
        (C,) the mean of each channel, or of each value where it has no other axis than that of the images, be these
        images times tokens; (1,) the mean of all where what should be channels are as many as the images of a batch.
    """

    low: float
    high: float
    mean: np.ndarray


def measure_activations(
    model: onnx.ModelProto, tensors: Sequence[str], images: np.ndarray, threads: int, advance: Advance
) -> dict[str, Activation]:
    """Run ``model`` on ``images`` and return what each of the float ``tensors`` held.

    Parameters
    ----------
    model
        A network with one uint8 input ``image`` [N, H, W, 3]; not modified.
    tensors
        Names of tensors with at least two axes, images first, then channels.
    images
        uint8 (n, H, W, 3).
    threads
        Cores to use.
    advance
        Called with the number of images done after every batch.
    """
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    graph, known = probed.graph, graph_shapes.infer(model)
    del graph.output[:]
    graph.initializer.append(numpy_helper.from_array(np.array([0, 1, -1]), _ROW))
    for name in tensors:
        pooled = len(known[name].shape or ()) > _VECTOR_RANK
        for operator, suffix in (("ReduceMin", "min"), ("ReduceMax", "max")):
            graph.node.append(helper.make_node(operator, [name], [_probe(name, suffix)], keepdims=0))
        source = name
        if pooled and len(known[name].shape or ()) not in _POOLED_RANKS:
            # Only the means of maps and vectors are asked for, and no more than three axes can be pooled.
            source = _probe(name, "row")
            graph.node.append(helper.make_node("Reshape", [name, _ROW], [source]))
        operator = "GlobalAveragePool" if pooled else "Identity"
        graph.node.append(helper.make_node(operator, [source], [_probe(name, "mean")]))
        for suffix in ("min", "max", "mean"):
            graph.output.append(helper.make_tensor_value_info(_probe(name, suffix), TensorProto.FLOAT, None))
    low = dict.fromkeys(tensors, np.inf)
    high = dict.fromkeys(tensors, -np.inf)
    total: dict[str, np.ndarray] = {}
    for n, found in _run(probed, images, _BATCH, threads):
        for name in tensors:
            low[name] = min(low[name], float(found[_probe(name, "min")]))
            high[name] = max(high[name], float(found[_probe(name, "max")]))
            # The first axis may be longer than the batch, by an image's tokens.
            means = n * found[_probe(name, "mean")].mean(axis=0, dtype=np.float64).ravel()
            total[name] = _sum_of_means(total[name], means) if name in total else means
        advance(n)
    return {name: Activation(low[name], high[name], total[name] / len(images)) for name in tensors}


def _sum_of_means(total: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return the sum by channel; of the means over all channels where these are other ones in each batch."""
    if total.shape != means.shape:
        total, means = total.mean(keepdims=True), means.mean(keepdims=True)
    return np.asarray(total + means)


def choose_ranges(
    model: onnx.ModelProto,
    activations: Mapping[str, Activation],
    render: Render,
    images: np.ndarray,
    threads: int,
    advance: Advance,
    observe: Callable[[Mapping[str, np.ndarray]], None] = lambda _: None,
) -> dict[str, tuple[float, float]]:
    """Return for each tensor the range, lowest and highest value, that 8 bits render with the least squared error.

    A rare extreme stretches the steps for all other values; cutting it off can cost less. Ranges include 0, so that
    padding stays exact. The error is that of rounding (Nagel et al. 2021, arXiv:2106.08295, section 3.1), over the
    first `RANGE_IMAGES` images.

    Parameters
    ----------
    model, images, threads, advance
        As for `measure_activations`.
    activations
        What that returned.
    render
        What rounding does to them.
    observe
        Called with the tensors of every image looked at, by name: for those who want to know more of them.
    """
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    names = list(activations)
    for name in names:
        probed.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    errors = {name: np.zeros(len(_SHARES)) for name in names}
    for n, found in _run(probed, images[:RANGE_IMAGES], 1, threads):
        for name in names:
            values = found[name].ravel()
            values = values[:: max(len(values) // _SAMPLED, 1)]
            for k, share in enumerate(_SHARES):
                error = render(values, *_range(activations[name], share)) - values
                errors[name][k] += float(np.dot(error, error))
        observe(found)
        advance(n)
    return {name: _range(activations[name], _SHARES[int(errors[name].argmin())]) for name in names}


def _range(activation: Activation, share: float) -> tuple[float, float]:
    return min(activation.low, 0.0) * share, max(activation.high, 0.0) * share


def _run(
    model: onnx.ModelProto, images: np.ndarray, batch: int, threads: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield the number of images of each batch and the model's outputs for it."""
    names = [value.name for value in model.graph.output]
    session = quiet_session(model, threads)
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        yield len(part), dict(zip(names, session.run(names, {IMAGE: part}), strict=True))


def _probe(tensor: str, suffix: str) -> str:
    return f"{tensor}/probe/{suffix}"
