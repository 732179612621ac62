"""TensorRT's own code on a pretended GPU: what it computes, what it keeps, and what each failing call becomes."""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pc_engine.backbone import CompileRequest
from pc_engine.backends.onnxruntime import OnnxRuntimeBackend
from pc_engine.backends.tensorrt import TensorRtBackend, read_engine, save_engine
from pc_engine.backends.tensorrt_library import Line, Log, load_library
from pc_engine.catalogue import EMBEDDED_DIRECTORY
from pc_engine.errors import BackendError, DeviceLostError, DeviceMemoryError, UsageError
from pc_engine.export.quantise import quantise_network
from pc_engine.files.digest import file_sha256
from pc_engine.files.storage import cache_directory
from pc_engine.manifest import QUANTISED_FILES
from pc_engine.manifest_file import read_manifest
from pc_engine.model import load_model
from pc_engine.networks import network_request
from pc_engine.selection.candidates import TOLERANCE, probe_images, tap_difference
from pc_engine.selection.selection import open_backbone

BACKEND = TensorRtBackend()
TAPS = ("logits", "conv_last", "gap")


@pytest.fixture
def request_(tiny_directory: Path) -> CompileRequest:
    request = network_request(load_model(tiny_directory), TAPS, batch_size=4)
    return replace(request, threads=1, device="cuda:0")


@pytest.fixture
def reference(request_):
    return OnnxRuntimeBackend().compile(replace(request_, device="cpu"))


def on_host(taps):
    return {name: tap.get() for name, tap in taps.items()}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_taps_are_the_references_and_stay_on_the_gpu(gpu, trt, request_, reference, precision):
    network = BACKEND.compile(replace(request_, precision=precision))
    images = probe_images(64, 64, 4)
    taps = network.infer(images)
    assert list(taps) == list(TAPS)
    assert all(isinstance(tap, sys.modules["cupy"].ndarray) and tap.dtype == np.float32 for tap in taps.values())
    assert tap_difference(on_host(taps), reference.infer(images)) <= TOLERANCE[precision] / 2
    assert network.remarks == ()
    network.close()


@pytest.mark.parametrize("precision", QUANTISED_FILES)
def test_a_quantised_network_gives_the_numbers_of_its_own_rounding(gpu, trt, tmp_path, precision):
    manifest = read_manifest(EMBEDDED_DIRECTORY)
    path, images = tmp_path / QUANTISED_FILES[precision], probe_images(128, 128, 8)
    network = quantise_network(
        EMBEDDED_DIRECTORY / "model.onnx", manifest, images, path, precision=precision, threads=1
    )
    manifest = replace(manifest, input=network.input, taps=network.taps, files={path.name: file_sha256(path)})
    request = CompileRequest(path, manifest, ("conv_prev", "conv_last", "logits"), "fp32", 4, 1)
    images = probe_images(128, 128, 4, seed=2)
    expected = OnnxRuntimeBackend().compile(request).infer(images)
    found = BACKEND.compile(replace(request, precision=precision, device="cuda:0")).infer(images)
    assert 0 < tap_difference(on_host(found), expected) <= TOLERANCE[precision] / 3


def test_a_short_batch_has_a_row_for_each_image(gpu, trt, request_, reference):
    network = BACKEND.compile(request_)
    network.infer(probe_images(64, 64, 4, seed=5))
    images = probe_images(64, 64, 3)
    taps = on_host(network.infer(images))
    assert [len(tap) for tap in taps.values()] == [3, 3, 3]
    assert tap_difference(taps, reference.infer(images)) < 1e-5


def test_taps_are_the_callers_own(gpu, trt, request_):
    network = BACKEND.compile(request_)
    batches = [probe_images(64, 64, 4, seed=seed) for seed in range(5)]
    taps = [network.infer(batch) for batch in batches]
    before = [on_host(one) for one in taps]
    network.infer(probe_images(64, 64, 4, seed=9))
    for one, kept in zip(taps, before, strict=True):
        for name, tap in on_host(one).items():
            np.testing.assert_array_equal(tap, kept[name])
    assert not np.array_equal(before[0]["gap"], before[1]["gap"])


