"""The class decision that P2C starts from: the largest logit, or the largest few (paper 3.2)."""

from __future__ import annotations

from pc_engine.kernels import sort_rows
from pc_engine.kernels.array_module import Array, get_array_module


def predict_class(logits: Array, without: int = -1) -> tuple[Array, Array]:
    """Decide the class of each image.

    Parameters
    ----------
    logits
        (N, classes).
    without
        A class that is not to be chosen; -1 to choose among all.

    Returns
    -------
    tuple
        The class (N,) int64 with the largest logit, and its softmax probability (N,) among the classes to choose from.
    """
    xp = get_array_module(logits)
    if without >= 0:
        logits = xp.where(xp.arange(logits.shape[1]) == without, -xp.inf, logits)
    class_id = logits.argmax(axis=1)
    # The largest logit is the softmax's own shift, so its probability is one over the sum of the shifted terms.
    shifted = xp.exp(logits - logits.max(axis=1, keepdims=True))
    return class_id, 1.0 / shifted.sum(axis=1)


def predict_classes(logits: Array, n: int) -> tuple[Array, Array]:
    """Return the ``n`` most probable classes of each image and their softmax probabilities, (N, n) both, best first."""
    xp = get_array_module(logits)
    shifted = xp.exp(logits - logits.max(axis=1, keepdims=True))
    share = shifted / shifted.sum(axis=1, keepdims=True)
    class_ids = xp.broadcast_to(xp.arange(logits.shape[1], dtype=xp.float64), logits.shape)
    ranked = sort_rows(xp.stack([logits, share, class_ids], axis=2), 0, n)  # float64 holds all three exactly
    return ranked[..., 2].astype(xp.int64), ranked[..., 1].astype(share.dtype)
