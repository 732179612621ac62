from __future__ import annotations

import gzip
import importlib
import io
import pickle
import threading
import weakref
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.zip import ZipFileSystem

from pc_engine.errors import ImageError, MissingPackageError, UsageError
from pc_engine.sources import SourceImage, addresses, count_images, iter_images, read_image
from pc_engine.sources.addresses import is_address, local_path, open_address


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pc_engine.sources.retries.PAUSE", 0.0)


@pytest.fixture
def memory() -> Iterator[Any]:
    """An empty file system in memory."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


def names(*sources: str) -> list[str]:
    return [image.name for image in iter_images(sources)]


JPEG = b"\xff\xd8\xff\xe0" + bytes(8)
PHOTOS = ("b.jpg", "a/2.png", "a/1.jpg", "a-b.jpg", "notes.txt", "B.webp")
SORTED = ("B.webp", "a/1.jpg", "a/2.png", "a-b.jpg", "b.jpg")


def test_a_folder_is_walked_in_the_order_of_names_and_every_name_is_found_again(memory: Any) -> None:
    for name in PHOTOS:
        memory.pipe_file(f"/photos/{name}", name.encode())
    memory.pipe_file("/photos/@eaDir/b.jpg/SMALL.jpg", b"a disk station's own copy")
    memory.pipe_file("/photos/Mine.photoslibrary/resources/b.jpg", b"a small copy of Apple's")
    for source in ("memory://photos", "memory://photos/"):
        images = list(iter_images([source]))
        assert [image.name for image in images] == [f"memory://photos/{name}" for name in SORTED]
        assert [image.read().decode() for image in images] == list(SORTED)
        assert [read_image(image.name).decode() for image in images] == list(SORTED)


def test_a_single_object_and_a_pattern(memory: Any) -> None:
    for name in PHOTOS:
        memory.pipe_file(f"/photos/{name}", name.encode())
    assert names("memory://photos/notes.txt") == ["memory://photos/notes.txt"]
    assert names("memory://photos/*.jpg") == ["memory://photos/a-b.jpg", "memory://photos/b.jpg"]
    assert names("memory://photos/**/*.jpg", "memory://photos/B.webp") == [
        *(f"memory://photos/{name}" for name in ("a-b.jpg", "a/1.jpg", "b.jpg")),
        "memory://photos/B.webp",
    ]
    assert names("memory://photos/a*") == [f"memory://photos/{name}" for name in ("a/1.jpg", "a/2.png", "a-b.jpg")]
    assert names("memory://photos/**") == [f"memory://photos/{name}" for name in SORTED]


def test_an_object_whose_name_looks_like_a_pattern_is_that_object(memory: Any) -> None:
    memory.pipe_file("/photos/a[1].jpg", b"x")
    assert names("memory://photos/a[1].jpg") == ["memory://photos/a[1].jpg"]


def test_braces_and_shards_elsewhere(memory: Any, packed: Callable[..., bytes]) -> None:
    for k in range(2):
        memory.pipe_file(f"/s/{k:02d}.tar", packed([(f"{k}.jpg", JPEG + b"%d" % k), ("x.txt", b"")]))
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": [b"row 0", b"row 1"]}), stream)
    memory.pipe_file("/s/t.parquet", stream.getvalue())
    images = list(iter_images(["memory://s/{00..01}.tar", "memory://s/t.parquet"]))
    assert {image.name: image.read() for image in images} == {
        "tar://0.jpg::memory://s/00.tar": JPEG + b"0",
        "tar://1.jpg::memory://s/01.tar": JPEG + b"1",
        "memory://s/t.parquet#0": b"row 0",
        "memory://s/t.parquet#1": b"row 1",
    }
    assert {image.name: read_image(image.name) for image in images} == {image.name: image.read() for image in images}
    assert names("memory://s/*.tar") == [image.name for image in images[:2]]
    assert names("memory://s") == []


def test_a_shard_of_a_brace_that_is_not_there_gets_its_row(
    memory: Any, packed: Callable[..., bytes], said: Callable[[SourceImage], str]
) -> None:
    memory.pipe_file("/s/0.tar", packed([("a.jpg", JPEG)]))
    first, second = iter_images(["memory://s/{0..1}.tar"])
    assert (first.name, second.name) == ("tar://a.jpg::memory://s/0.tar", "memory://s/1.tar")
    assert "cannot be found" in said(second)


def test_addresses_in_a_list_are_not_looked_up(
    memory: Any, tmp_path: Path, packed: Callable[..., bytes], said: Callable[[SourceImage], str]
) -> None:
    memory.pipe_file("/photos/a.jpg", b"a")
    memory.pipe_file("/s/0.tar", packed([("t.jpg", JPEG)]))
    memory.pipe_file("/s/1.tar", packed([("u.jpg", JPEG)]))
    lines = ["memory://photos/a.jpg", "memory://photos/gone.jpg", "memory://s/0.tar", "tar://u.jpg::memory://s/1.tar"]
    (tmp_path / "l.csv").write_text("\n".join(["url", *lines]))
    first, gone, shard, member = iter_images([f"@{tmp_path}/l.csv"])
    found = [lines[0], lines[1], "tar://t.jpg::memory://s/0.tar", lines[3]]
    assert [image.name for image in (first, gone, shard, member)] == found
    assert (first.read(), shard.read(), member.read()) == (b"a", JPEG, JPEG)
    assert said(gone) == "There is nothing at this address."
    memory.pipe_file("/l.txt", "\n".join(lines).encode())
    assert names("@memory://l.txt") == found


def test_a_folder_whose_address_names_it_as_a_file_is_said(memory: Any, tmp_path: Path) -> None:
    memory.pipe_file("/photos/a.jpg", b"a")
    (tmp_path / "photos").mkdir()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("photos/a.jpg", b"a")
    for folder in ("memory://photos", f"zip://photos::{tmp_path}/a.zip", f"file://{tmp_path}/photos"):
        with pytest.raises(ImageError, match="It is a folder: end its address with '/' in the list"):
            read_image(folder)


def test_a_name_with_colons_outside_of_archives_is_said(memory: Any) -> None:
    for name in ("a::b.jpg", "c.jpg"):
        memory.pipe_file(f"/photos/{name}", b"x")
    odd, plain = iter_images(["memory://photos"])
    assert (odd.name, plain.name) == ("memory://photos/a::b.jpg", "memory://photos/c.jpg")
    with pytest.raises(ImageError, match="Its name has '::' in it, which in an address marks an archive"):
        odd.read()


def test_zip_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("b.jpg", "a/1.jpg", "a/notes.txt", "../up.jpg"):
            archive.writestr(name, name * 3000)
    whole = f"zip://::{tmp_path}/photos.zip"
    images = list(iter_images([whole]))
    expected = [f"zip://{name}::{tmp_path}/photos.zip" for name in ("../up.jpg", "a/1.jpg", "b.jpg")]
    assert sorted(image.name for image in images) == sorted(expected)
    with ThreadPoolExecutor(4) as pool:  # one archive for all threads
        contents = list(pool.map(lambda image: image.read(), images * 50))
    assert contents == [image.name.split("::")[0].removeprefix("zip://").encode() * 3000 for image in images * 50]
    assert [read_image(image.name) for image in images] == contents[: len(images)]
    assert names(f"zip://a/*.jpg::{tmp_path}/photos.zip") == [expected[1]]
    assert names(f"zip://b.jpg::{tmp_path}/photos.zip") == [expected[2]]
    assert pickle.loads(pickle.dumps(images[0])).read() == contents[0]


@pytest.mark.parametrize("error", [KeyError, FileNotFoundError])
def test_a_member_that_a_zip_archive_lacks_is_said_whatever_fsspec_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a/1.jpg", b"1")

    def refuse(*_: Any, **__: Any) -> None:
        raise error("There is no item named 'b.jpg' in the archive")

    monkeypatch.setattr(ZipFileSystem, "_open", refuse)
    with pytest.raises(ImageError, match=r"^There is nothing at this address\.$"):
        read_image(f"zip://b.jpg::{tmp_path}/photos.zip")
    with pytest.raises(ImageError, match="It is a folder"):
        read_image(f"zip://a::{tmp_path}/photos.zip")


def test_shards_and_lists_in_a_zip_archive(tmp_path: Path, packed: Callable[..., bytes]) -> None:
    table = io.BytesIO()
    pq.write_table(pa.table({"image": [b"row 0", b"row 1"]}), table)
    tar = packed([(f"{k}.jpg", JPEG + b"%d" % k) for k in range(2)])
    inside = f"{tmp_path}/all.zip"
    with zipfile.ZipFile(inside, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("s.tar", tar)
        archive.writestr("s.tgz", gzip.compress(tar))
        archive.writestr("t.parquet", table.getvalue())
        archive.writestr("a.jpg", b"a")
        archive.writestr("l.txt", f"zip://a.jpg::{inside}\nzip://s.tar::{inside}\n")
    expected = {
        **{f"tar://{k}.jpg::zip://{shard}::{inside}": JPEG + b"%d" % k for shard in ("s.tar", "s.tgz") for k in (0, 1)},
        **{f"zip://t.parquet::{inside}#{row}": b"row %d" % row for row in range(2)},
    }
    images = list(iter_images([f"zip://{shard}::{inside}" for shard in ("s.tar", "s.tgz", "t.parquet")]))
    assert {image.name: image.read() for image in images} == expected
    assert {name: read_image(name) for name in expected} == expected
    assert names(f"zip://*.tar::{inside}") == names(f"zip://s.tar::{inside}")
    listed = list(iter_images([f"@zip://l.txt::{inside}"]))
    assert [image.read() for image in listed] == [b"a", JPEG + b"0", JPEG + b"1"]


@pytest.mark.parametrize("closed", [True, False])
def test_a_zip_archive_is_open_for_as_long_as_a_stream_out_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", b"0123456789")
    filesystems: list[weakref.ref[Any]] = []
    locate = addresses._locate

    def located(address: str) -> Any:
        place = locate(address)
        filesystems.append(weakref.ref(place.filesystem))
        return place

    monkeypatch.setattr(addresses, "_locate", located)
    stream = open_address(f"zip://a.txt::{tmp_path}/a.zip", seekable=True)
    (filesystem,) = filesystems
    assert (stream.read(4), stream.seek(2), stream.read()) == (b"0123", 2, b"23456789")
    assert filesystem() is not None
    if closed:
        stream.close()
    else:
        del stream
    assert filesystem() is None


def test_a_chain_through_a_cache(memory: Any) -> None:
    memory.pipe_file("/photos/a.jpg", b"a")
    (image,) = iter_images(["simplecache::memory://photos/a.jpg"])
    assert (image.name, image.read(), read_image(image.name)) == ("simplecache::memory://photos/a.jpg", b"a", b"a")


def test_a_file_address_is_a_local_path(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "up").symlink_to(".")
    assert names(f"file://{tmp_path}") == [f"{tmp_path}/a.jpg"]
    with pytest.raises(UsageError, match="There is no file or folder"):
        iter_images([f"file://{tmp_path}/gone"])


def test_a_drive_is_no_scheme() -> None:
    assert not is_address("C://photos/a.jpg")
    assert not is_address(r"C:\photos\a.jpg")
    assert is_address("s3://photos/a.jpg")


@pytest.mark.parametrize(
    ("system", "address", "path"),
    [
        ("nt", "file:///C:/photos/a.jpg", "C:/photos/a.jpg"),
        ("nt", "file://C:/photos", "C:/photos"),
        ("nt", "file:////server/share", "//server/share"),
        ("posix", "file:///C:/photos", "/C:/photos"),
    ],
)
def test_the_slash_before_a_drive_is_no_part_of_its_path(
    monkeypatch: pytest.MonkeyPatch, system: str, address: str, path: str
) -> None:
    monkeypatch.setattr("pc_engine.files.file_address.os", SimpleNamespace(name=system))
    assert local_path(address) == path


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("memory://gone", "'memory://gone' cannot be found or reached"),
        ("memory://gone/*.jpg", "The pattern matches nothing: 'memory://gone/\\*.jpg'"),
        ("nonsense://bucket", "There is no kind of address 'nonsense://'"),
        ("zip://::/no/such.zip", "cannot be found or reached"),
    ],
)
def test_what_is_not_there_is_wrong_use(memory: Any, source: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        iter_images([source])


def test_a_missing_package_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: Callable[[SourceImage], str]
) -> None:
    def refuse(name: str) -> None:
        raise ImportError(f"Install the package for {name} to access it.")

    monkeypatch.setattr(importlib.import_module("fsspec.registry"), "get_filesystem_class", refuse)
    with pytest.raises(MissingPackageError, match=r"'s3fs' is needed to read s3:// .*pc-engine\[remote\]"):
        iter_images(["s3://bucket/photos"])
    with pytest.raises(UsageError, match="Install the package for abfs to access it"):
        iter_images(["abfs://container/photos"])
    (tmp_path / "l.txt").write_text("s3://bucket/a.jpg")
    (image,) = iter_images([f"@{tmp_path}/l.txt"])
    assert "'s3fs' is needed" in said(image)


def test_elsewhere_is_not_counted(memory: Any, tmp_path: Path) -> None:
    memory.pipe_file("/photos/a.jpg", b"a")
    (tmp_path / "a.jpg").touch()
    assert count_images([tmp_path]) == 1
    assert count_images([tmp_path, "memory://photos"]) is None


def test_a_folder_that_cannot_be_listed_half_way_gets_its_row(
    memory: Any, monkeypatch: pytest.MonkeyPatch, said: Callable[[SourceImage], str]
) -> None:
    memory.pipe_file("/photos/a/1.jpg", b"1")
    memory.pipe_file("/photos/b/2.jpg", b"2")
    listing = type(memory).ls

    def ls(self: Any, path: str, **options: Any) -> Any:
        if path == "/photos/a":
            raise PermissionError("Forbidden")
        return listing(self, path, **options)

    monkeypatch.setattr(type(memory), "ls", ls)
    first, second = iter_images(["memory://photos"])
    assert (first.name, said(first)) == ("memory://photos/a", "The folder cannot be listed: Forbidden.")
    assert second.name == "memory://photos/b/2.jpg"


def test_a_listing_in_circles_ends(
    memory: Any, monkeypatch: pytest.MonkeyPatch, said: Callable[[SourceImage], str]
) -> None:
    memory.pipe_file("/photos/a.jpg", b"1")

    def ls(self: Any, path: str, **options: Any) -> list[dict[str, Any]]:
        return [{"name": f"{path}/more", "type": "directory", "size": 0}]

    monkeypatch.setattr(type(memory), "ls", ls)
    (last,) = iter_images(["memory://photos"])
    assert "may lead in circles" in said(last)


class _Server(ThreadingHTTPServer):
    """Serves what ``files`` says; a path's ``failures`` are answered first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.failures: dict[str, list[int]] = {}
        self.requests: list[tuple[str, str]] = []

    def address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self.respond(with_body=False)

    def do_GET(self) -> None:
        self.respond(with_body=True)

    def respond(self, *, with_body: bool) -> None:
        path = self.path.split("?")[0]
        self.server.requests.append((self.command, self.path))
        failures = self.server.failures.get(path, [])
        content = self.server.files.get(path)
        status = (failures.pop(0) if failures and with_body else 0) or (404 if content is None else 200)
        body = content if status == 200 and content is not None else b"no"
        if status == 200 and "Range" in self.headers:
            first, last = (int(end) for end in self.headers["Range"].removeprefix("bytes=").split("-"))
            body, status = body[first : last + 1], 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(content or b'')}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "text/html" if path.endswith("/") else "application/octet-stream")
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_web_addresses(server: _Server) -> None:
    server.files = {"/a.jpg": b"a" * 300_000, "/b": b"b"}
    sources = [server.address("/a.jpg?signature=secret&x=*"), server.address("/b")]
    images = list(iter_images(sources))
    assert [image.name for image in images] == sources
    assert [image.read() for image in images] == [b"a" * 300_000, b"b"]
    assert [read_image(image.name) for image in images] == [b"a" * 300_000, b"b"]


