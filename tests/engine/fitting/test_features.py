from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pc_engine.errors import DataError, ModelError
from pc_engine.fitting.features import FeatureCollector, map_widths
from pc_engine.manifest import Manifest, Tap


def test_batches_become_the_rows_of_one_matrix_per_tap() -> None:
    rng = np.random.default_rng(0)
    pool, fc = rng.random((5, 2, 3, 3)).astype(np.float16), rng.random((5, 4)).astype(np.float32)
    collector = FeatureCollector(("pool5", "fc6"), capacity=8)
    for batch in (slice(0, 3), slice(3, 5)):
        buffer = pool[batch].copy()
        collector.add({"pool5": buffer, "fc6": fc[batch], "logits": fc[batch]})
        buffer[:] = 0  # a backend may reuse its output buffers
    features = collector.features()
    assert len(collector) == 5
    assert list(features) == ["pool5", "fc6"]
    assert features["pool5"].dtype == np.float32
    np.testing.assert_array_equal(features["pool5"], pool.reshape(5, -1))
    np.testing.assert_array_equal(features["fc6"], fc)


def test_what_does_not_fit_is_refused_and_leaves_no_row_behind() -> None:
    collector = FeatureCollector(("pool5", "fc6"), capacity=3)
    collector.add({"pool5": np.ones((2, 4)), "fc6": np.ones((2, 5))})
    with pytest.raises(ModelError, match=r"the counter needs \['fc6'\]"):
        collector.add({"pool5": np.ones((1, 4))})
    with pytest.raises(ModelError, match=r"'fc6' came with shape \(1, 6\), expected \(1, 5\)"):
        collector.add({"pool5": np.ones((1, 4)), "fc6": np.ones((1, 6))})
    with pytest.raises(DataError, match="4 images came where 3 were announced"):
        collector.add({"pool5": np.ones((2, 4)), "fc6": np.ones((2, 5))})
    assert len(collector) == 2
    assert collector.features()["fc6"].shape == (2, 5)


@pytest.mark.parametrize(
    ("shape", "size", "width"),
    [
        ((320, 7, 7), (224, 224), 7),
        ((96, 14, 14), (224, 224), 14),
        ((8, 10, 15), (320, 480), 15),
        ((8, 10, 14), (300, 450), 14),  # the last column has no pixels of its own
        ((1280, 1, 1), (224, 224), 1),
        ((7, 7, 320), (224, 224), None),
        ((2048,), (224, 224), None),
        ((4, 512), (224, 224), None),
    ],
)
def test_maps_are_told_by_their_shape(
    tiny_manifest: Manifest, shape: tuple[int, ...], size: tuple[int, int], width: int | None
) -> None:
    height, across = size
    manifest = replace(
        tiny_manifest,
        input=replace(tiny_manifest.input, height=height, width=across),
        taps={**tiny_manifest.taps, "tap": Tap("tap", shape), "other": Tap("other", (3, 7, 7))},
        count_features=("tap",),
    )
    assert map_widths(manifest) == ({} if width is None else {"tap": width})
