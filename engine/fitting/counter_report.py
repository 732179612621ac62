"""What cross-validation says about a count SVM, and about what mode combined weighs in beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pc_engine.fitting.aim import Aim


@dataclass(frozen=True)
class CombinedReport:
    """What cross-validation says about the SVM and the clustering together.

    Attributes
    ----------
    weight
        Of the clusters' log-likelihood beside the SVM's scores.
    confusion
        As in `CounterReport`.
    """

    weight: float
    confusion: tuple[tuple[int, ...], ...]

    @property
    def mean_accuracy(self) -> float:
        """Mean of the recall over labels."""
        return float(np.mean(_recalls(self.confusion)))

    @property
    def overall_accuracy(self) -> float:
        """Share of all images with the right label."""
        return _share_right(self.confusion)


@dataclass(frozen=True)
class CounterReport:
    """What cross-validation says about a counter: every image judged by an SVM that did not see it.

    Of coupled scores the coupling saw more: see the notes of `pc_engine.fitting.recoupling.held_out_coupling`.

    Attributes
    ----------
    labels
        The count labels.
    n
        Number of images.
    c
        The chosen C.
    folds
        Number of folds used.
    parted
        Labels whose images are all of one group, such as copies of one photo: they are in several folds all the same,
        and told better than other images would be.
    confusion
        Images by true label (row) and predicted label (column), summed over the folds, at the chosen C.
    grid
        C to (mean, standard deviation) over the folds of the mean recall over labels, before any coupling.
    aim
        Which accuracy it was fitted for.
    other_aim
        Mean and overall accuracy, as of ``confusion``, of a counter that is fitted for the other; None where that was
        not asked for.
    coupled
        Whether the labels' scores are coupled (see `pc_engine.fitting.recoupling`).
    combined
        How mode combined does on the same images; None where it counts as c2p does, but beyond the last label.
    beyond
        Mean absolute error of mode combined's count of the images that get the open-ended label, each held out, and
        what it would be by clusters; None where it is by these.
    """

    labels: tuple[str, ...]
    n: int
    c: float
    folds: int
    confusion: tuple[tuple[int, ...], ...]
    grid: Mapping[float, tuple[float, float]]
    aim: Aim = Aim.MEAN
    other_aim: tuple[float, float] | None = None
    coupled: bool = False
    combined: CombinedReport | None = None
    beyond: tuple[float, float] | None = None
    parted: tuple[str, ...] = ()

    @property
    def images(self) -> dict[str, int]:
        """Number of images by true label."""
        return {label: sum(row) for label, row in zip(self.labels, self.confusion, strict=True)}

    @property
    def recall(self) -> dict[str, float]:
        """Share of a label's images that got this label: the accuracy per label of the paper's Table 1."""
        return dict(zip(self.labels, _recalls(self.confusion), strict=True))

    @property
    def precision(self) -> dict[str, float | None]:
        """Share of the images given a label that are of this label; None where no image was given it."""
        given = [sum(column) for column in zip(*self.confusion, strict=True)]
        return {label: self.confusion[i][i] / given[i] if given[i] else None for i, label in enumerate(self.labels)}

    @property
    def mean_accuracy(self) -> float:
        """Mean of the recall over labels: the last column of the paper's Table 1."""
        return float(np.mean(list(self.recall.values())))

    @property
    def overall_accuracy(self) -> float:
        """Share of all images with the right label."""
        return _share_right(self.confusion)

    @property
    def only_answer(self) -> str | None:
        """The label most often given, where always giving it is as good by all that is sure; None where it is not."""
        confusion = np.array(self.confusion)
        truth, predicted = (np.repeat(index.ravel(), confusion.ravel()) for index in np.indices(confusion.shape))
        usual = int(confusion.sum(axis=0).argmax())
        gain, error = self.aim.gain(truth, predicted, np.full(len(truth), usual))
        return None if gain > error else self.labels[usual]

    @property
    def cv_mean(self) -> float:
        """Mean over the folds of the mean recall over labels, at the chosen C."""
        return self.grid[self.c][0]

    @property
    def cv_std(self) -> float:
        """Standard deviation that belongs to :attr:`cv_mean`."""
        return self.grid[self.c][1]

    def to_dict(self) -> dict[str, object]:
        """Return the report as JSON values; ``count_accuracy`` has the form of ``pc-engine evaluate``."""
        return {
            "n": self.n,
            "images": self.images,
            "c": self.c,
            "folds": self.folds,
            "parted": list(self.parted),
            "count_accuracy": {**self.recall, "mean": self.mean_accuracy, "overall": self.overall_accuracy},
            "precision": self.precision,
            "cv_mean": self.cv_mean,
            "cv_std": self.cv_std,
            "confusion": [list(row) for row in self.confusion],
            "grid": [{"c": c, "mean": mean, "std": std} for c, (mean, std) in self.grid.items()],
            "aim": self.aim,
            "other_aim": self.other_aim and {"mean": self.other_aim[0], "overall": self.other_aim[1]},
            "coupled": self.coupled,
            "combined": None
            if self.combined is None
            else {
                "weight": self.combined.weight,
                "mean": self.combined.mean_accuracy,
                "overall": self.combined.overall_accuracy,
                "confusion": [list(row) for row in self.combined.confusion],
            },
            "beyond": None if self.beyond is None else {"error": self.beyond[0], "error_by_clusters": self.beyond[1]},
        }


def _share_right(confusion: Sequence[Sequence[int]]) -> float:
    """Return the share of the images on the diagonal."""
    return sum(row[i] for i, row in enumerate(confusion)) / sum(map(sum, confusion))


def _recalls(confusion: Sequence[Sequence[int]]) -> list[float]:
    """Return of each true label, a row, the share that was found to be it."""
    return [row[i] / sum(row) for i, row in enumerate(confusion)]