def test_a_web_address_in_a_list_is_one_request(server: _Server, tmp_path: Path) -> None:
    server.files = {"/a.jpg": b"a" * 3_000_000}
    (tmp_path / "l.txt").write_text(server.address("/a.jpg"))
    (image,) = iter_images([f"@{tmp_path}/l.txt"])
    assert server.requests == []
    assert image.read() == b"a" * 3_000_000
    assert server.requests == [("GET", "/a.jpg")]


def test_a_list_on_the_web_may_name_what_lies_beside_it(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.jpg").write_bytes(b"here")
    server.files = {
        "/lists/l.csv": b"path\na.jpg\nsub/b.jpg\n../c.jpg\nhere.jpg\n",
        "/lists/a.jpg": b"a",
        "/lists/sub/b.jpg": b"b",
        "/c.jpg": b"c",
        "/lists/here.jpg": b"not looked up",
    }
    images = list(iter_images(["@" + server.address("/lists/l.csv?key=a/b")]))
    named = [server.address(path) for path in ("/lists/a.jpg", "/lists/sub/b.jpg", "/c.jpg")]
    assert [image.name for image in images] == [*named, "here.jpg"]
    assert [image.read() for image in images] == [b"a", b"b", b"c", b"here"]


def test_a_page_of_links_is_a_folder(server: _Server, tmp_path: Path) -> None:
    server.files = {
        "/photos/": b'<a href="../">up</a><a href="b.jpg">b</a><a href="sub/">s</a><a href="n.txt">n</a>'
        b'<a href="/x.jpg">x</a><a href="http://elsewhere.invalid/y.jpg">y</a>',
        "/photos/sub/": b'<a href="a.jpg">a</a>',
        "/photos/b.jpg": b"b",
        "/photos/sub/a.jpg": b"a",
    }
    images = list(iter_images([server.address("/photos/")]))
    assert [image.name for image in images] == [server.address("/photos/b.jpg"), server.address("/photos/sub/a.jpg")]
    assert [image.read() for image in images] == [b"b", b"a"]
    # In a list it is an image, as one that ends so may be.
    (tmp_path / "l.txt").write_text(server.address("/photos/"))
    assert names(f"@{tmp_path}/l.txt") == [server.address("/photos/")]


def test_a_failure_that_passes_is_tried_again(server: _Server, tmp_path: Path) -> None:
    server.files, server.failures = {"/a.jpg": b"a"}, {"/a.jpg": [503, 429]}
    assert read_image(server.address("/a.jpg")) == b"a"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("failures", "message", "requests"),
    [
        ([500] * 5, "It cannot be fetched: HTTP status 500.", 3),
        ([403] * 5, "It cannot be fetched: HTTP status 403.", 1),
        ([404] * 5, "There is nothing at this address.", 1),
    ],
)
def test_a_failure_that_stays_is_the_images_error_without_its_signature(
    server: _Server, failures: list[int], message: str, requests: int
) -> None:
    server.files, server.failures = {"/a.jpg": b"a"}, {"/a.jpg": failures}
    with pytest.raises(ImageError) as caught:
        read_image(server.address("/a.jpg?signature=secret"))
    assert str(caught.value) == message
    assert len(server.requests) == requests


