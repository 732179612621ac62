import numpy as np
import pytest


@pytest.fixture(scope="session")
def bumps():
    """Heatmaps (N, size, size) of smooth bumps, the first ``counts[n]`` of them well apart or not, and their noise."""

    def make(counts, size=14, seed=0):
        rng = np.random.default_rng(seed)
        rows, columns = np.mgrid[:size, :size]
        heat = np.zeros((len(counts), size, size))
        for image, count in enumerate(counts):
            for _ in range(max(1, count)):
                y, x = rng.uniform(1, size - 2, 2)
                width = rng.uniform(0.8, 2.2)
                heat[image] += rng.uniform(0.5, 1) * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2))
        noisy = heat + 0.02 * rng.standard_normal(heat.shape)
        return np.maximum(noisy - noisy.mean(axis=(1, 2), keepdims=True), 0)

    return make