@pytest.mark.parametrize("form", ["cupy", "cuda_array_interface", "dlpack"])
def test_images_on_the_gpu_do_not_pass_the_host(gpu, trt, request_, reference, form):
    network = BACKEND.compile(request_)
    images = probe_images(64, 64, 4)
    array = gpu.array(images)
    # What a PyCUDA GPUArray, and a tensor of a library without that interface, look like from outside.
    given = {
        "cupy": array,
        "cuda_array_interface": SimpleNamespace(__cuda_array_interface__={"version": 2}, array=array),
        "dlpack": SimpleNamespace(__dlpack_device__=lambda: (2, 0), array=array),
    }[form]
    gpu.host_to_device = 0
    taps = on_host(network.infer(given))
    assert gpu.host_to_device == 0
    assert tap_difference(taps, reference.infer(images)) < 1e-5
    # And the next batch from the host uses its own room again.
    other = probe_images(64, 64, 4, seed=3)
    assert tap_difference(on_host(network.infer(other)), reference.infer(other)) < 1e-5


def test_images_on_the_gpu_that_do_not_fill_a_batch_are_copied_there(gpu, trt, request_, reference):
    network = BACKEND.compile(request_)
    images = probe_images(64, 64, 2)
    gpu.host_to_device = 0
    taps = on_host(network.infer(gpu.array(images)))
    assert gpu.host_to_device == 0
    assert tap_difference(taps, reference.infer(images)) < 1e-5


def test_a_tensor_of_another_library_on_the_host_is_taken(gpu, trt, request_, reference):
    torch = pytest.importorskip("torch")
    images = probe_images(64, 64, 4)
    taps = on_host(BACKEND.compile(request_).infer(torch.from_numpy(images)))
    assert tap_difference(taps, reference.infer(images)) < 1e-5


def test_work_of_the_callers_stream_is_waited_for(gpu, trt, request_, reference):
    """Images written by a kernel that has not run yet, as a decoder on the GPU leaves them."""
    network = BACKEND.compile(request_)
    images = probe_images(64, 64, 4)
    array = gpu.array(np.zeros_like(images))
    with sys.modules["cupy"].cuda.Stream(non_blocking=True):
        array[:] = images  # enqueued, and no more
        assert not array.get().any()
        taps = on_host(network.infer(array))
    assert tap_difference(taps, reference.infer(images)) < 1e-5


def test_kernels_of_a_batch_start_with_one_call(gpu, trt, request_):
    network = BACKEND.compile(request_)
    assert network.parallel >= 2
    gpu.graph_launches = 0
    before = len(trt.called("execute_async_v3"))
    for _ in range(5):
        network.infer(probe_images(64, 64, 4))
    assert gpu.graph_launches == 5
    assert len(trt.called("execute_async_v3")) == before


def test_batches_have_streams_of_their_own_beside_the_one_they_are_computed_on(gpu, trt, request_):
    network = BACKEND.compile(request_)
    streams = [stream for stream in gpu.streams.values() if stream.queue and stream is not gpu.default]
    assert len(streams) == network.parallel + 1
    assert all(stream.non_blocking for stream in streams)
    launched: set[object] = set()
    gpu.on_launch = launched.add
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: network.infer(probe_images(64, 64, 4)), range(8)))
    assert len(launched) == 1


def test_batches_run_beside_each_other(gpu, trt, request_, reference):
    network = BACKEND.compile(request_)
    batches = [probe_images(64, 64, 4, seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda images: on_host(network.infer(images)), batches))
    for images, taps in zip(batches, results, strict=True):
        assert tap_difference(taps, reference.infer(images)) < 1e-5


@pytest.mark.parametrize("fault", ["begin_capture", "end_capture"])
def test_a_graph_that_cannot_be_captured_is_done_without(gpu, trt, request_, reference, fault):
    gpu.faults[fault] = sys.modules["cupy"].cuda.runtime.CUDARuntimeError(900, "cudaErrorStreamCaptureUnsupported")
    network = BACKEND.compile(request_)
    assert network.remarks == (
        "No CUDA graph could be captured, so kernels are started one by one (cudaErrorStreamCaptureUnsupported).",
    )
    images = probe_images(64, 64, 4)
    assert tap_difference(on_host(network.infer(images)), reference.infer(images)) < 1e-5
    assert gpu.graph_launches == 0


