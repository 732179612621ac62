"""A model small enough to run end to end in milliseconds, whose counts and pointers are known by construction."""

# ruff: noqa: E402 (threads are limited before NumPy is imported)

from __future__ import annotations

import os

# Before NumPy is imported: the pictures of these tests are small, and threads would only wait for one another.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
# Before the command line is imported, which would print in this width for good: pytest hands it on to its processes.
os.environ.pop("COLUMNS", None)

import functools
import math
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, settings
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pc_engine.bench.arithmetic import peak_operations
from pc_engine.catalogue import PACKAGED
from pc_engine.fitted.counter import DEFAULT_LABELS, CountSVM
from pc_engine.fitted.signatures import SignatureDictionary
from pc_engine.graph.prepare import cut_graph
from pc_engine.hardware.devices import driver_found
from pc_engine.hardware.machine import adds_bytes_exactly, usable_cores
from pc_engine.manifest import COUNTER_FILE, NETWORK_FILE, SIGNATURES_FILE, Manifest, NetworkInput, Tap
from pc_engine.manifest_file import write_manifest

# Children of a shell in the background ignore Ctrl-C, which tests send to processes of their own: these inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# An example fails for what it shows, never for the time that a busy machine takes over it, and in every run again.
settings.register_profile("other", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("same", settings.get_profile("other"), derandomize=True)
settings.load_profile("same")

# Each loads libraries of a gigabyte, and makes the models of the session for itself.
_MOST_PROCESSES = 4

_REPOSITORY = Path(__file__).resolve().parents[1]
_SIDE, _GRID = 64, 8
_CLASSES = ("red", "green", "blue")
# Maps of both convolutions: red, green, blue, brightness, and one that is constant.
_BRIGHTNESS, _CONSTANT, _MAPS = 3, 4, 5
# Pixels up to this brightness are background.
_DARK = 0.3
# A white blob of one cell adds (1 - _DARK) to one of the 64 cells of the brightness map.
_BLOB = (1 - _DARK) / _GRID**2


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Share folders of tests out among processes where pytest-xdist is installed, unless the command line says how.

    Not by ``addopts``, which would ask for pytest-xdist on every machine with a GPU, whose tests run one by one. Nor
    are single files worth the seconds that processes take to begin.
    """
    option = config.option
    asked = getattr(option, "numprocesses", 0) is not None or option.dist != "no" or option.tx
    looked_at = option.usepdb or option.collectonly or option.capture == "no"
    folders = all(Path(argument).is_dir() for argument in config.args)
    if folders and not asked and not looked_at and not driver_found() and not hasattr(config, "workerinput"):
        processes = min(usable_cores(), _MOST_PROCESSES)
        if processes > 1:
            # Neighbours stay together, so that few models of a module are made twice.
            option.numprocesses, option.dist = processes, "worksteal"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests marked slow run last, so that a mistake shows early."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session", autouse=True)
def _home_of_fixtures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what fixtures of modules make, which come before those of a test, out of the user's models and caches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PC_ENGINE_HOME", str(tmp_path_factory.mktemp("home-of-fixtures")))
        yield


@pytest.fixture(autouse=True)
def engine_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep models and caches of every test in a folder of its own."""
    home = tmp_path / "pc-engine-home"
    monkeypatch.setenv("PC_ENGINE_HOME", str(home))
    return home


class SharingViolationError(PermissionError):
    """What Windows says of a file that another process has open, or of a folder with such a file."""

    winerror = 32


@pytest.fixture
def open_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files and folders that were not renamed at the first try, as on Windows where somebody has them open."""
    refused: list[Path] = []

    def once_refused(rename: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def try_to(path: Path, target: Path) -> Path:
            if path not in refused:
                refused.append(path)
                raise SharingViolationError(13, "Permission denied")
            return rename(path, target)

        return try_to

    for name in ("rename", "replace"):
        monkeypatch.setattr(Path, name, once_refused(getattr(Path, name)))
    monkeypatch.setattr("pc_engine.files.durable._PAUSE", 0)
    return refused


@pytest.fixture(autouse=True)
def no_packaged_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a package of weights is installed changes what is taken where no model is named: to tests, none is."""
    for pin in PACKAGED.values():
        monkeypatch.setitem(sys.modules, pin.package, None)


@pytest.fixture(autouse=True)
def others_share(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let nobody else use the machine, as far as the choice of a backend knows, or set the share that others have."""

    def set_share(share: float) -> None:
        monkeypatch.setattr("pc_engine.selection.selection.BusyElsewhere", lambda: SimpleNamespace(share=lambda: share))

    set_share(0.0)
    return set_share


@pytest.fixture(scope="session")
def data_directory() -> Path:
    """The real photos; a test that asks for them skips where they are absent."""
    directory = Path(os.environ.get("PC_ENGINE_TEST_DATA", _REPOSITORY.parent / "shared" / "data"))
    if not (directory / "coco").is_dir():
        pytest.skip(f"the real photos are absent ({directory}); name their folder in PC_ENGINE_TEST_DATA")
    return directory


@pytest.fixture(scope="session")
def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all processes that the tests are shared out among, for what takes long to make; to be locked."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def compiled_kernels(shared_directory: Path) -> Path:
    """Where what g++ makes of the kernels' source is kept."""
    return shared_directory / "compiled-kernels"


@pytest.fixture(scope="session")
def _peak_operations() -> Callable[[int], dict[str, float]]:
    return functools.cache(peak_operations)


@pytest.fixture
def peak_measured_once(monkeypatch: pytest.MonkeyPatch, _peak_operations: Callable[[int], dict[str, float]]) -> None:
    """Measure what the cores can do, by a program that is compiled first, for the first report of many only."""
    monkeypatch.setattr("pc_engine.bench.throughput.peak_operations", _peak_operations)


@pytest.fixture(scope="session")
def tiny_manifest() -> Manifest:
    """The manifest of the tiny network, without the sums of its files."""
    grid = (_MAPS, _GRID, _GRID)
    return Manifest(
        name="tiny",
        input=NetworkInput("pixels", _SIDE, _SIDE),
        taps={
            "conv_prev": Tap("first_relu", grid),
            "conv_last": Tap("second_relu", grid),
            "gap": Tap("pooled", (_MAPS,)),
            "logits": Tap("scores", (len(_CLASSES),)),
        },
        count_features=("gap",),
        classes=_CLASSES,
        licence="MIT",
        source="made by its test",
        settings={
            "p2c.top_last": 2,
            "p2c.top_prev": 2,
            "p2c.cutoff": 1,
            "p2c.min_density": 0.2,
            "p2c.min_distance": 2,
            "p2c.min_weight": 0.5,  # objects are one cell large
        },
    )


@pytest.fixture(scope="session")
def tiny_counter() -> CountSVM:
    """An SVM that counts white blobs of one cell by hand-made weights.

    Brightness b grows with the number of blobs and the constant map c does not, so that the angle atan(b / c), which
    normalisation leaves as it is, tells the count. Label k scores b sin(a_k) + c cos(a_k), a cosine that is largest at
    its own angle a_k.
    """
    angles = [math.atan2(k * _BLOB, 2 * _BLOB) for k in range(len(DEFAULT_LABELS))]
    weights = np.zeros((len(DEFAULT_LABELS), _MAPS), np.float32)
    weights[:, _BRIGHTNESS] = np.sin(angles)
    weights[:, _CONSTANT] = np.cos(angles)
    return CountSVM(("gap",), DEFAULT_LABELS, {"gap": weights}, np.zeros(len(DEFAULT_LABELS), np.float32))


@pytest.fixture(scope="session")
def tiny_signatures() -> SignatureDictionary:
    """Each colour's signature: its own map, then brightness, then the rest."""
    ranking = np.array([[0, 3, 1, 2, 4], [1, 3, 0, 2, 4], [2, 3, 0, 1, 4]], np.int32)
    return SignatureDictionary({"conv_last": ranking, "conv_prev": ranking}, np.ones(len(_CLASSES), bool))


@pytest.fixture(scope="session")
def make_model(
    tiny_manifest: Manifest, tiny_counter: CountSVM, tiny_signatures: SignatureDictionary
) -> Callable[..., Path]:
    """Return ``make(directory, counter=, signatures=, manifest=, nan_above=)``, which writes a model directory."""

    def make(
        directory: Path,
        *,
        counter: CountSVM | None = tiny_counter,
        signatures: SignatureDictionary | None = tiny_signatures,
        manifest: Manifest = tiny_manifest,
        nan_above: float | None = None,
    ) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        onnx.save_model(_tiny_network(nan_above), directory / NETWORK_FILE)
        if counter is not None:
            counter.save(directory / COUNTER_FILE)
        if signatures is not None:
            signatures.save(directory / SIGNATURES_FILE)
        write_manifest(manifest, directory)
        return directory

    return make


@pytest.fixture(scope="session")
def tiny_directory(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete tiny model directory, shared by all tests: not to be written to."""
    return make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def draw_scene() -> Callable[..., Image.Image]:
    """Return ``draw(cells, size=(width, height), colour=...)``: squares of one grid cell each on a dark ground.

    ``cells`` are (column, row) of the 8 x 8 grid that lies over the whole picture, whatever its size.
    """

    def draw(
        cells: Iterable[Sequence[int]], size: tuple[int, int] = (64, 64), colour: tuple[int, int, int] = (255, 255, 255)
    ) -> Image.Image:
        picture = Image.new("RGB", size, (20, 20, 20))
        for column, row in cells:
            edges = [round(k * length / _GRID) for k, length in ((column, size[0]), (column + 1, size[0]))]
            rows = [round(k * length / _GRID) for k, length in ((row, size[1]), (row + 1, size[1]))]
            picture.paste(colour, (edges[0], rows[0], edges[1], rows[1]))
        return picture

    return draw


def _tiny_network(nan_above: float | None) -> onnx.ModelProto:
    """A network whose maps light up where the picture is bright.

    Pixels, averaged over 4 x 4, go through a 3 x 3 convolution of stride 2 to an 8 x 8 grid whose cells are the means
    of 8 x 8 pixels, and through another that keeps its place. With ``nan_above``, a picture of one colour whose red
    value in 0..1 exceeds it gives NaN.
    """
    first = np.zeros((_MAPS, 3, 3, 3), np.float32)
    for channel in range(3):
        first[channel, channel, 1:, 1:] = 1 / 4
        first[_BRIGHTNESS, channel, 1:, 1:] = 1 / 12
    first_bias = np.array([-_DARK] * 4 + [2 * _BLOB], np.float32)
    second = np.zeros((_MAPS, _MAPS, 3, 3), np.float32)
    for k in range(_MAPS):
        second[k, k, 1, 1] = 1
    weights = {
        "scale": np.float32(1 / 255),
        "first": first,
        "first_bias": first_bias,
        "second": second,
        "logit_weights": np.eye(len(_CLASSES), _MAPS, dtype=np.float32) * 100,
        "logit_bias": np.zeros(len(_CLASSES), np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["coarse"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Conv", ["coarse", "first", "first_bias"], ["first_conv"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["first_conv"], ["first_relu"]),
        helper.make_node("Conv", ["first_relu", "second"], ["second_conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["second_conv"], ["second_relu"]),
        helper.make_node("GlobalAveragePool", ["second_relu"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["pooled"]),
        helper.make_node("Gemm", ["pooled", "logit_weights", "logit_bias"], ["scores"], transB=1),
    ]
    if nan_above is not None:
        # sqrt of a negative number where the red mean is above: the square root of 0 or more adds 0 elsewhere.
        weights |= {"limit": np.float32(nan_above - _DARK), "zero": np.float32(0), "red": np.array([0], np.int64)}
        nodes[-1] = helper.make_node("Gemm", ["pooled", "logit_weights", "logit_bias"], ["finite_scores"], transB=1)
        nodes += [
            helper.make_node("Gather", ["pooled", "red"], ["red_mean"], axis=1),
            helper.make_node("Sub", ["limit", "red_mean"], ["room"]),
            helper.make_node("Sqrt", ["room"], ["root"]),
            helper.make_node("Mul", ["root", "zero"], ["nothing"]),
            helper.make_node("Add", ["finite_scores", "nothing"], ["scores"]),
        ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", _SIDE, _SIDE, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", len(_CLASSES)])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


@pytest.fixture(scope="session")
def int8_runs():
    """Skips where int8 is not offered."""
    if not adds_bytes_exactly():
        pytest.skip("this processor has no VNNI instructions: its sums of 8-bit products saturate")


@pytest.fixture(scope="session")
def matlab_writers() -> dict[str, Callable[..., None]]:
    """Return ``write(path, entries)`` by version of MATLAB's files: an index as of SOS or MSO, one dict an image."""
    return {
        "7.3": _write_matlab_73,
        "5": _write_matlab_5,
        "5 compressed": functools.partial(_write_matlab_5, compressed=True),
    }


def _write_matlab_73(path: Path, entries: Sequence[Mapping[str, Any]], *, marked_empty: bool = True) -> None:
    """Write a struct array as MATLAB 7.3 does: a group of object references, axes reversed, text as UTF-16 codes."""
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        group = file.create_group("imgIdx")
        for field in entries[0]:
            references = np.empty((len(entries), 1), dtype=h5py.ref_dtype)
            for row, entry in enumerate(entries):
                references[row, 0] = _matlab_73_value(file, f"#refs#/{field}{row}", entry[field], marked_empty).ref
            group.create_dataset(field, data=references)
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def _matlab_73_value(file: Any, name: str, value: Any, marked_empty: bool) -> Any:
    if isinstance(value, str):
        dataset = file.create_dataset(name, data=np.array([[ord(letter)] for letter in value], np.uint16))
        dataset.attrs["MATLAB_class"] = np.bytes_("char")
        return dataset
    array = np.asarray(value, np.float64)
    if array.size == 0:
        dataset = file.create_dataset(name, data=np.zeros(2, np.uint64))
        if marked_empty:
            dataset.attrs["MATLAB_empty"] = np.uint8(1)
        return dataset
    return file.create_dataset(name, data=np.atleast_2d(array).T)


def _write_matlab_5(path: Path, entries: Sequence[Mapping[str, Any]], *, compressed: bool = False) -> None:
    import scipy.io

    array = np.zeros((1, len(entries)), dtype=[(field, object) for field in entries[0]])
    for column, entry in enumerate(entries):
        for field, value in entry.items():
            array[0, column][field] = value if isinstance(value, str) else np.atleast_2d(np.asarray(value, np.float64))
    scipy.io.savemat(path, {"imgIdx": array}, do_compression=compressed)


@pytest.fixture(scope="session")
def prepared_network():
    """A prepared graph of hand-made nodes from ``x`` [N, 3, H, W], or ``image`` if it takes uint8."""

    def build(nodes, weights, taps, *, shape=(4, 4), mean=(0.0, 0.0, 0.0), dtype="float32", opset=17):
        name, kind, dims = ("x", TensorProto.FLOAT, ["N", 3, *shape])
        if dtype == "uint8":
            name, kind, dims = ("image", TensorProto.UINT8, ["N", *shape, 3])
        graph = helper.make_graph(
            nodes,
            "made",
            [helper.make_tensor_value_info(name, kind, dims)],
            [helper.make_tensor_value_info(tap, TensorProto.FLOAT, None) for tap in taps],
            [numpy_helper.from_array(np.asarray(array), key) for key, array in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        pixels = NetworkInput(name, *shape, layout="NHWC" if dtype == "uint8" else "NCHW", dtype=dtype, mean=mean)
        return cut_graph(model, "made", pixels, {tap: tap for tap in taps})

    return build


@pytest.fixture(scope="session")
def run_graph():
    """What a prepared graph gives for uint8 images, node by node as it stands: nothing is merged or reordered."""

    def run(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
        onnx.checker.check_model(model, full_check=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [value.name for value in model.graph.output]
        return dict(zip(names, session.run(names, {"image": images}), strict=True))

    return run
