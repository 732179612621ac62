from __future__ import annotations

from pathlib import Path

import pytest

from pc_engine.datasets.unpacked import Member, UnpackedArchives, member_of


@pytest.mark.parametrize(
    ("path", "member"),
    [
        ("tar://in/a.jpg::s.tar", ("s.tar", "in/a.jpg", 1)),
        ("tar://a.jpg::/data/s.tar.gz#2", ("/data/s.tar.gz", "a.jpg", 2)),
        ("zip://a::b.jpg::https://host/z.zip", ("https://host/z.zip", "a::b.jpg", 1)),
        ("zip://a.jpg::tar://z.zip::s.tar", None),
        ("https://host/a.jpg", None),
        ("photos/a.jpg", None),
        ("odd::name.jpg", None),
    ],
)
def test_an_image_in_an_archive_is_known_by_its_path(path: str, member: tuple[str, str, int] | None) -> None:
    assert member_of(path) == (None if member is None else Member(path, *member))


def find(folder: Path, path: str, *others: str) -> str | None:
    unpacked = UnpackedArchives(folder)
    members = [member for member in map(member_of, (path, *others)) if member is not None]
    for member in members:
        unpacked.note(member)
    file = unpacked.file(members[0])
    return unpacked.why_not(members[0]) if file is None else str(file.relative_to(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("in/a.jpg", "b.jpg", "s/b.jpg", "t.tar.gz/b.jpg"):
        (tmp_path / "now" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "now" / name).touch()
    (tmp_path / "outside.jpg").touch()
    return tmp_path / "now"


def test_an_image_is_found_where_its_archive_was_unpacked(folder: Path) -> None:
    assert find(folder, "tar://./in/a.jpg::/data/r.tar") == "in/a.jpg"
    assert find(folder, "tar://b.jpg::/data/r.tar") == "b.jpg"
    assert find(folder, "zip://b.jpg::/data/s.zip") == "s/b.jpg"
    assert find(folder, "tar://b.jpg::t.tar.gz", "tar://a.jpg::s.tar") == "t.tar.gz/b.jpg"


def test_an_image_that_may_be_that_of_another_archive_is_not_taken(folder: Path) -> None:
    why = find(folder, "tar://b.jpg::r.tar", "tar://b.jpg::s.tar")
    assert why == f"it is not in {folder}: unpack its archive to a folder r in there"
    why = find(folder, "tar://b.jpg::x/s.tar", "tar://b.jpg::y/s.tar")
    assert why is not None
    assert why.startswith("several archives of the run are called s, so the files do not tell which it is: run on")
    why = find(folder, "tar://b.jpg::s.tar", "tar://b.jpg::s.tar#2")
    assert why is not None
    assert why.startswith("its archive holds several images of that name, so the files")


@pytest.mark.parametrize("name", ["../outside.jpg", "", ".", "nul\0.jpg", "x" * 5000])
def test_a_name_never_leads_out_of_the_folder(folder: Path, name: str) -> None:
    assert "unpack its archive" in str(find(folder, f"tar://{name}::s.tar"))
