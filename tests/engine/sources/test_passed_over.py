from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pc_engine.sources import count_images, iter_images
from pc_engine.sources.passed_over import PassedOver
from pc_engine.sources.sharding import Shard

JPEG = b"\xff\xd8\xff\xe0" + bytes(8)
TELEPHONE = ("IMG_1.HEIC", "IMG_1.AAE", "IMG_1.MOV", "IMG_2.JPG", "IMG_2.aae", "sub/IMG_3.MP4", "notes")
SYSTEMS = (".DS_Store", "._IMG_1.MOV", "Thumbs.db", "sub/desktop.ini", ".nomedia")
RAW = ("DSC_1.NEF", "DSC_1.JPG", "DSC_2.NEF", "R3.CR3", "R3.HIF", "p.raf", "p.jpeg", "q.orf", "q.xmp")


def noted(sources: Iterable[str | Path]) -> tuple[list[str], PassedOver]:
    """Return the names of the images, and what was passed over."""
    passed_over = PassedOver()
    images = iter_images([str(source) for source in sources], passed_over=passed_over.add)
    return [image.name for image in images], passed_over


def touch(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\0\0\0\x14ftypqt  ")


def test_videos_and_sidecars_of_a_telephone_are_counted_and_what_systems_keep_is_not(tmp_path: Path) -> None:
    touch(tmp_path, (*TELEPHONE, *SYSTEMS))
    images, passed_over = noted([tmp_path])
    assert images == [f"{tmp_path}/IMG_1.HEIC", f"{tmp_path}/IMG_2.JPG"]
    assert passed_over.to_dict() == {".aae": 2, ".mov": 1, ".mp4": 1, "other": 1}
    said = "5 files of unsupported kinds were passed over (2 .aae, 1 .mov, 1 other, 1 .mp4)."
    assert passed_over.sentences() == [said]


def test_archives_in_a_folder_are_no_kind_that_is_not_read(tmp_path: Path) -> None:
    touch(tmp_path, ("a.tar", "b.tar.gz", "c.TAR.GZ", "d.zip", "notes.gz"))
    images, passed_over = noted([tmp_path])
    assert images == []
    assert passed_over.to_dict() == {".tar.gz": 2, ".tar": 1, ".zip": 1, ".gz": 1}
    assert passed_over.sentences() == [
        "1 file of an unsupported kind was passed over (1 .gz).",
        *passed_over.notes(),
    ]
    assert passed_over.notes() == [
        "4 archives were passed over (2 .tar.gz, 1 .tar, 1 .zip): archives are read only if named as sources, such as "
        f"'{tmp_path}/*.tar.gz'.",
    ]
    assert PassedOver().notes() == []


def test_the_archives_of_a_folder_with_an_odd_name_are_named_by_a_pattern_for_them(tmp_path: Path) -> None:
    touch(tmp_path, ("shards [2]/a.tar",))
    _, passed_over = noted([tmp_path])
    pattern = passed_over.notes()[0].split("'")[1]
    assert Path(pattern).name == "*.tar"
    assert count_images([pattern]) == 1  # a row that says that it is no archive


def test_archives_in_archives_are_not_to_be_named(tmp_path: Path) -> None:
    passed_over = PassedOver()
    for name in ("tar://inner.zip::o.tar", "https://h.org/a.zip", "s3://bucket/a.tar", "https://h.org/b.tar.gz"):
        passed_over.add(name)
    assert passed_over.sentences() == ["4 files of unsupported kinds were passed over (2 .zip, 1 .tar, 1 .tar.gz)."]


def test_a_raw_photo_takes_part_unless_the_cameras_picture_of_it_lies_beside_it(tmp_path: Path) -> None:
    touch(tmp_path, RAW)
    images, passed_over = noted([tmp_path])
    assert [Path(name).name for name in images] == ["DSC_1.JPG", "DSC_2.NEF", "R3.HIF", "p.jpeg", "q.orf"]
    assert passed_over.to_dict() == {".nef": 1, ".cr3": 1, ".raf": 1, ".xmp": 1}
    assert passed_over.sentences() == [
        "1 file of an unsupported kind was passed over (1 .xmp).",
        "3 raw photos were passed over, as each lies beside its JPEG or HEIC (1 .nef, 1 .cr3, 1 .raf).",
    ]
    assert count_images([tmp_path]) == 5
    # Named by itself, it gets its row.
    assert noted([tmp_path / "DSC_1.NEF"])[0] == [f"{tmp_path}/DSC_1.NEF"]


def test_it_is_the_same_elsewhere_and_in_archives(tmp_path: Path, packed: Callable[..., bytes]) -> None:
    memory: Any = fsspec.filesystem("memory")
    memory.store.clear()
    for name in RAW:
        memory.pipe_file(f"/camera/{name}", b"x")
    images, passed_over = noted(["memory://camera"])
    memory.store.clear()
    assert [Path(name).name for name in images] == ["DSC_1.JPG", "DSC_2.NEF", "R3.HIF", "p.jpeg", "q.orf"]
    assert passed_over.to_dict() == {".nef": 1, ".cr3": 1, ".raf": 1, ".xmp": 1}
    (tmp_path / "t.tar").write_bytes(packed([("a/1.jpg", JPEG), ("a/1.mov", b"ftyp"), ("a/1.json", b"{}")]))
    images, passed_over = noted([tmp_path / "t.tar"])
    assert images == [f"tar://a/1.jpg::{tmp_path}/t.tar"]
    assert passed_over.to_dict() == {".mov": 1, ".json": 1}


def test_shards_count_each_file_once_between_them(tmp_path: Path) -> None:
    touch(tmp_path, (f"{k}.mov" for k in range(40)))
    parts = [PassedOver(Shard(index, 3).holds) for index in (1, 2, 3)]
    for part in parts:
        assert not list(iter_images(tmp_path, passed_over=part.add))
    found = [part.to_dict()[".mov"] for part in parts]
    assert sum(found) == 40
    assert min(found) > 0


@pytest.mark.parametrize("suffix", [".{:05d}", ".a b{}", ".\n{}", "." + "x" * 90 + "{}", ".\udcff{}"])
def test_suffixes_of_any_number_and_kind_take_no_room(suffix: str) -> None:
    passed_over = PassedOver()
    for k in range(1_000):
        passed_over.add("/photos/file" + suffix.format(k))
    counts = Counter(passed_over.to_dict())
    assert counts.total() == 1_000
    assert len(counts) <= 101
    assert all(sentence.isprintable() and len(sentence) < 200 for sentence in passed_over.sentences())


def test_images_that_are_named_again_are_counted() -> None:
    passed_over = PassedOver(lambda name: name != "other.jpg")
    for name, other in (("a.jpg", False), ("other.jpg", True)):
        passed_over.add_named_again(name, other)
    assert passed_over.sentences() == ["1 image was given more than once and is counted once."]
    for name, other in (("b.jpg", True), ("a.jpg", False)):
        passed_over.add_named_again(name, other)
    assert passed_over.named_again == 3
    assert passed_over.sentences() == [
        "3 images were given more than once and are counted once, 1 with another count: the first one is used."
    ]
