"""Counter and signatures follow the array library of their input, and cross to a device once."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pc_engine.fitted.counter import CountSVM
from pc_engine.fitted.open_count import OpenCount
from pc_engine.fitted.signatures import SignatureDictionary
from pc_engine.fitting.features import FeatureCollector
from pc_engine.fitting.signatures import SignatureAccumulator
from pc_engine.hardware.device_arrays import DeviceConstants


class DeviceArray(np.ndarray):
    """Stands in for an array on a device: meeting a host array in arithmetic is an error, as in CuPy."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        for array in (*inputs, *(out or ())):
            if isinstance(array, np.ndarray) and not isinstance(array, DeviceArray) and array.ndim:
                raise TypeError(f"a device array met a host array of shape {array.shape}")
        plain = [array.view(np.ndarray) if isinstance(array, np.ndarray) else array for array in inputs]
        if out is not None:
            kwargs["out"] = tuple(array.view(np.ndarray) for array in out)
        return np.asarray(getattr(ufunc, method)(*plain, **kwargs)).view(DeviceArray)

    def get(self) -> np.ndarray:
        return np.array(self.view(np.ndarray))


class FakeCupy(ModuleType):
    """NumPy in CuPy's place, copies to the device counted; under a name of its own, so that no kernel is launched."""

    ndarray = DeviceArray

    def __init__(self) -> None:
        super().__init__("numpy in the place of cupy")
        self.device = 0
        self.copies = self.waits = 0
        self.cuda = SimpleNamespace(
            Device=lambda: SimpleNamespace(id=self.device),
            get_current_stream=lambda: SimpleNamespace(synchronize=self.wait),
        )

    def wait(self) -> None:
        self.waits += 1

    def asarray(self, array: np.ndarray) -> DeviceArray:
        self.copies += 1
        return np.asarray(array).view(DeviceArray)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(np, name)
        if isinstance(attribute, type) or not callable(attribute):
            return attribute
        return lambda *arguments, **keywords: np.asarray(attribute(*arguments, **keywords)).view(DeviceArray)


@pytest.fixture
def fake_cupy(monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    module = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def make_counter() -> CountSVM:
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(3, size)).astype(np.float32) for name, size in (("pool5", 8), ("fc6", 5))}
    return CountSVM(("pool5", "fc6"), ("0", "1", "2+"), weights, np.ones(3, np.float32))


def make_taps() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {"pool5": rng.random((4, 2, 2, 2), np.float32), "fc6": rng.random((4, 5), np.float32)}


def make_signatures() -> SignatureDictionary:
    return SignatureDictionary({"conv_last": np.arange(6, dtype=np.int32).reshape(2, 3)}, np.ones(2, bool))


def test_the_counter_crosses_to_each_device_once(fake_cupy: FakeCupy) -> None:
    counter, taps = make_counter(), make_taps()
    expected = counter.scores(taps)
    assert fake_cupy.copies == 0
    on_device = {name: tap.view(DeviceArray) for name, tap in taps.items()}
    for device, copies in ((0, 3), (0, 3), (1, 6), (0, 6)):
        fake_cupy.device = device
        scores = counter.scores(on_device)
        assert isinstance(scores, DeviceArray)
        np.testing.assert_allclose(scores.get(), expected, rtol=1e-6)
        # And each is complete before a thread with a stream of its own can meet it.
        assert fake_cupy.copies == fake_cupy.waits == copies


def with_beyond(counter: CountSVM) -> CountSVM:
    ones = {name: np.ones((1, weights.shape[1]), np.float32) for name, weights in counter.weights.items()}
    return replace(counter, beyond=OpenCount(ones, 0.0, floor=2, most=60))


def test_a_counter_that_counts_on_crosses_once_too(fake_cupy: FakeCupy) -> None:
    counter, taps = with_beyond(make_counter()), make_taps()
    expected = counter.scores_and_counts(taps)
    on_device = {name: tap.view(DeviceArray) for name, tap in taps.items()}
    for _ in range(2):
        for found, known in zip(counter.scores_and_counts(on_device), expected, strict=True):
            assert isinstance(found, DeviceArray)
            assert known is not None
            np.testing.assert_allclose(found.get(), known, rtol=1e-6)
        assert fake_cupy.copies == fake_cupy.waits == 3
    # The scores alone are of fewer weights.
    np.testing.assert_allclose(counter.scores(on_device).get(), expected[0], rtol=1e-6)
    assert fake_cupy.copies == 5


def test_signatures_cross_to_the_device_once(fake_cupy: FakeCupy) -> None:
    signatures = make_signatures()
    for _ in range(2):
        maps = signatures.lookup("conv_last", np.array([1, 0]).view(DeviceArray), 2)
        assert isinstance(maps, DeviceArray)
        assert maps.get().tolist() == [[3, 4], [0, 1]]
    assert fake_cupy.copies == 1


def test_what_two_threads_bring_at_once_stays_where_the_first_has_it(fake_cupy: FakeCupy) -> None:
    """A CUDA graph that one of them recorded goes on reading it, whatever the other does afterwards."""
    constants, array, first = DeviceConstants(), np.arange(3.0), []

    def be_overtaken() -> None:
        fake_cupy.wait = lambda: None  # type: ignore[method-assign]
        first.append(constants.get(fake_cupy, "numbers", array))

    fake_cupy.wait = be_overtaken  # type: ignore[method-assign]
    assert constants.get(fake_cupy, "numbers", array) is first[0]
    assert constants.get(fake_cupy, "numbers", array) is first[0]
    assert fake_cupy.copies == 2


@pytest.mark.gpu
def test_on_a_gpu_everything_agrees_with_the_host() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not cupy.is_available():
        pytest.skip("CuPy finds no GPU")
    counter, taps, signatures = make_counter(), make_taps(), make_signatures()
    on_device = {name: cupy.asarray(tap) for name, tap in taps.items()}
    scores = counter.scores(on_device)
    assert isinstance(scores, cupy.ndarray)
    np.testing.assert_allclose(scores.get(), counter.scores(taps), rtol=1e-5)
    counting_on = with_beyond(counter)
    for found, known in zip(counting_on.scores_and_counts(on_device), counting_on.scores_and_counts(taps), strict=True):
        assert isinstance(found, cupy.ndarray)
        np.testing.assert_allclose(found.get(), known, rtol=1e-5)
    maps = signatures.lookup("conv_last", cupy.asarray([1, 0]), 2)
    assert isinstance(maps, cupy.ndarray)
    assert maps.get().tolist() == [[3, 4], [0, 1]]
    collector = FeatureCollector(("pool5", "fc6"), 4)
    collector.add(on_device)
    np.testing.assert_array_equal(collector.features()["pool5"], taps["pool5"].reshape(4, -1))
    for rank in ("max", "contrast"):
        host, device = (SignatureAccumulator(2, rank, taps=("pool5",)) for _ in range(2))
        host.add(taps, np.array([0, 0, 1, 1]))
        device.add(on_device, cupy.asarray([0, 0, 1, 1]))
        np.testing.assert_array_equal(device.finish().ranking["pool5"], host.finish().ranking["pool5"])
