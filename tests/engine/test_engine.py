from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from pc_engine import Decoding, Engine, Result, catalogue, load_model
from pc_engine.backbone import CompileRequest
from pc_engine.backends import BACKENDS
from pc_engine.cli import app
from pc_engine.errors import BackendError, ModelError, PcEngineError, UsageError
from pc_engine.fitted.cluster_likelihood import ClusterLikelihood, PeakSettings
from pc_engine.fitted.counter import CountSVM
from pc_engine.manifest import Manifest
from pc_engine.modes import MODES
from pc_engine.networks import open_network
from pc_engine.pointers import BoxPointer, EllipsePointer
from pc_engine.runs.rows import iter_rows
from pc_engine.selection.execution import Execution
from pc_engine.sources import SourceImage, iter_images, read_image

Draw = Callable[..., Image.Image]

COLUMNS = {
    *("path", "status", "error", "width", "height", "mode", "model", "count", "count_label", "count_scores"),
    *("class_id", "class_name", "class_score", "pointers"),
}
CELLS = [(1, 1), (5, 2), (2, 6), (6, 6), (4, 4)]


@pytest.fixture
def open_engine(tiny_directory: Path) -> Iterator[Callable[..., Engine]]:
    """Return ``open(**options)``, which opens an engine on the tiny model, and close them all."""
    engines: list[Engine] = []

    def open_tiny(model: Any = tiny_directory, **options: Any) -> Engine:
        engine = Engine(model, **{"backend": "onnxruntime", "workers": 2, **options})
        engines.append(engine)
        return engine

    yield open_tiny
    for engine in engines:
        engine.close()


@pytest.fixture
def scenes(tmp_path: Path, draw_scene: Draw) -> Path:
    """A folder of six scenes with 0 to 5 white objects, named by their number."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    for k in range(6):
        draw_scene(CELLS[:k], (160 + 8 * k, 120)).save(folder / f"{k}.png")
    return folder


def centre_cells(result: Result) -> set[tuple[int, int]]:
    """The cells of the 8 x 8 grid over the picture in which the pointers' centres lie."""
    assert result.width
    assert result.height
    return {
        (int(pointer.centre[0] * 8 / result.width), int(pointer.centre[1] * 8 / result.height))
        for pointer in result.pointers
    }


@pytest.mark.parametrize("mode", MODES)
def test_objects_are_counted_and_pointed_at(mode: str, open_engine: Callable[..., Engine], scenes: Path) -> None:
    results = list(open_engine(mode=mode).run(scenes))
    assert [Path(result.path).stem for result in results] == list("012345")
    for k, result in enumerate(results):
        assert result.ok
        assert (result.width, result.height) == (160 + 8 * k, 120)
        # "4+" of mode c2p counts and points as four; clustering finds all five.
        assert result.count == (min(k, 4) if mode == "c2p" else k)
        assert result.count_label == ("4+" if k >= 4 else str(k))
        assert len(result.pointers) == result.count
        if k < 5:
            assert centre_cells(result) == set(CELLS[:k])
        assert (result.mode, result.model) == (mode, "tiny")


@pytest.mark.parametrize("mode", MODES)
def test_a_row_has_exactly_the_columns_of_the_row_format(
    mode: str, open_engine: Callable[..., Engine], scenes: Path
) -> None:
    (scenes / "broken.jpg").touch()
    rows = [result.to_dict() for result in open_engine(mode=mode).run(scenes)]
    assert {frozenset(row) for row in rows} == {frozenset(COLUMNS)}
    broken = rows.pop()
    assert broken["path"].endswith("broken.jpg")
    assert (broken["status"], broken["error"]) == ("error", "The file is empty (0 bytes).")
    absent = COLUMNS - {"path", "status", "error", "mode", "model", "pointers"}
    assert {broken[name] for name in absent} == {None}
    assert broken["pointers"] == []
    for row in rows:
        assert (row["status"], row["error"]) == ("ok", None)
        if mode == "p2c":
            assert row["count_scores"] is None
        else:
            scores = row["count_scores"]
            assert list(scores) == ["0", "1", "2", "3", "4+"]
            assert max(scores, key=scores.__getitem__) == row["count_label"]
        if mode == "c2p":
            assert (row["class_id"], row["class_name"], row["class_score"]) == (None, None, None)
        else:
            assert row["class_name"] == ("red", "green", "blue")[row["class_id"]]
            assert 0 < row["class_score"] <= 1
        names = {"x", "y", "rx", "ry"} if mode != "p2c" else {"x0", "y0", "x1", "y1"}
        for pointer in row["pointers"]:
            assert set(pointer) == {*names, "kind", "score"}
            assert pointer["kind"] == ("box" if mode == "p2c" else "ellipse")
            assert all(type(pointer[name]) is float for name in (*names, "score"))


