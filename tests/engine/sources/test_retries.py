from __future__ import annotations

import errno
import os
import socket
import ssl
import zipfile
import zlib
from pathlib import Path

import pytest
from fsspec.exceptions import FSTimeoutError

from pc_engine.errors import ImageError
from pc_engine.sources import iter_images, retries
from pc_engine.sources.retries import retried


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited for, which go by at once."""
    found: list[float] = []
    monkeypatch.setattr(retries.time, "sleep", found.append)
    return found


class PayloadError(Exception):
    """Such as aiohttp raises where a connection is broken off."""

    __module__ = "aiohttp.client_exceptions"


def of_the_system(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def of_windows(kind: type[OSError], number: int) -> OSError:
    error = kind(errno.EINVAL, "as Windows says it")
    error.winerror = number  # type: ignore[attr-defined]
    return error


def with_status(status: int) -> Exception:
    error = RuntimeError("from a server")
    error.status = status  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    "error",
    [
        *map(of_the_system, (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ECONNRESET, errno.ENETUNREACH)),
        *map(of_the_system, (errno.EBUSY, errno.EREMOTEIO)),  # S3's SlowDown and InternalError
        *(of_windows(PermissionError, 32), of_windows(FileNotFoundError, 53), of_windows(OSError, 59)),
        *map(with_status, (408, 429, 500, 503)),
        *(TimeoutError(), ConnectionResetError(), OSError("the server hung up"), FSTimeoutError()),
        *(socket.gaierror(-3, "no name now"), ssl.SSLEOFError(8, "broken off"), PayloadError("broken off")),
    ],
    ids=repr,
)
def test_what_may_pass_is_tried_again_after_growing_pauses(error: Exception, pauses: list[float]) -> None:
    left = [error, error]

    def work() -> str:
        if left:
            raise left.pop()
        return "done"

    assert retried(work) == "done"
    assert pauses == [0.5, 1.0]
    left += [error, error]
    with pytest.raises(type(error)):
        retried(work, 2)


@pytest.mark.parametrize(
    "error",
    [
        *map(of_the_system, (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOSPC)),
        *(of_windows(PermissionError, 5), of_windows(FileNotFoundError, 2)),
        *map(with_status, (400, 403, 404)),
        *(FileNotFoundError("a.jpg"), ImportError("s3fs"), ImageError("It is too large.")),
        *(zipfile.BadZipFile("Bad CRC-32"), RuntimeError("encrypted"), NotImplementedError("compression")),
        *(MemoryError(), zlib.error("invalid"), EOFError(), KeyError("a.jpg"), ValueError("no address")),
    ],
    ids=repr,
)
def test_what_stays_as_it_is_is_said_at_once(error: Exception, pauses: list[float]) -> None:
    def work() -> None:
        raise error

    with pytest.raises(type(error)):
        retried(work)
    assert pauses == []


def test_a_damaged_member_of_an_archive_is_waited_for_by_nobody(tmp_path: Path, pauses: list[float]) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jpg", b"the bytes")
    data = (tmp_path / "a.zip").read_bytes().replace(b"the bytes", b"other now", 1)
    (tmp_path / "a.zip").write_bytes(data)
    (image,) = iter_images([f"zip://::{tmp_path}/a.zip"])
    with pytest.raises(ImageError, match="Bad CRC-32"):
        image.read()
    assert pauses == []
