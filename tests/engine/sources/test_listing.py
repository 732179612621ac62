from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pc_engine.errors import UsageError
from pc_engine.sources import count_images, iter_images, listing, named_twice

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8
JPEG = b"\xff\xd8\xff\xe0" + b"\0" * 8


def touch(root: Path, *names: str, content: bytes = JPEG) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def listed(root: Path, *given: str | Path) -> list[str]:
    return [os.path.relpath(image.name, root) for image in iter_images(given or [root])]


def test_folders_are_walked_recursively_in_a_stable_order(tmp_path: Path) -> None:
    names = ["a.jpg", "b/c.PNG", "b/d/e.webp", "b.jpg", "z.gif", "B.tiff", "10.bmp", "9.jpeg"]
    touch(tmp_path, *reversed(names))
    assert listed(tmp_path) == ["10.bmp", "9.jpeg", "B.tiff", "a.jpg", "b/c.PNG", "b/d/e.webp", "b.jpg", "z.gif"]


def test_sources_follow_one_another_as_given(tmp_path: Path) -> None:
    touch(tmp_path, "x/1.jpg", "y/2.jpg")
    assert listed(tmp_path, tmp_path / "y", tmp_path / "x/1.jpg", str(tmp_path / "x")) == [
        "y/2.jpg",
        "x/1.jpg",
    ]


def test_files_of_a_folder_take_part_by_suffix_or_by_their_first_bytes(tmp_path: Path) -> None:
    touch(tmp_path, "named.jpg", content=b"not an image, and gets its row")
    touch(tmp_path, "jpeg", "photo.dat", "1.partial")
    touch(tmp_path, "png", content=PNG)
    touch(tmp_path, "webp", content=b"RIFF\x10\0\0\0WEBPVP8 ")
    touch(tmp_path, "tiff-le", content=b"II*\0\x08\0\0\0")
    touch(tmp_path, "tiff-be", content=b"MM\0*\0\0\0\x08")
    touch(tmp_path, "gif", content=b"GIF89a")
    touch(tmp_path, "bmp", content=b"BM\x40\0\0\0\0\0\0\0\x36\0")
    touch(tmp_path, "slide.btf", content=b"named so")
    touch(tmp_path, "big-tiff", content=b"II+\0\x08\0\0\0")
    touch(tmp_path, "pgm", content=b"P5 640 480 255 ")
    touch(tmp_path, "ppm", content=b"P6\n# made by\n")
    touch(tmp_path, "jpeg-2000", content=b"\0\0\0\x0cjP  \r\n\x87\n")
    expected = {"named.jpg", "jpeg", "photo.dat", "1.partial", "png", "webp", "tiff-le", "tiff-be", "gif", "bmp"}
    expected |= {"slide.btf", "big-tiff", "pgm", "ppm", "jpeg-2000"}
    touch(tmp_path, "plan", content=b"P1 is the first of our projects")
    touch(tmp_path, "sound.wav", content=b"RIFF\x10\0\0\0WAVEfmt ")
    touch(tmp_path, "letter", content=b"BMW cars and other texts")
    touch(tmp_path, "labels.json", "notes.txt", content=b"{}")
    touch(tmp_path, "empty", content=b"")
    os.mkfifo(tmp_path / "pipe")  # reading its first bytes would wait for ever
    assert set(listed(tmp_path)) == expected


