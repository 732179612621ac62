"""How a network is to be run: what is asked for, by name or left to choose."""

from __future__ import annotations

from dataclasses import dataclass

from pc_engine.arguments import maybe_whole_number, text
from pc_engine.backbone import LARGEST_BATCH, PRECISIONS
from pc_engine.backends import BACKENDS
from pc_engine.errors import UsageError

#: Stands for a backend, precision or device that is left to choose.
AUTO = "auto"


def check_backend(backend: str) -> None:
    """Raise UsageError unless it is the name of a backend, or ``"auto"``."""
    if backend != AUTO and backend not in BACKENDS:
        raise UsageError(f"There is no backend '{backend}': choose one of auto, {', '.join(BACKENDS)}.")


def check_precision(precision: str) -> None:
    """Raise UsageError unless it is the name of a precision, or ``"auto"``."""
    if precision not in (AUTO, *PRECISIONS):
        raise UsageError(f"There is no precision '{precision}': choose one of auto, {', '.join(PRECISIONS)}.")


@dataclass(frozen=True)
class Execution:
    """How a network is to be run. What each means, and may be, see `pc_engine.Engine`.

    Whether there is a device of that name, `pc_engine.selection.device_choice.choose_device` says.

    Raises
    ------
    UsageError
        If there is no such backend or precision, or a batch is of no possible size.
    """

    backend: str = AUTO
    precision: str = AUTO
    device: str = AUTO
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("backend", "precision", "device"):
            text(name, getattr(self, name), AUTO)
        check_backend(self.backend)
        check_precision(self.precision)
        # As Python's own number, whatever library it comes from.
        object.__setattr__(self, "batch_size", maybe_whole_number("batch_size", self.batch_size, LARGEST_BATCH))


DEFAULT_EXECUTION = Execution()
