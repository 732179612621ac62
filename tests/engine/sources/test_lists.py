from __future__ import annotations

import io
import os
import sys
import threading
import tracemalloc
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pc_engine.errors import UsageError
from pc_engine.sources import SourceImage, count_images, iter_images
from pc_engine.sources.lists import is_table


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("photos/a.jpg", "photos/b.jpg", "photos/#c.jpg", "photos/sub/d.jpg", "photos/x [1].jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path / "photos"


def listed(photos: Path, source: str) -> list[str]:
    return [os.path.relpath(image.name, photos) for image in iter_images([source])]


def write(photos: Path, name: str, content: str | bytes) -> str:
    path = photos / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return f"@{path}"


def test_a_line_an_image_in_the_order_of_the_list(photos: Path) -> None:
    source = write(
        photos, "l.txt", f"b.jpg\n\n  \n# a remark\n./#c.jpg\r\n{photos}/a.jpg\nx [1].jpg\nb.jpg\nsub\nsub/d.jpg"
    )
    images = list(iter_images([source]))
    names = ["b.jpg", "#c.jpg", "a.jpg", "x [1].jpg", "sub/d.jpg"]
    assert listed(photos, source) == names
    assert [image.read().decode() for image in images] == [f"photos/{name}" for name in names]
    assert count_images([source]) == 5


def test_umlauts_may_be_written_as_a_mac_does_or_not(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_mac, usual = (unicodedata.normalize(form, "Äpfel") for form in ("NFD", "NFC"))
    for folder, name in ((as_mac, usual), (usual, as_mac)):
        (photos / "in" / folder).mkdir(parents=True, exist_ok=True)
        (photos / "in" / folder / f"{name}.jpg").write_bytes(b"\xff\xd8\xff")
    if len(os.listdir(photos / "in")) == 1:
        pytest.skip("this file system takes both forms for one name")
    (photos / f"{as_mac}.jpg").touch()
    (photos.parent / f"{usual}.jpg").touch()
    names = [f"{usual}.jpg", f"{photos}/in/{usual}/{usual}.jpg", f"in/{as_mac}/{as_mac}.jpg", f"{usual}.png"]
    found = [f"{as_mac}.jpg", f"in/{usual}/{as_mac}.jpg", f"in/{as_mac}/{usual}.jpg"]
    assert listed(photos, write(photos, "l.txt", "\n".join(names)))[:-1] == found
    assert listed(photos, write(photos, "t.csv", "path\n" + "\n".join(names)))[:-1] == found
    # What is there under the very name goes first, wherever it is looked for.
    monkeypatch.chdir(photos.parent)
    assert listed(photos, write(photos, "l.txt", f"{usual}.jpg")) == [f"../{usual}.jpg"]


def test_relative_paths_are_looked_for_beside_the_list_and_then_in_the_current_folder(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos.parent / "here.jpg").write_bytes(b"here")
    (photos.parent / "a.jpg").write_bytes(b"another")
    monkeypatch.chdir(photos.parent)
    names = [image.name for image in iter_images([write(photos, "l.txt", "a.jpg\nhere.jpg\nphotos/b.jpg\ngone.jpg")])]
    assert names == [f"{photos}/a.jpg", "here.jpg", "photos/b.jpg", "gone.jpg"]
    Path("l.txt").write_text("photos/a.jpg")
    assert [image.name for image in iter_images(["@l.txt"])] == ["photos/a.jpg"]


def test_what_is_not_there_gets_its_row(
    photos: Path, said: Callable[[SourceImage], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    gone, pattern, odd = iter_images([write(photos, "l.txt", "gone.jpg\n*.jpg\na\0b.jpg")])
    where = f"in {photos}, where the list is, nor in the current folder, {photos.parent}"
    assert (gone.name, said(gone)) == ("gone.jpg", f"There is no such file {where}.")
    assert pattern.name == "*.jpg"
    assert "cannot be read" in said(odd)


def test_what_is_not_there_says_where_it_was_looked_for(
    photos: Path, said: Callable[[SourceImage], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    (photos / "t.csv").write_bytes(f"path,count\ncaf\xe9.jpg,1\n{photos}/gone.jpg,2\na.jpg,3".encode("latin-1"))
    latin, absolute, there = iter_images(["@t.csv"], count_column="count")
    here = f"There is no such file in {photos}, from where the list's paths are taken."
    assert said(latin) == f"{here} Its name in the list is not UTF-8: save that as UTF-8."
    assert said(absolute) == "There is no such file."
    assert (there.read(), there.count) == (b"photos/a.jpg", 3)
    (photos / "gone.jpg").write_bytes(b"back")
    assert absolute.read() == b"back"


def test_a_list_in_a_zip_archive_may_name_what_lies_beside_it(
    photos: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[SourceImage], str]
) -> None:
    monkeypatch.chdir(photos)
    lines = ["c.jpg", "../in/d.jpg", "sub2/", "gone.jpg", "a.jpg", f"{photos}/gone.jpg"]
    with zipfile.ZipFile(photos / "z.zip", "w") as archive:
        archive.writestr("lists/l.txt", "\n".join(lines))
        for name in ("lists/a.jpg", "lists/c.jpg", "in/d.jpg", "lists/sub2/e.jpg"):
            archive.writestr(name, name)
    *there, gone, here, absolute = iter_images(["@zip://lists/l.txt::z.zip"])
    assert [image.name for image in there] == [
        f"zip://{name}::z.zip" for name in ("lists/c.jpg", "in/d.jpg", "lists/sub2/e.jpg")
    ]
    assert [image.read() for image in there] == [b"lists/c.jpg", b"in/d.jpg", b"lists/sub2/e.jpg"]
    assert (gone.name, said(gone)) == ("zip://lists/gone.jpg::z.zip", "There is nothing at this address.")
    assert (here.name, here.read()) == ("a.jpg", b"photos/a.jpg")
    assert absolute.name == f"{photos}/gone.jpg"


def test_the_address_of_a_folder_is_that_folder(
    photos: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[SourceImage], str]
) -> None:
    monkeypatch.setattr("pc_engine.sources.retries.PAUSE", 0.0)
    archive = photos.parent / "z [1].zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for name in ("a.jpg", "in/b.jpg", "notes.txt"):
            packed.writestr(name, name)
    for line in (f"file://{photos}", f"file://{photos}/sub/", f"zip://::{archive}", f"zip://in/::{archive}"):
        images = list(iter_images([write(photos, "l.txt", line)]))
        assert [image.name for image in images] == [image.name for image in iter_images([line])] != []
        assert all(image.read() for image in images)
    # No pattern, no archive, no file: each has its row, and the lines behind them theirs.
    lines = [f"zip://*/::{archive}", f"zip://::{photos}/gone.zip", f"file://{photos}/gone/", f"zip://a.jpg::{archive}"]
    *gone, last = iter_images([write(photos, "l.txt", "\n".join(lines))])
    assert [image.name for image in gone] == lines[:3]
    assert all("cannot be found or reached" in said(image) for image in gone)
    assert last.read() == b"a.jpg"
    # What lies elsewhere is not counted.
    assert count_images([write(photos, "l.txt", f"file://{photos}/sub")]) == 1
    assert count_images([write(photos, "l.txt", f"zip://::{archive}")]) is None


def test_a_list_whose_address_is_of_this_machine_is_that_file(photos: Path) -> None:
    source = write(photos, "l.txt", f"a.jpg\nfile://{photos}/b.jpg")
    assert listed(photos, f"@file://{source[1:]}") == ["a.jpg", "b.jpg"]


def test_names_that_are_not_utf8(photos: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    (photos / name).write_bytes(b"coffee")
    (image,) = iter_images([write(photos, "l.txt", b"\xef\xbb\xbfcaf\xe9.jpg\n")])
    assert (image.name, image.read()) == (str(photos / name), b"coffee")


@pytest.mark.parametrize("column", ["path", "File", " filename ", "file_name", "IMAGE", "url"])
@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("csv", ";"), ("csv", "\t"), ("tsv", "\t")])
def test_tables(photos: Path, column: str, suffix: str, delimiter: str) -> None:
    rows = [["label", column], ["cat", "b.jpg"], ["dog", "a.jpg"], ["a\nb", '"x [1].jpg"'], ["#", "./#c.jpg"]]
    text = "\r\n".join(delimiter.join(f'"{cell}"' if "\n" in cell else cell for cell in row) for row in rows)
    source = write(photos, f"t.{suffix}", text)
    assert listed(photos, source) == ["b.jpg", "a.jpg", "x [1].jpg", "#c.jpg"]


def test_of_several_columns_the_path_is_taken(photos: Path) -> None:
    assert listed(photos, write(photos, "t.csv", "url,image,path\nx,y,a.jpg\n")) == ["a.jpg"]


def test_a_row_of_a_table_that_names_nothing_gets_an_error(photos: Path, said: Callable[[SourceImage], str]) -> None:
    source = write(photos, "t.csv", "label,path\ncat,\ndog\n\nbird,a.jpg\n")
    first, second, third = iter_images([source])
    assert (first.name, said(first)) == (f"{source}#2", "Line 2 names no image.")
    assert second.name == f"{source}#3"
    assert third.name == f"{photos}/a.jpg"


def test_a_table_that_breaks_gets_one_row_for_the_rest(photos: Path, said: Callable[[SourceImage], str]) -> None:
    long = '"' + "x" * 2_000_000 + '"'
    source = write(photos, "t.csv", f"path\na.jpg\n{long}\nb.jpg\n")
    first, last = iter_images([source])
    assert first.name == f"{photos}/a.jpg"
    assert (last.name, "any further after 1 entries" in said(last)) == (source, True)


def test_quotes_that_are_never_closed_get_a_row_for_the_lines_that_they_hide(
    photos: Path, said: Callable[[SourceImage], str]
) -> None:
    source = write(photos, "t.csv", 'label,path\n"two\nlines",b.jpg\n7" wide,a.jpg\n"cat,b.jpg\ndog,a.jpg\nbird,x.jpg')
    first, second, empty, hidden = iter_images([source])
    assert [Path(image.name).name for image in (first, second)] == ["b.jpg", "a.jpg"]
    assert said(empty) == "Line 7 names no image."
    assert hidden.name == f"{source}#5"
    assert said(hidden) == "Quotes that begin in line 5 are never closed, and hide the 2 lines after it."
    # The last one may lack them, as it hides nothing; and what they open may be closed.
    for end in ('a.jpg,"cat', 'a.jpg,"cat\nand dog"'):
        assert len(list(iter_images([write(photos, "u.csv", f"path,label\n{end}")]))) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "label,count\n", "has the columns 'label', 'count': call the one with the images one of path, file"),
        ("t.csv", "", "has nothing in its first line, which must name"),
        ("t.csv", "path\ra.jpg\r", "The table '@?.*t.csv' cannot be read .*: save it as CSV again"),
        ("l.txt", "a.jpg".encode("utf-16"), "not UTF-8 text"),
    ],
)
def test_lists_that_cannot_be_used_are_wrong_use(photos: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        iter_images([write(photos, name, content)])


def test_a_column_of_a_table_says_how_many_objects_its_images_show(photos: Path) -> None:
    cells = ("a.jpg,3", "b.jpg, 4", "c.jpg,", "d.jpg,some", "e.jpg", "f.jpg,0", "g.jpg,2.0", "h.jpg,-1")
    source = write(photos, "t.csv", "\n".join(["Path,Objects", *cells, "i.jpg,4+", "j.jpg, 4+ "]))
    images = list(iter_images([source, str(photos / "x [1].jpg")], count_column=" objects"))
    assert [image.count for image in images] == [3, 4, None, None, None, 0, 2, None, None, None, None]
    assert [image.count for image in iter_images([source])] == [None] * 10
    # Of what a line names, each image shows as many.
    (photos / "in").mkdir()
    for name in ("x.jpg", "y.jpg"):
        (photos / "in" / name).write_bytes(b"image")
    source = write(photos, "u.csv", "count,path\n5,in\n")
    assert [image.count for image in iter_images([source], count_column="count")] == [5, 5]


def test_the_tables_of_braces_are_asked_for_counts(photos: Path) -> None:
    for name, image in (("t.csv", "a.jpg"), ("u.csv", "b.jpg")):
        write(photos, name, f"path,count\n{image},3\n")
    images = list(iter_images([f"@{photos}/{{t,u}}.csv"], count_column="count"))
    assert [image.count for image in images] == [3, 3]
    assert is_table("@https://host/t.csv?signature=x")
    assert not is_table("https://host/t.csv")
    assert not is_table("@https://host/t.txt?name=t.csv")


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["@{}/t.csv"], "has the columns 'path', 'count', and none called 'objects' with counts: name another"),
        (["@{}/t.csv", "{}/a.jpg"], "none called 'objects'"),
        (["{}/a.jpg"], "'objects' should be a column of counts, but no table was given"),
        (["@{}/l.txt"], "no table was given"),
    ],
)
def test_a_column_of_counts_that_is_not_there_is_wrong_use(photos: Path, sources: list[str], message: str) -> None:
    write(photos, "t.csv", "path,count\na.jpg,1\n")
    write(photos, "l.txt", "a.jpg\n")
    with pytest.raises(UsageError, match=message):
        iter_images([source.format(photos) for source in sources], count_column="objects")


