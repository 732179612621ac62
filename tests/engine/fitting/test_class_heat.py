from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pc_engine.datasets import LabelledImage
from pc_engine.engine import Engine
from pc_engine.fitted.cluster_likelihood import PEAK_LIMITS, PeakSettings
from pc_engine.fitted.signatures import SignatureDictionary
from pc_engine.fitting.class_heat import heat_source
from pc_engine.fitting.cluster_likelihood import count_clusters
from pc_engine.fitting.counter import CountedImages
from pc_engine.fitting.from_images import counter_from_images, features_from_images
from pc_engine.model import load_model
from pc_engine.modes.p2c_manifest import heat_name, p2c_taps
from pc_engine.networks import open_network
from pc_engine.selection.execution import Execution

FAST: dict[str, Any] = {"backend": "onnxruntime", "precision": "fp32"}


@pytest.fixture
def photos(tmp_path: Path, draw_scene: Any) -> list[Path]:
    """One that is none, and 0 to 4 blobs."""
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for count in range(5):
        draw_scene([(1, 1), (6, 1), (1, 6), (6, 6)][:count]).save(tmp_path / f"{count}.png")
    return [tmp_path / "broken.png", *(tmp_path / f"{count}.png" for count in range(5))]


@pytest.mark.parametrize("weighed_with", ["", "conv_prev"])
def test_what_p2c_counts_is_what_the_heat_clusters_to(
    weighed_with: str, tiny_directory: Path, photos: list[Path]
) -> None:
    model = load_model(tiny_directory)
    settings = {**model.manifest.settings, "p2c.heat": weighed_with}
    model = replace(model, manifest=replace(model.manifest, settings=settings))
    taps = (*model.manifest.count_features, *p2c_taps(model.manifest))
    with Engine(model, mode="p2c", **FAST) as engine:
        expected = [result.count for result in engine.run(photos) if result.count is not None]
        clustering = engine.settings.p2c
    source = heat_source(model.manifest, model.parts.signatures)
    images = [LabelledImage(path, count=1) for path in photos]
    network = open_network(model, tuple(dict.fromkeys(taps)), Execution(**FAST, batch_size=2))
    seen = features_from_images(images, network, workers=1, heat=source)
    network.close()
    assert len(seen.taken) + len(seen.unreadable) == len(photos)
    assert seen.unreadable
    assert seen.heat is not None
    dictionary = model.manifest.files["signatures.safetensors"]
    words = (
        dictionary,
        *weighed_with.split(),
        "top_last=2",
        "top_prev=2",
        *(["softness=0.05"] if weighed_with else []),
    )
    assert seen.heat.signatures == heat_name(model.manifest, clustering) == " ".join(words)
    peaks = PeakSettings(**{name: getattr(clustering, name) for name in PEAK_LIMITS})
    assert count_clusters(seen.heat, peaks).tolist() == expected
    assert len(set(expected)) > 1
    np.testing.assert_array_equal(seen.heat.of(np.array([1])).maps, seen.heat.maps[1:2])


def test_nothing_has_no_heat_and_what_overflows_has_none(tiny_manifest: Any) -> None:
    signatures = SignatureDictionary({"conv_last": np.zeros((3, 1), np.int32)}, np.ones(3, bool))
    manifest = replace(
        tiny_manifest,
        settings={"p2c.background_class": 2, "p2c.top_last": 1},
        files={"signatures.safetensors": "0" * 64},
    )
    maps = np.zeros((3, 5, 8, 8), np.float32)
    maps[:, 0, 2, 3] = [1, 1, np.inf]
    taps = {"conv_last": maps, "logits": np.float32([[1, 0, 0], [0, 0, 1], [1, 0, 0]])}
    with np.errstate(invalid="ignore"):
        found = heat_source(manifest, signatures).maps(taps)
    assert found.dtype == np.float32
    assert found[0, 2, 3] > 0
    assert not found[1:].any()


def test_groups_of_the_images_reach_the_folds(
    tiny_directory: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_directory)
    images = []
    for n, path in enumerate(photos[1:] * 4):
        # What follows the end of a PNG makes another file: groups that share one would be one.
        file = tmp_path / f"file {n}.png"
        file.write_bytes(path.read_bytes() + bytes([n]))
        images.append(LabelledImage(file, count=n % 2, group=n // 2))
    asked: list[Any] = []

    def spy(given: CountedImages, **options: Any) -> None:
        asked.append(given.groups)

    monkeypatch.setattr("pc_engine.fitting.from_images.fit_svms", spy)
    monkeypatch.setattr("pc_engine.fitting.from_images.fit_counter", lambda *_, **options: (model.parts.counter, None))
    network = open_network(model, model.manifest.count_features, Execution(**FAST))
    counter_from_images(images, network, workers=1, labels=("0", "1"))
    network.close()
    (found,) = asked
    assert len({*found}) == len({*zip(found, (image.group for image in images), strict=True)}) == 10
