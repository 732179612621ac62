"""Spreading a batch over one set of points, with scikit-learn's DBSCAN in cuML's place; cuML itself on a GPU."""

from __future__ import annotations

import importlib.util
import math
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN

from pc_engine.errors import DeviceMemoryError, MissingPackageError, UsageError
from pc_engine.kernels import dbscan
from pc_engine.modes import cuml_clustering
from pc_engine.modes.cuml_clustering import cuml_dbscan, require_cuml, spread_dbscan


class Fits:
    """scikit-learn in cuML's place, with its radius rounded to float32 as cuML does; remembers the calls."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, points: np.ndarray, weights: np.ndarray, radius: float) -> np.ndarray:
        self.sizes.append(len(points))
        assert points.dtype == weights.dtype == np.float64
        return DBSCAN(eps=float(np.float32(radius)), min_samples=1).fit(points, sample_weight=weights).labels_


def same(weights: np.ndarray, eps: float, min_weight: float, **keywords: Any) -> None:
    expected = dbscan(weights, eps=eps, min_weight=min_weight)
    found = spread_dbscan(weights, eps=eps, min_weight=min_weight, fit=Fits(), **keywords)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.n_clusters, expected.n_clusters)
    assert (found.labels.dtype, found.n_clusters.dtype) == (np.int32, np.int64)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    eps=st.sampled_from([1.0, math.sqrt(2), 1.5, 2.0, math.sqrt(5), 3.0, math.sqrt(13)]),
    min_weight=st.sampled_from([0.5, 1.0, 3.0, 7.0]),
    filled=st.floats(0, 1),
    count=st.integers(1, 6),
)
def test_it_gives_what_the_kernel_gives(seed: int, eps: float, min_weight: float, filled: float, count: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (count, *rng.integers(1, 9, 2))
    # Whole numbers, so that sums reach the threshold exactly.
    weights = np.where(rng.random(shape) < filled, rng.integers(1, 4, shape), 0).astype(np.float32)
    same(weights, eps, min_weight)


def test_the_diagonal_neighbour_of_a_rounded_root_is_reached() -> None:
    weights = np.zeros((1, 2, 2))
    weights[0, 0, 0] = weights[0, 1, 1] = 1
    for eps in (math.sqrt(2), float(np.float32(math.sqrt(2)))):
        found = spread_dbscan(weights, eps=eps, min_weight=2, fit=Fits())
        assert found.labels[0].tolist() == [[0, -1], [-1, 0]]


def test_equal_neighbours_that_sum_to_the_threshold_are_cores() -> None:
    # 49 times 1/49 is less than 1 in float64.
    same(np.ones((1, 7, 7)), 9.0, 49.0)


@pytest.mark.parametrize("most_pairs", [1, 40**2, 10**9])
def test_groups_of_images_do_not_show(most_pairs: int) -> None:
    weights = np.random.default_rng(0).random((7, 5, 4)) * 3
    weights[3] = 0
    same(weights, 1.5, 4.0, most_pairs=most_pairs)


def test_one_call_for_a_batch_and_groups_within_the_limit() -> None:
    weights = np.ones((6, 3, 4))
    for most_pairs, sizes in ((10**6, [72]), (30**2, [24, 24, 24]), (1, [12] * 6)):
        fits = Fits()
        spread_dbscan(weights, eps=1, min_weight=1, fit=fits, most_pairs=most_pairs)
        assert fits.sizes == sizes


def test_nothing_is_asked_of_a_batch_without_heat() -> None:
    fits = Fits()
    found = spread_dbscan(np.zeros((2, 3, 3)), eps=1, min_weight=1, fit=fits)
    assert fits.sizes == []
    assert (found.labels == -1).all()
    assert found.n_clusters.tolist() == [0, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_an_image_of_bad_weights_is_marked_and_costs_no_other(bad: float) -> None:
    weights = np.ones((3, 2, 2))
    weights[1, 0, 0] = bad
    found = spread_dbscan(weights, eps=1, min_weight=1, fit=Fits())
    assert found.n_clusters.tolist() == [1, -1, 1]
    assert (found.labels[1] == -1).all()
    assert (found.labels[[0, 2]] == 0).all()


def test_the_device_and_the_package_are_asked_for() -> None:
    with pytest.raises(UsageError, match="runs on an NVIDIA GPU: add --device cuda"):
        require_cuml("cpu")
    if importlib.util.find_spec("cuml") is None:
        with pytest.raises(MissingPackageError, match=r"pip install 'pc-engine\[cuml\]'"):
            require_cuml("cuda:0")


def test_without_cuml_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuml", None)
    cuml_clustering._cuml_fit.cache_clear()
    with pytest.raises(MissingPackageError, match=r"pip install 'pc-engine\[cuml\]'"):
        cuml_dbscan(np.ones((1, 2, 2)), eps=1, min_weight=1)


class PretendedCuml:
    """cuML with CuPy, whose calls are kept in order: what is done on which stream, and by whom memory is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.settings: dict[str, Any] = {}
        self.fault: Exception | None = None
        self.allocator = "CuPy's"
        self.allocators: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.current = self.stream("own")
        cupy, cuml = ModuleType("cupy"), ModuleType("cuml")
        cupy.cuda = SimpleNamespace(  # type: ignore[attr-defined]
            get_current_stream=lambda: self.current,
            Stream=SimpleNamespace(null=self.stream("default")),
            get_allocator=lambda: self.allocator,
            set_allocator=self.set_allocator,
        )
        cupy.ndarray, cupy.int64 = type(self), np.int64  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setitem(sys.modules, "cuml", cuml)
        monkeypatch.setitem(sys.modules, "cuml.cluster", self.cluster())
        cuml_clustering._cuml_fit.cache_clear()

    def set_allocator(self, allocator: str) -> None:
        self.allocator = allocator
        self.allocators.append(allocator)

    def cluster(self) -> ModuleType:
        pretended = self

        class Cluster(ModuleType):
            def __getattr__(self, name: str) -> Any:
                if name != "DBSCAN":
                    raise AttributeError(name)
                pretended.allocator = "RAPIDS'"  # as it is set when cuML is imported
                pretended.meanwhile()
                return Model

        class Model:
            def __init__(self, **settings: Any) -> None:
                pretended.settings = settings

            def fit(self, points: np.ndarray, sample_weight: np.ndarray) -> Model:
                pretended.calls.append(f"fit on {pretended.current.name}")
                if pretended.fault is not None:
                    raise pretended.fault
                self.labels_ = Fits()(points, sample_weight, pretended.settings["eps"])
                return self

        return Cluster("cuml.cluster")

    def stream(self, name: str) -> Any:
        pretended = self

        class Stream:
            def __init__(self) -> None:
                self.name = name

            def synchronize(self) -> None:
                pretended.calls.append(f"wait for {name}")

            def __enter__(self) -> Stream:
                self.before, pretended.current = pretended.current, self
                return self

            def __exit__(self, *_: object) -> None:
                pretended.current = self.before

        return Stream()


