"""How many images a GPU's libraries take at once: they number the values of a tensor in 32 bits.

TensorRT refuses tensors of 2^31 values and more, cuDNN's documentation limits them to 2 giga-elements, and kernels of
ONNX Runtime read beyond their memory (its issues 28107 and 28385). VGG at 448 x 448 has 12.8 million values an image
behind its first layers, so that 256 images are too many.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace

from pc_engine.backbone import CompileRequest
from pc_engine.files.storage import FileCache, cache_key

#: Values of a tensor at most.
MOST_VALUES = 2**31 - 1
# Batches that are no multiple of this suit matrix units less.
_MULTIPLE = 8


def within_reach(request: CompileRequest) -> CompileRequest:
    """Return the request, on a GPU with no more images in a batch than keep every tensor addressable, but at least 1.

    Raises
    ------
    ModelError
        If the network cannot be read, or does not give the taps.
    """
    if request.device == "cpu":
        return request
    most = MOST_VALUES // _largest_tensor(request)
    if request.batch_size <= most:
        return request
    return replace(request, batch_size=most // _MULTIPLE * _MULTIPLE or max(most, 1))


def _largest_tensor(request: CompileRequest) -> int:
    """Return how many values an image has in the largest tensor whose shape is known; at least 1.

    It is kept, as reading the network takes a second: a run whose network is in the cache need not do so.
    """
    cache = FileCache()
    facts = {"network": request.network_sha256, "input": asdict(request.manifest.input), "taps": sorted(request.taps)}
    name = "largest-tensor-" + cache_key(facts)
    kept = cache.get_json(name)
    if kept is None:
        kept = {"values": _look(request)}
        cache.put_json(name, kept)
    return int(kept["values"])


def _look(request: CompileRequest) -> int:
    from pc_engine.graph import shapes as graph_shapes
    from pc_engine.graph.prepare import open_graph

    known = graph_shapes.infer(open_graph(request.network, request.manifest, request.taps)).values()
    shapes = [value.shape for value in known if value.shape and graph_shapes.is_whole(value)]
    # What has a number of its own in the first place, such as weights, does not grow with the batch.
    images = [shape for shape in shapes if not isinstance(shape[0], int)]
    return max((math.prod(size for size in shape[1:] if isinstance(size, int)) for shape in images), default=1) or 1
