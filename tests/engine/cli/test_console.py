"""What is shown while a command works."""

from types import SimpleNamespace
from typing import Any

from pc_engine.cli.console import _Rate


def test_the_rate_is_that_of_what_this_run_does() -> None:
    column, now = _Rate(), [0.0]

    def shown(at: float, completed: float) -> str:
        now[0] = at
        task: Any = SimpleNamespace(id=1, get_time=lambda: now[0], completed=completed, fields={"unit": "images"})
        return column.render(task).plain

    assert shown(0.0, 0) == ""
    assert shown(5.0, 0) == ""  # the network is being loaded
    assert shown(5.1, 1000) == ""  # rows that were there, all at once
    assert shown(5.2, 1064) == ""
    assert shown(7.1, 1100) == "50.0 images/s"
    assert shown(9.1, 1200) == "50.0 images/s"
    assert shown(9.2, 0) == ""  # another piece of work
    assert shown(9.3, 10) == ""
    assert shown(11.3, 30) == "10.0 images/s"
