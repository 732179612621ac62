"""What a counter is fitted for: that labels are told alike well, or that most images are right."""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from pc_engine.errors import UsageError
from pc_engine.fitting.recall import LEAST_IMAGES, overall_gain, recall_gain

#: By how many standard errors one way to fit has to be better than the usual one to be taken in its place.
SURE_ERRORS = 2.0


class Aim(StrEnum):
    """By which accuracy counters are fitted and compared.

    Where one label has nearly all images the two differ widely: a counter that always gives it is right most of the
    time, and tells nothing.
    """

    #: The mean over the labels, as in the paper's Table 1: an image weighs as much as its label is rare.
    MEAN = "mean"
    #: The share of images that are right: all weigh alike, and what is rare is seldom said.
    OVERALL = "overall"

    @classmethod
    def named(cls, name: str) -> Aim:
        """Return the aim of this name; UsageError if there is none."""
        if name not in list(cls):
            raise UsageError(f"There is no aim '{name}': choose one of {', '.join(cls)}.")
        return cls(name)

    @property
    def other(self) -> Aim:
        """The other one."""
        return Aim.OVERALL if self is Aim.MEAN else Aim.MEAN

    def weights(self, truth: np.ndarray) -> np.ndarray:
        """Return how much each image weighs in a fit, (n,) float64 of mean 1, by the indices of their labels (n,)."""
        if self is Aim.OVERALL:
            return np.ones(len(truth))
        # All labels count the same, but those of few images, which would be seen everywhere.
        rare = 1 / np.maximum(np.bincount(truth)[truth], LEAST_IMAGES)
        weights: np.ndarray = rare / rare.mean()
        return weights

    def gain(self, truth: np.ndarray, predicted: np.ndarray, other: np.ndarray) -> tuple[float, float]:
        """Return by how much ``predicted`` is better than ``other``, and its standard error; see `recall_gain`."""
        return (overall_gain if self is Aim.OVERALL else recall_gain)(truth, predicted, other)
