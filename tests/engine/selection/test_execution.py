from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from pc_engine import Engine
from pc_engine.backbone import LARGEST_BATCH
from pc_engine.errors import UsageError
from pc_engine.selection.execution import AUTO, DEFAULT_EXECUTION, Execution


def test_all_is_left_to_choose_where_nothing_is_asked_for() -> None:
    assert vars(DEFAULT_EXECUTION) == {"backend": AUTO, "precision": AUTO, "device": AUTO, "batch_size": None}


def test_an_engine_takes_each_under_the_same_name_with_the_same_default() -> None:
    of_engine = inspect.signature(Engine).parameters
    assert all(of_engine[field.name].default == field.default for field in fields(Execution))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"backend": "tensorflow"}, "no backend 'tensorflow': choose one of auto, .*onnxruntime"),
        ({"precision": "fp64"}, "no precision 'fp64': choose one of auto, fp32"),
        ({"backend": None}, "backend is None, expected text such as 'auto'"),
        ({"precision": 16}, "precision is 16, expected text such as 'auto'"),
        ({"device": 0}, "device is 0, expected text such as 'auto'"),
        ({"batch_size": 0}, "batch_size is 0, expected a number of at least 1"),
        ({"batch_size": True}, "batch_size is True, expected a whole number"),
        ({"batch_size": LARGEST_BATCH + 1}, "expected a number of at most"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_asked_for(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Execution(**asked)


def test_a_batch_size_of_any_library_is_a_number_of_python() -> None:
    assert type(Execution(batch_size=np.int64(8)).batch_size) is int
