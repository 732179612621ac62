"""Addresses of files elsewhere or in archives: whatever ``fsspec`` knows (``s3://``, ``https://``, ``zip://``, ...).

An object is named by its whole address, so that it can be found again by that alone. An address that is signed, or has
a password in it, therefore keeps it in its rows: credentials belong into the configuration of ``fsspec`` or of the
cloud's own tools instead.
"""

from __future__ import annotations

import glob
import io
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from pc_engine.errors import TOO_LARGE_FOR_MEMORY, ImageError, PcEngineError, UsageError
from pc_engine.files.file_address import path_of_address
from pc_engine.packages import missing
from pc_engine.sources.failures import reason_of
from pc_engine.sources.folders import DEEPEST, has_image_suffix, holds_copies, lies_beside_its_picture
from pc_engine.sources.image import SourceImage, broken_image, check_size
from pc_engine.sources.retries import retried

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  #: How addresses begin: one letter is a drive of Windows.
#: How addresses of the web begin.
HTTP = ("http://", "https://")
# Packages that the extra "remote" brings, by scheme.
_PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}

_CHUNK = 1 << 20
# Chunks of the web come in any size; others are asked for in theirs.
_BUFFER = 1 << 20
_COLONS = "Its name has '::' in it, which in an address marks an archive: rename it, or copy it here."

#: Lists what lies at an address; called with what is told of each file that is passed over.
Images = Callable[[Callable[[str], None]], Iterator[SourceImage]]


def is_address(text: str) -> bool:
    """Whether ``text`` has the form of an address, alone or chained as in ``zip://a.jpg::photos.zip``."""
    return any(SCHEME.match(part) for part in text.split("::"))


def local_path(address: str) -> str | None:
    """Return the path that a ``file://`` address stands for; None for any other text.

    Local files are read without fsspec, which would follow links that lead in circles.
    """
    scheme = SCHEME.match(address)
    if scheme is None or scheme[1].lower() not in ("file", "local") or "::" in address:
        return None
    return path_of_address(address[scheme.end() :])


def file_part(name: str) -> str:
    """Return the part of a path or an address that names the file itself, and whose suffix tells its kind."""
    if not is_address(name):
        return name
    first = name.split("::")[0]
    return re.split("[?#]", first)[0] if first.startswith(HTTP) else first


def chain_splits(name: str) -> Iterator[tuple[str, str]]:
    """Yield what may be a member and its archive in a chain such as ``zip://MEMBER::ARCHIVE``, likely ones first.

    A member's name may have "::" in it, or end with ":".
    """
    at = name.find("::")
    while at >= 0:
        yield name[:at], name[at + 2 :]
        at = name.find("::", at + 1)


def find_address(address: str, *, may_match: bool = True) -> Images:
    """Look up what lies at an address: a file, a folder, or if it may what a pattern matches; return what lists it.

    Of folders, which are walked in the order of names, those files take part whose names are an image's.

    Raises
    ------
    UsageError
        If nothing lies there, or it cannot be reached.
    MissingPackageError
        If reading such addresses takes a package that is not installed.
    """
    try:
        place = _locate(address)
        if place.is_http and place.path.endswith("/"):
            return partial(_walk, place)
        found = retried(lambda: _info(place, may_match))
        if found is not None:
            return partial(_walk, place) if _is_folder(found) else partial(_single, place, found)
        matches = retried(lambda: place.filesystem.glob(place.path, detail=True))
    except PcEngineError:
        raise
    except Exception as error:  # whatever the file system's package raises
        why = reason_of(error.__cause__ or error)
        raise UsageError(f"'{address}' cannot be found or reached ({why}): check it, and your credentials.") from None
    if not matches:
        raise UsageError(f"The pattern matches nothing: '{address}'.")
    return partial(_matched, place, matches)


def read_address(address: str) -> bytes:
    """Return the bytes of an object, trying again a little later where the network fails.

    Raises
    ------
    ImageError
        If it cannot be read or is too large.
    """
    return reading(lambda: _fetch(_locate(address), None))


def open_address(address: str, *, seekable: bool = False) -> BinaryIO:
    """Open an object to be read from its beginning to its end, or with ``seekable`` any part of it; it is buffered.

    Raises
    ------
    Exception
        Whatever the file system's package raises.
    """

    def opened() -> BinaryIO:
        place = _locate(address)
        return cast(BinaryIO, _Stream(_open(place, seekable), place))

    return retried(opened)


