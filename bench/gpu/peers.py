"""What one would use instead on a GPU: PyTorch for the networks, cuML and scikit-learn image by image for clusters."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pc_engine.bench.environment import seconds_of
from pc_engine.bench.gpu.report import Row, measured
from pc_engine.bench.gpu.subjects import Job, Subject, Subjects
from pc_engine.bench.kernel_cases import made_up_maps
from pc_engine.bench.kernel_oracles import dbscan_of
from pc_engine.bench.kernel_settings import EPS, MIN_WEIGHT, find_dense_cells
from pc_engine.errors import ModelError
from pc_engine.kernels import normalise_heatmap
from pc_engine.kernels.array_module import Array, to_host
from pc_engine.manifest import EVIDENCE
from pc_engine.packages import is_installed, missing
from pc_engine.selection.candidates import TOLERANCE, tap_difference

if TYPE_CHECKING:
    import torch

_HEATMAPS = 256
# The slow ones are timed on so many.
_ONE_BY_ONE = 32


def measure_peers(job: Job, subjects: Subjects) -> Iterator[Row]:
    """Yield the rates of PyTorch's networks, then those of clustering the other ways."""
    if not is_installed("torch"):
        yield {"what": "PyTorch", "reason": str(missing("torch", "compare with PyTorch"))}
    else:
        for subject in subjects:
            yield from torch_rows(job, subject)
    yield from clustering_rows(job)


def torch_rows(job: Job, subject: Subject) -> Iterator[Row]:
    """Yield the rates of a model rebuilt in PyTorch: eager and compiled at fp16 with channels_last, eager at fp32."""
    from pc_engine.bench.peers.torch_pipeline import torch_vgg

    about: Row = {"model": subject.name, "batch": job.batch_size}
    try:
        taps = tuple(name for name in subject.loaded.manifest.taps if name != EVIDENCE)
        network = torch_vgg(subject.loaded.network, subject.loaded.manifest, taps)
    except ModelError as error:
        yield {**about, "what": "PyTorch", "reason": str(error)}
        return
    for name, precision, compiled in (
        ("PyTorch eager", "fp32", False),
        ("PyTorch eager, channels_last", "fp16", False),
        ("torch.compile, channels_last", "fp16", True),
    ):
        row = {**about, "what": name, "precision": precision}
        yield measured(row, torch_figures, job, subject, network, precision, compiled)


def torch_figures(job: Job, subject: Subject, network: Any, precision: str, compiled: bool) -> Row:
    """Return the rate of one way to run it, on a batch on the device, and how far its taps are from the reference."""
    import torch

    device = job.meter.name
    run = torch_forward(network, device, precision, compiled)
    batch = subject.images[: job.batch_size]
    images = torch.from_numpy(batch).to(device)
    with torch.inference_mode():
        found = {name: tap.float().cpu().numpy() for name, tap in run(images).items()}
        difference = tap_difference(found, {name: subject.reference[name][: len(batch)] for name in found})
        if not difference <= TOLERANCE[precision]:
            return {"difference": difference, "reason": "It differs from the reference: not timed."}
        seconds = job.meter.seconds(lambda: run(images))
    return {"difference": difference, "images_per_s": len(batch) / seconds}


def torch_forward(
    network: Any, device: str, precision: str, compiled: bool
) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """Return a function from uint8 images (n, H, W, 3) on ``device`` to taps, normalisation included."""
    import torch

    from pc_engine.bench.peers.torch_pipeline import tapped

    kind = torch.float16 if precision == "fp16" else torch.float32
    layout = torch.channels_last if precision == "fp16" else torch.contiguous_format
    layers = copy.deepcopy(network.layers).to(device=device, dtype=kind, memory_format=layout)
    mean, std = (torch.tensor(value, device=device).view(1, 3, 1, 1) for value in (network.mean, network.std))
    run = tapped(layers, network.taps)

    def forward(images: torch.Tensor) -> dict[str, torch.Tensor]:
        return run(((images.permute(0, 3, 1, 2).float() - mean) / std).to(kind).contiguous(memory_format=layout))

    return torch.compile(forward) if compiled else forward


def clustering_rows(job: Job, heatmaps: int = _HEATMAPS) -> Iterator[Row]:
    """Yield the time an image of our DBSCAN on a batch, and of cuML's and scikit-learn's image by image."""
    heat = normalise_heatmap(made_up_maps(heatmaps, 32, 14), 1.0)
    heat = heat / heat.mean(axis=(1, 2), keepdims=True)
    placed = job.meter.place(heat)
    ours = to_host(find_dense_cells(placed).labels)
    few = min(_ONE_BY_ONE, heatmaps)
    seconds = job.meter.seconds(lambda: find_dense_cells(placed)) / heatmaps
    yield {"what": "DBSCAN, this engine, a batch", "batch": heatmaps, "us_per_image": 1e6 * seconds}

    expected = np.stack([dbscan_of(one) for one in heat[:few]])
    slow = statistics.median(seconds_of(lambda: [dbscan_of(one) for one in heat[:few]]) for _ in range(3)) / few
    yield {
        "what": "DBSCAN, scikit-learn, image by image",
        "batch": 1,
        "us_per_image": 1e6 * slow,
        "same_labels": bool((expected == ours[:few]).all()),
    }
    yield from _cuml_rows(job, placed, ours, few)


def _cuml_rows(job: Job, placed: Array, ours: np.ndarray, few: int) -> Iterator[Row]:
    for name, step in (("image by image", 1), ("a batch in one call", len(placed))):
        row = {"what": f"DBSCAN, cuML, {name}", "batch": step}
        images = few if step == 1 else len(placed)
        yield measured(row, _cuml_figures, job, placed[:images], ours[:images], step)


def _cuml_figures(job: Job, placed: Array, ours: np.ndarray, step: int) -> Row:
    """Return the time an image of cuML's DBSCAN on so many images at a time, and whether its labels are ours."""
    from pc_engine.modes.cuml_clustering import cuml_dbscan

    def run() -> list[np.ndarray]:
        found = [
            cuml_dbscan(placed[start : start + step], eps=EPS, min_weight=MIN_WEIGHT).labels
            for start in range(0, len(placed), step)
        ]
        job.meter.synchronise()
        return [to_host(labels) for labels in found]

    labels = np.concatenate(run())
    slow = statistics.median(seconds_of(run) for _ in range(3)) / len(placed)
    return {"us_per_image": 1e6 * slow, "same_labels": bool((labels == ours).all())}
