"""Batches smaller than the network takes."""

from __future__ import annotations

import numpy as np

from pc_engine.backbone import check_batch


def pad_batch(images: np.ndarray, batch_size: int) -> np.ndarray:
    """Return ``images`` (n, H, W, 3) with black images appended up to ``batch_size``, itself if there is none to add.

    Raises
    ------
    UsageError
        As `pc_engine.backbone.check_batch` does.
    """
    check_batch(len(images), batch_size)
    missing = batch_size - len(images)
    if missing == 0:
        return images
    return np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
