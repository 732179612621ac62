from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path

import filelock
import pytest

from pc_engine.errors import PcEngineError
from pc_engine.export.model_lock import making
from pc_engine.files.locks import file_lock
from pc_engine.runs.corrections import Correction, append_correction


@pytest.fixture
def without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("without_flock")
def test_a_program_on_a_disk_without_flock_sees_no_warning(tmp_path: Path) -> None:
    append_correction(tmp_path, Correction("a.jpg", 0, (), "2026-01-01T00:00:00+00:00"))  # warnings are errors here
    before = len(warnings.filters)
    with file_lock(tmp_path / "lock", 0.1), pytest.raises(filelock.Timeout):
        file_lock(tmp_path / "lock", 0.1).acquire()
    assert len(warnings.filters) == before


@pytest.mark.usefixtures("without_flock")
def test_a_model_is_made_on_a_disk_without_flock_without_a_warning(tmp_path: Path) -> None:
    with making("small", tmp_path / "models", print) as downloads:  # warnings are errors here
        assert downloads is not None


# Takes the lock in a process of its own, with flock as where there is none, and holds it until it is told to go on.
_HOLDER = """
import errno, fcntl, pathlib, sys
def refuse(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")
fcntl.flock = refuse
from pc_engine.files.locks import file_lock
with file_lock(pathlib.Path(sys.argv[1]), 0.1):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.usefixtures("without_flock")
def test_a_lock_on_a_disk_without_flock_is_for_one_process_at_a_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(filelock.Timeout):
            file_lock(tmp_path / "lock", 0.1).acquire()
        holder.communicate("\n")
    assert holder.returncode == 0
    with file_lock(tmp_path / "lock", 0.1):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_disk_that_takes_no_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="its disk takes no locks") as caught:
        file_lock(tmp_path / "lock", 0.1).acquire()
    assert caught.value.errno == number
    with pytest.raises(PcEngineError) as told:
        append_correction(tmp_path, Correction("a.jpg", 0, (), "2026-01-01T00:00:00+00:00"))
    assert str(told.value) == (
        f"{tmp_path / 'corrections.jsonl'} cannot be written, as its disk takes no locks: review a copy of {tmp_path} "
        "on another disk, or have the lock service of its server started."
    )


def test_a_lock_is_for_one_at_a_time(tmp_path: Path) -> None:
    with file_lock(tmp_path / "lock", 0.1), pytest.raises(filelock.Timeout):
        file_lock(tmp_path / "lock", 0.1).acquire()
    with file_lock(tmp_path / "lock", 0.1):
        pass
