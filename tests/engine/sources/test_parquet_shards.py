from __future__ import annotations

import io
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pc_engine.errors import ImageError, UsageError
from pc_engine.sources import SourceImage, count_images, iter_images, parquet_shards, read_image
from pc_engine.sources.held_bytes import HeldBytes
from pc_engine.sources.parquet_shards import parquet_images
from pc_engine.sources.shards import Listing, open_shard

CONTENT = [b"first", b"second" * 100, b""]


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def structures(cells: list[bytes | None]) -> pa.Array:
    rows = [{"bytes": cell, "path": f"{k}.jpg"} for k, cell in enumerate(cells)]
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


@pytest.mark.parametrize(
    "columns",
    [
        {"image": structures([*CONTENT]), "label": [1, 2, 3]},
        {"label": [1, 2, 3], "jpg": CONTENT},
        {"anything": CONTENT},
        {"Image": CONTENT, "hash": [b"x", b"y", b"z"]},
        {"key.with.dots": CONTENT},
        {"data": pa.array(CONTENT, pa.large_binary())},
        {"mask": structures([b"m"] * 3), "image": structures([*CONTENT])},
    ],
)
@pytest.mark.parametrize("rows", [1, 2, 100])
def test_each_row_is_an_image_named_by_its_number(tmp_path: Path, columns: dict[str, Any], rows: int) -> None:
    shard = write(tmp_path / "train.parquet", columns, row_group_size=rows)
    images = list(iter_images([shard]))
    assert [image.name for image in images] == [f"{shard}#{row}" for row in range(3)]
    assert [image.read() for image in images] == CONTENT
    assert [image.read() for image in images] == CONTENT  # a second time
    assert [read_image(image.name) for image in images] == CONTENT
    assert count_images([shard]) == 3


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", ["plain", "view", "dictionary"])
def test_it_does_not_matter_how_arrow_stores_the_bytes(
    tmp_path: Path, said: Callable[[SourceImage], str], kind: str, inside: bool
) -> None:
    pictures = []
    for colour in ("red", "green", "red"):
        stream = io.BytesIO()
        Image.new("RGB", (40, 30), colour).save(stream, "JPEG")
        pictures.append(stream.getvalue())
    cells = pa.array([*pictures, None], pa.binary_view() if kind == "view" else pa.binary())
    cells = cells.dictionary_encode() if kind == "dictionary" else cells
    column = pa.StructArray.from_arrays([cells], ["bytes"]) if inside else cells
    try:
        shard = write(tmp_path / "a.parquet", {"image": column, "label": [1, 2, 3, 4]})
    except pa.ArrowNotImplementedError:
        pytest.skip("this PyArrow writes no views")
    kept = pq.read_schema(shard).field("image").type
    assert (kept.field("bytes").type if inside else kept) == cells.type
    *images, none = iter_images([shard])
    assert [image.read() for image in images] == [read_image(image.name) for image in images] == pictures
    assert said(none) == "The row has no image bytes."


def test_what_a_dictionary_holds_once_takes_the_room_of_one_however_many_rows_have_it(tmp_path: Path) -> None:
    column = pa.array([bytes(1_000_000)] * 200, pa.binary()).dictionary_encode()
    shard = write(tmp_path / "a.parquet", {"image": column})
    before = pa.total_allocated_bytes()
    taken = [pa.total_allocated_bytes() - before for _ in parquet_images(str(shard), Listing(held=HeldBytes(0)))]
    assert len(taken) == 200
    assert max(taken) < 20_000_000


def test_rows_that_are_read_elsewhere_are_named_without_reading_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = write(tmp_path / "train.parquet", {"image": CONTENT})
    monkeypatch.setattr(parquet_shards, "_batches", None)
    assert [image.name for image in iter_images([shard], by_name=True)] == [f"{shard}#{row}" for row in range(3)]


def test_a_row_without_bytes_gets_its_error(tmp_path: Path, said: Callable[[SourceImage], str]) -> None:
    rows = pa.array([None, {"bytes": None}, {"bytes": b"x"}], pa.struct([("bytes", pa.binary())]))
    shard = write(tmp_path / "a.parquet", {"image": rows})
    none, null, there = iter_images([shard])
    assert said(none) == said(null) == "The row has no image bytes."
    assert there.read() == b"x"
    with pytest.raises(ImageError, match="no image bytes"):
        read_image(none.name)


