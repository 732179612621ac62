from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import save_file

from pc_engine.export.efficientnet_graph import LITE_ARCHITECTURES, LiteSpec, build_efficientnet_lite
from pc_engine.export.efficientnet_weights import random_lite_weights, read_lite_weights


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_every_tensor_is_pytorchs(
    tmp_path: Path,
    size: tuple[int, int],
    tiny_lite: LiteSpec,
    lite_state: Callable[..., dict[str, np.ndarray]],
    torch_lite: Callable[..., dict[str, np.ndarray]],
) -> None:
    state = lite_state(tiny_lite)
    save_file(state, tmp_path / "w.safetensors")
    model = build_efficientnet_lite(tiny_lite, read_lite_weights(tmp_path / "w.safetensors", tiny_lite))
    onnx.checker.check_model(model, full_check=True)
    images = np.random.default_rng(0).standard_normal((2, 3, *size), dtype=np.float32)
    wanted = torch_lite(tiny_lite, state, images)
    for name in wanted.keys() - {"logits"}:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = dict(zip([each.name for each in session.get_outputs()], session.run(None, {"image": images}), strict=True))
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-4, err_msg=name)


# Millions of weights, as https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite has them.
@pytest.mark.parametrize(
    ("name", "millions", "n_blocks"),
    [("efficientnet_lite0", 4.7, 16), ("efficientnet_lite1", 5.4, 21), ("efficientnet_lite2", 6.1, 21)],
)
def test_the_published_networks_are_as_large_as_they_are(name: str, millions: float, n_blocks: int) -> None:
    spec = LITE_ARCHITECTURES[name]
    of_norms = 2 * sum(layer.n_out for layer in spec.convolutions())
    of_convolutions = sum(math.prod(layer.shape) for layer in spec.convolutions())
    assert round((of_convolutions + of_norms + 1000 * (spec.head.n_out + 1)) / 1e6, 1) == millions
    assert (spec.last + 1, spec.size % 32) == (n_blocks, 0)


def test_the_first_coarse_block_is_the_last_with_a_stride() -> None:
    for spec in LITE_ARCHITECTURES.values():
        strided = [block.number for block in spec.blocks() if block.convolutions[-2].stride == 2]
        assert (len(strided), strided[-1]) == (4, spec.first_coarse)
        assert next(block for block in spec.blocks() if block.number == spec.first_coarse - 1).is_residual


def test_activations_of_random_weights_neither_vanish_nor_grow(tiny_lite: LiteSpec) -> None:
    model = build_efficientnet_lite(tiny_lite, random_lite_weights(tiny_lite, 0, n_classes=10))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64), dtype=np.float32)
    (logits,) = session.run(None, {"image": images})
    assert 0.01 < logits.std() < 100