def reading(fetch: Callable[[], bytes]) -> bytes:
    """Return what ``fetch`` gets of an address, trying again a little later; raise ImageError where it cannot."""
    try:
        return retried(fetch)
    except ImageError:
        raise
    except PcEngineError as error:
        raise ImageError(str(error)) from None
    except FileNotFoundError:
        raise ImageError("There is nothing at this address.") from None
    except IsADirectoryError:
        raise ImageError("It is a folder: end its address with '/' in the list, or name it by itself.") from None
    except MemoryError:
        raise ImageError(TOO_LARGE_FOR_MEMORY) from None
    except Exception as error:  # whatever the file system's package raises
        raise ImageError(f"It cannot be fetched: {reason_of(error)}.") from None


@dataclass(frozen=True)
class _Place:
    """A path within a file system, and what an address has before and behind the paths of that file system."""

    filesystem: AbstractFileSystem
    path: str
    before: str
    after: str

    @property
    def is_http(self) -> bool:
        return self.path.startswith(HTTP)

    @property
    def can_be_named(self) -> bool:
        """Whether its name leads to it: in a chain of addresses that of an archive follows behind "::"."""
        return "::" not in self.path or self.filesystem.protocol == "zip"

    @property
    def name(self) -> str:
        return self.path if SCHEME.match(self.path) else f"{self.before}{self.path}{self.after}"

    def image(self, size: int | None) -> SourceImage:
        # Several threads may use these file systems at once. Of the others fsspec gives each thread its own.
        if self.filesystem.async_impl or self.filesystem.protocol == "zip":
            return SourceImage(self.name, partial(_read_place, self, size))
        return SourceImage(self.name, partial(read_address, self.name))


class _Stream(io.BufferedReader):
    """A stream that is buffered, with its place: a ZIP archive is closed under it when nothing holds its file system.

    Not all streams take attributes, which is why it is not held by the one that is read from.
    """

    def __init__(self, stream: BinaryIO, place: _Place) -> None:
        super().__init__(cast(io.RawIOBase, stream), _BUFFER)
        self._place: _Place | None = place

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._place = None


class OpenArchive:
    """An archive at an address such as ``zip://::photos.zip``, of which one thread reads one member after the other."""

    def __init__(self, address: str) -> None:
        self._place = _locate(address)

    def read(self, member: str) -> bytes:
        """Return the bytes of a member, named as ``zip://a.jpg``; raise whatever the file system's package raises."""
        return _fetch(replace(self._place, path=self._place.filesystem._strip_protocol(member)), None)

    def close(self) -> None:
        """Close the archive."""
        self._place.filesystem.close()


def _locate(address: str) -> _Place:
    from fsspec.core import url_to_fs

    parts = address.split("::")
    for part in parts:
        if scheme := SCHEME.match(part):
            _require(scheme[1])
    filesystem, path = url_to_fs(address)
    # In "simplecache::s3://bucket/a.jpg" the path is that of the first part that has one.
    own = next((i for i, part in enumerate(parts) if SCHEME.match(part)), 0)
    head = parts[own].rstrip("/") if path else parts[own]
    # fsspec's paths lack the scheme, and with some file systems the host.
    before = head.removesuffix(path) if head.endswith(path) else f"{head.split('://')[0]}://"
    return _Place(
        filesystem,
        path,
        "::".join([*parts[:own], before]),
        "".join(f"::{part}" for part in parts[own + 1 :]),
    )


def _require(scheme: str) -> None:
    from fsspec.registry import get_filesystem_class

    try:
        get_filesystem_class(scheme)
    except ValueError:
        raise UsageError(f"There is no kind of address '{scheme}://': fsspec knows none by that name.") from None
    except ImportError as error:
        if scheme in _PACKAGES:
            raise missing(_PACKAGES[scheme], f"read {scheme}:// addresses") from None
        raise UsageError(f"Addresses with {scheme}:// cannot be read yet: {reason_of(error)}.") from None


def _info(place: _Place, may_match: bool) -> Mapping[str, Any] | None:
    """Return what is known of the place, or None if nothing is there but the path is a pattern, and may be one."""
    # In an address of the web "?" begins a query and "[" is no pattern.
    magic = may_match and ("*" in place.path if place.is_http else glob.has_magic(place.path))
    try:
        found: Mapping[str, Any] = place.filesystem.info(place.path)
    except FileNotFoundError:
        if not place.path.strip("/"):  # of a ZIP archive without members
            return {"type": "directory"}
        if not magic:
            raise
        return None
    return found


def _is_folder(info: Mapping[str, Any]) -> bool:
    return bool(info["type"] == "directory")


