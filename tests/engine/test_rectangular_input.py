"""A network whose input is no square: where it points lies where the objects are, in all modes and on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pc_engine import Engine, Result
from pc_engine.export import Readout, import_classifier
from pc_engine.fitted.counter import DEFAULT_LABELS, CountSVM
from pc_engine.manifest import COUNTER_FILE, Manifest, NetworkInput
from pc_engine.manifest_file import write_manifest
from pc_engine.overlay import write_overlay

# Pixels of a cell, and rows and columns of the two networks' grids.
CELL = 8
GRIDS = [(6, 16), (16, 6)]
# Rows and columns of the objects, of the first one by grid.
PLACES = [(1, 2), (4, 13), (4, 5), (1, 9)]
ORIENTATION = 274


def save_network(path: Path, rows: int, columns: int) -> Path:
    """A convolution that averages the brightness of each cell above a third, beside a constant map; two classes."""
    weights = np.zeros((2, 3, CELL, CELL), np.float32)
    weights[0] = 1 / (3 * CELL**2)
    n = rows * columns
    arrays = {
        "weights": weights,
        "bias": np.array([-0.3, 1 / n], np.float32),
        "head": np.array([[9.0, 0.0], [0.0, 1.0]], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["data", "weights", "bias"], ["sums"], strides=[CELL, CELL]),
        helper.make_node("Relu", ["sums"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["pooled"]),
        helper.make_node("MatMul", ["pooled", "head"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "rectangular",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["batch", 3, rows * CELL, columns * CELL])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(params=GRIDS, ids=["wide", "tall"])
def grid(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


@pytest.fixture
def model(grid: tuple[int, int], tmp_path: Path) -> Path:
    """A model of that network, whose counter tells the number of white cells by the share of their brightness."""
    network = save_network(tmp_path / "given.onnx", *grid)
    manifest = import_classifier(
        network,
        tmp_path / "model",
        name="rectangular",
        pixels=NetworkInput("", 0, 0, layout="", std=(255.0,) * 3),
        readout=Readout(taps={"conv_last": "maps", "gap": "pooled", "logits": "scores"}, count_features=("gap",)),
    )
    assert manifest.input == NetworkInput("image", grid[0] * CELL, grid[1] * CELL, std=(255.0,) * 3)
    assert manifest.taps["conv_last"].shape == (2, *grid)
    angles = np.arctan2(0.7 * np.arange(len(DEFAULT_LABELS)), 1)
    weights = np.stack([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    CountSVM(("gap",), DEFAULT_LABELS, {"gap": weights}, np.zeros(len(angles), np.float32)).save(
        tmp_path / "model" / COUNTER_FILE
    )
    settings = {**manifest.settings, "p2c.cutoff": 0.5, "p2c.min_distance": 1.5, "p2c.min_weight": 0.5}
    write_manifest(Manifest(**{**vars(manifest), "settings": settings}), tmp_path / "model")
    return tmp_path / "model"


def places(grid: tuple[int, int], n: int) -> list[tuple[int, int]]:
    """Rows and columns of n objects."""
    return [(row, column) if grid == GRIDS[0] else (column, row) for row, column in PLACES[:n]]


def draw(grid: tuple[int, int], n: int, width: int, height: int) -> Image.Image:
    """A photo of n white objects, each a cell of the grid that lies over all of it, sides of the photo whatever."""
    picture = Image.new("RGB", (width, height))
    for row, column in places(grid, n):
        x0, x1 = (round(width * k / grid[1]) for k in (column, column + 1))
        y0, y1 = (round(height * k / grid[0]) for k in (row, row + 1))
        picture.paste("white", (x0, y0, x1, y1))
    return picture


@pytest.fixture
def photos(grid: tuple[int, int], tmp_path: Path) -> Path:
    """1 to 4 objects; photos that are wide, tall and square, one of them a JPEG that lies on its side."""
    folder = tmp_path / "photos"
    folder.mkdir()
    sizes = [(960, 480), (480, 960), (960, 960), (1920, 480)]
    for n, size in enumerate(sizes, start=1):
        draw(grid, n, *size).save(folder / f"{n}.png")
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned right before it is shown
    turned = draw(grid, 3, 1920, 960).transpose(Image.Transpose.ROTATE_90)
    turned.save(folder / "3-turned.jpg", exif=exif, quality=95)
    return folder


def assert_points_at_objects(results: list[Result], grid: tuple[int, int]) -> None:
    assert [Path(result.path).name for result in results] == ["1.png", "2.png", "3-turned.jpg", "3.png", "4.png"]
    for result, n in zip(results, (1, 2, 3, 3, 4), strict=True):
        assert (result.ok, result.count) == (True, n)
        down, across = result.height / grid[0], result.width / grid[1]
        expected = sorted(((column + 0.5) * across, (row + 0.5) * down) for row, column in places(grid, n))
        found = sorted(pointer.centre for pointer in result.pointers)
        np.testing.assert_allclose(found, expected, atol=0.02 * min(down, across))
        for pointer in result.pointers:
            x0, y0, x1, y1 = pointer.bounds
            # Twice the deviation that a mixture has at least, or the cell's own sides: as wide as high, in cells.
            assert (x1 - x0) / across == pytest.approx((y1 - y0) / down, rel=0.02)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("mode", ["c2p", "p2c", "combined"])
def test_pointers_lie_on_the_objects(
    model: Path, photos: Path, grid: tuple[int, int], mode: str, backend: str, tmp_path: Path
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed on this platform")
    with Engine(model, mode=mode, backend=backend, precision="fp32", device="cpu", batch_size=2) as engine:
        results = list(engine.run(photos))
    assert_points_at_objects(results, grid)
    drawn = write_overlay(results[1], tmp_path / "overlays")
    assert drawn is not None
    with Image.open(drawn) as picture:
        assert picture.size == (480, 960)
        x0, y0, x1, y1 = results[1].pointers[0].bounds
        edges = [np.asarray(picture)[round(y), round(x)] for x, y in ((x0, (y0 + y1) / 2), ((x0 + x1) / 2, y1))]
        assert all(int(edge.max()) - int(edge.min()) > 60 for edge in edges)  # a colour, on black and white


@pytest.mark.parametrize("mode", ["c2p", "p2c", "combined"])
def test_a_gpu_points_where_the_cpu_does(
    model: Path, photos: Path, grid: tuple[int, int], mode: str, pretended_gpu: Any, pretended: Any
) -> None:
    options = {"precision": "fp32", "device": "cuda", "batch_size": 2, "workers": 1}
    with Engine(model, mode=mode, backend="pretended", **options) as engine:
        results = list(engine.run(photos))
    assert_points_at_objects(results, grid)
