from __future__ import annotations

import errno
import inspect
import os
import pickle
import re
from pathlib import Path

from pc_engine import errors
from pc_engine.errors import MissingPackageError, PcEngineError, first_line, system_reason


def test_a_message_that_repeats_what_a_file_holds_has_an_end() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, PcEngineError)]
    assert len(kinds) > 10
    for kind in kinds:
        if kind is not MissingPackageError:
            assert str(kind("what was wrong " * 10_000)).startswith("what was wrong")
            assert len(str(kind("what was wrong " * 10_000))) < 3_000
            assert str(kind("short")) == "short"


def test_a_reason_of_the_system_that_is_not_there_is_no_none() -> None:
    """An OSError without a number has no ``strerror``: its text says what is wrong."""
    assert system_reason(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.jpg")) == os.strerror(errno.ENOSPC)
    assert system_reason(OSError("It is gone.")) == system_reason(ValueError("It is gone.")) == "It is gone."
    root = Path(__file__).resolve().parents[2]
    files = [path for part in ("engine", "export", "kernels", "bench") for path in (root / part).rglob("*.py")]
    assert len(files) > 200
    one_by_one = re.compile(r"\{\w+\.strerror\b|\.strerror or ")
    assert [path for path in files if one_by_one.search(path.read_text(encoding="utf-8"))] == []


def test_errors_come_back_from_other_processes() -> None:
    missing = MissingPackageError("h5py", "hdf5", "read SOS")
    for error in (missing, *(kind("It is broken.") for kind in (errors.ImageError, errors.DeviceLostError))):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_of_others_errors_the_first_line_is_said() -> None:
    assert first_line(ValueError("\n wrong shape\nat such a line")) == "wrong shape"
    assert first_line(MemoryError()) == first_line(MemoryError("\n")) == "MemoryError"
