"""Shards of a WebDataset: tar archives, read from the beginning to the end; nothing is ever extracted.

A member's name is only ever shown and compared, links are not followed, and all sizes are checked. An image in a plain
tar of this machine is read where it lies when its turn comes; elsewhere its bytes are read with the listing.

Archives may hold several members of one name, as ``tar -r`` appends a newer one. Which is the last is known at the end
only, so all of them are images: the second is ``tar://MEMBER::SHARD#2``. Several archives may follow one another in one
file, as ``cat`` leaves them, and all are read.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
import weakref
from collections.abc import Generator, Iterator
from functools import partial
from operator import methodcaller
from typing import BinaryIO, cast

from pc_engine.errors import TOO_LARGE_FOR_MEMORY, ImageError, system_reason
from pc_engine.sources.addresses import chain_splits, file_part
from pc_engine.sources.failures import reason_of, until_it_fails
from pc_engine.sources.folders import HEAD_BYTES, has_image_suffix, looks_like_image
from pc_engine.sources.image import TRIES, SourceImage, broken_image, check_size
from pc_engine.sources.last_reader import LastReader
from pc_engine.sources.repeats import Repeats
from pc_engine.sources.retries import retried
from pc_engine.sources.shards import CostlyListingError, Listing, is_remote, open_shard

_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_GZIP = b"\x1f\x8b"
_SCHEME = "tar://"
# Behind the archive's name: which of the members of one name it is, from the second on.
_REPEATED = re.compile(r"(.+)#([2-9]|[1-9]\d{1,17})", re.DOTALL)

# A header with long names takes some kilobytes; one that claims more than this would fill memory.
_LONGEST_HEADER = 1 << 20
_CHUNK = 1 << 20


def is_tar(name: str) -> bool:
    """Whether a path or address is that of a tar archive."""
    return file_part(name).lower().endswith(_SUFFIXES)


def tar_images(shard: str, listing: Listing) -> Iterator[SourceImage]:
    """Yield the images of a tar archive, named as fsspec would: ``tar://MEMBER::SHARD``, repeated names with ``#2``.

    A member takes part if its suffix or its first bytes are those of an image. An archive that is damaged or cut off
    gives the images that come before, and one under its own name that says so.
    """
    if listing.names_only and is_read_onwards(shard):
        raise CostlyListingError

    def sentence(n: int, error: BaseException) -> str:
        return f"The archive breaks off or is damaged after {n:,} images ({reason_of(error)}): make it again."

    yield from until_it_fails(_images(shard, listing), shard, sentence)


def read_member(name: str) -> bytes:
    """Return the bytes of the image that `tar_images` named so, for which the archive has to be searched.

    Raises
    ------
    ImageError
        If there is no such archive or member, or it cannot be read.
    """
    why = "There is no such image in the archive."
    for member, archive in chain_splits(name.removeprefix(_SCHEME)):
        shard, number = without_repeat(archive)
        if is_tar(shard):
            find = methodcaller("find", member, number)
            try:
                if (found := _last.read(shard, find)) is not None:
                    return found
            except ImageError as error:
                why = str(error)
            except Exception as error:  # as with a listing
                why = f"The archive cannot be read: {reason_of(error)}."
    raise ImageError(why)


def is_member_name(name: str) -> bool:
    """Whether `read_member` is to find the image of that name."""
    return name.startswith(_SCHEME) and "::" in name


def without_repeat(shard: str) -> tuple[str, int]:
    """Return what stands for an archive at the end of a name as its path or address, and which of the members it is."""
    found = _REPEATED.fullmatch(shard)
    return (found[1], int(found[2])) if found is not None and is_tar(found[1]) else (shard, 1)


def is_read_onwards(shard: str) -> bool:
    """Whether an image of the archive is had only by reading all that lies before it."""
    return is_remote(shard) or _is_compressed(shard)


def _images(shard: str, listing: Listing) -> Iterator[SourceImage]:
    with open_shard(shard) as raw:
        stream = _Onwards(raw, shard)
        for member, number in _members(stream):
            name = f"{_SCHEME}{member.name}::{shard}" + (f"#{number}" if number > 1 else "")
            refused = _refusal(member)
            if refused is not None:
                if has_image_suffix(member.name):
                    yield broken_image(name, refused)
                elif not member.isdir():
                    listing.passed_over(name)
                continue
            head = stream.read_head(member)
            if not has_image_suffix(member.name) and not looks_like_image(head):
                listing.passed_over(name)
                continue
            if stream.in_place:
                yield SourceImage(name, partial(_read_span, shard, member.offset_data, member.size))
            elif listing.held.has_room(member.size):
                yield listing.held.image(name, stream.read_rest(member, head), partial(read_member, name))
            else:
                yield SourceImage(name, partial(read_member, name))


def _members(stream: _Onwards) -> Generator[tuple[tarfile.TarInfo, int]]:
    """Yield the members, and which one of its name each is; raise where the archive does not end as it should."""
    repeats = Repeats()
    for member in _all_members(stream):
        if member.size < 0:
            raise tarfile.ReadError("a member has a negative size")
        yield member, repeats.count(member.name)


def _all_members(stream: _Onwards) -> Generator[tarfile.TarInfo]:
    """Yield the members of an archive and of those that follow it in the same file."""
    more = True
    while more:
        stream.begin_header()
        # It reads, seeks and tells. Names are in UTF-8, whatever the locale's encoding is.
        with tarfile.TarFile(fileobj=stream, mode="r", encoding="utf-8") as archive:  # type: ignore[arg-type]
            found = archive.firstmember is not None  # type: ignore[attr-defined]  # else it would look once more
            while found and (member := archive.next()) is not None:
                yield member
                # What it remembers for random access would grow with the archive.
                archive.members = []  # type: ignore[attr-defined]
                archive.pax_headers = {}
                stream.begin_header()
        # tarfile takes damage between members for the end.
        if stream.last_block != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it has no end mark" if found else "what follows its end is not an archive")
        more = stream.pass_zeros()


def _refusal(member: tarfile.TarInfo) -> str | None:
    """Return why the member is no image, whatever its name says."""
    if member.islnk() or member.issym():
        return "It is a link inside the archive, and those are not followed."
    if not member.isreg() or member.issparse():
        return "It is not a regular file of the archive."
    try:
        check_size(member.size)
    except ImageError as error:
        return str(error)
    return None


class _Search:
    """A search through an archive that goes on behind the member found last."""

    def __init__(self, shard: str) -> None:
        self._raw = open_shard(shard)
        self._stream = _Onwards(self._raw, shard)
        self._members = _members(self._stream)
        # Rather than by __del__: at the end of the program that comes when what closes a connection is gone.
        self._finalizer = weakref.finalize(self, _close, self._members, self._raw)

    def find(self, wanted: str, number: int) -> bytes | None:
        """Return the content of the ``number``-th member of that name, or None if it does not come any more."""
        for member, which in self._members:
            if which == number and member.name == wanted:
                refused = _refusal(member)
                if refused is not None:
                    raise ImageError(refused)
                return self._stream.read_rest(member, self._stream.read_head(member))
        return None

    def close(self) -> None:
        self._finalizer()


_last = LastReader(_Search)


def _close(members: Generator[tuple[tarfile.TarInfo, int]], raw: BinaryIO) -> None:
    members.close()
    raw.close()


def _read_span(path: str, start: int, size: int) -> bytes:
    def read() -> bytes:
        with open(path, "rb") as stream:
            stream.seek(start)
            return stream.read(size)

    try:
        data = retried(read, TRIES)
    except OSError as error:
        raise ImageError(f"The archive cannot be read: {system_reason(error)}.") from None
    except MemoryError:
        raise ImageError(TOO_LARGE_FOR_MEMORY) from None
    if len(data) < size:
        raise ImageError("The archive has become shorter since it was listed.")
    return data


def _is_compressed(path: str) -> bool:
    try:
        with open_shard(path) as stream:
            return _unpacked(stream) is not stream
    except OSError:
        return False


def _unpacked(stream: BinaryIO) -> BinaryIO:
    """Return the stream itself, or one that decompresses it."""
    if cast(io.BufferedReader, stream).peek(len(_GZIP))[: len(_GZIP)] != _GZIP:
        return stream
    return cast(BinaryIO, gzip.GzipFile(fileobj=stream))


class _Onwards:
    """An archive that is read onwards only, unpacked if need be, with headers of bounded size.

    It is what `tarfile` takes for a file. Headers made for the purpose could have that read the same members again
    without end, or fill memory: seeking backwards is refused, and so is a header of more than a megabyte.

    Attributes
    ----------
    in_place
        Whether the members can be found again by their offsets in a file of this machine.
    last_block
        What was read last of a header.
    """

    def __init__(self, raw: BinaryIO, shard: str) -> None:
        self._stream = _unpacked(raw)
        self.in_place = self._stream is raw and not is_remote(shard)
        self._end = os.path.getsize(shard) if self.in_place else None
        self.last_block = b""
        self._position = 0
        self._ahead = b""  # read already, and to be read once more
        self._header_left = 0

    def begin_header(self) -> None:
        self._header_left = _LONGEST_HEADER

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.ReadError("its headers point backwards")
        if self.in_place:
            self._stream.seek(position)
            self._position, self._ahead = position, b""
        while self._position < position:
            if not self._take(min(position - self._position, _CHUNK)):
                raise tarfile.ReadError("unexpected end of data")

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._header_left:
            raise tarfile.ReadError("a header is too long")
        self._header_left -= size
        self.last_block = self._take(size)
        return self.last_block

    def pass_zeros(self) -> bool:
        """Go on to the next block that is not of zeros alone; return False if none comes any more."""
        while block := self._take(tarfile.BLOCKSIZE):
            if block.strip(b"\0"):
                self._position -= len(block)
                self._ahead = block
                return True
        return False

    def read_head(self, member: tarfile.TarInfo) -> bytes:
        """Return the first bytes of a member that has just been come to, and is there as a whole if that is known."""
        if self._end is not None and member.offset_data + member.size > self._end:
            raise tarfile.ReadError(f"it ends within {member.name!r}")
        self.seek(member.offset_data)
        return self._take(min(HEAD_BYTES, member.size))

    def read_rest(self, member: tarfile.TarInfo, head: bytes) -> bytes:
        """Return the whole of a member whose ``head`` has been read."""
        data = head + self._take(member.size - len(head))
        if len(data) < member.size:
            raise tarfile.ReadError(f"it ends within {member.name!r}")
        return data

    def _take(self, size: int) -> bytes:
        if self._ahead:
            ahead, self._ahead = self._ahead[:size], self._ahead[size:]
            data = ahead + self._stream.read(size - len(ahead))
        else:
            data = self._stream.read(size)
        self._position += len(data)
        return data
