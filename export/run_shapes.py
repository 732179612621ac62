"""Shapes that can only be learnt by running a network, as those behind padding by a computed width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from pc_engine.backbone import IMAGE
from pc_engine.graph import shapes as graph_shapes
from pc_engine.graph.prepare import BATCH
from pc_engine.manifest import NetworkInput

_IMAGES = 2  # so that the axis of a batch is told from those of length 1


def known_shapes(model: onnx.ModelProto, pixels: NetworkInput) -> dict[str, graph_shapes.Value]:
    """Return the types and shapes of a network's tensors: inferred, or else as they are when it runs.

    Parameters
    ----------
    model
        A prepared network: its only input is ``image``. Of one that cannot be run they are those inferred.
    pixels
        Of which size its images are.
    """
    known = graph_shapes.infer(model)
    outputs = [name for node in model.graph.node for name in node.output if name]
    unknown = [name for name in outputs if not graph_shapes.is_whole(known.get(name, graph_shapes.UNKNOWN))]
    if not unknown:
        return known
    try:
        found = run_for(model, unknown, np.zeros((_IMAGES, pixels.height, pixels.width, 3), np.uint8))
    except Exception:  # whatever is wrong with the network is said where it is run for its taps' shapes
        return known
    for name, value in zip(unknown, found, strict=True):
        if isinstance(value, np.ndarray):
            shape = tuple(BATCH if k == 0 and size == _IMAGES else size for k, size in enumerate(value.shape))
            known[name] = graph_shapes.Value(helper.np_dtype_to_tensor_dtype(value.dtype), shape)
    return known


def run_for(model: onnx.ModelProto, names: Sequence[str], images: np.ndarray) -> list[Any]:
    """Return what the tensors of these names are for ``images``; raises what ONNX Runtime does."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    for name in names:
        probed.graph.output.add(name=name)
    found: list[Any] = quiet_session(probed).run(list(names), {IMAGE: images})
    return found


def quiet_session(
    model: onnx.ModelProto, threads: int | None = None, *, folded: Path | None = None
) -> onnxruntime.InferenceSession:
    """Return what runs a network on the CPU and prints nothing: what goes wrong is in its exception.

    Parameters
    ----------
    model
        The network.
    threads
        Cores to use; None for all.
    folded
        A file to write the network to, with its constants folded and what is redundant left out. It is not optimised
        any further then.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or 0
    # Its threads would wait for the next images on the cores that look at these.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if folded is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