def test_an_engine_that_refuses_to_be_captured_is_run_without(gpu, trt, request_, reference):
    trt.faults["execute while capturing"] = "a layer needs the host"
    network = BACKEND.compile(request_)
    assert "a layer needs the host" in network.remarks[0]
    images = probe_images(64, 64, 4)
    assert tap_difference(on_host(network.infer(images)), reference.infer(images)) < 1e-5


@pytest.mark.parametrize(
    "call",
    [
        *(
            "Builder",
            "OnnxParser",
            "create_network",
            "create_builder_config",
            "create_optimization_profile",
            "set_shape",
        ),
        *("add_optimization_profile", "parse", "build_serialized_network", "Runtime", "deserialize_cuda_engine"),
        *("create_execution_context", "set_input_shape", "set_tensor_address gap", "set_tensor_address image"),
        "execute_async_v3",
    ],
)
def test_each_call_that_gives_none_or_false_is_an_error_with_the_loggers_reason(gpu, trt, request_, call):
    trt.faults[call] = "IWhatever::call: Error Code 7: the reason\nmore of it"
    with pytest.raises(BackendError) as caught:
        BACKEND.compile(request_)
    assert type(caught.value) is BackendError
    assert "Error Code 7: the reason" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "TensorRT" in str(caught.value)


def test_a_call_that_fails_without_a_word_is_an_error_too(gpu, trt, request_):
    trt.faults["build_serialized_network"] = ""
    with pytest.raises(BackendError, match="TensorRT failed while building the engine: no reason given"):
        BACKEND.compile(request_)


@pytest.fixture
def uncaptured(gpu):
    """A GPU on which no CUDA graph can be captured, so that TensorRT is called for every batch."""
    gpu.faults["begin_capture"] = sys.modules["cupy"].cuda.runtime.CUDARuntimeError(900)
    return gpu


def test_a_failure_while_running_is_an_error_and_the_next_batch_runs(uncaptured, trt, request_):
    gpu = uncaptured
    network = BACKEND.compile(request_)
    trt.faults["execute_async_v3"] = "Error Code 1: Myelin (refused)"
    images = gpu.array(probe_images(64, 64, 4))
    with pytest.raises(BackendError, match="refused"):
        network.infer(images)
    del trt.faults["execute_async_v3"]
    assert len(network.infer(images)["gap"]) == 4
    trt.faults["execute_async_v3"] = "Error Code 2: another"
    with pytest.raises(BackendError, match="another") as caught:
        network.infer(images)
    assert "refused" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("create_execution_context", "IExecutionContext: Error Code 2: OutOfMemory (Requested size was 123 bytes.)"),
        ("build_serialized_network", "Error Code 1: Cuda Runtime (out of memory)"),
        ("deserialize_cuda_engine", "Cuda Runtime (In alloc at x.cpp:25 (cudaError 2: out of memory))"),
    ],
)
def test_memory_that_tensorrt_does_not_get_is_told_apart(gpu, trt, request_, call, text):
    trt.faults[call] = text
    with pytest.raises(DeviceMemoryError, match="use a smaller batch size"):
        BACKEND.compile(request_)


OUT_OF_MEMORY = "Error Code 2: OutOfMemory (Requested size was 123 bytes.)"
SKIPPED = "UNSUPPORTED_STATE: Skipping tactic 4 due to insufficient memory on requested size of 123"


@pytest.mark.parametrize(
    ("last", "kind", "said"),
    [
        ("Error Code 9: a layer that it does not know", BackendError, "a layer that it does not know"),
        ("Error Code 10: Could not find any implementation for node fc6.", DeviceMemoryError, "OutOfMemory"),
    ],
)
def test_memory_for_a_kernel_that_was_skipped_is_no_reason_unless_none_was_left(last, kind, said):
    log = Log()
    for severity, text in ((1, OUT_OF_MEMORY), (2, SKIPPED), (1, last)):
        log.add(severity, text)
    error = log.error("building the engine", "TensorRT")
    assert type(error) is kind
    assert said in str(error)