@pytest.mark.parametrize(("colour", "name"), [("red", "red"), ("lime", "green"), ("blue", "blue")])
def test_the_class_is_that_of_the_picture(
    colour: str, name: str, open_engine: Callable[..., Engine], tmp_path: Path, draw_scene: Draw
) -> None:
    draw_scene(CELLS[:2], colour=Image.new("RGB", (1, 1), colour).getpixel((0, 0))).save(tmp_path / "a.png")
    [result] = open_engine(mode="p2c").run(tmp_path / "a.png")
    assert (result.class_name, result.count) == (name, 2)
    assert result.class_score > 0.5


def test_pointers_are_in_pixels_of_the_picture_and_fit_the_object(
    open_engine: Callable[..., Engine], tmp_path: Path, draw_scene: Draw
) -> None:
    draw_scene([(5, 2)], (800, 400)).save(tmp_path / "a.png")
    [ellipse] = next(open_engine(mode="c2p").run(tmp_path / "a.png")).pointers
    assert ellipse.centre == pytest.approx((550, 125), abs=2)
    assert ellipse.rx == pytest.approx(2 * ellipse.ry)  # one cell is 100 x 50 pixels
    [box] = next(open_engine(mode="p2c").run(tmp_path / "a.png")).pointers
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((500, 100, 600, 150))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_pointed_at_as_it_is_displayed(
    mode: str, orientation: int, open_engine: Callable[..., Engine], tmp_path: Path, draw_scene: Draw
) -> None:
    upright = draw_scene([(6, 1), (1, 2)], (320, 160))
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turn[orientation]) if orientation in turn else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.jpg", "a.png"):
        stored.save(tmp_path / name, exif=exif, quality=95)
    results = list(open_engine(mode=mode).run(tmp_path))
    assert len(results) == 2
    for result in results:
        assert (result.width, result.height) == (320, 160)
        assert centre_cells(result) == {(6, 1), (1, 2)}


@pytest.mark.parametrize("mode", MODES)
def test_results_do_not_depend_on_the_batch_size(mode: str, open_engine: Callable[..., Engine], scenes: Path) -> None:
    (scenes / "2a-broken.jpg").write_bytes(b"?")
    expected = list(open_engine(mode=mode, batch_size=7).run(scenes))
    for batch_size in (1, 3):
        engine = open_engine(mode=mode, batch_size=batch_size)
        assert engine.batch_size == batch_size
        for result, other in zip(engine.run(scenes), expected, strict=True):
            assert (result.path, result.error, result.count) == (other.path, other.error, other.count)
            assert len(result.pointers) == len(other.pointers)
            for pointer, its_other in zip(result.pointers, other.pointers, strict=True):
                assert pointer.centre == pytest.approx(its_other.centre, abs=1e-3)
                assert pointer.score == pytest.approx(its_other.score, abs=1e-5)


def test_an_engine_says_what_it_runs(open_engine: Callable[..., Engine]) -> None:
    engine = open_engine(mode="c2p")
    assert repr(engine) == "<Engine of tiny, c2p, by onnxruntime at fp32 on cpu>"
    engine.close()
    assert "tiny" in repr(engine)


def test_one_engine_runs_again_and_again(open_engine: Callable[..., Engine], scenes: Path) -> None:
    engine = open_engine()
    assert list(engine.run(scenes)) == list(engine.run([scenes]))
    one = list(engine.run([scenes / "3.png", str(scenes / "1.png"), f"{scenes}/[02].png"]))
    assert [result.count for result in one] == [3, 1, 0, 2]
    assert set(engine.clock.seconds) > {"decode", "network"}
    assert all(seconds > 0 for seconds in engine.clock.seconds.values())


def test_a_source_that_does_not_exist_is_said_when_the_run_is_asked_for(
    open_engine: Callable[..., Engine], scenes: Path
) -> None:
    with pytest.raises(UsageError, match="no file or folder"):
        open_engine().run([scenes, "nowhere"])


