"""What a network cannot do here, for its user to know before anything is fitted to it."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from pc_engine.export.run_shapes import known_shapes
from pc_engine.export.tap_names import depending_on_input
from pc_engine.export.token_maps import residual_tokens
from pc_engine.graph.operators import LINEAR
from pc_engine.graph.pruning import part_behind
from pc_engine.manifest import NetworkInput, Tap
from pc_engine.say import Say

_ATTENTION = ("Attention", "GroupQueryAttention", "MultiHeadAttention")
_PRODUCTS = ("Einsum", "MatMul")


def say_limits(model: onnx.ModelProto, taps: Mapping[str, Tap], pixels: NetworkInput, report: Say) -> None:
    """Report where a network knows one class only, and where its last maps come long before its end.

    Parameters
    ----------
    model
        A prepared network, its outputs called by their taps.
    taps
        These.
    pixels
        How large its images are.
    report
        Called with a sentence for each limit.
    """
    if taps["logits"].shape == (1,):
        report(
            "The network has one logit, so it knows one class: p2c and combined take that for the class of every "
            "picture, with a score of 1, whether it shows any or not."
        )
    _say_early_maps(model, pixels, report)


def _say_early_maps(model: onnx.ModelProto, pixels: NetworkInput, report: Say) -> None:
    """Report that most layers follow ``conv_last``, and attention among them, which convolutions do not replace."""
    graph = model.graph
    depending = {value.name for value in graph.input} | set(depending_on_input(graph))
    before = part_behind(graph, ["conv_last"]).nodes
    after = part_behind(graph, ["logits"]).nodes - before
    n_before, n_after = (
        sum(graph.node[k].op_type in LINEAR and not depending.isdisjoint(graph.node[k].input) for k in part)
        for part in (before, after)
    )
    attends = any(
        graph.node[k].op_type in _ATTENTION
        or (graph.node[k].op_type in _PRODUCTS and sum(name in depending for name in graph.node[k].input) > 1)
        for k in after
    )
    if not attends or n_after <= n_before:
        return
    tokens = list(residual_tokens(graph, known_shapes(model, pixels), pixels, depending))
    report(
        f"The maps of conv_last come ahead of most of the network: {n_after} of its {n_before + n_after} layers "
        "follow, attention among them, and nothing of what these see is counted or pointed at."
        + (f" Tokens can be maps, too: --tap conv_last={tokens[-1]}." if tokens else "")
    )