def test_threads_do_not_take_each_others_reasons():
    """A process has one log, for all of its engines; a thread of the library's own may write to any of them."""
    log = Log()
    log.add(1, "mine")

    def another() -> str:
        log.forget()
        log.add(1, "another's")
        return str(log.error("running", "TensorRT"))

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(another).result().endswith(": another's")
    log.lines.append(Line(1, "the library's"))
    assert log.reason() == "mine"
    log.forget()
    assert log.reason() == "no reason given"


def test_memory_that_cupy_does_not_get_is_told_apart_and_a_smaller_batch_runs(gpu, trt, request_):
    gpu.largest_allocation = 3 * 64 * 64 * 3
    with pytest.raises(DeviceMemoryError, match="loading the network"):
        BACKEND.compile(request_)
    network = BACKEND.compile(replace(request_, batch_size=2))
    assert len(network.infer(probe_images(64, 64, 2))["gap"]) == 2
    gpu.largest_allocation = 10
    with pytest.raises(DeviceMemoryError, match="running the network"):
        network.infer(probe_images(64, 64, 2))
    gpu.largest_allocation = None
    assert len(network.infer(probe_images(64, 64, 2))["gap"]) == 2


@pytest.mark.parametrize("status", [700, 719, 999])
def test_a_lost_gpu_is_told_apart(gpu, trt, request_, status):
    network = BACKEND.compile(request_)
    error = sys.modules["cupy"].cuda.runtime.CUDARuntimeError
    gpu.faults["leave device"] = error(status, "again")
    gpu.faults["synchronize"] = error(status, "cudaErrorIllegalAddress: an illegal memory access was encountered")
    with pytest.raises(DeviceLostError, match="stopped answering while running the network"):
        network.infer(probe_images(64, 64, 4))


def test_a_lost_gpu_that_tensorrt_reports_is_told_apart(uncaptured, trt, request_):
    gpu = uncaptured
    network = BACKEND.compile(request_)
    trt.faults["execute_async_v3"] = "Error Code 1: Cuda Runtime (cudaError 700: an illegal memory access)"
    with pytest.raises(DeviceLostError):
        network.infer(gpu.array(probe_images(64, 64, 4)))


def test_images_that_do_not_fit_are_refused(gpu, trt, request_):
    network = BACKEND.compile(request_)
    with pytest.raises(UsageError, match="1 to 4 images, got 5"):
        network.infer(probe_images(64, 64, 5))
    with pytest.raises(UsageError, match="got 0"):
        network.infer(np.zeros((0, 64, 64, 3), np.uint8))
    with pytest.raises(BackendError, match=r"uint8 images of shape \(64, 64, 3\), got uint8 of shape \(32, 64, 3\)"):
        network.infer(probe_images(32, 64, 4))
    with pytest.raises(BackendError, match="got float32"):
        network.infer(gpu.array(np.zeros((4, 64, 64, 3), np.float32)))


def test_the_profile_holds_the_one_batch_size_and_fp32_is_not_tf32(gpu, trt, request_):
    BACKEND.compile(request_)
    assert trt.called("set_shape") == [("image", ((4, 64, 64, 3),) * 3)]
    assert trt.called("input shape") == [(4, 64, 64, 3)]  # by the profile alone it would stay one of many sizes
    assert trt.called("create_network") == [0]  # no precision flags: the graph's types are the network's
    assert "TF32" not in trt.flags


def test_a_card_without_a_name_of_its_own_is_built_for_as_the_current_one(gpu, rtx, request_):
    gpu.capability = (9, 0)
    BACKEND.compile(request_)
    assert rtx.called("set_compute_capability") == ["current"]


