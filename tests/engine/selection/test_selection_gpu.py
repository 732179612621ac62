"""The choice of a backend on a GPU, with the pretended one."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pc_engine.backbone import CompileRequest
from pc_engine.errors import BackendError, DeviceLostError, DeviceMemoryError
from pc_engine.model import load_model
from pc_engine.networks import network_request
from pc_engine.selection import candidates
from pc_engine.selection.candidates import probe_images
from pc_engine.selection.selection import open_backbone, select


@pytest.fixture
def request_(tiny_directory: Path) -> CompileRequest:
    taps = ("conv_last", "logits")
    request = network_request(load_model(tiny_directory), taps, batch_size=20, device="cuda:0")
    return replace(request, threads=1)


def test_batches_are_larger_on_a_gpu(tiny_directory: Path) -> None:
    model = load_model(tiny_directory)
    sizes = [network_request(model, ("logits",), device=device).batch_size for device in ("cpu", "cuda:0")]
    assert sizes[0] < sizes[1]


def test_what_runs_on_the_device_is_compared_with_the_cpu(
    request_: CompileRequest, pretended: Any, pretended_gpu: Any
) -> None:
    chosen = select(request_)
    assert {candidate.backend for candidate in chosen.candidates} == {"pretended"}
    assert [candidate.precision for candidate in chosen.candidates] == ["fp32", "fp16"]
    assert all(candidate.difference == 0 for candidate in chosen.candidates)
    assert all(candidate.images_per_second for candidate in chosen.candidates)
    assert set(pretended.sizes) == {20}
    # Its taps come to the host once a candidate, to be compared.
    assert pretended_gpu.to_host == 2 * len(request_.taps)


def test_the_reference_runs_on_the_cpu_on_few_pictures(
    request_: CompileRequest, pretended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[CompileRequest] = []
    compile_ = candidates.BACKENDS["onnxruntime"].compile
    monkeypatch.setattr(
        candidates.BACKENDS["onnxruntime"], "compile", lambda request: (seen.append(request), compile_(request))[1]
    )
    select(request_)
    assert [(request.device, request.precision, request.batch_size) for request in seen] == [("cpu", "fp32", 16)]


@pytest.mark.parametrize(
    "distort",
    [lambda tap: tap * 1.1, lambda tap: np.full_like(tap, np.nan), lambda tap: tap[::-1]],
    ids=["scaled", "NaN", "images swapped"],
)
def test_wrong_numbers_are_rejected(
    request_: CompileRequest, pretended: Any, distort: Callable[[np.ndarray], np.ndarray]
) -> None:
    pretended.distort = distort
    with pytest.raises(BackendError, match=r"No backend runs tiny correctly here .pretended fp32: differs from"):
        select(request_)


def test_the_file_that_was_checked_is_the_one_that_runs(request_: CompileRequest, pretended: Any) -> None:
    said: list[str] = []
    network = open_backbone(request_, precision="fp32", report=said.append)
    assert len(pretended.compiled) == 1
    network.infer(probe_images(64, 64, 3))
    assert open_backbone(request_, precision="fp32", report=said.append).request.device == "cuda:0"
    assert len(pretended.compiled) == 1
    assert [text.split()[0] for text in said] == ["Choosing", "Compiling"]
    assert pretended.closed >= 1


@pytest.mark.parametrize(("fact", "value"), [("name", "NVIDIA L4"), ("driver", 13010)])
def test_another_card_or_driver_is_measured_and_compiled_anew(
    fact: str, value: Any, request_: CompileRequest, pretended: Any, pretended_gpu: Any
) -> None:
    open_backbone(request_)
    compiled = len(pretended.compiled)
    open_backbone(request_)
    assert len(pretended.compiled) == compiled
    setattr(pretended_gpu, fact, value)
    open_backbone(request_)
    assert len(pretended.compiled) == 2 * compiled


def test_cards_of_one_kind_share_what_was_compiled(
    request_: CompileRequest, pretended: Any, pretended_gpu: Any
) -> None:
    pretended_gpu.count = 2
    open_backbone(request_)
    compiled = len(pretended.compiled)
    assert open_backbone(replace(request_, device="cuda:1")).request.device == "cuda:1"
    assert len(pretended.compiled) == compiled


def test_a_candidate_that_does_not_fit_leaves_the_others(request_: CompileRequest, pretended: Any) -> None:
    taken: list[weakref.ref[np.ndarray]] = []
    left_for_others: list[bool] = []

    def check(request: CompileRequest) -> None:
        if request.precision == "fp32":
            memory = np.zeros(1)
            taken.append(weakref.ref(memory))
            raise DeviceMemoryError("The GPU ran out of memory while loading.")
        left_for_others.append(taken[-1]() is None)

    pretended.at_compile = check
    chosen = select(request_)
    assert chosen.precision == "fp16"
    assert all(left_for_others)
    assert "GPU ran out of memory" in chosen.candidates[0].reason


@pytest.mark.parametrize("kind", [DeviceMemoryError, DeviceLostError])
def test_if_none_fits_or_the_gpu_is_lost_that_is_the_error(
    kind: type[BackendError], request_: CompileRequest, pretended: Any
) -> None:
    def fail(_: CompileRequest) -> None:
        raise kind("The GPU has a problem.")

    pretended.at_compile = fail
    with pytest.raises(kind):
        select(request_)
    with pytest.raises(kind):
        open_backbone(request_, "pretended", "fp32")


def test_a_backend_that_is_missing_says_why(request_: CompileRequest, pretended: Any) -> None:
    pretended.missing = "pretended is not installed: pip install pretended."
    for backend in ("auto", "pretended"):
        with pytest.raises(BackendError, match="pip install pretended"):
            open_backbone(request_, backend)
    with pytest.raises(BackendError, match="pretended runs on GPUs only"):
        open_backbone(replace(request_, device="cpu"), "pretended", "fp32")


def test_backends_of_the_cpu_take_no_part(request_: CompileRequest, pretended: Any) -> None:
    assert {c.backend for c in select(request_).candidates} == {"pretended"}
    assert {c.backend for c in select(replace(request_, device="cpu", batch_size=2)).candidates} == {"onnxruntime"}