def test_a_file_named_directly_takes_part_whatever_it_is(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt", content=b"text")
    assert listed(tmp_path, tmp_path / "notes.txt") == ["notes.txt"]


def test_links_that_lead_back_up_or_to_themselves_end(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a/1.jpg")
    (tmp_path / "photos/a/up").symlink_to("..")
    (tmp_path / "photos/self").symlink_to("self")
    (tmp_path / "photos/self.jpg").symlink_to("self.jpg")
    (tmp_path / "photos/gone").symlink_to("nowhere")
    (tmp_path / "photos/gone.jpg").symlink_to("nowhere")
    # Links with an image's name that lead nowhere get their row.
    assert listed(tmp_path, tmp_path / "photos") == ["photos/a/1.jpg", "photos/gone.jpg", "photos/self.jpg"]


def test_links_to_other_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.jpg", "photos/2.jpg")
    (tmp_path / "photos/more").symlink_to("../elsewhere")
    assert listed(tmp_path, tmp_path / "photos") == ["photos/2.jpg", "photos/more/1.jpg"]


def test_links_from_one_source_into_another_are_not_followed(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/in/2.jpg", "b/3.jpg", "c/4.jpg")
    for name, target in (("a/b", "../b"), ("a/in", "../b/in"), ("b/a", "../a"), ("b/c", "../c")):
        (tmp_path / name).symlink_to(target)
    sources = (tmp_path / "a", f"{tmp_path}/b/")
    expected = ["a/1.jpg", "b/3.jpg", "b/c/4.jpg", "b/in/2.jpg"]
    assert listed(tmp_path, *sources) == expected
    assert count_images(sources) == 4
    # Alone each leads to all of them.
    assert len(listed(tmp_path, sources[0])) == len(listed(tmp_path, sources[1])) == 4


def test_globs(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.jpg", "a.png", "sub/c.jpg", "sub/deep/d.jpg")
    assert listed(tmp_path, f"{tmp_path}/*.jpg") == ["a.jpg", "b.jpg"]
    assert listed(tmp_path, f"{tmp_path}/**/*.jpg") == ["a.jpg", "b.jpg", "sub/c.jpg", "sub/deep/d.jpg"]
    assert listed(tmp_path, f"{tmp_path}/s*") == ["sub/c.jpg", "sub/deep/d.jpg"]


@pytest.mark.parametrize("pattern", ["**", "**/*", "*", "**/"])
def test_a_glob_that_matches_folders_and_their_files_lists_each_image_once(tmp_path: Path, pattern: str) -> None:
    touch(tmp_path, "a/1.jpg", "a-b.jpg", "a/b/2.jpg", "a/b-c/3.jpg")
    assert sorted(listed(tmp_path, f"{tmp_path}/{pattern}")) == ["a-b.jpg", "a/1.jpg", "a/b-c/3.jpg", "a/b/2.jpg"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    touch(tmp_path, "photo[1].jpg", "photo1.jpg")
    assert listed(tmp_path, tmp_path / "photo[1].jpg") == ["photo[1].jpg"]


def test_names_that_are_not_utf8_are_listed(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    touch(tmp_path, name)
    assert listed(tmp_path) == [name]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/folder", "There is no file or folder: 'no/such/folder'"),
        ("no/such/*.jpg", "The pattern matches nothing: 'no/such/"),
        ("", "There is no file or folder: ''"),
        ("a\0b", "There is no file or folder"),
        ("{.,nowhere}", "There is no file or folder: 'nowhere'"),
    ],
)
def test_a_source_that_does_not_exist_is_wrong_use_before_anything_is_listed(
    tmp_path: Path, source: str, message: str
) -> None:
    touch(tmp_path, "1.jpg")
    with pytest.raises(UsageError) as caught:
        iter_images([tmp_path, source])
    assert str(caught.value).startswith(message)


def test_no_source_at_all_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="No source was given"):
        iter_images([])


def test_a_folder_without_images_lists_nothing(tmp_path: Path) -> None:
    assert listed(tmp_path) == []


def test_the_demo_is_a_folder_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "scene.png", content=PNG)
    monkeypatch.setattr(listing, "DEMO_DIRECTORY", tmp_path)
    assert listed(tmp_path, "demo:") == ["scene.png"]


def test_listing_is_lazy(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    images = iter_images([tmp_path])
    assert next(images).name == str(tmp_path / "a/1.jpg")
    touch(tmp_path, "b/1.jpg")  # the folder is listed when its turn comes
    assert [image.name for image in images] == [str(tmp_path / "b/1.jpg"), str(tmp_path / "b/2.jpg")]


def test_a_folder_that_vanishes_while_the_run_goes_on_gets_one_entry(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg", "c.jpg")
    images = iter_images([tmp_path])
    next(images)
    (tmp_path / "b/2.jpg").unlink()
    (tmp_path / "b").rmdir()
    (tmp_path / "b").mkdir(mode=0o700)
    assert [image.name for image in images] == [str(tmp_path / "c.jpg")]


def test_a_folder_can_be_left_out_by_whatever_name_it_is_reached(tmp_path: Path) -> None:
    touch(tmp_path, "photos/1.jpg", "photos/run/overlays/2.jpg", "photos/run/3.jpg", "photos/overlays/4.jpg")
    (tmp_path / "photos/link").symlink_to("run/overlays")
    without = tmp_path / "photos/run/../run/overlays"
    names = [Path(image.name).name for image in iter_images([tmp_path / "photos"], without=without)]
    assert names == ["1.jpg", "4.jpg", "3.jpg"]
    assert list(iter_images([f"{tmp_path}/photos/run/over*"], without=without)) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_subfolder_that_cannot_be_listed_gets_one_entry_and_a_source_is_wrong_use(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a").chmod(0)
    try:
        assert listed(tmp_path) == ["a", "b/2.jpg"]
        with pytest.raises(UsageError, match="cannot be listed"):
            iter_images([tmp_path / "a"])
    finally:
        (tmp_path / "a").chmod(0o700)


def test_a_source_that_is_named_twice_is_gone_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "photos" / name).touch()
    monkeypatch.chdir(tmp_path)
    sources = ["photos/b.jpg", "photos", "photos/", "./photos", str(tmp_path / "photos"), "photos/b.jpg"]
    assert [image.name for image in iter_images(sources)] == ["photos/b.jpg", "photos/a.jpg"]
    assert count_images(sources) == 2


@pytest.mark.parametrize(
    "sources",
    [
        ["photos", "photos/*.jpg"],
        ["./photos/*.jpg", "photos"],
        ["@list.txt"],
        ["@list.txt", "photos"],
        ["photos/{a,b,a}.jpg"],
        ["{here}/photos/../photos/*.jpg", "photos/a.jpg"],
    ],
)
def test_an_image_that_is_named_in_several_ways_is_listed_once(
    sources: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "photos/a.jpg", "photos/b.jpg")
    (tmp_path / "list.txt").write_text(f"photos/b.jpg\n{tmp_path}/photos/a.jpg\n./photos/b.jpg\nphotos\n")
    monkeypatch.chdir(tmp_path)
    sources = [source.replace("{here}", str(tmp_path)) for source in sources]
    again: list[bool] = []
    images = list(iter_images(sources, named_again=lambda _, other: again.append(other)))
    assert sorted(os.path.basename(image.name) for image in images) == ["a.jpg", "b.jpg"]
    assert again
    assert not any(again)
    assert count_images(sources) == 2


def test_case_makes_no_other_name_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "normcase", str.lower)
    (tmp_path / "list.txt").write_text(f"{tmp_path}/a.jpg\n{tmp_path}/A.JPG\n{tmp_path}/x/../A.jpg\n")
    images = list(iter_images([f"@{tmp_path}/list.txt"]))
    assert [image.name for image in images] == [f"{tmp_path}/a.jpg"]


def test_a_photo_and_one_that_only_looks_like_it_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.jpg", "b.jpg/a.jpg", "b.jpg/b.jpg")
    monkeypatch.chdir(tmp_path)
    assert count_images(["a.jpg", "b.jpg", "b.jpg/a.jpg"]) == 3


def test_a_path_that_leads_out_of_a_link_is_taken_as_the_system_takes_it(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.jpg", "other/a.jpg", "other/sub/b.jpg")
    (tmp_path / "photos/link").symlink_to("../other/sub")
    lines = ("photos/link/../a.jpg", "photos/a.jpg", "other/a.jpg", "photos/../photos/a.jpg")
    (tmp_path / "list.txt").write_text("\n".join(lines))
    images = list(iter_images([f"@{tmp_path}/list.txt"]))
    assert [image.name for image in images] == [f"{tmp_path}/{line}" for line in lines[:2]]


def test_members_of_an_archive_that_is_named_in_two_ways_are_listed_once(
    tmp_path: Path, packed: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.tar").write_bytes(packed([("a.jpg", b"a"), ("b.jpg", b"b")]))
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        archive.writestr("a.jpg", b"a")
    (tmp_path / "bad.zip").write_bytes(b"PK")
    lines = [
        name for archive in ("x.tar", "y.zip", "bad.zip") for name in (archive, f"./{archive}", tmp_path / archive)
    ]
    (tmp_path / "list.txt").write_text("\n".join(map(str, lines)))
    images = list(iter_images(["@list.txt"]))
    assert [os.path.basename(image.name.split("::")[0]) for image in images] == ["a.jpg", "b.jpg", "a.jpg", "bad.zip"]


@pytest.mark.skipif(sys.platform == "win32", reason="a folder that is used is not removed")
def test_absolute_paths_need_no_folder_to_begin_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "photos/a.jpg")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    images = iter_images([tmp_path / "photos/a.jpg", tmp_path / "photos"])
    assert [image.name for image in images] == [f"{tmp_path}/photos/a.jpg"]


def test_other_counts_of_an_image_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "t.csv").write_text("path,count\na.jpg,2\nb.jpg,1\na.jpg,3\n./a.jpg,2\nb.jpg,\n")
    again: list[tuple[str, bool]] = []
    table = f"@{tmp_path}/t.csv"
    images = list(iter_images([table], count_column="count", named_again=lambda *about: again.append(about)))
    assert [image.count for image in images] == [2, 1]
    assert [(os.path.basename(name), other) for name, other in again] == [
        *(("a.jpg", True), ("a.jpg", False), ("b.jpg", True))
    ]


def test_a_source_that_is_named_twice_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    names = [str(tmp_path / "a"), f"{tmp_path}/link", "*.jpg", f"{tmp_path}/a/", "*.jpg", "demo:"]
    assert named_twice(names) == [f"{tmp_path}/link", "*.jpg"]


def test_a_workbook_is_answered_with_what_to_save_it_as(tmp_path: Path) -> None:
    touch(tmp_path, "c.XLSX", content=b"PK\3\4" + bytes(40))
    touch(tmp_path, "a.jpg")
    said = rf"^'{tmp_path}/c\.XLSX' is a workbook .*: save it as CSV UTF-8, and name that as '@table\.csv'\.$"
    for source, count_column in (
        (f"@{tmp_path}/c.XLSX", None),
        (f"@{tmp_path}/c.XLSX", "count"),
        (f"{tmp_path}/c.XLSX", None),
    ):
        with pytest.raises(UsageError, match=said):
            iter_images(source, count_column=count_column)
    assert len(list(iter_images([tmp_path / "a.jpg", tmp_path / "c.XLSX"]))) == 2


@pytest.mark.parametrize("name", ["counts.csv", "T.TSV"])
def test_a_table_that_is_named_as_a_photo_is_answered_with_how_to_name_it(tmp_path: Path, name: str) -> None:
    table = tmp_path / name
    table.write_text("path\na.jpg\n")
    with pytest.raises(UsageError, match=rf"is a table, not a photo: .* write '@.*{name}'\.$"):
        iter_images(table)
    # A shell's pattern names whatever lies there.
    touch(tmp_path, "a.jpg")
    assert len(list(iter_images([tmp_path / "a.jpg", table]))) == 2
    table.write_bytes(b"\xff\xd8\xff" + bytes(20))
    assert len(list(iter_images(table))) == 1
