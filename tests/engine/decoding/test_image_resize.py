"""Resizing as Pillow does; the GPU's source is compiled for the host and runs the same batches."""

from __future__ import annotations

import ctypes
import io
import shutil
import subprocess
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pc_engine.decoding.decode_device import Resize
from pc_engine.decoding.image_resize import (
    SOURCE,
    DevicePicture,
    DeviceResizer,
    describe_pictures,
    resize_table,
)

# What the two kernels need of CUDA: they neither wait for one another nor share memory.
_ON_HOST = """
#define __global__
#define __device__
struct Place { int x; };
static Place blockIdx, threadIdx, blockDim;
"""
_LAUNCH = """
#define EVERYWHERE(call) \\
    blockDim.x = threads; \\
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) \\
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) call;
extern "C" void launch_rows(int blocks, int threads, const int64* a, const int* t, uint8* r, int w, int b)
{ EVERYWHERE(resize_rows(a, t, r, w, b)) }
extern "C" void launch_columns(
    int blocks, int threads, const int64* a, const int* t, const uint8* r, uint8* p, int h, int w, int b)
{ EVERYWHERE(resize_columns(a, t, r, p, h, w, b)) }
"""


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def placed(image: Any) -> DevicePicture:
    """The picture in an array of NumPy's or CuPy's."""
    address = image.ctypes.data if isinstance(image, np.ndarray) else image.data.ptr
    assert image.strides[1:] == (3, 1)
    return DevicePicture(address, image.strides[0], *image.shape[:2], image)