def test_kernel_times_are_kept_and_used_again(gpu, trt, request_):
    BACKEND.compile(request_)
    assert trt.called("set_timing_cache") == [b""]
    BACKEND.compile(replace(request_, batch_size=2))  # another engine, the same card
    assert trt.called("set_timing_cache") == [b"", b"measured"]
    trt.refused = b"measured"  # as if by another driver
    BACKEND.compile(request_)
    assert trt.called("set_timing_cache")[2:] == [b"measured", b""]
    gpu.name = "NVIDIA L4"
    BACKEND.compile(request_)
    assert trt.called("set_timing_cache")[4:] == [b""]


@pytest.mark.parametrize(
    ("which", "refused", "failed"),
    [
        ("trt", "set_timing_cache", "build_serialized_network"),
        ("rtx", "deserialize_kernels", "create_execution_context"),
        ("rtx", "serialize_kernels", "execute_async_v3"),
    ],
)
def test_what_was_said_of_a_cache_is_not_the_reason_of_what_fails_later(gpu, request_, request, which, refused, failed):
    library = request.getfixturevalue(which)
    BACKEND.compile(request_)  # which leaves something to refuse
    library.faults[refused] = "the cache is another driver's"
    network = BACKEND.compile(request_) if failed == "execute_async_v3" else None
    library.faults[failed] = "the reason"
    with pytest.raises(BackendError, match=r": the reason$"):
        BACKEND.compile(request_) if network is None else network.infer(probe_images(64, 64, 4))


@pytest.mark.parametrize("call", ["create_timing_cache", "set_timing_cache", "get_timing_cache"])
def test_an_engine_does_not_depend_on_kept_times(gpu, trt, request_, call):
    trt.faults[call] = "no"
    assert len(BACKEND.compile(request_).infer(probe_images(64, 64, 4))["gap"]) == 4


def test_tensorrt_rtx_captures_by_itself_and_keeps_its_kernels(gpu, rtx, request_, reference):
    network = BACKEND.compile(request_)
    images = probe_images(64, 64, 4)
    assert tap_difference(on_host(network.infer(images)), reference.infer(images)) < 1e-5
    assert gpu.graph_launches == 0
    [(config,)] = rtx.called("create_execution_context")
    assert config.cuda_graph_strategy == "whole"
    assert config.dynamic_shapes_kernel_specialization_strategy == "eager"
    # Named by its number it would be a card of another machine, and without a name any card since Ampere.
    assert rtx.called("set_compute_capability") == ["current"]
    # Giving it a timing cache makes it look for a GPU, for nothing.
    assert not rtx.called("create_timing_cache")
    assert rtx.called("deserialize_kernels") == []
    BACKEND.compile(request_)
    assert rtx.called("deserialize_kernels") == [b"kernels"]


def test_what_tensorrt_rtx_does_not_capture_is_captured_here(gpu, rtx, request_, reference):
    rtx.faults["cuda_graph_strategy"] = ""
    network = BACKEND.compile(request_)
    assert network.remarks == ()
    images = probe_images(64, 64, 4)
    gpu.graph_launches = 0
    assert tap_difference(on_host(network.infer(images)), reference.infer(images)) < 1e-5
    assert gpu.graph_launches == 1


def test_graphs_that_tensorrt_rtx_captures_find_their_images_in_one_place(gpu, rtx, request_, reference):
    network = BACKEND.compile(request_)
    for seed in range(4):
        images = probe_images(64, 64, 4, seed=seed)
        for given in (images, gpu.array(images)):
            assert tap_difference(on_host(network.infer(given)), reference.infer(images)) < 1e-5
    assert len(set(rtx.called("set_tensor_address image"))) == 1


@pytest.mark.parametrize("call", ["create_runtime_config", "create_execution_context", "set_compute_capability"])
def test_failures_of_tensorrt_rtx_are_errors(gpu, rtx, request_, call):
    rtx.faults[call] = "Error Code 3: the reason"
    with pytest.raises(BackendError, match=r"TensorRT-RTX failed while .*: Error Code 3: the reason"):
        BACKEND.compile(request_)


@pytest.mark.parametrize("call", ["create_runtime_cache", "deserialize_kernels", "serialize_kernels"])
def test_tensorrt_rtx_compiles_anew_what_it_cannot_keep(gpu, rtx, request_, call):
    BACKEND.compile(request_)
    rtx.faults[call] = "no"
    assert len(BACKEND.compile(request_).infer(probe_images(64, 64, 4))["gap"]) == 4


