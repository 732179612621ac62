"""What the acceptance on a GPU measures with: models, images, and what fp32 on the CPU says about them."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from pc_engine.backbone import Backbone, CompileRequest
from pc_engine.backends import BACKENDS, REFERENCE
from pc_engine.bench.gpu.device import Meter
from pc_engine.bench.gpu.report import Row, reason_of
from pc_engine.bench.photos import is_random, photos_of, readable_photos
from pc_engine.bench.random_parts import with_random_parts
from pc_engine.catalogue import find_model, installed_directory
from pc_engine.errors import PcEngineError
from pc_engine.export.quantise import quantise_network, quantised_entry
from pc_engine.export.vgg import export_vgg
from pc_engine.export.vgg_graph import ARCHITECTURES
from pc_engine.files.storage import FileCache, cache_key
from pc_engine.kernels.array_module import to_host
from pc_engine.manifest import MANIFEST_FILE, QUANTISED_FILES
from pc_engine.model import Model, load_model, write_model
from pc_engine.modes import MODES
from pc_engine.networks import network_request
from pc_engine.selection.candidates import probe_images
from pc_engine.selection.execution import AUTO, Execution
from pc_engine.selection.selection import open_backbone

_REFERENCE_BATCH = 16
# Pictures that a network is brought to 8 bits with: enough to tell a backend that computes nonsense.
_QUANTISED_WITH = 8


@dataclass(frozen=True, eq=False)
class Job:
    """What is to be measured.

    Attributes
    ----------
    meter
        The device.
    models
        Names or directories. A VGG that is not installed gets random weights.
    backends, precisions
        Those to measure; none for all that there are on a GPU.
    modes
        Those to run.
    batch_size
        Images in a batch.
    images
        Images that results are compared on.
    photos
        Where photos come from: a folder, or ``random:N``. Results are compared on those of a folder; without one, on
        drawn pictures.
    n
        Photos of a run from files, repeated if there are fewer.
    limit
        Seconds of a part at most.
    """

    meter: Meter
    models: tuple[str, ...] = ("vgg16", "vgg19", "lego")
    backends: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    modes: tuple[str, ...] = tuple(MODES)
    batch_size: int = 128
    images: int = 256
    photos: str = "random:512"
    n: int = 8192
    limit: float = 450

    @property
    def execution(self) -> Execution:
        """How whole runs are made.

        By the backend asked for if it is one, else the fastest; at the precision asked for if it is one, else fp16.
        """
        backend = self.backends[0] if len(self.backends) == 1 else AUTO
        precision = self.precisions[0] if len(self.precisions) == 1 else "fp16"
        return Execution(backend, precision, self.meter.name, self.batch_size)


class Subject:
    """A model, and what the reference says about some images."""

    def __init__(self, job: Job, name: str, model: Model) -> None:
        self.job, self.name, self.loaded = job, name, model
        self._references: dict[str, dict[str, np.ndarray]] = {}
        self._stack = ExitStack()

    def close(self) -> None:
        """Remove what was made for it."""
        self._stack.close()

    @cached_property
    def images(self) -> np.ndarray:
        """uint8 (n, H, W, 3): the first photos of the job's folder, or as many pictures of blobs, always the same."""
        pixels, n = self.loaded.manifest.input, self.job.images
        if is_random(self.job.photos):
            return probe_images(pixels.height, pixels.width, n)
        with photos_of(self.job.photos) as photos:
            _, decoded = readable_photos(photos[: 2 * n], pixels.height, pixels.width, keep=n)
        return np.stack([image.pixels for image in decoded])

    @property
    def reference(self) -> dict[str, np.ndarray]:
        """Every tap of the images, by the reference backend on the CPU at fp32."""
        return self.reference_of("fp32")

    def reference_of(self, precision: str) -> dict[str, np.ndarray]:
        """Return every tap of the images by the network for ``precision``, in fp32 arithmetic on the CPU.

        int8 and fp8 have a network of their own. What its rounding costs is the model's, whatever backend runs it.
        """
        request = replace(self.request().at(precision), device="cpu", precision="fp32", batch_size=_REFERENCE_BATCH)
        if request.network_sha256 not in self._references:
            network = BACKENDS[REFERENCE].compile(request)
            try:
                taps = run_in_batches(network, self.images)
            finally:
                network.close()
            self._references[request.network_sha256] = taps
        return self._references[request.network_sha256]

    @cached_property
    def model(self) -> Model:
        """The model with all fitted parts: its own, and random ones where it has none."""
        needed = dict.fromkeys(part for mode in MODES.values() for part in mode.needs)
        missing = tuple(part for part in needed if not self.loaded.parts.has(part))
        return with_random_parts(self.loaded, missing, self.reference) if missing else self.loaded

    def request(self, taps: tuple[str, ...] = ()) -> CompileRequest:
        """Return the request to compile the network with these taps, or all, for the job's device, at fp32."""
        model, job = self.loaded, self.job
        wanted = taps or tuple(model.manifest.taps)
        return network_request(model, wanted, batch_size=job.batch_size, device=job.meter.name)

    def provide(self, precision: str) -> None:
        """Quantise the network with drawn pictures where ``precision`` takes that and the model has none.

        It is kept in the cache, as parts are processes of their own and a VGG takes minutes.
        """
        if precision not in QUANTISED_FILES or precision in self.loaded.manifest.quantised:
            return
        model, pixels = self.loaded, self.loaded.manifest.input

        def quantise(path: Path) -> None:
            images = probe_images(pixels.height, pixels.width, _QUANTISED_WITH)
            quantise_network(model.network, model.manifest, images, path, precision=precision)

        facts = {
            "network": self.request().network_sha256,
            "input": asdict(pixels),
            "taps": {tap: value.tensor for tap, value in model.manifest.taps.items()},
            "precision": precision,
            "images": _QUANTISED_WITH,
        }
        cache, name = FileCache(), f"quantised-{cache_key(facts)}"
        network = cache.get(name) or cache.put(name, quantise)
        quantised = {**model.manifest.quantised, precision: quantised_entry(model.manifest)}
        manifest = replace(model.manifest, quantised=quantised)
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="pc-engine-model-")))
        write_model(model, folder, manifest, {QUANTISED_FILES[precision]: lambda path: shutil.copyfile(network, path)})
        self.loaded = load_model(folder)
        self.__dict__.pop("model", None)  # which is of the files before


