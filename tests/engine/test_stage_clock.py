from __future__ import annotations

import threading
import time

import pytest

from pc_engine.errors import ImageError
from pc_engine.stage_clock import StageClock


def test_stages_that_overlap_each_count_in_full() -> None:
    clock = StageClock()

    def work() -> None:
        for _ in range(200):
            with clock.measure("decode"):
                time.sleep(1e-4)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.seconds["decode"] >= 8 * 200 * 1e-4


def test_a_stage_that_fails_is_measured_as_well() -> None:
    clock = StageClock()

    def fail() -> None:
        with clock.measure("decode"):
            time.sleep(0.002)
            raise ImageError("broken")

    with pytest.raises(ImageError):
        fail()
    assert clock.seconds["decode"] >= 0.002
