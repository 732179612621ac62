from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pc_engine.errors import ImageError
from pc_engine.sources import SourceImage, count_images, iter_images, read_image, tar_shards
from pc_engine.sources.held_bytes import HeldBytes
from pc_engine.sources.shards import Listing, open_shard
from pc_engine.sources.tar_shards import tar_images

JPEG = b"\xff\xd8\xff\xe0" + bytes(8)
SHARD = [("0001.jpg", JPEG + b"one"), ("0001.cls", b"7"), ("0002.jpg", JPEG + b"two" * 400), ("sub/0003.png", b"three")]


def with_member(member: tarfile.TarInfo, content: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture(params=["shard.tar", "shard.tar.gz", "shard.tgz"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[bytes], Path]:
    """Return ``write(content)``, which makes a shard of a tar archive, compressed or not."""

    def write(content: bytes) -> Path:
        path = tmp_path / request.param
        path.write_bytes(content if path.suffix == ".tar" else gzip.compress(content))
        return path

    return write


def test_the_images_of_a_shard_in_their_order(write: Callable[[bytes], Path], packed: Callable[..., bytes]) -> None:
    shard = write(packed(SHARD))
    images = list(iter_images([shard]))
    expected = {f"tar://{name}::{shard}": content for name, content in SHARD if not name.endswith("cls")}
    assert [image.name for image in images] == list(expected)
    assert {image.name: image.read() for image in images} == expected
    assert {image.name: image.read() for image in images} == expected  # a second time
    assert {name: read_image(name) for name in expected} == expected


def test_members_without_an_images_suffix_take_part_by_their_first_bytes(
    write: Callable[[bytes], Path], packed: Callable[..., bytes]
) -> None:
    shard = write(
        packed([("photo", JPEG), ("text", b"BMW cars and other texts"), ("empty", b""), ("dir/x.json", b"{}")])
    )
    assert [image.name for image in iter_images([shard])] == [f"tar://photo::{shard}"]
    shard = write(packed([("a::photo:", JPEG)]))
    assert [image.name for image in iter_images([shard])] == [f"tar://a::photo:::{shard}"]
    assert read_image(f"tar://a::photo:::{shard}") == JPEG


@pytest.mark.parametrize("options", [{"format": tarfile.PAX_FORMAT}, {"format": tarfile.GNU_FORMAT}])
def test_long_and_odd_names(
    write: Callable[[bytes], Path], options: dict[str, int], packed: Callable[..., bytes]
) -> None:
    names = ["a" * 300 + ".jpg", "ä/📷.jpg", os.fsdecode(b"caf\xe9.jpg"), "a::b.jpg", "./c.jpg", "a#3.jpg"]
    shard = write(packed([(name, name.encode("utf-8", "surrogateescape")) for name in names], **options))
    images = list(iter_images([shard]))
    assert [image.name for image in images] == [f"tar://{name}::{shard}" for name in names]
    for image, name in zip(images, names, strict=True):
        assert read_image(image.name) == name.encode("utf-8", "surrogateescape")
        stored = image.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        assert read_image(stored) == image.read()


def test_names_do_not_follow_the_locale(
    write: Callable[[bytes], Path], packed: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = write(packed([("ä.jpg", JPEG)], format=tarfile.GNU_FORMAT))
    monkeypatch.setattr(tarfile, "ENCODING", "cp1252")  # as on Windows before
    monkeypatch.setattr(tarfile.TarFile, "encoding", "cp1252")
    assert [image.name for image in iter_images([shard])] == [f"tar://ä.jpg::{shard}"]


@pytest.mark.parametrize("name", ["../../outside.jpg", "/etc/outside.jpg"])
def test_names_that_lead_elsewhere_are_only_names(
    write: Callable[[bytes], Path],
    tmp_path: Path,
    name: str,
    packed: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two folders down, so that what leads two up, from the shard or from here, would be found.
    folder = tmp_path / "one" / "two"
    folder.mkdir(parents=True)
    shard = write(packed([(name, JPEG)]))
    shard = shard.rename(folder / shard.name)
    monkeypatch.chdir(folder)
    before = sorted(tmp_path.rglob("*"))
    (image,) = iter_images([shard])
    assert image.read() == read_image(image.name) == JPEG
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (tarfile.SYMTYPE, "It is a link inside the archive"),
        (tarfile.LNKTYPE, "It is a link inside the archive"),
        (tarfile.CHRTYPE, "It is not a regular file of the archive"),
        (tarfile.FIFOTYPE, "It is not a regular file of the archive"),
        (tarfile.DIRTYPE, "It is not a regular file of the archive"),
    ],
)
def test_members_that_are_no_files(
    write: Callable[[bytes], Path], kind: bytes, message: str, said: Callable[[SourceImage], str]
) -> None:
    member = tarfile.TarInfo("photo.jpg")
    member.type, member.linkname = kind, "/etc/passwd"
    (image,) = iter_images([write(with_member(member))])
    assert said(image).startswith(message)
    with pytest.raises(ImageError, match=message):
        read_image(image.name)


def test_a_member_too_large_gets_its_row_and_the_rest_is_read(
    write: Callable[[bytes], Path],
    monkeypatch: pytest.MonkeyPatch,
    packed: Callable[..., bytes],
    said: Callable[[SourceImage], str],
) -> None:
    monkeypatch.setattr("pc_engine.sources.image.MAX_BYTES", 1000)
    shard = write(packed([("large.jpg", bytes(5000)), ("small.jpg", JPEG)]))
    large, small = iter_images([shard])
    assert "limit" in said(large)
    assert small.read() == JPEG


@pytest.mark.parametrize("cut", [0, 1, 100, 511, 512, 513, 600, 1024, 2000, 3000, 4500])
def test_what_comes_before_the_cut_is_kept_and_one_row_says_that_the_shard_broke_off(
    write: Callable[[bytes], Path], cut: int, packed: Callable[..., bytes], said: Callable[[SourceImage], str]
) -> None:
    whole = packed(SHARD)
    ends = []
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        ends = [member.offset_data + member.size for member in archive if not member.name.endswith("cls")]
    shard = write(whole[:cut])
    *kept, last = iter_images([shard])
    assert [image.read() for image in kept] == [c for n, c in SHARD if not n.endswith("cls")][: len(kept)]
    assert len(kept) == sum(end <= cut for end in ends)
    assert last.name == str(shard)
    assert said(last).startswith(f"The archive breaks off or is damaged after {len(kept)} images (")


def test_a_compressed_shard_that_is_cut_off(
    tmp_path: Path, packed: Callable[..., bytes], said: Callable[[SourceImage], str]
) -> None:
    content = gzip.compress(packed([(f"{k}.jpg", os.urandom(5000)) for k in range(50)]))
    shard = tmp_path / "shard.tar.gz"
    shard.write_bytes(content[: len(content) // 2])
    *kept, last = iter_images([shard])
    assert 20 < len(kept) < 30
    assert all(len(image.read()) == 5000 for image in kept)
    assert "breaks off" in said(last)


@pytest.mark.parametrize("content", [b"", b"no archive at all " * 100, b"\x1f\x8bno gzip", bytes(100)])
def test_what_is_no_archive_gets_one_row(tmp_path: Path, content: bytes, said: Callable[[SourceImage], str]) -> None:
    shard = tmp_path / "shard.tar"
    shard.write_bytes(content)
    (only,) = iter_images([shard])
    assert only.name == str(shard)
    assert said(only).endswith(": make it again.")


def test_damage_in_the_middle_is_not_taken_for_the_end(
    write: Callable[[bytes], Path], packed: Callable[..., bytes], said: Callable[[SourceImage], str]
) -> None:
    whole = bytearray(packed([("1.jpg", JPEG), ("2.jpg", JPEG), ("3.jpg", JPEG)]))
    whole[1024:1100] = b"\xff" * 76  # the second header
    first, last = iter_images([write(bytes(whole))])
    assert first.read() == JPEG
    assert "after 1 images" in said(last)


def test_an_empty_archive_has_no_images(write: Callable[[bytes], Path], packed: Callable[..., bytes]) -> None:
    assert list(iter_images([write(packed([]))])) == []


def _hostile_header(size: bytes, kind: bytes = b"L") -> bytes:
    header = bytearray(tarfile.TarInfo("x.jpg").tobuf())
    header[124:136], header[156:157] = size, kind
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize(
    "header",
    [
        _hostile_header(b"77777777777\0"),  # a name of 8 GiB
        _hostile_header(b"77777777777\0", b"x"),  # attributes of 8 GiB
        _hostile_header(b"\xff" * 12),  # a negative size
        _hostile_header(b"\xff" * 12, b"0"),
        _hostile_header(b"\xff" * 10 + b"\xfc\x00", b"0"),  # back to before the header
    ],
)
def test_headers_made_to_fill_memory_or_to_go_round_in_circles_end_the_shard(
    write: Callable[[bytes], Path], header: bytes, packed: Callable[..., bytes], said: Callable[[SourceImage], str]
) -> None:
    shard = write(packed([("1.jpg", JPEG)])[:1024] + header + bytes(4096))
    tracemalloc.start()
    try:
        first, last = iter_images([shard])
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()
    assert first.read() == JPEG
    assert "breaks off or is damaged" in said(last)


def test_bytes_held_are_bounded_and_those_beyond_are_read_later(tmp_path: Path, packed: Callable[..., bytes]) -> None:
    members = [(f"{k}.jpg", bytes([k]) * 1000) for k in range(10)]
    shard = tmp_path / "shard.tgz"
    shard.write_bytes(gzip.compress(packed(members)))
    held = HeldBytes(3500)
    images = list(tar_images(str(shard), Listing(held=held)))
    assert not held.has_room(1000)
    assert [image.read() for image in images] == [content for _, content in members]
    assert held.has_room(3500)
    images = list(tar_images(str(shard), Listing(held=held)))
    del images  # read or not
    assert held.has_room(3500)


def test_images_of_a_plain_shard_are_read_where_they_lie(
    tmp_path: Path, packed: Callable[..., bytes], said: Callable[[SourceImage], str]
) -> None:
    shard = tmp_path / "shard.tar"
    shard.write_bytes(packed(SHARD))
    images = list(tar_images(str(shard), Listing(held=HeldBytes(0))))
    os.truncate(shard, 1200)
    assert images[0].read() == SHARD[0][1]
    assert said(images[-1]) == "The archive has become shorter since it was listed."
    shard.unlink()
    assert "cannot be read" in said(images[0])


def test_memory_grows_with_the_shard_by_a_few_bytes_a_name(tmp_path: Path, packed: Callable[..., bytes]) -> None:
    def peak(n: int) -> int:
        shard = tmp_path / f"{n}.tgz"
        shard.write_bytes(gzip.compress(packed([(f"{k:06d}.jpg", JPEG) for k in range(n)]), 1))
        tracemalloc.start()
        try:
            assert sum(1 for _ in iter_images([shard])) == n
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)
    # By which repeated names are told: 16 to 32 bytes, and once more half of that as they get more room.
    assert peak(3000) < 1.1 * peak(300) + 48 * 3000


def test_shards_take_part_by_name_by_glob_and_by_braces_but_not_in_a_folder(
    tmp_path: Path, packed: Callable[..., bytes]
) -> None:
    for k in range(3):
        (tmp_path / f"s{k:03d}.tar").write_bytes(packed([(f"{k}.jpg", JPEG)]))
    (tmp_path / "photo.jpg").write_bytes(JPEG)
    names = [f"tar://{k}.jpg::{tmp_path}/s{k:03d}.tar" for k in range(3)]
    assert [image.name for image in iter_images([f"{tmp_path}/*.tar"])] == names
    assert [image.name for image in iter_images([f"{tmp_path}/s{{000..002}}.tar"])] == names
    assert [image.name for image in iter_images([tmp_path])] == [f"{tmp_path}/photo.jpg"]


def test_a_plain_shard_is_counted_and_a_compressed_one_is_not(tmp_path: Path, packed: Callable[..., bytes]) -> None:
    (tmp_path / "a.tar").write_bytes(packed(SHARD))
    (tmp_path / "b.tgz").write_bytes(gzip.compress(packed(SHARD)))
    assert count_images([tmp_path / "a.tar"]) == 3
    assert count_images([tmp_path / "b.tgz"]) is None
    assert count_images([tmp_path / "*.tar", tmp_path / "b.tgz"]) is None


@pytest.mark.parametrize(
    "name",
    [
        "tar://gone.jpg::{shard}",
        "tar://0001.jpg::{shard}.gone.tar",
        "tar://0001.jpg::x.zip",
        "tar://0001.jpg::{shard}#" + "9" * 5000,
        "tar://0001.jpg::{shard}#" + "9" * 18,
    ],
)
def test_a_member_that_is_not_there(tmp_path: Path, name: str, packed: Callable[..., bytes]) -> None:
    shard = tmp_path / "shard.tar"
    shard.write_bytes(packed(SHARD))
    with pytest.raises(ImageError):
        read_image(name.format(shard=shard))


def test_images_asked_for_in_their_order_are_found_in_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: Callable[..., bytes]
) -> None:
    opened = 0

    def counted(name: str) -> BinaryIO:
        nonlocal opened
        opened += 1
        return open_shard(name)

    shard = tmp_path / "shard.tgz"
    shard.write_bytes(gzip.compress(packed([(f"{k}.jpg", b"%d" % k) for k in range(20)])))
    monkeypatch.setattr(tar_shards, "open_shard", counted)
    for k in range(0, 20, 2):
        assert read_image(f"tar://{k}.jpg::{shard}") == b"%d" % k
    assert opened == 1
    assert read_image(f"tar://3.jpg::{shard}") == b"3"
    assert opened == 2
    shard.write_bytes(gzip.compress(packed([(f"{k}.jpg", b"new %d" % k) for k in range(20)])))
    assert read_image(f"tar://4.jpg::{shard}") == b"new 4"
    for k in (7, 7, 2):  # again, and back
        assert read_image(f"tar://{k}.jpg::{shard}") == b"new %d" % k


def test_every_member_of_a_name_is_an_image_of_its_own(
    write: Callable[[bytes], Path], packed: Callable[..., bytes]
) -> None:
    members = [("a.jpg", JPEG + b"old"), ("b.jpg", JPEG), ("a.jpg", JPEG + b"newer"), ("a.jpg", JPEG + b"newest")]
    shard = write(packed(members))
    images = list(iter_images([shard]))
    names = [f"tar://{name}::{shard}" for name in ("a.jpg", "b.jpg", "a.jpg")]
    assert [image.name for image in images] == [*names[:2], f"{names[2]}#2", f"{names[2]}#3"]
    contents = [content for _, content in members]
    assert [image.read() for image in images] == contents
    # In whatever order they are asked for, so that workers and runs that go on find the same.
    for first, then in itertools.product(range(4), repeat=2):
        assert [read_image(images[k].name) for k in (first, then)] == [contents[k] for k in (first, then)]
    with pytest.raises(ImageError, match="no such image"):
        read_image(f"{names[0]}#4")
    with pytest.raises(ImageError, match="no such image"):
        read_image(f"{names[0]}#1")


def test_a_name_that_ends_as_a_repeated_one_does_is_itself(tmp_path: Path, packed: Callable[..., bytes]) -> None:
    (tmp_path / "s#2.tar").write_bytes(packed([("a.jpg#2", JPEG + b"1"), ("b::x.tar#2", JPEG + b"2")]))
    images = list(iter_images([tmp_path / "s#2.tar"]))
    assert [read_image(image.name) for image in images] == [JPEG + b"1", JPEG + b"2"]


def test_archives_that_follow_one_another_are_all_read(
    write: Callable[[bytes], Path], packed: Callable[..., bytes]
) -> None:
    parts = [packed([(f"{k}.jpg", JPEG + bytes([k])), ("same.jpg", JPEG + bytes([k]))]) for k in range(3)]
    shard = write(parts[0] + packed([]) + parts[1] + bytes(512 * 7) + parts[2])
    images = list(iter_images([shard]))
    names = ("0.jpg", "same.jpg", "1.jpg", "same.jpg", "2.jpg", "same.jpg")
    marks = ("", "", "", "#2", "", "#3")
    assert [image.name for image in images] == [f"tar://{n}::{shard}{m}" for n, m in zip(names, marks, strict=True)]
    assert [image.read() for image in images] == [JPEG + bytes([k]) for k in (0, 0, 1, 1, 2, 2)]
    assert [read_image(image.name) for image in reversed(images)] == [image.read() for image in reversed(images)]


@pytest.mark.parametrize("zeros", [0, 1, 511, 512, 10_240, 3_000_000])
def test_zeros_behind_the_end_are_nothing(
    write: Callable[[bytes], Path], zeros: int, packed: Callable[..., bytes]
) -> None:
    assert len(list(iter_images([write(packed(SHARD) + bytes(zeros))]))) == 3


@pytest.mark.parametrize("zeros", [0, 100, 512, 5000])
@pytest.mark.parametrize("rest", [b"x", b"no archive" * 100])
def test_what_lies_behind_the_end_and_is_no_archive_gets_a_row(
    write: Callable[[bytes], Path],
    zeros: int,
    rest: bytes,
    packed: Callable[..., bytes],
    said: Callable[[SourceImage], str],
) -> None:
    shard = write(packed(SHARD) + bytes(zeros) + rest)
    *images, last = iter_images([shard])
    assert len(images) == 3
    assert last.name == str(shard)
    assert said(last) == (
        "The archive breaks off or is damaged after 3 images (what follows its end is not an archive): make it again."
    )


def test_an_archive_that_follows_and_is_cut_off_gives_what_comes_before(
    write: Callable[[bytes], Path], packed: Callable[..., bytes], said: Callable[[SourceImage], str]
) -> None:
    shard = write(packed([("1.jpg", JPEG)]) + packed([("2.jpg", JPEG), ("3.jpg", JPEG + bytes(5000))])[:4000])
    *images, last = iter_images([shard])
    assert [image.read() for image in images] == [JPEG, JPEG]
    assert "after 2 images" in said(last)


def test_a_compressed_shard_whose_sum_is_wrong_is_told(
    tmp_path: Path, packed: Callable[..., bytes], said: Callable[[SourceImage], str]
) -> None:
    content = bytearray(gzip.compress(packed(SHARD)))
    content[-8] ^= 1
    (tmp_path / "shard.tgz").write_bytes(content)
    *images, last = iter_images([tmp_path / "shard.tgz"])
    assert len(images) == 3
    assert "CRC check failed" in said(last)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(changes=st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), max_size=6), cut=st.integers(0, 10240))