def _single(place: _Place, info: Mapping[str, Any], _: Callable[[str], None]) -> Iterator[SourceImage]:
    yield place.image(info.get("size"))


def _matched(
    place: _Place, matches: Mapping[str, Mapping[str, Any]], passed_over: Callable[[str], None]
) -> Iterator[SourceImage]:
    folders: set[PurePosixPath] = set()
    for path in sorted(matches):
        pure = PurePosixPath(path)
        # "**" matches a folder and then all that lies in it, which was walked with the folder already.
        if not folders.isdisjoint(pure.parents):
            continue
        one = replace(place, path=path)
        if _is_folder(matches[path]):
            folders.add(pure)
            yield from _walk(one, passed_over)
        else:
            yield one.image(matches[path].get("size"))
    yield from _of_one_name(place, matches.__contains__)


def _walk(place: _Place, passed_over: Callable[[str], None], depth: int = 0) -> Iterator[SourceImage]:
    if depth > DEEPEST:
        yield broken_image(place.name, f"It lies more than {DEEPEST} folders deep: the listing may lead in circles.")
        return
    try:
        listed = retried(lambda: place.filesystem.ls(place.path, detail=True))
        # What fsspec remembers of a listing takes several times the room of its names.
        entries = sorted(
            (info["name"].rstrip("/"), info["name"], _is_folder(info), info.get("size")) for info in listed
        )
        place.filesystem.invalidate_cache(place.path)
    except Exception as error:
        yield broken_image(place.name, f"The folder cannot be listed: {reason_of(error)}.")
        return
    del listed

    def exists(path: str) -> bool:
        found = bisect_left(entries, path, key=itemgetter(0))
        return found < len(entries) and entries[found][0] == path

    for bare, path, is_folder, size in entries:
        one = replace(place, path=path)
        if bare == place.path.rstrip("/"):  # an object store's mark for the folder itself
            continue
        if is_folder:
            if not holds_copies(PurePosixPath(bare).name, place.path):
                yield from _walk(one, passed_over, depth + 1)
        # A member's name may have "::" in it, as a chain of addresses has; a web page's may have a query.
        elif has_image_suffix(file_part(path) if one.is_http else path) and not lies_beside_its_picture(bare, exists):
            yield one.image(size) if one.can_be_named else broken_image(one.name, _COLONS)
        else:
            passed_over(one.name)
    if depth == 0:
        folder = f"{place.path.strip('/')}/".lstrip("/")
        yield from _of_one_name(place, lambda path: path.startswith(folder) and has_image_suffix(path))


def _of_one_name(place: _Place, takes: Callable[[str], bool]) -> Iterator[SourceImage]:
    """Yield what says that a ZIP archive holds several images of one name, of which the last one is read."""
    archive = getattr(place.filesystem, "zip", None)
    if archive is None or len(archive.filelist) == len(archive.NameToInfo):
        return
    times = Counter(member.filename for member in archive.filelist)
    for path in sorted(path for path, n in times.items() if n > 1 and takes(path)):
        message = (
            f"The archive holds {times[path]:,} files of this name, of which only the last can be read: pack it again."
        )
        yield broken_image(f"{replace(place, path=path).name}#2", message)


def _read_place(place: _Place, size: int | None) -> bytes:
    return reading(lambda: _fetch(place, size))


def _fetch(place: _Place, size: int | None) -> bytes:
    try:
        return _content(place, size)
    except (FileNotFoundError, KeyError) as error:
        # Of a ZIP archive without such a member, before fsspec 2026.9.
        if isinstance(error, KeyError) and place.filesystem.protocol != "zip":
            raise
        # What many file systems say of a folder, too. On the web whatever is there can be fetched.
        if not place.is_http and place.filesystem.isdir(place.path):
            raise IsADirectoryError from None
        raise FileNotFoundError from None


def _content(place: _Place, size: int | None) -> bytes:
    if size is not None and not place.is_http:
        check_size(size)
        content: bytes = place.filesystem.cat_file(place.path)  # one request
        return content
    chunks: list[bytes] = []
    total = 0
    with _open(place, seekable=False) as stream:
        while chunk := stream.read(_CHUNK):
            total += len(chunk)
            check_size(total)
            chunks.append(chunk)
    return b"".join(chunks)


def _open(place: _Place, seekable: bool) -> BinaryIO:
    # A size and no blocks have fsspec get a web page as it comes: it neither asks for the size, which a signed address
    # may not allow, nor for one range after the other.
    options = {"block_size": 0, "size": 1} if place.is_http and not seekable else {}
    stream: BinaryIO = place.filesystem.open(place.path, "rb", **options)
    return stream
