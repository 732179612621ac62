"""What a program may do while it is recorded as a CUDA graph, on a pretended GPU."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pc_engine.backbone import CompileRequest
from pc_engine.backends.lanes import Lanes
from pc_engine.errors import BackendError
from pc_engine.model import load_model
from pc_engine.networks import network_request
from pc_engine.selection.candidates import probe_images


@pytest.fixture
def request_(tiny_directory) -> CompileRequest:
    return replace(network_request(load_model(tiny_directory), ("gap",), batch_size=4), device="cuda:0")


class Copying:
    """A program whose tap is the images; what it does while it is recorded is the caller's."""

    captures = True

    def __init__(self, gpu: Any, recorded: Any) -> None:
        self.tap = gpu.allocate((4, 64, 64, 3), np.uint8)
        self.recorded, self.streams = recorded, []

    def execute(self, images: Any, stream: Any) -> dict[str, Any]:
        self.streams.append(stream)
        if stream.captured is not None:
            self.recorded()
        self.tap.data.copy_from_device_async(images.data, images.nbytes, stream)
        return {"images": self.tap}

    def close(self) -> None: ...


def refuse() -> None:
    raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")


def test_what_a_library_refuses_to_record_is_started_kernel_by_kernel(gpu, request_):
    program = Copying(gpu, refuse)
    lanes = Lanes(request_, 0, lambda: program)
    assert lanes.remarks == (
        "No CUDA graph could be captured, so kernels are started one by one (calling cuBLAS API during stream capture "
        "is currently unsupported).",
    )
    recorded, used = program.streams[1], program.streams[2]
    assert recorded.captured is None  # the recording was ended: else the thread could do nothing more on the GPU
    assert used is not recorded
    images = probe_images(64, 64, 4)
    np.testing.assert_array_equal(lanes.infer(images)["images"].get(), images)
    assert gpu.graph_launches == 0


def test_a_program_that_waits_while_it_is_recorded_is_started_kernel_by_kernel(gpu, request_):
    program = Copying(gpu, lambda: program.streams[-1].synchronize())
    lanes = Lanes(request_, 0, lambda: program)
    assert "cudaErrorStreamCaptureUnsupported" in lanes.remarks[0]
    images = probe_images(64, 64, 4)
    np.testing.assert_array_equal(lanes.infer(images)["images"].get(), images)


def test_a_program_is_recorded_once_and_then_launched(gpu, request_):
    lanes = Lanes(request_, 0, lambda: Copying(gpu, lambda: None))
    assert lanes.remarks == ()
    for seed in range(3):
        images = probe_images(64, 64, 4, seed=seed)
        np.testing.assert_array_equal(lanes.infer(images)["images"].get(), images)
    assert gpu.graph_launches == 4


def test_a_program_that_records_itself_has_done_so_before_the_first_batch(gpu, request_):
    """TensorRT-RTX records its second or third run: beside decoders, which allocate, if these were batches."""
    program = Copying(gpu, refuse)
    program.captures = False
    lanes = Lanes(request_, 0, lambda: program)
    assert (len(program.streams), gpu.graph_launches) == (3, 0)
    lanes.infer(probe_images(64, 64, 4))
    assert len(set(program.streams)) == 1


def test_an_error_that_comes_again_without_recording_is_one_sentence(gpu, request_):
    program = Copying(gpu, refuse)
    execute, calls = program.execute, []

    def fail_later(images: Any, stream: Any) -> dict[str, Any]:
        calls.append(stream)
        if len(calls) > 2:
            raise RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED")
        return execute(images, stream)

    program.execute = fail_later
    with pytest.raises(BackendError, match=r"failed while loading the network \(CUBLAS_STATUS_EXECUTION_FAILED\)"):
        Lanes(request_, 0, lambda: program)


@pytest.mark.parametrize("fails", ["execute", "lane"])
def test_a_network_that_cannot_be_used_is_freed(gpu, request_, monkeypatch, fails):
    class Program(Copying):
        closed = 0

        def execute(self, images: Any, stream: Any) -> dict[str, Any]:
            if fails == "execute":
                raise BackendError("no such layer")
            return super().execute(images, stream)

        def close(self) -> None:
            Program.closed += 1
            raise RuntimeError("CUDNN_STATUS_BAD_PARAM")  # which is no reason to hide the first error

    def no_room(shape: Any) -> None:
        raise MemoryError("no such layer")

    if fails == "lane":
        monkeypatch.setattr("pc_engine.backends.lanes.ImageBuffer", no_room)
    with pytest.raises((BackendError, MemoryError), match="no such layer"):
        Lanes(request_, 0, lambda: Program(gpu, lambda: None))
    assert Program.closed == 1


def test_a_network_can_be_closed_twice_as_those_on_the_cpu_can(gpu, request_):
    lanes = Lanes(request_, 0, lambda: Copying(gpu, lambda: None))
    for _ in range(2):
        lanes.close()
        assert gpu.freed == 2
    with pytest.raises(BackendError, match="The network was closed"):
        lanes.infer(probe_images(64, 64, 4))


class Weighed(Copying):
    """A program whose taps take the memory of one run: a second run's do not fit beside them."""

    def __init__(self, gpu: Any, recorded: Any) -> None:
        super().__init__(gpu, recorded)
        self.taken: list[weakref.ref[Held]] = []

    def execute(self, images: Any, stream: Any) -> dict[str, Any]:
        self.taken = [tap for tap in self.taken if tap() is not None]
        if self.taken:
            raise MemoryError("Out of memory allocating 1,024 bytes")
        held = Held()
        self.taken.append(weakref.ref(held))
        held.update(super().execute(images, stream))
        return held


class Held(dict):
    pass


def test_the_taps_of_the_run_before_make_room_for_those_that_are_recorded(gpu, request_):
    lanes = Lanes(request_, 0, lambda: Weighed(gpu, lambda: None))
    assert lanes.remarks == ()
    images = probe_images(64, 64, 4)
    np.testing.assert_array_equal(lanes.infer(images)["images"].get(), images)


def test_a_run_that_cannot_be_recorded_leaves_its_memory_to_those_without(gpu, request_):
    lanes = Lanes(request_, 0, lambda: Weighed(gpu, refuse))
    assert len(lanes.remarks) == 1
    for seed in range(2):
        images = probe_images(64, 64, 4, seed=seed)
        np.testing.assert_array_equal(lanes.infer(images)["images"].get(), images)


def test_without_the_memory_to_record_it_a_program_is_started_kernel_by_kernel(gpu, request_):
    def fill() -> None:
        raise MemoryError("Out of memory allocating 1,024 bytes")

    program = Copying(gpu, fill)
    lanes = Lanes(request_, 0, lambda: program)
    assert lanes.remarks == (
        "No CUDA graph could be captured, so kernels are started one by one (Out of memory allocating 1,024 bytes).",
    )
    assert program.streams[1].captured is None
    images = probe_images(64, 64, 4)
    np.testing.assert_array_equal(lanes.infer(images)["images"].get(), images)
