"""Batches smaller than the network takes."""

from __future__ import annotations

import numpy as np

from pc_engine.errors import UsageError


def pad_batch(images: np.ndarray, batch_size: int) -> np.ndarray:
    """Return ``images`` (n, H, W, 3) with black images appended up to ``batch_size``, itself if there is none to add.

    Raises
    ------
    UsageError
        As `check_batch` does.
    """
    check_batch(images, batch_size)
    missing = batch_size - len(images)
    if missing == 0:
        return images
    return np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])


def check_batch(images: np.ndarray, batch_size: int) -> None:
    """Raise `UsageError` unless there are 1 to ``batch_size`` images."""
    if not 1 <= len(images) <= batch_size:
        raise UsageError(f"A batch holds 1 to {batch_size} images, got {len(images)}.")
