from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from pc_engine.bench.accuracy.mixture_count import SAMPLE_SIZES, MixtureCount, mixture_counts
from pc_engine.kernels import weighted_gmm
from pc_engine.modes.c2p import C2PSettings

SETTINGS = C2PSettings()


def blobs(places: list[tuple[float, float]], side: int = 24, deviation: float = 1.2) -> np.ndarray:
    """Gaussian blobs of equal heat, (side, side); far from all there is none."""
    y, x = np.mgrid[:side, :side]
    heat = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * deviation**2)) for a, b in places)
    return np.where(heat > 1e-3, heat, 0.0)


GRID = [(4.0 + 8 * (i % 3), 4.0 + 8 * (i // 3)) for i in range(9)]


@pytest.mark.parametrize("sample", SAMPLE_SIZES)
def test_the_components_of_clear_mixtures_are_found(sample: Any) -> None:
    heat = np.stack([blobs(GRID[:count]) for count in (2, 4, 5, 7, 9)])
    assert mixture_counts(heat, 4, sample, SETTINGS).tolist() == [4, 4, 5, 7, 9]
    assert mixture_counts(heat, 2, sample, SETTINGS).tolist() == [2, 4, 5, 7, 9]


def test_an_images_count_depends_on_no_other_and_heat_that_is_none_has_the_least() -> None:
    heat = np.stack([blobs(GRID[:6]), np.zeros((24, 24)), np.full((24, 24), np.nan), blobs(GRID[:8])])
    single = np.zeros((24, 24))
    single[3, 3] = single[9, 9] = 1
    heat = np.concatenate([heat, single[None]])
    together = mixture_counts(heat, 4, "cells", SETTINGS).tolist()
    assert together == [6, 4, 4, 8, 4]
    assert together == [int(mixture_counts(each[None], 4, "cells", SETTINGS)[0]) for each in heat]


@pytest.mark.parametrize("sample", SAMPLE_SIZES)
def test_the_criterion_is_that_of_schwarz(sample: Any) -> None:
    rng = np.random.default_rng(3)
    heat = blobs([(x, y) for x, y in rng.uniform(3, 20, (6, 2))], deviation=2.0) * rng.uniform(0.5, 1.5, (24, 24))
    observations = (heat > 0).sum() if sample == "cells" else heat.sum() ** 2 / (heat**2).sum()
    y, x = np.mgrid[:24, :24]
    cells = np.stack([x.ravel(), y.ravel()], axis=1)
    criteria = {}
    for components in range(2, 16):
        mixtures = weighted_gmm(heat[None], np.array([components]), tol=SETTINGS.tol, variance_floor=0.35**2)
        fitted = zip(mixtures.mixing[0], mixtures.means[0], mixtures.variances[0], strict=True)
        density = sum(share * multivariate_normal(mean, np.diag(spread)).pdf(cells) for share, mean, spread in fitted)
        likelihood = np.average(np.log(density), weights=heat.ravel())
        criteria[components] = (5 * components - 1) * np.log(observations) - 2 * observations * likelihood
    found = int(mixture_counts(heat[None], 2, sample, SETTINGS)[0])
    assert criteria[found] == pytest.approx(min(criteria.values()), rel=1e-3)


def test_only_counts_under_the_open_label_are_replaced(tiny_directory: Path, draw_scene: Any, tmp_path: Path) -> None:
    from pc_engine.engine import Engine
    from pc_engine.pipeline import tap_batches
    from pc_engine.sources.image import local_image

    places = [(1, 1), (6, 1), (1, 6), (6, 6), (4, 4)]
    paths = [tmp_path / f"{count}.png" for count in range(6)]
    for count, path in enumerate(paths):
        draw_scene(places[:count]).save(path)
    paths.insert(2, tmp_path / "missing.png")
    for mode in ("c2p", "combined"):
        with Engine(str(tiny_directory), mode=mode, backend="onnxruntime", precision="fp32") as engine:
            for batch in tap_batches([local_image(path) for path in paths], engine.network, 2):
                before = engine.evaluate(batch)
                after = MixtureCount("cells")(engine, batch, before)
                assert [row.path for row in after] == [row.path for row in before]
                for old, new in zip(before, after, strict=True):
                    if old.count_label == "4+":
                        assert new.count is not None
                        assert new.count >= 4
                        assert (new.count_label, new.pointers) == (old.count_label, old.pointers)
                    else:
                        assert new == old
                assert any(row.count_label == "4+" for row in before)
