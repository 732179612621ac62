from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pc_engine.datasets import LabelledImage
from pc_engine.fitting import from_images
from pc_engine.fitting.class_heat import ClassHeat, heat_source
from pc_engine.fitting.from_images import (
    CountFeatures,
    Unreadable,
    counter_from_images,
    signature_taps,
    signatures_from_images,
)
from pc_engine.model import load_model
from pc_engine.modes.p2c_manifest import p2c_taps
from pc_engine.modes.p2c_settings import P2CSettings
from pc_engine.networks import open_network
from pc_engine.selection.execution import Execution


@pytest.mark.parametrize("with_heat", [True, False])
def test_images_left_out_take_all_that_was_seen_of_them_along(with_heat: bool) -> None:
    rows, maps = np.arange(12, dtype=np.float32).reshape(4, 3), np.arange(16, dtype=np.float32).reshape(4, 2, 2)
    heat = ClassHeat(maps, P2CSettings(), "evidence") if with_heat else None
    broken, alone = Unreadable("b.jpg", "is no picture"), Unreadable("d.jpg", "is the only one")
    seen = CountFeatures({"fc7": rows, "gap": -rows}, heat, [0, 2, 3, 4], (broken,), [10, 12, 13, 14])
    left = seen.of([0, 1, 3], (alone,))
    np.testing.assert_array_equal(left.features["fc7"], rows[[0, 1, 3]])
    np.testing.assert_array_equal(left.features["gap"], -rows[[0, 1, 3]])
    assert (left.taken, left.digests, left.unreadable) == ([0, 2, 4], [10, 12, 14], (broken, alone))
    if heat is None:
        assert left.heat is None
    else:
        assert left.heat is not None
        np.testing.assert_array_equal(left.heat.maps, maps[[0, 1, 3]])
        assert (left.heat.settings, left.heat.signatures) == (heat.settings, "evidence")


def test_a_batch_of_which_no_image_can_be_read_costs_no_others(
    tiny_directory: Path, tmp_path: Path, draw_scene: Any
) -> None:
    paths = [tmp_path / name for name in ("0.png", "1.png", "broken.png")]
    for path in paths:
        draw_scene([(1, 1)]).save(path)
    paths[2].write_bytes(b"no picture")
    model = load_model(tiny_directory)
    taps = (*signature_taps(model.manifest), "logits")
    network = open_network(model, taps, Execution(batch_size=1, backend="onnxruntime", precision="fp32"))
    signatures, unreadable = signatures_from_images([LabelledImage(path) for path in paths], None, network, workers=1)
    network.close()
    assert [Path(each.name).name for each in unreadable] == ["broken.png"]
    assert signatures.images is not None
    assert signatures.images.n == 2


def scenes_of_one_and_two(folder: Path, draw_scene: Any) -> list[LabelledImage]:
    """Sixteen files ``00.png`` to ``15.png``, no two alike, that show one object and two by turns."""
    images = []
    for k in range(16):
        count = 1 + k % 2
        draw_scene([(1, 1), (6, 6)][:count], colour=(255, 255, 255 - k)).save(folder / f"{k:02}.png")
        images.append(LabelledImage(folder / f"{k:02}.png", count=count))
    return images


def test_the_seed_decides_which_images_a_fold_holds_out(
    tiny_directory: Path, tmp_path: Path, draw_scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = scenes_of_one_and_two(tmp_path, draw_scene)
    held_out: list[list[list[int]]] = []

    def kept(*args: Any, **options: Any) -> Any:
        fitted = fit(*args, **options)
        held_out.append([places.tolist() for _, places in fitted.splits])
        return fitted

    fit = from_images.fit_svms
    monkeypatch.setattr(from_images, "fit_svms", kept)
    model = load_model(tiny_directory)
    taps = model.manifest.count_features
    network = open_network(model, taps, Execution(batch_size=8, backend="onnxruntime", precision="fp32"))
    for seed in (0, 0, 1):
        counter_from_images(images, network, workers=1, labels=("1", "2"), folds=2, seed=seed)
    network.close()
    assert held_out[0] == held_out[1] != held_out[2]


@pytest.mark.parametrize("tap", ["gap", "conv_last"])
def test_what_overflows_costs_its_own_image_at_most(
    tiny_directory: Path, tmp_path: Path, draw_scene: Any, tap: str
) -> None:
    images = scenes_of_one_and_two(tmp_path, draw_scene)
    model = load_model(tiny_directory)
    taps = tuple(dict.fromkeys((*model.manifest.count_features, *p2c_taps(model.manifest), "conv_last")))
    network = open_network(model, taps, Execution(batch_size=16, backend="onnxruntime", precision="fp32"))
    infer = network.infer

    def overflow(pixels: np.ndarray, into: object) -> Any:
        found = infer(pixels)
        found[tap][1] = 3e38
        return found

    network.infer = overflow  # type: ignore[method-assign]
    heat = heat_source(model.manifest, model.parts.signatures)
    _, report, unreadable = counter_from_images(images, network, workers=1, labels=("1", "2"), folds=2, heat=heat)
    network.close()
    if tap == "gap":
        assert unreadable == (Unreadable(str(tmp_path / "01.png"), "The network's features of it are too large."),)
        assert report.n == 15
    else:  # p2c sees nothing there, and the counter reads another tap
        assert (unreadable, report.n) == ((), 16)