def test_a_saved_engine_gives_the_same_numbers_without_building(gpu, trt, request_, tmp_path):
    tmp_path.chmod(0o700)
    images = probe_images(64, 64, 4)
    expected = on_host(BACKEND.compile(request_, save_to=tmp_path / "saved").infer(images))
    trt.calls.clear()
    taps = on_host(BACKEND.load(request_, tmp_path / "saved").infer(images))
    assert not trt.called("build_serialized_network")
    for name, tap in taps.items():
        np.testing.assert_array_equal(tap, expected[name])


def test_the_cache_of_networks_keeps_engines_by_card_and_driver(gpu, trt, request_, monkeypatch):
    """`open_backbone` names what it keeps by the version that the probe gives, which names card and driver."""
    monkeypatch.setattr(TensorRtBackend, "probe", lambda self, device="cuda": TensorRtBackend_probe(self, "cuda"))
    open_backbone(request_, "tensorrt", "fp32").close()
    assert len(trt.called("build_serialized_network")) == 1
    open_backbone(request_, "tensorrt", "fp32").close()
    assert len(trt.called("build_serialized_network")) == 1
    assert cache_directory().stat().st_mode & 0o077 == 0
    for change in ({"name": "NVIDIA L4"}, {"capability": (8, 9)}):
        for name, value in change.items():
            setattr(gpu, name, value)
        open_backbone(request_, "tensorrt", "fp32").close()
    assert len(trt.called("build_serialized_network")) == 3


TensorRtBackend_probe = TensorRtBackend.probe


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "fp16"},
        {"batch_size": 2},
        {"taps": ("logits", "gap")},
    ],
)
def test_an_engine_of_another_request_is_not_loaded(gpu, trt, request_, tmp_path, change):
    tmp_path.chmod(0o700)
    BACKEND.compile(replace(request_, **change), save_to=tmp_path / "saved")
    trt.calls.clear()
    with pytest.raises(BackendError, match="was not built here for this network and GPU"):
        BACKEND.load(request_, tmp_path / "saved")
    assert not trt.called("deserialize_cuda_engine")


@pytest.mark.parametrize("content", [b"", b"damaged", b"pc-engine TensorRT engine 2\n{}\nengine"])
def test_a_file_that_was_not_built_here_is_not_loaded(gpu, trt, request_, tmp_path, content):
    tmp_path.chmod(0o700)
    (tmp_path / "saved").write_bytes(content)
    with pytest.raises(BackendError, match="was not built here"):
        BACKEND.load(request_, tmp_path / "saved")
    assert not trt.called("deserialize_cuda_engine")
    with pytest.raises(BackendError, match="cannot be read"):
        BACKEND.load(request_, tmp_path / "absent")


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no owners of files as POSIX has")
def test_an_engine_that_others_could_have_written_is_not_loaded(tmp_path):
    tmp_path.chmod(0o700)
    path = tmp_path / "saved"
    save_engine(path, {"a": 1}, b"engine")
    assert bytes(read_engine(path, {"a": 1})) == b"engine"
    path.chmod(0o666)
    with pytest.raises(BackendError, match="others may write to it"):
        read_engine(path, {"a": 1})
    path.chmod(0o600)
    tmp_path.chmod(0o777)
    with pytest.raises(BackendError, match="others may write to it"):
        read_engine(path, {"a": 1})


def test_an_engine_of_other_tensors_is_refused(gpu, trt, request_, monkeypatch):
    other = replace(request_, taps=("logits", "conv_last"))
    network = BACKEND.compile(other)
    network.close()
    from pc_engine.backends import tensorrt

    typed_graph = tensorrt.typed_graph
    monkeypatch.setattr(tensorrt, "typed_graph", lambda _: typed_graph(other))
    with pytest.raises(BackendError, match="engine differs from the model in gap"):
        BACKEND.compile(request_)


