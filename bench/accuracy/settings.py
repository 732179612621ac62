"""What to evaluate, and how to run it."""

from __future__ import annotations

from dataclasses import dataclass

from pc_engine.errors import UsageError
from pc_engine.fitted.counter import labels_up_to
from pc_engine.fitting.aim import Aim
from pc_engine.selection.execution import DEFAULT_EXECUTION, Execution


@dataclass(frozen=True)
class EvaluationSettings:
    """What to evaluate, and how to run it; see `Engine` for what is not explained here.

    Attributes
    ----------
    modes
        Names of modes; ``"all"`` for those that the model can run.
    execution
        How its network is run.
    folds
        Number of folds to fit the counter in on the very images, each image being judged by one fitted without it; None
        to take the model's own counter. Images of one group (`LabelledImage.group`) are in one fold.
    unseen_classes
        Let the images of a class be in one fold instead: each is judged by a counter that saw none of its class.
    aim
        Which accuracy the counters of folds are fitted for.
    seed
        Of the folds and of the intervals.
    max_count
        The last count label to judge by, and to fit counters of folds with, is this number and a plus; None for that of
        the model's own counter, or 4 (see `pc_engine.bench.accuracy.truth.judged_labels`).
    """

    model: str | None = None
    modes: tuple[str, ...] = ("c2p",)
    execution: Execution = DEFAULT_EXECUTION
    workers: int | None = None
    cluster: str | None = None
    pointer: str | None = None
    folds: int | None = None
    unseen_classes: bool = False
    aim: Aim = Aim.MEAN
    seed: int = 0
    max_count: int | None = None

    def __post_init__(self) -> None:
        if self.unseen_classes and self.folds is None:
            raise UsageError("Classes can be kept from a counter that is fitted in folds: add --folds 5.")
        if self.aim is not Aim.MEAN and self.folds is None:
            raise UsageError("An aim is for a counter that is fitted in folds: add --folds 5.")
        if self.max_count is not None:
            labels_up_to(self.max_count)