def test_paths_of_any_iterable_are_taken_lazily(open_engine: Callable[..., Engine], scenes: Path) -> None:
    taken = 0

    def paths() -> Iterator[Path]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield scenes / "1.png"

    results = open_engine(batch_size=2).run_paths(paths())
    assert next(results).count == 1
    assert taken < 20
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_images_of_every_kind_of_source_are_counted_alike(
    open_engine: Callable[..., Engine], scenes: Path, tmp_path: Path
) -> None:
    files = sorted(scenes.iterdir())
    with tarfile.open(tmp_path / "a.tar", "w") as plain, tarfile.open(tmp_path / "b.tgz", "w:gz") as packed:
        for path in files:
            plain.add(path, path.name)
            packed.add(path, path.name)
    pq.write_table(pa.table({"image": [path.read_bytes() for path in files]}), tmp_path / "c.parquet")
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for path in files:
            archive.write(path, path.name)
    (tmp_path / "e.txt").write_text("".join(f"{path}\n" for path in files))
    sources = [*(tmp_path / name for name in ("a.tar", "b.tgz", "c.parquet"))]
    results = list(open_engine(batch_size=4).run([*sources, f"zip://::{tmp_path}/d.zip", f"@{tmp_path}/e.txt"]))
    expected = [(result.count, result.pointers) for result in open_engine(batch_size=4).run(scenes)]
    assert [(result.count, result.pointers) for result in results] == expected * 5
    for k, result in enumerate(results):
        assert read_image(result.path) == files[k % len(files)].read_bytes()