def test_a_server_that_is_not_there(server: _Server) -> None:
    address = server.address("/a.jpg?signature=secret")
    server.socket.close()
    with pytest.raises(ImageError) as caught:
        read_image(address.replace(str(server.server_address[1]), "1"))
    assert str(caught.value).startswith("It cannot be fetched: ")
    assert "secret" not in str(caught.value)


def test_an_object_too_large_is_not_taken_into_memory(server: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pc_engine.sources.image.MAX_BYTES", 1_000_000)
    server.files = {"/a.jpg": bytes(3_000_000)}
    with pytest.raises(ImageError, match="limit"):
        read_image(server.address("/a.jpg"))


def test_shards_on_the_web(server: _Server, packed: Callable[..., bytes]) -> None:
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": [b"row 0", b"row 1"]}), stream)
    server.files = {"/s.tar": packed([("a.jpg", JPEG * 1000), ("b.jpg", JPEG)]), "/t.parquet": stream.getvalue()}
    images = list(iter_images([server.address("/s.tar"), server.address("/t.parquet")]))
    assert [image.name for image in images] == [
        f"tar://a.jpg::{server.address('/s.tar')}",
        f"tar://b.jpg::{server.address('/s.tar')}",
        f"{server.address('/t.parquet')}#0",
        f"{server.address('/t.parquet')}#1",
    ]
    assert [image.read() for image in images] == [JPEG * 1000, JPEG, b"row 0", b"row 1"]
    assert read_image(images[1].name) == JPEG


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("source", ["zip://::{}", "zip://a::{}", "zip://**/*.jpg::{}"])
def test_images_of_one_name_in_a_zip_archive_are_said(tmp_path: Path, source: str) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for k, name in enumerate(["a/1.jpg", "a/2.jpg", "a/1.jpg", "a/notes.txt", "a/notes.txt", "a/1.jpg"]):
            archive.writestr(name, str(k))
    newest, single, repeated = iter_images([source.format(path)])
    assert (newest.name, newest.read()) == (f"zip://a/1.jpg::{path}", b"5")
    assert (single.name, single.read()) == (f"zip://a/2.jpg::{path}", b"1")
    assert repeated.name == f"zip://a/1.jpg::{path}#2"
    assert repeated.error is not None
    with pytest.raises(ImageError, match="holds 3 files of this name, of which only the last can be read"):
        repeated.read()


def test_a_zip_archive_without_members_holds_no_images(tmp_path: Path) -> None:
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    assert names(f"zip://::{tmp_path}/empty.zip") == []
    with pytest.raises(UsageError, match="cannot be found or reached"):
        names(f"zip://::{tmp_path}/gone.zip")
