from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pc_engine.errors import UsageError, WeightsError
from pc_engine.export import LiteSpec, efficientnet_weights
from pc_engine.export.efficientnet_weights import random_lite_weights, read_lite_weights

OTHER = LiteSpec("other", 0.5, 0.5, 64)


def test_a_normalisation_is_folded_into_its_convolution(
    tmp_path: Path, tiny_lite: LiteSpec, lite_state: Callable[..., dict[str, np.ndarray]]
) -> None:
    state = lite_state(tiny_lite)
    save_file(state, tmp_path / "w.safetensors")
    found = read_lite_weights(tmp_path / "w.safetensors", tiny_lite)
    norm = {
        part: state[f"_bn0.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    }
    outputs = np.random.default_rng(0).standard_normal((32, 5))  # of the convolution, at five places
    normalised = (outputs - norm["running_mean"][:, None]) / np.sqrt(norm["running_var"] + 1e-3)[:, None]
    normalised = normalised * norm["weight"][:, None] + norm["bias"][:, None]
    gain = found["stem.weight"].astype(np.float64).ravel() / state["_conv_stem.weight"].ravel()
    folded = outputs * gain.reshape(32, -1)[:, :1] + found["stem.bias"][:, None]
    np.testing.assert_allclose(folded, normalised, atol=1e-5)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}


def test_the_names_of_random_weights_are_those_of_a_file(
    tmp_path: Path, tiny_lite: LiteSpec, lite_state: Callable[..., dict[str, np.ndarray]]
) -> None:
    save_file(lite_state(tiny_lite, n_classes=1000), tmp_path / "w.safetensors")
    shapes = {name: array.shape for name, array in read_lite_weights(tmp_path / "w.safetensors", tiny_lite).items()}
    made = read_lite_weights("random:3", tiny_lite)
    assert {name: array.shape for name, array in made.items()} == shapes
    again = random_lite_weights(tiny_lite, 3)
    assert all(np.array_equal(made[name], again[name]) for name in made)
    assert not np.array_equal(made["stem.weight"], random_lite_weights(tiny_lite, 4)["stem.weight"])


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"_conv_stem.weight": None}, "has no tensor '_conv_stem.weight', so it does not hold tiny weights"),
        ({"_blocks.3._bn1.bias": None}, "has no tensor '_blocks.3._bn1.bias'; it is incomplete"),
        ({"_blocks.3._depthwise_conv.weight": np.ones((1, 1, 3, 3))}, "'_blocks.3._depthwise_conv.weight' has shape"),
        ({"_bn0.running_var": np.full(32, -1.0)}, "'_bn0.running_var' holds values below 0; the file is damaged"),
        ({"_bn0.running_mean": np.full(32, np.nan)}, "'_bn0.running_mean' holds NaN or infinity"),
        ({"_bn1.weight": np.ones(5)}, "'_bn1.weight' has shape (5,), expected (1280,)"),
        ({"_conv_head.weight": np.ones((1280, 80, 1, 1), int)}, "is of type int64, expected floating point"),
        ({"_fc.weight": np.ones((7, 9))}, "'_fc.weight' has shape (7, 9), expected (7, 1280)"),
        ({"_fc.weight": np.ones(())}, "'_fc.weight' has shape ()"),
        ({"_fc.weight": np.ones((0, 1280)), "_fc.bias": np.ones(0)}, "'_fc.weight' has shape (0, 1280), expected (1,"),
        ({"_blocks.0._se_reduce.weight": np.ones(3)}, "it holds an EfficientNet, not tiny"),
        ({"_bn0.weight": np.full(32, 1e38), "_bn0.running_var": np.zeros(32)}, "holds NaN or infinity"),
        ({"_fc.bias": np.ones(6)}, "'_fc.bias' has shape (6,), expected (7,)"),
    ],
)
def test_what_does_not_fit_gets_a_sentence(
    tmp_path: Path,
    changed: dict[str, Any],
    expected: str,
    tiny_lite: LiteSpec,
    lite_state: Callable[..., dict[str, np.ndarray]],
) -> None:
    state = lite_state(tiny_lite) | changed
    written = {
        name: array.astype(np.float32) if array.dtype == np.float64 else array
        for name, array in state.items()
        if array is not None
    }
    save_file(written, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError) as raised:
        read_lite_weights(tmp_path / "w.safetensors", tiny_lite)
    assert expected in str(raised.value)
    assert "w.safetensors" in str(raised.value)


def test_weights_of_another_size_name_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_lite: LiteSpec,
    lite_state: Callable[..., dict[str, np.ndarray]],
) -> None:
    monkeypatch.setattr(efficientnet_weights, "LITE_ARCHITECTURES", {"tiny": tiny_lite, "other": OTHER})
    save_file(lite_state(OTHER), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="looks like other weights, but tiny was asked for: export it as other"):
        read_lite_weights(tmp_path / "w.safetensors", tiny_lite)


@pytest.mark.parametrize("source", ["random:x", f"random:{'9' * 5000}", "missing.pth", "w.txt"])
def test_what_is_no_source_gets_a_sentence(source: str, tiny_lite: LiteSpec) -> None:
    with pytest.raises(UsageError):
        read_lite_weights(source, tiny_lite)