@pytest.mark.parametrize("source", ["@gone.txt", "@"])
def test_a_list_that_is_not_there_is_wrong_use(source: str) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        iter_images([source])


def test_a_folder_or_file_whose_name_begins_with_the_mark_is_itself(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    Path("@l.jpg").write_bytes(b"image")
    assert [image.name for image in iter_images(["@l.jpg"])] == ["@l.jpg"]


def test_a_list_from_stdin_which_cannot_be_counted(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = SimpleNamespace(buffer=io.BytesIO(f"{photos}/a.jpg\n{photos}/b.jpg\n".encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert count_images(["@-"]) is None
    assert listed(photos, "@-") == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("end", ["\0", ""])
def test_names_from_stdin_may_be_ended_by_nuls(photos: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    names = ["a.jpg", "#c.jpg", "two\nlines.jpg", " .jpg ", "é\r.jpg", *(f"{k}.jpg" for k in range(20_000))]
    written = "\0".join(f"{photos}/{name}" for name in names) + end
    stdin = SimpleNamespace(buffer=io.BytesIO(written.encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert listed(photos, "@-") == names


def test_what_nothing_ends_is_no_name_of_any_length(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a.jpg\0" + bytes([65]) * (3 << 20))))
    first, *others = [image.name for image in iter_images(["@-"])]
    assert first == "a.jpg"
    assert len("".join(others)) == 3 << 20
    assert all(len(name) < 2 << 20 for name in others)


def test_a_silent_stdin_is_not_waited_for_once_the_run_is_to_end(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.pipe()
    with open(ours, "rb") as stream, open(theirs, "wb", buffering=0) as writer:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
        over: list[bool] = []
        images = iter_images(["@-"], stop=lambda: bool(over))
        # The second line comes in two parts, and the third one is never ended.
        writer.write(f"{photos}/a.jpg\n{photos}/".encode())
        assert next(images).name == f"{photos}/a.jpg"
        writer.write(f"b.jpg\n{photos}".encode())
        assert next(images).name == f"{photos}/b.jpg"
        threading.Timer(0.1, over.append, [True]).start()
        assert list(images) == []


def test_lines_are_read_as_they_are_needed(photos: Path) -> None:
    def peak(n: int) -> int:
        source = write(photos, f"{n}.txt", "".join(f"{k:06d}.jpg\n" for k in range(n)))
        tracemalloc.start()
        try:
            assert sum(1 for _ in iter_images([source])) == n
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)
    # Of each of the other 18,000 it is remembered that it came. As text they would take two megabytes; a few kilobytes
    # come and go.
    assert peak(20_000) < peak(2_000) + 40 * 18_000 + 100_000


def test_a_table_may_have_long_cells(photos: Path) -> None:
    annotations = '"' + "x" * 200_000 + '"'
    source = write(photos, "t.csv", f"annotations,path\n{annotations},a.jpg\n-,b.jpg\n")
    assert listed(photos, source) == ["a.jpg", "b.jpg"]