def by_pillow(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


@settings(max_examples=100)
@given(old=st.integers(1, 5000), new=st.integers(1, 300))
def test_weights_sum_to_one_and_stay_inside(old: int, new: int) -> None:
    first, weights = resize_table(old, new)
    assert (np.abs(weights.sum(axis=1) - 2**22) <= weights.shape[1]).all()
    last = first + np.where(weights > 0, np.arange(weights.shape[1]), 0).max(axis=1)
    assert first.min() >= 0
    assert last.max() < old
    # The kernels sum in 32 bits.
    assert 255 * int(weights.sum(axis=1).max()) + 2**21 < 2**31


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++ to run the kernels' source on the host")
    folder = tmp_path_factory.mktemp("resize")
    (folder / "it.cpp").write_text(_ON_HOST + SOURCE + _LAUNCH)
    command = [compiler, "-std=c++17", "-O1", "-shared", "-fPIC", "-fsanitize=undefined", "-fno-sanitize-recover"]
    subprocess.run([*command, str(folder / "it.cpp"), "-o", str(folder / "it.so")], check=True)
    return ctypes.CDLL(str(folder / "it.so"))


class HostCupy:
    """CuPy as far as `DeviceResizer` uses it, on the host."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.uploads = 0

    def asarray(self, array: np.ndarray) -> np.ndarray:
        self.uploads += 1
        return np.ascontiguousarray(array)

    def empty(self, shape: Any, dtype: Any) -> np.ndarray:
        return np.full(shape, 0xAB, dtype)

    def RawModule(self, code: str, options: tuple[str, ...]) -> Any:  # noqa: N802
        assert code == SOURCE
        return SimpleNamespace(get_function=lambda name: self.kernel(name.replace("resize", "launch")))

    def kernel(self, name: str) -> Any:
        def launch(grid: tuple[int], block: tuple[int], arguments: tuple[Any, ...]) -> None:
            values = [
                ctypes.c_void_p(value.ctypes.data) if isinstance(value, np.ndarray) else ctypes.c_int(int(value))
                for value in arguments
            ]
            getattr(self.library, name)(*grid, *block, *values)

        return launch


sides = st.integers(1, 90)


@settings(max_examples=150)
@given(old=st.tuples(sides, sides), new=st.tuples(sides, sides), seed=st.integers(0, 1000))
@example(old=(480, 640), new=(224, 224), seed=0)
@example(old=(1, 3000), new=(224, 7), seed=0)
def test_values_are_those_of_pillow_whichever_axis_it_takes_first(
    old: tuple[int, int], new: tuple[int, int], seed: int, compiled: ctypes.CDLL
) -> None:
    image = picture(*old, seed)
    resize = DeviceResizer(HostCupy(compiled))
    for size, tolerance in ((new, 1), ((old[0], new[1]), 0), ((new[0], old[1]), 0)):
        found = np.zeros((1, *size, 3), np.uint8)
        resize([placed(image)], [0], found)
        assert np.abs(found[0].astype(int) - by_pillow(image, *size)).max() <= tolerance


@pytest.mark.parametrize("size", [(13, 17), (64, 64), (1, 1)])
def test_the_kernels_resize_a_batch_of_any_sizes(
    compiled: ctypes.CDLL, size: tuple[int, int], resize_on_host: Resize
) -> None:
    shapes = [(40, 30), (13, 17), (7, 90), (1, 1), (200, 5), (40, 30)]
    images = [picture(*shape, seed) for seed, shape in enumerate(shapes)]
    slots = [3, 0, 5, 1, 6, 2]
    cupy = HostCupy(compiled)
    found, expected = (np.full((7, *size, 3), 7, np.uint8) for _ in range(2))
    resize = DeviceResizer(cupy)
    resize([placed(image) for image in images], slots, found)
    resize_on_host(images, slots, expected)
    np.testing.assert_array_equal(found, expected)
    assert (found[4] == 7).all(), "a slot that belongs to nobody was written to"
    assert cupy.uploads == 2
    resize([], [], found)
    assert cupy.uploads == 2


def test_rows_may_lie_apart_in_memory(compiled: ctypes.CDLL, resize_on_host: Resize) -> None:
    padded = picture(20, 50)[:, 3:33]
    found, expected = (np.zeros((1, 8, 9, 3), np.uint8) for _ in range(2))
    DeviceResizer(HostCupy(compiled))([placed(padded)], [0], found)
    resize_on_host([padded], [0], expected)
    np.testing.assert_array_equal(found, expected)


def test_images_of_one_size_share_their_tables() -> None:
    pictures = [placed(picture(*shape)) for shape in ((40, 30), (40, 30), (30, 40))]
    about, tables, rows = describe_pictures(pictures, [0, 1, 2], 10, 10)
    assert rows == 110
    assert about[0, 6:].tolist() == about[1, 6:].tolist()
    # 40 to 10 and 30 to 10 serve both axes.
    assert about[2, 6:8].tolist() == about[0, 8:].tolist()
    assert len(tables) == sum(part.size for table in map(resize_table, (30, 40), (10, 10)) for part in table)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_the_source_compiles_for_gpus(architecture: str) -> None:
    core = pytest.importorskip("cuda.core", reason="cuda-core, of the extra [dev], is not installed")
    log = io.StringIO()
    try:
        program = core.Program(SOURCE, "c++", core.ProgramOptions(std="c++17", arch=architecture))
    except RuntimeError as error:
        pytest.skip(f"NVRTC is not installed: {error}")
    code = program.compile("cubin", logs=log).code
    assert log.getvalue().strip("\0\n ") == ""
    assert all(f".text.{name}".encode() in code for name in ("resize_rows", "resize_columns"))


@pytest.mark.gpu
def test_on_a_gpu_every_value_is_that_of_the_host(resize_on_host: Resize) -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not cupy.is_available():
        pytest.skip("CuPy finds no GPU")
    images = [picture(*shape, seed) for seed, shape in enumerate([(480, 640), (1200, 1600), (33, 500), (224, 224)])]
    pixels, expected = cupy.empty((4, 224, 224, 3), np.uint8), np.empty((4, 224, 224, 3), np.uint8)
    DeviceResizer(cupy)([placed(cupy.asarray(image)) for image in images], [0, 1, 2, 3], pixels)
    resize_on_host(images, range(4), expected)
    np.testing.assert_array_equal(pixels.get(), expected)
