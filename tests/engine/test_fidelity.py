from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from pc_engine.backbone import CompileRequest
from pc_engine.backends import BACKENDS
from pc_engine.errors import ModelError
from pc_engine.export import Readout, import_classifier
from pc_engine.fidelity import compare_with_fp32, measure_fidelity
from pc_engine.manifest import COUNTER_FILE, NETWORK_FILE, SIGNATURES_FILE
from pc_engine.model import Model, load_model
from pc_engine.networks import network_request

Taps = dict[str, np.ndarray]


@dataclass
class Changed:
    """The tiny network with its taps changed."""

    request: CompileRequest
    change: Callable[[Taps], Taps] = lambda taps: taps
    backend: str = "changed"
    parallel: int = 1
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._network = BACKENDS["onnxruntime"].compile(replace(self.request, precision="fp32"))

    def infer(self, images: np.ndarray) -> Taps:
        return self.change(self._network.infer(images))

    def close(self) -> None:
        self._network.close()


@pytest.fixture
def model(tiny_directory: Path) -> Model:
    return load_model(tiny_directory)


@pytest.fixture
def request_(model: Model) -> CompileRequest:
    return replace(network_request(model, tuple(model.manifest.taps), batch_size=4), threads=1)


@pytest.fixture
def scenes(draw_scene: Callable[..., object]) -> np.ndarray:
    """Ten scenes with 0 to 4 white blobs, (10, 64, 64, 3)."""
    places = [(1, 1), (6, 1), (1, 6), (6, 6)]
    return np.stack([np.asarray(draw_scene(places[: index % 5])) for index in range(10)])


def test_the_same_numbers_agree_in_everything(model: Model, request_: CompileRequest, scenes: np.ndarray) -> None:
    done: list[int] = []
    report = measure_fidelity(model, Changed(request_), Changed(request_), scenes, done.append)
    assert (report.backend, report.n, report.top1) == ("changed", 10, 1.0)
    assert report.counts == {"c2p": 1.0, "p2c": 1.0, "combined": 1.0}
    assert report.tap_errors == dict.fromkeys(("conv_prev", "conv_last", "gap", "logits"), 0.0)
    assert report.agreement() == 1.0
    assert report.files == {name: model.manifest.files[name] for name in (NETWORK_FILE, COUNTER_FILE, SIGNATURES_FILE)}
    assert done == [4, 4, 2]


def test_an_error_is_relative_to_the_tap_over_all_images(
    model: Model, request_: CompileRequest, scenes: np.ndarray
) -> None:
    def change(taps: Taps) -> Taps:
        return {**taps, "conv_last": taps["conv_last"] * 1.25, "logits": taps["logits"] - 1}

    report = measure_fidelity(model, Changed(request_), Changed(request_, change), scenes)
    logits = BACKENDS["onnxruntime"].compile(replace(request_, batch_size=10)).infer(scenes)["logits"]
    assert report.tap_errors["conv_last"] == pytest.approx(0.25)
    assert report.tap_errors["gap"] == 0
    assert report.tap_errors["logits"] == pytest.approx(np.sqrt(logits.size) / np.linalg.norm(logits), rel=1e-5)
    assert report.top1 == 1.0


def test_classes_and_counts_that_differ_are_counted(model: Model, request_: CompileRequest, scenes: np.ndarray) -> None:
    """The second scene of every batch is swapped for the third: two of ten have no third in their batch."""

    def change(taps: Taps) -> Taps:
        order = [0, 2, 2, 3][: len(taps["logits"])] if len(taps["logits"]) > 2 else [0, 1]
        return {name: tap[order] for name, tap in taps.items()}

    report = measure_fidelity(model, Changed(request_), Changed(request_, change), scenes)
    assert report.counts["c2p"] == report.counts["p2c"] == 0.8  # the scenes 1 and 5 show what 2 and 6 do

    def reclassify(taps: Taps) -> Taps:  # half of each batch
        blue = np.arange(len(taps["logits"])) % 2 == 1
        return {**taps, "logits": taps["logits"] + blue[:, None] * np.float32([0, 0, 1e6])}

    report = measure_fidelity(model, Changed(request_), Changed(request_, reclassify), scenes)
    assert report.top1 == 0.5
    assert report.counts["c2p"] == 1.0  # it reads no logits


def test_evidence_is_compared_where_the_class_is_the_same(model: Model, tmp_path: Path, scenes: np.ndarray) -> None:
    tensors = {name: tap.tensor for name, tap in model.manifest.taps.items()}
    import_classifier(
        model.network,
        tmp_path,
        name="tiny",
        pixels=model.manifest.input,
        readout=Readout(taps=tensors, count_features=("gap",)),
    )
    exported = load_model(tmp_path)
    request = replace(network_request(exported, tuple(exported.manifest.taps), batch_size=4), threads=1)
    by = [1e6, 0, 0, 0]

    def change(taps: Taps) -> Taps:
        n, n_classes = taps["logits"].shape
        another = np.eye(n_classes, dtype=np.float32)[(taps["logits"].argmax(axis=1) + 1) % n_classes]
        another[1:] = 0
        more = 1 + np.float32(by)[:n, None]
        return {**taps, "logits": taps["logits"] + 1e6 * another, "evidence": taps["evidence"] * more}

    # The first image of each batch has another class, and with it another evidence.
    report = measure_fidelity(exported, Changed(request), Changed(request, change), scenes)
    assert report.top1 == 0.7
    assert report.tap_errors["evidence"] == 0
    by[1:] = [0.01] * 3
    report = measure_fidelity(exported, Changed(request), Changed(request, change), scenes)
    assert report.tap_errors["evidence"] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_count_as_zero(
    model: Model, request_: CompileRequest, scenes: np.ndarray, value: float
) -> None:
    def change(taps: Taps) -> Taps:
        return {**taps, "conv_prev": np.full_like(taps["conv_prev"], value)}

    report = measure_fidelity(model, Changed(request_), Changed(request_, change), scenes)
    assert report.tap_errors["conv_prev"] == 1.0


def test_only_modes_that_the_model_can_run_are_counted(
    make_model: Callable[..., Path], tmp_path: Path, request_: CompileRequest, scenes: np.ndarray
) -> None:
    bare = load_model(make_model(tmp_path / "bare", counter=None, signatures=None))
    report = measure_fidelity(bare, Changed(request_), Changed(request_), scenes)
    assert report.counts == {}
    assert report.agreement() == report.agreement("c2p") == report.top1 == 1.0


def test_agreement_of_a_mode_leaves_the_counts_of_others_out(
    model: Model, request_: CompileRequest, scenes: np.ndarray
) -> None:
    report = measure_fidelity(model, Changed(request_), Changed(request_), scenes)
    report = replace(report, top1=0.98, counts={"c2p": 0.99, "p2c": 0.8})
    assert report.agreement("c2p") == 0.98
    assert report.agreement("p2c") == report.agreement() == 0.8


def test_bf16_is_compared_on_the_backend_that_has_it(model: Model, scenes: np.ndarray) -> None:
    if "bf16" not in BACKENDS["openvino"].probe().precisions:
        pytest.skip("this processor does not multiply bf16 natively")
    report = compare_with_fp32(model, "bf16", scenes)
    assert report.backend == "openvino"
    assert 0 < max(report.tap_errors.values()) < 0.02


def test_int8_without_a_network_names_the_command(model: Model, scenes: np.ndarray) -> None:
    with pytest.raises(ModelError, match=r"'pc-engine build /.* --precision int8 --calibrate PHOTOS'"):
        compare_with_fp32(model, "int8", scenes)