def test_probe_names_library_card_and_driver(gpu, trt):
    probe = BACKEND.probe("cuda:0")
    assert probe.available
    assert probe.precisions == ("fp32", "fp16", "int8", "fp8")
    assert probe.version.startswith("TensorRT 11.4.0.106 on NVIDIA H200 (compute capability 9.0, driver 13.0")
    assert probe.version in probe.reason


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (12, 0)])
def test_fp8_takes_a_card_that_multiplies_it(gpu, trt, capability):
    gpu.capability = capability
    assert ("fp8" in BACKEND.probe("cuda:0").precisions) == (capability >= (8, 9))


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((7, 5), ("fp16",)),
        ((8, 0), ("fp32", "fp16")),
        ((8, 6), ("fp32", "fp16")),
        ((8, 9), ("fp32", "fp16", "fp8")),
        ((12, 0), ("fp32", "fp16", "fp8")),
    ],
)
def test_tensorrt_rtx_is_offered_what_it_computes_in(gpu, rtx, capability, expected):
    gpu.capability = capability
    probe = BACKEND.probe("cuda:0")
    assert probe.precisions == expected
    assert "TensorRT-RTX does not multiply 8-bit integers: for int8 pip install 'pc-engine[tensorrt]'" in probe.reason


def test_tensorrt_multiplies_8_bit_integers_on_every_card(gpu, trt):
    gpu.capability = (7, 5)
    probe = BACKEND.probe("cuda:0")
    assert probe.precisions == ("fp32", "fp16", "int8")
    assert "pip install" not in probe.reason


def test_int8_by_tensorrt_rtx_is_refused_before_anything_is_built(gpu, rtx, request_):
    with pytest.raises(BackendError, match=r"not multiply 8-bit integers.*or run at fp32 or fp16 or fp8\.$"):
        BACKEND.compile(replace(request_, precision="int8"))
    assert not rtx.called("Builder")


def test_probe_on_the_cpu_says_where_it_runs(gpu, trt):
    probe = BACKEND.probe("cpu")
    assert (probe.available, probe.precisions) == (False, ())
    assert "--device cuda" in probe.reason


def test_a_gpu_that_is_not_there_is_a_reason(gpu, trt):
    assert BACKEND.probe("cuda:3").reason == "There is no GPU 3 here, the machine has 1: use cuda:0 to cuda:0."
    gpu.count = 0
    assert "no NVIDIA GPU" in BACKEND.probe("cuda").reason


def test_a_card_that_is_too_old_is_a_reason(gpu, trt):
    gpu.capability, gpu.name = (7, 0), "Tesla V100"
    assert "Tesla V100 has 7.0: use the backend onnxruntime" in BACKEND.probe("cuda").reason


def test_tensorrt_is_taken_before_tensorrt_rtx(gpu, rtx, trt):
    assert BACKEND.probe("cuda").version.startswith("TensorRT 11")


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((8, 9), "pip install 'pc-engine[gpu]'"), ((9, 0), "pip install 'pc-engine[tensorrt]'")],
)
def test_without_a_library_the_one_for_the_card_is_named(gpu, capability, expected):
    gpu.capability = capability
    probe = BACKEND.probe("cuda")
    assert not probe.available
    assert expected in probe.reason


def test_a_card_that_nvidia_does_not_list_is_tried_and_said(gpu, rtx):
    gpu.capability, gpu.name = (9, 0), "NVIDIA H200"
    probe = BACKEND.probe("cuda")
    assert probe.available
    assert "a card that NVIDIA does not list for it" in probe.reason


def test_a_library_that_is_too_old_or_broken_is_a_reason(gpu, trt, monkeypatch):
    sys.modules["tensorrt"].__version__ = "10.16.1"
    assert "TensorRT 10.16.1 is too old, 11 or newer is needed" in BACKEND.probe("cuda").reason

    class Broken:
        said = "libnvonnxparser.so.11: cannot open shared object file\nmore"

        def find_spec(self, name, path=None, target=None):
            if name == "tensorrt":
                raise ImportError(self.said)
            return

    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    reason = BACKEND.probe("cuda").reason
    assert "TensorRT cannot be loaded (libnvonnxparser.so.11: cannot open shared object file)" in reason
    assert "\n" not in reason
    Broken.said = ""
    assert "TensorRT cannot be loaded (ImportError)" in BACKEND.probe("cuda").reason


