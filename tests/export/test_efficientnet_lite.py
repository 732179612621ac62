from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import save_file

from pc_engine.errors import UsageError
from pc_engine.export import (
    LITE_ARCHITECTURES,
    Cooccurrence,
    Description,
    LiteSpec,
    Preprocessing,
    Readout,
    export_efficientnet_lite,
)
from pc_engine.export.efficientnet_lite import usual_taps


@pytest.fixture
def weights(tmp_path: Path, tiny_lite: LiteSpec, lite_state: Callable[..., dict[str, np.ndarray]]) -> Path:
    save_file(lite_state(tiny_lite), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_taps_are_what_the_network_gives_for_pixels(
    tmp_path: Path,
    weights: Path,
    tiny_lite: LiteSpec,
    lite_state: Callable[..., dict[str, np.ndarray]],
    torch_lite: Callable[..., dict[str, np.ndarray]],
) -> None:
    manifest = export_efficientnet_lite(
        tiny_lite, weights, tmp_path / "m", description=Description(classes="abcdefg", licence="own")
    )
    assert (manifest.name, manifest.source, manifest.licence) == ("tiny", "w.safetensors", "own")
    assert (manifest.input.height, manifest.input.width, manifest.classes) == (64, 64, tuple("abcdefg"))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    wanted = torch_lite(
        tiny_lite, lite_state(tiny_lite), ((pixels.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2)
    )
    session = onnxruntime.InferenceSession(tmp_path / "m/model.onnx")
    for tap, tensor in usual_taps(tiny_lite).items():
        (found,) = session.run([tap], {"image": pixels})
        np.testing.assert_allclose(found, wanted[tensor], rtol=1e-4, atol=1e-4, err_msg=tap)
    assert {"evidence", "conv_top"} <= manifest.taps.keys()


def test_fine_maps_have_twice_the_cells_of_the_last(tmp_path: Path) -> None:
    manifest = export_efficientnet_lite("efficientnet_lite0", "random:0", tmp_path / "m")
    shapes = {name: tap.shape for name, tap in manifest.taps.items()}
    assert (shapes["conv_prev"], shapes["middle"]) == ((672, 14, 14), (112, 14, 14))
    assert (shapes["conv_last"], shapes["project"], shapes["conv_top"]) == ((1152, 7, 7), (320, 7, 7), (1280, 7, 7))
    assert manifest.count_features[:3] == ("pooled", "project", "middle")
    assert manifest.settings["c2p.heat"] == manifest.settings["p2c.heat"] == "project conv_prev"
    assert manifest.source == "random:0"


def test_what_is_chosen_takes_the_place_of_what_is_usual(tmp_path: Path, weights: Path, tiny_lite: LiteSpec) -> None:
    manifest = export_efficientnet_lite(
        tiny_lite,
        weights,
        tmp_path / "m",
        readout=Readout(
            taps={"fine": "block_2_project"},
            count_features=("pooled",),
            cooccurrences=[Cooccurrence("fine", 1)],
            heat=("fine",),
        ),
        preprocessing=Preprocessing(size=(96, 64), mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0)),
    )
    assert manifest.taps["conv_last"].shape[1:] == (3, 2)
    assert manifest.count_features == ("pooled", "fine_cooccurrence_1")
    assert manifest.settings["c2p.heat"] == "fine"
    assert (manifest.input.mean, manifest.input.std) == ((0.0,) * 3, (255.0,) * 3)


@pytest.mark.parametrize(
    ("chosen", "read"),
    [
        (Readout(count_features=("pooled", "project")), ("pooled", "project")),
        (
            Readout(cooccurrences=[Cooccurrence("project", 0)]),
            ("pooled", "project", "middle", "project_cooccurrence_0"),
        ),
    ],
)
def test_what_the_counter_reads_is_chosen_by_itself(
    tmp_path: Path, tiny_lite: LiteSpec, chosen: Readout, read: tuple[str, ...]
) -> None:
    assert export_efficientnet_lite(tiny_lite, "random:0", tmp_path / "m", readout=chosen).count_features == read


def test_it_can_look_twice(tmp_path: Path, weights: Path, tiny_lite: LiteSpec) -> None:
    taps = {"fine": f"larger/block_{tiny_lite.last}_project"}
    manifest = export_efficientnet_lite(
        tiny_lite, weights, tmp_path / "m", readout=Readout(taps=taps, heat=("fine", "project"), two_scales=True)
    )
    assert [4 * side // 2 for side in manifest.taps["project"].shape[1:]] == [*manifest.taps["fine"].shape[1:]]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 65), "takes multiples of 32 pixels, but 65 is not one: choose 64, or 96."),
        ((10, 64), "but 10 is not one: choose 32, or 64."),
        ((0, 64), "but 0 is not one"),
    ],
)
def test_sides_that_do_not_halve_evenly_are_refused(
    tmp_path: Path, size: tuple[int, int], expected: str, tiny_lite: LiteSpec
) -> None:
    with pytest.raises(UsageError) as raised:
        export_efficientnet_lite(tiny_lite, "random:0", tmp_path / "m", preprocessing=Preprocessing(size=size))
    assert expected in str(raised.value)
    assert not (tmp_path / "m").exists()


def test_an_unknown_architecture_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"choose one of {', '.join(LITE_ARCHITECTURES)}"):
        export_efficientnet_lite("efficientnet_lite9", "random:0", tmp_path / "m")


def test_nothing_is_written_over(tmp_path: Path, tiny_lite: LiteSpec) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/photo.jpg").touch()
    with pytest.raises(UsageError, match="is not empty"):
        export_efficientnet_lite(tiny_lite, "random:0", tmp_path / "m")