def test_whatever_is_damaged_the_run_goes_on(
    tmp_path: Path, packed: Callable[..., bytes], changes: list[tuple[int, int]], cut: int
) -> None:
    content = bytearray(packed(SHARD, format=tarfile.PAX_FORMAT))
    for place, value in changes:
        content[place] = value
    (tmp_path / "shard.tar").write_bytes(content[:cut] if cut % 2 else content)
    images = list(iter_images([tmp_path / "shard.tar"]))
    assert len(images) <= len(SHARD) + 1
    for image in images:
        for read in (image.read, partial(read_image, image.name)):
            with contextlib.suppress(ImageError):
                assert len(read()) <= 10240


def test_a_pipe_is_not_waited_for(tmp_path: Path, said: Callable[[SourceImage], str]) -> None:
    os.mkfifo(tmp_path / "shard.tar")
    (only,) = iter_images([tmp_path / "shard.tar"])
    assert "not a regular file" in said(only)


def test_suffixes() -> None:
    assert tar_shards.is_tar("a.TAR")
    assert tar_shards.is_tar("https://host/a.tar.gz?signature=x.jpg")
    assert tar_shards.is_tar("zip://a.tgz::photos.zip")
    assert not tar_shards.is_tar("a.tar.jpg")
    assert not tar_shards.is_tar("tar://a.jpg::b.tar")