def test_everything_that_is_missing_is_named_at_once(monkeypatch):
    for name in ("cupy", "tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("pc_engine.hardware.devices.driver_found", lambda: True)
    monkeypatch.setattr("pc_engine.backends.tensorrt_library.load_library", load_library.__wrapped__)
    reason = BACKEND.probe("cuda").reason
    assert "The package 'cupy' is needed" in reason
    assert "TensorRT-RTX is not installed" in reason


def test_precisions_that_it_does_not_run_are_refused(gpu, trt, request_):
    with pytest.raises(BackendError, match="TensorRT runs fp32, fp16, int8, fp8 here, not bf16"):
        BACKEND.compile(replace(request_, precision="bf16"))


def test_threads_queue_one_after_the_other(gpu, trt, request_):
    """More threads than lanes: what is queued for a batch stays together."""
    network = BACKEND.compile(request_)
    inside: list[int] = []
    most = 0
    lock = threading.Lock()
    assert len(trt.called("create_execution_context")) == 1

    def watch(stream: object) -> None:
        nonlocal most
        with lock:
            inside.append(1)
            most = max(most, len(inside))
        time.sleep(0.01)
        with lock:
            inside.pop()

    gpu.on_launch = watch
    images = probe_images(64, 64, 4)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: network.infer(images), range(12)))
    assert most == 1


def test_an_engine_is_kept_whatever_files_are_by_default(gpu, trt, request_, tmp_path):
    tmp_path.chmod(0o700)
    before = os.umask(0)
    try:
        BACKEND.compile(request_, save_to=tmp_path / "saved")
    finally:
        os.umask(before)
    assert len(BACKEND.load(request_, tmp_path / "saved").infer(probe_images(64, 64, 4))["gap"]) == 4


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no owners of files as POSIX has")
def test_kernels_that_others_could_have_written_are_compiled_again(gpu, rtx, request_):
    BACKEND.compile(request_)
    (kept,) = (path for path in cache_directory().glob("kernels-*") if path.suffix != ".sha256")
    kept.chmod(0o666)
    BACKEND.compile(request_)
    assert rtx.called("deserialize_kernels") == []


def test_an_engine_of_another_normalisation_is_not_loaded(gpu, trt, request_, tmp_path):
    tmp_path.chmod(0o700)
    BACKEND.compile(request_, save_to=tmp_path / "saved")
    pixels = replace(request_.manifest.input, mean=(1.0, 2.0, 3.0))
    other = replace(request_, manifest=replace(request_.manifest, input=pixels))
    with pytest.raises(BackendError, match="was not built here"):
        BACKEND.load(other, tmp_path / "saved")


def test_images_on_another_gpu_are_refused(gpu, trt, request_):
    network = BACKEND.compile(request_)
    images = gpu.array(probe_images(64, 64, 4))
    images.device = SimpleNamespace(id=1)
    with pytest.raises(BackendError, match="The images are on GPU 1 and the network is on GPU 0"):
        network.infer(images)


def test_closing_gives_memory_back_and_does_not_fail_on_a_lost_gpu(gpu, trt, request_):
    network = BACKEND.compile(request_)
    gpu.freed = 0
    network.close()
    assert gpu.freed == 2
    network = BACKEND.compile(request_)
    for call in ("stream.synchronize", "leave device"):
        gpu.faults[call] = sys.modules["cupy"].cuda.runtime.CUDARuntimeError(700, "cudaErrorIllegalAddress")
    network.close()


def test_buffers_are_filled_before_they_are_used(gpu, trt, request_, reference):
    """What fills a new buffer runs on its own stream: on another it could come after the first batch."""
    network = BACKEND.compile(request_)
    images = probe_images(64, 64, 4)
    network.infer(images)
    gpu.default.synchronize()
    assert tap_difference(on_host(network.infer(images[:1])), reference.infer(images[:1])) < 1e-5
    assert not gpu.default.queue