def test_a_folder_where_nothing_can_be_read_gives_a_row_each(
    open_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    for k in range(9):
        (tmp_path / f"{k}.jpg").write_text("no image")
    results = list(open_engine(batch_size=2).run(tmp_path))
    assert [Path(result.path).name for result in results] == [f"{k}.jpg" for k in range(9)]
    assert not any(result.ok for result in results)


def test_a_folder_without_images_gives_no_row(open_engine: Callable[..., Engine], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert list(open_engine().run(tmp_path / "empty")) == []


@pytest.mark.parametrize("mode", MODES)
def test_nan_costs_that_image_only(
    mode: str, make_model: Callable[..., Path], open_engine: Callable[..., Engine], tmp_path: Path, draw_scene: Draw
) -> None:
    model = make_model(tmp_path / "nan-model", nan_above=0.6)
    folder = tmp_path / "photos"
    folder.mkdir()
    draw_scene(CELLS[:2]).save(folder / "a.png")
    Image.new("RGB", (64, 64), "red").save(folder / "b.png")
    draw_scene(CELLS[:3]).save(folder / "c.png")
    # Its NaN shows in the logits, which mode c2p does not even compute.
    results = list(open_engine(model, mode=mode).run(folder))
    assert [result.ok for result in results] == [True, mode == "c2p", True]
    assert (results[0].count, results[2].count) == (2, 3)
    if mode != "c2p":
        assert results[1].error == "The network returned values that are not finite for this image."
        assert (results[1].count, results[1].pointers, results[1].width) == (None, (), None)


@pytest.mark.parametrize(("mode", "cluster"), [*((mode, None) for mode in MODES), ("p2c", "dbscan")])
def test_taps_whose_sum_overflows_cost_that_image_only(
    mode: str, cluster: str | None, open_engine: Callable[..., Engine], tmp_path: Path, draw_scene: Draw
) -> None:
    for k in range(3):
        draw_scene(CELLS[: k + 1]).save(tmp_path / f"{k}.png")
    engine = open_engine(mode=mode, cluster=cluster)
    expected = list(engine.run(tmp_path))
    infer = engine.network.infer

    def overflow(images: np.ndarray, into: object) -> Any:
        taps = infer(images)
        for tap in taps.values():
            if tap.ndim == 4:
                tap[1, :, 2, 3] = 3e38
        return taps

    engine.network.infer = overflow  # type: ignore[method-assign]
    results = list(engine.run(tmp_path))
    assert results[1].error == "The heatmap of this image cannot be used: it overflows, or is negative."
    assert (results[1].count, results[1].pointers) == (None, ())
    assert [results[0], results[2]] == [expected[0], expected[2]]


def test_c2p_does_not_compute_logits(open_engine: Callable[..., Engine]) -> None:
    assert open_engine(mode="c2p").network.request.taps == ("gap", "conv_last")
    assert "logits" in open_engine(mode="combined").network.request.taps


@pytest.mark.parametrize(
    ("mode", "command"), [("c2p", "fit-counter"), ("p2c", "fit-signatures"), ("combined", "fit-counter")]
)
def test_a_missing_part_names_the_command_that_makes_one(
    mode: str, command: str, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    bare = make_model(tmp_path / "bare", counter=None, signatures=None)
    for model in (bare, str(bare), load_model(bare)):
        with pytest.raises(ModelError, match=f"pc-engine {command} DATA --model {bare}"):
            Engine(model, mode=mode, backend="onnxruntime")


def test_p2c_counts_beyond_the_labels_of_a_counter_that_ends(
    make_model: Callable[..., Path], open_engine: Callable[..., Engine], scenes: Path, tmp_path: Path
) -> None:
    closed = CountSVM(("gap",), ("1", "2"), {"gap": np.zeros((2, 5), np.float32)}, np.zeros(2, np.float32))
    model = make_model(tmp_path / "closed", counter=closed)
    results = list(open_engine(model, mode="p2c").run(scenes))
    assert [result.count_label for result in results] == ["0", "1", "2", "3", "4+", "4+"]
    assert {result.count_label for result in open_engine(model, mode="c2p").run(scenes)} == {"1"}


def test_a_model_without_class_names_shows_numbers(
    make_model: Callable[..., Path],
    open_engine: Callable[..., Engine],
    tiny_manifest: Manifest,
    tmp_path: Path,
    scenes: Path,
) -> None:
    model = make_model(tmp_path / "nameless", manifest=replace(tiny_manifest, classes=()))
    [result] = open_engine(model, mode="p2c").run(scenes / "1.png")
    assert result.class_name == str(result.class_id)


def test_several_classes_are_pointed_at_each_by_its_name(
    open_engine: Callable[..., Engine], tmp_path: Path, draw_scene: Draw
) -> None:
    picture = draw_scene([(1, 1), (6, 6)], colour=(255, 0, 0))
    picture.paste(draw_scene([(6, 1)], colour=(0, 0, 255)).crop((48, 8, 56, 16)), (48, 8))
    picture.save(tmp_path / "mixed.png")
    [result] = open_engine(mode="p2c", classes=2).run(tmp_path)
    assert {(pointer.class_id, pointer.class_name) for pointer in result.pointers} == {(0, "red"), (2, "blue")}
    by_class = {
        name: centre_cells(replace(result, pointers=tuple(p for p in result.pointers if p.class_name == name)))
        for name in ("red", "blue")
    }
    assert by_class == {"red": {(1, 1), (6, 6)}, "blue": {(6, 1)}}
    assert (result.count, result.count_label, result.class_name) == (3, "3", "red")
    [alone] = open_engine(mode="p2c").run(tmp_path)
    assert {pointer.class_name for pointer in alone.pointers} == {None}


def test_several_classes_are_for_mode_p2c(open_engine: Callable[..., Engine]) -> None:
    for mode in ("c2p", "combined"):
        with pytest.raises(UsageError, match="omit --classes, or use mode p2c"):
            open_engine(mode=mode, classes=2)
    with pytest.raises(UsageError, match="classes is 0, expected a number of at least 1"):
        open_engine(mode="p2c", classes=0)


def test_combined_points_with_what_is_asked_for(open_engine: Callable[..., Engine], scenes: Path) -> None:
    of_kind = {
        pointer: list(open_engine(mode="combined", pointer=pointer).run(scenes)) for pointer in (None, "ellipse", "box")
    }
    assert [r.pointers for r in of_kind[None]] == [r.pointers for r in of_kind["ellipse"]]
    for ellipses, boxes in zip(of_kind["ellipse"], of_kind["box"], strict=True):
        assert (ellipses.count, ellipses.status) == (boxes.count, boxes.status)
        assert {type(pointer) for pointer in ellipses.pointers} <= {EllipsePointer}
        assert {type(pointer) for pointer in boxes.pointers} <= {BoxPointer}
    assert any(r.pointers for r in of_kind["box"])
    with pytest.raises(UsageError, match="omit --pointer, or use another mode"):
        open_engine(mode="c2p", pointer="box")


@pytest.mark.parametrize("mode", ["p2c", "combined"])
def test_a_box_goes_around_all_of_an_object(
    mode: str, open_engine: Callable[..., Engine], draw_scene: Draw, tmp_path: Path
) -> None:
    draw_scene([(x, y) for x in (2, 3, 4) for y in (2, 3)], (160, 80)).save(tmp_path / "a.png")
    box, usual = (
        next(open_engine(mode=mode, count=1, pointer=pointer).run(tmp_path / "a.png")).pointers[0]
        for pointer in ("box", None)
    )
    assert isinstance(box, BoxPointer)
    # A cell has 20 x 10 pixels, and the edges of the object are within half of one.
    assert (box.x0, box.x1) == pytest.approx((40, 100), abs=10)
    assert (box.y0, box.y1) == pytest.approx((20, 40), abs=5)
    assert usual.area < box.area


@pytest.mark.parametrize("mode", MODES)
def test_a_count_that_is_known_is_pointed_at_without_a_counter(
    mode: str, open_engine: Callable[..., Engine], scenes: Path, tiny_directory: Path, tmp_path: Path
) -> None:
    model = load_model(tiny_directory)
    (scenes / "0.png").unlink()
    without = replace(model, parts=replace(model.parts, counter=None))
    counting = open_engine(mode=mode)
    told = open_engine(without, mode=mode, count=3)
    counted, pointed = (list(engine.run(scenes)) for engine in (counting, told))
    sound = [result for result in pointed if result.ok]
    assert [result.path for result in sound] == [result.path for result in counted if result.ok]
    assert {(result.count, result.count_label, result.count_scores) for result in sound} == {(3, "3", None)}
    # Where three are counted, the same are pointed at.
    [three], [its_own] = ([r for r in of if Path(r.path).stem == "3"] for of in (pointed, counted))
    assert centre_cells(three) == centre_cells(its_own)
    # Rows of the two do not mix.
    assert told.describe()["known_count"] == told.identity()["known_count"] == 3
    assert counting.describe()["known_count"] is counting.identity()["known_count"] is None
    if mode != "p2c":
        with pytest.raises(ModelError, match="needs a count SVM"):
            open_engine(without, mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_each_image_may_say_how_many_objects_it_shows(
    mode: str, open_engine: Callable[..., Engine], scenes: Path
) -> None:
    (scenes / "broken.png").write_bytes(b"?")
    told = [("1", 1), ("4", 2), ("broken", 1), ("3", None), ("3", 0), ("2", 2)]
    images = [replace(image, count=count) for name, count in told for image in iter_images(scenes / f"{name}.png")]
    found = list(open_engine(mode=mode, count="each", batch_size=2).run_paths(images))
    assert [result.count for result in found] == [1, 2, None, None, 0, 2]
    assert [len(result.pointers) for result in found] == [1, 2, 0, 0, 0, 2]
    assert (found[3].error or "").startswith("How many objects it shows is not known: give that in the table's col")
    assert "It is not an image" in (found[2].error or "")
    [two] = open_engine(mode=mode, count=2).run(scenes / "2.png")
    assert found[-1] == two
    for odd in (-1, 1_000_001, 2.5, "2", True):
        [image] = iter_images(scenes / "2.png")
        [result] = open_engine(mode=mode, count="each").run_paths([replace(image, count=odd)])
        assert "as a whole number up to 1,000,000" in (result.error or "")


def test_a_known_count_is_one_that_can_be_asked_for(open_engine: Callable[..., Engine]) -> None:
    for options in ({"classes": 2}, {"cluster": "dbscan"}):
        with pytest.raises(UsageError, match="omit --cluster and --classes, or --count"):
            open_engine(mode="p2c", count=2, **options)


def test_dbscan_can_be_asked_for_in_mode_p2c_only(open_engine: Callable[..., Engine], scenes: Path) -> None:
    assert [r.count for r in open_engine(mode="p2c", cluster="dbscan").run(scenes)][:4] == [0, 1, 2, 3]
    for mode in ("c2p", "combined"):
        with pytest.raises(UsageError, match="omit --cluster"):
            open_engine(mode=mode, cluster="dbscan")
    with pytest.raises(UsageError, match="no clustering 'kmeans'"):
        open_engine(mode="p2c", cluster="kmeans")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "count"}, "no mode 'count': choose one of c2p, p2c, combined"),
        ({"backend": "tpu"}, "no backend 'tpu'"),
        ({"precision": "int7"}, "no precision 'int7'"),
        ({"device": "gpu"}, "no device 'gpu'"),
        ({"batch_size": 0}, "batch_size is 0, expected a number of at least 1"),
        ({"workers": -1}, "workers is -1, expected a number of at least 1"),
        ({"model": "no-such-model"}, "no model 'no-such-model'"),
        ({"model": "x" * 5000}, "no model 'x"),
        ({"model": 3}, "model is 3, expected a name, a directory, or a Model"),
        ({"model": ["lego"]}, r"model is \['lego'\], expected a name"),
        ({"mode": ["c2p"]}, r"mode is \['c2p'\], expected text such as 'c2p'"),
        ({"mode": None}, "mode is None, expected text such as 'c2p'"),
        ({"backend": []}, r"backend is \[\], expected text such as 'auto'"),
        ({"precision": 32}, "precision is 32, expected text such as 'auto'"),
        ({"device": 0}, "device is 0, expected text such as 'auto'"),
        ({"device": "cuda:\u0661"}, "no device 'cuda:\u0661'"),
        ({"batch_size": "8"}, "batch_size is '8', expected a whole number of at least 1"),
        ({"batch_size": True}, "batch_size is True, expected a whole number of at least 1"),
        ({"batch_size": 2.0}, r"batch_size is 2\.0, expected a whole number of at least 1"),
        ({"batch_size": 1025}, "batch_size is 1,025, expected a number of at most 1,024"),
        ({"workers": "2"}, "workers is '2', expected a whole number"),
        ({"workers": 10**10}, "workers is 10,000,000,000, expected a number of at most 2,048"),
        ({"threads": 0}, "threads is 0, expected a number of at least 1"),
        ({"threads": 10**10}, "threads is 10,000,000,000, expected a number of at most 2,048"),
        ({"mode": "p2c", "classes": "2"}, "classes is '2', expected a whole number"),
        ({"count": 0}, "count is 0, expected a number of at least 1"),
        ({"count": "2"}, "count is '2', expected a whole number"),
        ({"count": 1_000_001}, "count is 1,000,001, expected a number of at most 1,000,000"),
        ({"count": ["each"]}, r"count is \['each'\], expected a whole number"),
        ({"mode": "p2c", "classes": 2.5}, r"classes is 2\.5, expected a whole number"),
        ({"mode": "p2c", "classes": 1001}, r"p2c\.classes is 1001, expected a number from 1 to 1000"),
        ({"mode": "p2c", "cluster": ["dbscan"]}, "no clustering"),
        ({"decoding": None}, "decoding is None, expected a Decoding"),
        ({"network": "lego"}, "network is 'lego', expected a network as open_network returns it"),
        ({"report": None}, "report is None, expected a function that takes a sentence"),
    ],
)
def test_wrong_use_is_said_in_a_sentence(
    options: dict[str, Any], message: str, open_engine: Callable[..., Engine]
) -> None:
    with pytest.raises(UsageError, match=message):
        open_engine(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"backend": "tpu"}, "no backend 'tpu'"),
        ({"precision": "FP32"}, "no precision 'FP32'"),
    ],
)
def test_a_wrong_argument_is_said_before_a_model_is_looked_for(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Engine("no-such-model", **options)


def test_a_run_names_the_network_that_is_compiled(
    open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(mode="p2c")
    monkeypatch.setattr(CompileRequest, "network_sha256", "that of the quantised network")
    assert engine.describe()["network_sha256"] == engine.identity()["network_sha256"]


def test_numbers_of_numpy_are_numbers(open_engine: Callable[..., Engine], scenes: Path) -> None:
    engine = open_engine(mode="p2c", batch_size=np.int64(2), workers=np.uint8(1), classes=np.int32(2))
    assert json.loads(json.dumps([engine.identity(), engine.describe()]))
    assert next(engine.run(scenes / "2.png")).ok


def test_a_network_that_lacks_what_the_mode_reads_is_refused(tiny_directory: Path) -> None:
    model = load_model(tiny_directory)
    network = open_network(model, ("conv_last", "gap"), Execution("onnxruntime"))
    with closing(network):
        Engine(model, mode="c2p", network=network).close()
        with pytest.raises(UsageError, match="The network keeps no conv_prev, logits, which mode p2c reads"):
            Engine(model, mode="p2c", network=network)


def test_a_gpu_that_is_not_there_is_said_in_a_sentence(
    open_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr("pc_engine.hardware.devices.driver_found", lambda: False)
    with pytest.raises(PcEngineError, match="No NVIDIA driver was found"):
        open_engine(device="cuda")


def test_auto_says_what_it_chose_and_why_it_takes_a_moment(
    tiny_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[str] = []
    with Engine(tiny_directory, report=reports.append) as engine:
        assert (engine.backend, engine.precision) in {
            ("onnxruntime", "fp32"),
            ("openvino", "fp32"),
            ("openvino", "bf16"),
        }
    assert [report.split()[0] for report in reports] == ["Choosing", "Compiling"]
    with Engine(tiny_directory, report=reports.append):
        assert len(reports) == 2


def test_without_a_model_the_embedded_one_runs(
    tiny_directory: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "EMBEDDED_DIRECTORY", tiny_directory)
    reports: list[str] = []
    with Engine(backend="onnxruntime", report=reports.append) as engine:
        assert next(engine.run(scenes / "2.png")).count == 2
    assert reports[0].startswith("Using the embedded model 'lego'")


def test_a_closed_engine_says_so_and_closes_once(tiny_directory: Path, scenes: Path) -> None:
    with Engine(tiny_directory, backend="onnxruntime") as engine:
        engine.close()
    with pytest.raises(UsageError, match="closed"):
        engine.run(scenes)
    with pytest.raises(UsageError, match="closed"):
        engine.run_paths([])


@pytest.mark.parametrize("owns", [True, False])
def test_an_engine_that_cannot_be_made_frees_its_network_and_no_other(
    owns: bool, tiny_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU its memory would stay taken as long as the process lives."""

    def refuse(*_: Any) -> None:
        raise BackendError("No process for decoding can be started.")

    monkeypatch.setattr("pc_engine.engine.Decoders", refuse)
    opened = []

    def opening(*given: Any, **options: Any) -> Any:
        opened.append(open_network(*given, **options))
        return opened[-1]

    monkeypatch.setattr("pc_engine.engine.open_network", opening)
    model = load_model(tiny_directory)
    shared = None if owns else open_network(model, MODES["c2p"].taps(model.manifest), Execution("onnxruntime"))
    with pytest.raises(BackendError, match="No process"):
        Engine(model, mode="c2p", backend="onnxruntime", network=shared)
    (network,) = opened or [shared]
    pixels = model.manifest.input
    image = np.zeros((1, pixels.height, pixels.width, 3), np.uint8)
    if owns:
        with pytest.raises(BackendError, match="The network was closed"):
            network.infer(image)
    else:
        network.infer(image)
        network.close()


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_run_whose_engine_is_closed_says_so(
    backend: str, isolate: bool, open_engine: Callable[..., Engine], scenes: Path
) -> None:
    if not BACKENDS[backend].probe().available:
        pytest.skip(f"{backend} does not run here")
    engine = open_engine(backend=backend, batch_size=1, decoding=Decoding(isolate=isolate))
    begun = engine.run_paths([scenes / "2.png"] * 200)
    not_begun = engine.run(scenes)
    rows = [next(begun)]
    engine.close()
    with pytest.raises(UsageError, match="This engine was closed"):
        rows.extend(begun)
    with pytest.raises(UsageError, match="This engine was closed"):
        next(not_begun)
    assert {row.count for row in rows} == {2}
    assert len(rows) < 200


def test_closing_from_another_thread_waits_for_the_network(open_engine: Callable[..., Engine], scenes: Path) -> None:
    engine = open_engine(batch_size=1)
    calls, closed = [threading.Event(), threading.Event()], threading.Event()
    infer, close = engine.network.infer, engine.network.close

    def slow(images: np.ndarray, into: object) -> Any:
        calls[0].set()
        assert calls[1].wait(120)
        assert not closed.is_set()
        return infer(images)

    def note() -> None:
        closed.set()
        close()

    engine.network.infer, engine.network.close = slow, note  # type: ignore[method-assign]
    ends: list[str] = []

    def run() -> None:
        with pytest.raises(UsageError, match="This engine was closed"):
            list(engine.run_paths([scenes / "1.png"] * 50))
        ends.append("said")

    threads = [threading.Thread(target=target) for target in (run, engine.close)]
    threads[0].start()
    assert calls[0].wait(120)
    threads[1].start()
    threads[1].join(0.1)
    assert not closed.is_set()
    calls[1].set()
    for thread in threads:
        thread.join(120)
    assert ends == ["said"]
    assert closed.is_set()


def test_runs_on_several_threads_and_within_each_other_are_those_alone(
    open_engine: Callable[..., Engine], scenes: Path
) -> None:
    engine = open_engine(batch_size=2)
    alone = list(engine.run(scenes))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: list(engine.run(scenes)), range(8))) == [alone] * 8
    outer = engine.run(scenes)
    first = next(outer)
    assert list(engine.run(scenes)) == alone
    assert [first, *outer] == alone


def test_a_run_that_is_left_half_way_ends_its_threads(open_engine: Callable[..., Engine], scenes: Path) -> None:
    engine = open_engine(batch_size=1)
    results = engine.run_paths([scenes / "1.png"] * 50)
    next(results)
    del results
    assert not [each for each in threading.enumerate() if each.name.startswith(("decode", "network"))]
    assert len(list(engine.run(scenes))) == 6


def test_a_type_checker_knows_that_a_run_can_be_closed() -> None:
    for run in (Engine.run, Engine.run_paths):
        assert get_origin(get_type_hints(run)["return"]) is Generator


def test_pictures_in_memory_are_run_by_what_reads_them(open_engine: Callable[..., Engine], scenes: Path) -> None:
    held = {f"picture {k}": (scenes / f"{k}.png").read_bytes() for k in range(3)}
    images = (SourceImage(name, partial(held.get, name)) for name in held)
    assert [(row.path, row.count) for row in open_engine().run_paths(images)] == [(f"picture {k}", k) for k in range(3)]


def test_one_path_is_run_as_a_list_of_one_is(open_engine: Callable[..., Engine], scenes: Path) -> None:
    engine = open_engine()
    for path in (scenes / "3.png", str(scenes / "3.png")):
        assert [row.count for row in engine.run_paths(path)] == [3]


@pytest.mark.parametrize("image", [3, None, b"a.png", np.zeros((2, 2, 3), np.uint8), Image.new("RGB", (2, 2))])
def test_what_is_no_image_is_said(image: Any, open_engine: Callable[..., Engine]) -> None:
    engine = open_engine()
    with pytest.raises(UsageError, match="expected text or a path: name a file or a folder"):
        engine.run([image])
    with pytest.raises(UsageError, match="expected a path or a SourceImage"):
        list(engine.run_paths([image]))


def test_a_shared_network_serves_several_modes_and_outlives_them(
    open_engine: Callable[..., Engine], tiny_directory: Path, scenes: Path
) -> None:
    combined = open_engine(mode="combined")
    for mode in ("c2p", "p2c"):
        alone = list(open_engine(mode=mode).run(scenes))
        with Engine(tiny_directory, mode=mode, network=combined.network) as shared:
            assert (shared.backend, shared.batch_size) == (combined.backend, combined.batch_size)
            assert list(shared.run(scenes)) == alone
    assert len(list(combined.run(scenes))) == 6


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_shared_network_that_was_closed_is_said(
    open_engine: Callable[..., Engine], tiny_directory: Path, scenes: Path, backend: str
) -> None:
    owner = open_engine(mode="combined", backend=backend)
    with Engine(tiny_directory, mode="c2p", network=owner.network) as shared:
        owner.close()
        for _ in range(2):
            with pytest.raises(BackendError, match="The network was closed"):
                list(shared.run(scenes))


def test_names_that_are_not_utf8_run(open_engine: Callable[..., Engine], tmp_path: Path, draw_scene: Draw) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    draw_scene(CELLS[:1]).save(path)
    [result] = open_engine().run(tmp_path)
    assert (result.path, result.count) == (str(path), 1)


def test_the_command_line_prints_none_of_pillows_warnings(tiny_directory: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif.tobytes()[:12] + b"\xff\xff")
    command = "import sys; from pc_engine.cli import main; sys.argv[0] = 'pc-engine'; main()"
    options = ["--model", str(tiny_directory), "--backend", "onnxruntime", "--quiet", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", command, "run", str(tmp_path / "a.jpg"), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_into_the_folder_of_its_photos_does_not_count_its_own_pictures(
    tiny_directory: Path, tmp_path: Path, draw_scene: Draw
) -> None:
    for k in range(20):  # more than are decoded ahead: the first are drawn by the time that "run" is listed
        draw_scene(CELLS[:2]).save(tmp_path / f"{k:02d}.png")
    options = ["--out", str(tmp_path / "run"), "--overlay", "--batch-size", "1", "--workers", "1"]
    model = ["--model", str(tiny_directory), "--backend", "onnxruntime"]
    for again in ([], ["--fresh"]):
        done = CliRunner().invoke(app, ["run", str(tmp_path), *options, *model, *again])
        assert done.exit_code == 0, done.output
        assert [Path(row["path"]).name for row in iter_rows(tmp_path / "run")] == [f"{k:02d}.png" for k in range(20)]
        assert len(list((tmp_path / "run/overlays").iterdir())) == 20


@pytest.mark.data
@pytest.mark.parametrize("mode", MODES)
def test_real_photos_each_get_a_row_within_the_picture(
    mode: str, open_engine: Callable[..., Engine], data_directory: Path
) -> None:
    photos = sorted((data_directory / "coco").rglob("*.jpg"))[:40]
    results = list(open_engine(mode=mode).run(photos))
    assert [result.path for result in results] == [str(path) for path in photos]
    for result in results:
        assert result.ok, result.error
        assert result.width is not None
        assert result.height is not None
        assert result.count is not None
        assert len(result.pointers) <= result.count
        for pointer in result.pointers:
            x, y = pointer.centre
            assert 0 < x < result.width
            assert 0 < y < result.height


@pytest.mark.parametrize(("mode", "said"), [("combined", True), ("c2p", False)])
def test_clusters_that_are_not_believed_any_more_are_said(
    mode: str,
    said: bool,
    open_engine: Callable[..., Engine],
    make_model: Callable[..., Path],
    tiny_counter: CountSVM,
    tmp_path: Path,
) -> None:
    witness = ClusterLikelihood(np.zeros((6, 5), np.float32), PeakSettings(1.0, 0.5, 4.0), "those of before")
    directory = make_model(tmp_path / "model", counter=replace(tiny_counter, clusters=witness))
    sentences: list[str] = []
    open_engine(directory, mode=mode, report=sentences.append)
    found = [sentence for sentence in sentences if "fit it again with 'pc-engine fit-counter" in sentence]
    assert len(found) == said