class Subjects:
    """The models of a job, each loaded once; made ones are removed at the end."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._stack = ExitStack()
        self._known: dict[str, Subject] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[Subject]:
        for name in self._job.models:
            yield self[name]

    def __getitem__(self, name: str) -> Subject:
        if name not in self._known:
            installed = (installed_directory(name) / MANIFEST_FILE).is_file()
            if name in ARCHITECTURES and not installed and not Path(name).is_dir():
                folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="pc-engine-model-"))
                export_vgg(name, "random:0", Path(folder) / name)
                model = load_model(Path(folder) / name)
            else:
                model = find_model(name)
            self._known[name] = Subject(self._job, model.name, model)
            self._stack.callback(self._known[name].close)
        return self._known[name]


def networks(job: Job, subject: Subject, taps: tuple[str, ...] = ()) -> Iterator[tuple[Row, Backbone | None]]:
    """Yield every backend and precision that the job asks for, opened, or with the reason why it is not.

    With these taps, or all. A network that was compiled before is loaded from the cache, as a run would. It is closed
    when the next is asked for.
    """
    for name, backend in BACKENDS.items():
        if "cuda" not in backend.devices or (job.backends and name not in job.backends):
            continue
        about = {"model": subject.name, "backend": name}
        probe = backend.probe(job.meter.name)
        if not probe.available:
            yield {**about, "reason": probe.reason}, None
            continue
        for precision in probe.precisions:
            if job.precisions and precision not in job.precisions:
                continue
            row = {**about, "precision": precision}
            try:
                subject.provide(precision)
                network = open_backbone(subject.request(taps), name, precision)
            except Exception as error:  # whatever a library does, one network must not cost the others
                yield {**row, "reason": reason_of(error)}, None
                continue
            try:
                yield row, network
            finally:
                with contextlib.suppress(PcEngineError):
                    network.close()


def run_in_batches(network: Backbone, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the network says about any number of images."""
    size = network.request.batch_size
    said = []
    for start in range(0, len(images), size):
        taps = network.infer(images[start : start + size])
        said.append({name: to_host(tap) for name, tap in taps.items()})
    return {name: np.concatenate([batch[name] for batch in said]) for name in network.request.taps}
