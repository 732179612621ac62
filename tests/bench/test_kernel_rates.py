import json
from dataclasses import replace

import numpy as np
import pytest

from pc_engine import kernels
from pc_engine.bench import kernel_cases as cases_module
from pc_engine.bench import kernel_rates
from pc_engine.bench.kernel_cases import kernel_cases, made_up_maps
from pc_engine.bench.kernel_rates import check, copy_bandwidth, measure_kernels
from pc_engine.errors import BackendError, UsageError


@pytest.fixture(scope="module")
def report():
    return measure_kernels(grid=9, batch=6, channels=11).to_dict()


def test_every_kernel_takes_part(report):
    named = {rate["kernel"].split(" ")[0] for rate in report["kernels"]}
    # Parts of networks there.
    on_a_gpu = {
        "depthwise_convolution",
        "matrix_products",
        "max_pool",
        "pixel_columns",
        "pixel_convolution",
        "to_planes",
    }
    assert named == set(kernels.__all__) - on_a_gpu - {
        *("ClusterBoxes", "ClusterMoments", "DensityPeaks", "GaussianMixtures", "MergedClusters", "WeightedDbscan"),
        *("get_array_module", "to_host"),
    }


def test_report_holds_together(report):
    assert json.loads(json.dumps(report)) == report
    assert report["bandwidth_gb_s"] > 0.1
    assert report["sum_ms"].keys() == {rate["mode"] for rate in report["kernels"]}
    for mode, ms in report["sum_ms"].items():
        assert ms == pytest.approx(sum(rate["ms"] for rate in report["kernels"] if rate["mode"] == mode))
    assert {rate["kernel"] for rate in report["kernels"] if rate["mode"] == "every mode"} == {
        *("finite_images", "sort_rows (pointers)")
    }
    for rate in report["kernels"]:
        assert rate["ms"] > 0
        assert rate["speedup"] == pytest.approx(rate["peer_ms"] / rate["ms"])
        gb_s = rate["bytes"] / (rate["ms"] * 1e-3) / 1e9
        assert rate["bandwidth_share"] == pytest.approx(gb_s / report["bandwidth_gb_s"])


def test_bytes_are_those_of_an_image(report):
    by_name = {rate["kernel"]: rate["bytes"] for rate in report["kernels"]}
    assert by_name["channel_max"] == 11 * 9 * 9 * 4 + 11 * 4


@pytest.mark.parametrize("place", range(19))
def test_a_wrong_kernel_is_refused(place):
    cases = list(kernel_cases(made_up_maps(3, 11, 9)))
    assert len(cases) == 19
    case = cases[place]
    check(case, 3)
    right = np.asarray(case.run(), float)
    wrong = right.copy()
    wrong[2].ravel()[np.argmax(np.abs(right[2]))] += 1
    with pytest.raises(BackendError, match=r"image 2: nothing was timed"):
        check(replace(case, run=lambda: wrong), 3)
    nan = np.full(right.shape, np.nan)
    with pytest.raises(BackendError, match="nothing was timed"):
        check(replace(case, run=lambda: nan), 3)


def test_nothing_is_timed_before_all_was_checked(monkeypatch):
    def timed(*_):
        raise AssertionError("timed")

    monkeypatch.setattr(kernel_rates, "_timed", timed)
    monkeypatch.setattr(cases_module, "dbscan_of", lambda heat: np.full(heat.shape, 7))
    with pytest.raises(BackendError, match="dbscan"):
        measure_kernels(grid=9, batch=2, channels=5)


@pytest.mark.parametrize("sizes", [{"grid": 6}, {"batch": 0}, {"channels": 0}])
def test_sizes_are_checked(sizes):
    with pytest.raises(UsageError, match="at least"):
        measure_kernels(**sizes)


def test_copy_counts_reading_and_writing():
    assert 1e8 < copy_bandwidth() < 1e13