@pytest.fixture
def pretended_cuml(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedCuml]:
    yield PretendedCuml(monkeypatch)
    cuml_clustering._cuml_fit.cache_clear()


def test_cuml_is_waited_for_and_called_as_it_wants(pretended_cuml: PretendedCuml) -> None:
    found = cuml_dbscan(np.ones((2, 2, 2)), eps=1, min_weight=2)
    assert found.n_clusters.tolist() == [1, 1]
    # What it does by CuPy meanwhile is on the stream that its own waits for.
    assert pretended_cuml.calls == ["wait for own", "fit on default", "wait for default", "wait for own"]
    made = pretended_cuml.settings
    assert (made["min_samples"], made["output_type"], made["calc_core_sample_indices"]) == (1, "cupy", False)


def test_cupys_memory_stays_its_own_where_cuml_is_imported(pretended_cuml: PretendedCuml) -> None:
    cuml_dbscan(np.ones((1, 2, 2)), eps=1, min_weight=2)
    assert pretended_cuml.allocator == "CuPy's"


def test_cupys_memory_stays_its_own_where_two_threads_import_cuml(pretended_cuml: PretendedCuml) -> None:
    def cluster() -> None:
        cuml_dbscan(np.ones((1, 2, 2)), eps=1, min_weight=2)

    others: list[threading.Thread] = []

    def meanwhile() -> None:
        if not others:
            others.append(threading.Thread(target=cluster))
            others[0].start()
            others[0].join(0.2)

    pretended_cuml.meanwhile = meanwhile
    cluster()
    others[0].join()
    assert pretended_cuml.allocators == ["CuPy's", "CuPy's"]


def test_a_gpu_without_memory_for_cuml_is_said_to_be_full(pretended_cuml: PretendedCuml) -> None:
    pretended_cuml.fault = MemoryError("std::bad_alloc: out_of_memory: CUDA error")
    with pytest.raises(DeviceMemoryError, match=r"ran out of memory while clustering with cuML .*smaller batch"):
        cuml_dbscan(np.ones((1, 2, 2)), eps=1, min_weight=2)


def test_cupys_arrays_give_what_the_kernel_gives(pretended_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["kernels_on_host"].HostArray, "may_wait", True)  # it says that it waits
    cupy: Any = sys.modules["cupy"]
    rng = np.random.default_rng(0)
    weights = np.where(rng.random((5, 8, 8)) < 0.5, rng.integers(1, 4, (5, 8, 8)), 0).astype(np.float32)
    expected = dbscan(weights, eps=1, min_weight=4)
    found = spread_dbscan(
        cupy.asarray(weights), eps=1, min_weight=4, fit=lambda p, w, radius: Fits()(p.get(), w.get(), radius)
    )
    np.testing.assert_array_equal(found.labels.get(), expected.labels)
    np.testing.assert_array_equal(found.n_clusters.get(), expected.n_clusters)


@pytest.mark.gpu
def test_on_a_gpu_cuml_gives_what_the_kernel_gives() -> None:
    pytest.importorskip("cuml", reason="cuML is not installed")
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not cupy.is_available():
        pytest.skip("CuPy finds no GPU")
    rng = np.random.default_rng(0)
    weights = np.where(rng.random((64, 14, 14)) < 0.5, rng.integers(1, 4, (64, 14, 14)), 0).astype(np.float32)
    for eps, min_weight in ((math.sqrt(2), 7.0), (1.0, 4.0), (2.0, 12.0)):
        expected = dbscan(weights, eps=eps, min_weight=min_weight)
        found = cuml_dbscan(cupy.asarray(weights), eps=eps, min_weight=min_weight)
        np.testing.assert_array_equal(found.n_clusters.get(), expected.n_clusters)
        np.testing.assert_array_equal(found.labels.get(), expected.labels)
