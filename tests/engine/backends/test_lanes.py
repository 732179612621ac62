"""What a program may do while it is recorded as a CUDA graph, on a pretended GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pc_engine.backbone import CompileRequest
from pc_engine.backends.lanes import Lanes
from pc_engine.candidates import probe_images
from pc_engine.engine import network_request
from pc_engine.errors import BackendError
from pc_engine.model import load_model


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
    np.testing.assert_array_equal(lanes.run(images)["images"].get(), images)
    assert gpu.graph_launches == 0


def test_a_program_is_recorded_once_and_then_launched(gpu, request_):
    lanes = Lanes(request_, 0, lambda: Copying(gpu, lambda: None))
    assert lanes.remarks == ()
    for seed in range(3):
        images = probe_images(64, 64, 4, seed=seed)
        np.testing.assert_array_equal(lanes.run(images)["images"].get(), images)
    assert gpu.graph_launches == 4


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