def test_a_cell_too_large_gets_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[SourceImage], str]
) -> None:
    monkeypatch.setattr("pc_engine.sources.image.MAX_BYTES", 1000)
    shard = write(tmp_path / "a.parquet", {"image": [bytes(5000), b"small"]})
    large, small = iter_images([shard])
    assert "limit" in said(large)
    assert small.read() == b"small"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a.jpg", "b.jpg"], "n": [3, 4]}, "None of its columns holds bytes of images; it has path, n."),
        ({"left": [b"a"], "right": [b"b"]}, r"Several of its columns hold bytes \(left, right\)"),
        ({"image": [{"path": "a.jpg"}]}, "None of its columns"),
    ],
)
def test_no_column_of_images_is_wrong_use_for_a_file_and_a_row_in_a_glob(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    shard = write(tmp_path / "a.parquet", columns)
    with pytest.raises(UsageError, match=message):
        iter_images([shard])
    (only,) = iter_images([f"{tmp_path}/*.parquet"])
    assert count_images([f"{tmp_path}/*.parquet"]) == 1
    assert only.name == str(shard)
    with pytest.raises(ImageError, match=message):
        only.read()


def test_what_is_no_parquet_file(tmp_path: Path, said: Callable[[SourceImage], str]) -> None:
    shard = tmp_path / "a.parquet"
    shard.write_bytes(b"PAR1 and nothing else")
    why = "it is damaged, encrypted or of another kind"
    with pytest.raises(UsageError, match=f"cannot be read as Parquet: {why}\\.$"):
        iter_images([shard])
    (only,) = iter_images([f"{tmp_path}/*.parquet"])
    assert f"cannot be read after 0 rows ({why})" in said(only)


@pytest.mark.parametrize("place", [slice(30, 38), slice(-300, -8)])  # of a page and of the footer
def test_what_arrow_says_of_damage_is_not_repeated(
    tmp_path: Path, said: Callable[[SourceImage], str], place: slice
) -> None:
    shard = write(tmp_path / "a.parquet", {"image": [bytes([k]) * 2000 for k in range(40)]})
    content = bytearray(shard.read_bytes())
    content[place] = b"\xff" * len(content[place])
    shard.write_bytes(content)
    (*_, last) = iter_images([f"{tmp_path}/*.parquet"])
    assert re.fullmatch(
        r"The Parquet file cannot be read after [0-9]+ rows "
        r"\(it is damaged, encrypted or of another kind\): make it again\.",
        said(last),
    )


def test_damage_in_the_middle_keeps_the_rows_before_and_says_so(
    tmp_path: Path, said: Callable[[SourceImage], str]
) -> None:
    cells = [bytes([k]) * 2000 for k in range(40)]
    options = {"row_group_size": 10, "compression": "zstd", "use_dictionary": False}
    shard = write(tmp_path / "a.parquet", {"image": cells}, **options)
    place = pq.read_metadata(shard).row_group(2).column(0).data_page_offset
    content = bytearray(shard.read_bytes())
    content[place : place + 60] = b"\xff" * 60
    shard.write_bytes(content)
    *kept, last = iter_images([shard])
    assert [image.read() for image in kept] == cells[:20]
    assert (last.name, "after 20 rows" in said(last)) == (str(shard), True)


@pytest.mark.parametrize(
    "name", ["{shard}#3", "{shard}.gone.parquet#0", "{shard}#-1", "{shard}#", "{shard}#" + "9" * 5000]
)
def test_a_row_that_is_not_there(tmp_path: Path, name: str) -> None:
    shard = write(tmp_path / "a.parquet", {"image": CONTENT})
    with pytest.raises(ImageError):
        read_image(name.format(shard=shard))


def test_rows_asked_for_in_their_order_are_found_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, unpacked = [], []

    def counted(name: str, **options: bool) -> BinaryIO:
        opened.append(name)
        return open_shard(name, **options)

    def cells_of(column: Any) -> Any:
        unpacked.append(len(column))
        return column

    cells = [b"%d" % k if k % 7 else None for k in range(300)]
    shard = write(tmp_path / "a.parquet", {"image": pa.array(cells, pa.binary())}, row_group_size=100)
    monkeypatch.setattr(parquet_shards, "open_shard", counted)
    monkeypatch.setattr(parquet_shards, "_cells_of", cells_of)
    for k, cell in enumerate(cells):
        if cell is None:
            with pytest.raises(ImageError, match="no image bytes"):
                read_image(f"{shard}#{k}")
        else:
            assert read_image(f"{shard}#{k}") == cell
    assert (len(opened), sum(unpacked)) == (1, 300)
    for k in (250, 12, 251, 251, 11):
        assert read_image(f"{shard}#{k}") == cells[k]
    assert len(opened) == 1
    with pytest.raises(ImageError, match="no such row"):
        read_image(f"{shard}#300")
    write(shard, {"image": [b"new"]})
    assert read_image(f"{shard}#0") == b"new"


def test_a_file_whose_name_looks_like_a_row_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a.parquet#3").write_bytes(b"file")
    assert read_image(str(tmp_path / "a.parquet#3")) == b"file"


def test_bytes_held_are_bounded_and_those_beyond_are_read_later(tmp_path: Path) -> None:
    cells = [bytes([k]) * 1000 for k in range(10)]
    shard = write(tmp_path / "a.parquet", {"image": cells}, row_group_size=4)
    held = HeldBytes(2500)
    images = list(parquet_images(str(shard), Listing(held=held)))
    assert not held.has_room(1000)
    assert [image.read() for image in images] == cells
    assert held.has_room(2500)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(n: int) -> int:
        shard = tmp_path / f"{n}.parquet"
        write(shard, {"image": [b"%08d" % k * 1000 for k in range(n)]}, row_group_size=n, compression="none")
        before = pa.total_allocated_bytes()
        most = 0
        tracemalloc.start()
        try:
            for _ in iter_images([shard]):
                most = max(most, pa.total_allocated_bytes() - before)
            return most + tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(500)
    assert peak(10_000) < 1.2 * peak(5_000)
