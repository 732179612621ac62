"""The host in the place of a GPU, for what is measured on one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pc_engine.bench.environment import seconds_of


class HostMeter:
    """Arrays stay where they are, and the wall clock is read."""

    name = "cpu"

    def __init__(self) -> None:
        self.waits = 0

    def place(self, array: np.ndarray) -> np.ndarray:
        return np.array(array)

    def seconds(self, work: Callable[[], object], *, least: float = 0.2, queued: bool = False) -> float:
        return max(seconds_of(work), 1e-9)

    def synchronise(self) -> None:
        self.waits += 1


@pytest.fixture
def host_meter() -> HostMeter:
    return HostMeter()
