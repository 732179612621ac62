"""`Engine`: a model, compiled for this machine, that counts and points in one of the modes."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Generator, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from pc_engine.arguments import MOST_THREADS, maybe_whole_number, text
from pc_engine.backbone import Backbone, CompileRequest
from pc_engine.batch_rows import batch_rows, failed_row
from pc_engine.call_guard import CallGuard
from pc_engine.catalogue import model_for
from pc_engine.decoding.decode import DecodedImage
from pc_engine.decoding.settings import DEFAULT_DECODING, Decoders, Decoding
from pc_engine.errors import UsageError
from pc_engine.hardware.machine import usable_cores
from pc_engine.kernels.array_module import Array
from pc_engine.known_counts import KnownCounts
from pc_engine.mode_run import ModeRun
from pc_engine.model import PART_FILES, Model
from pc_engine.modes import check_choices, check_known_count, find_mode, settings_for
from pc_engine.modes.cuml_clustering import NAME as CUML_DBSCAN
from pc_engine.modes.cuml_clustering import require_cuml
from pc_engine.networks import open_network
from pc_engine.pipeline import BatchHooks, BatchLimit, TapBatch, map_batches
from pc_engine.result import Result
from pc_engine.say import Say
from pc_engine.selection.device_choice import choose_device
from pc_engine.selection.execution import AUTO, Execution
from pc_engine.sources import Source, SourceImage, as_source_image, iter_images
from pc_engine.stage_clock import StageClock


class Engine:
    """Count the salient objects of images and point at each.

    Parameters
    ----------
    model
        A name (see ``pc-engine models``), a directory, a `Model`, or None for that of `catalogue.default_model`.
    mode
        ``"c2p"``, ``"p2c"`` or ``"combined"``.
    backend, precision
        A backend and precision by name; ``"auto"`` takes the fastest that agrees with the reference on this machine.
    device
        ``"cpu"``, ``"cuda"``, ``"cuda:N"``, or ``"auto"`` for the GPU where there is one and a backend runs on it.
    batch_size
        Images per batch; None for a size that suits the network. Less where a GPU's memory does not hold as many.
    workers
        Threads that decode images; None for as many as ``threads``, or one per core.
    threads
        Cores that the network may use on a CPU; None for all that this process may.
    cluster
        ``"density-peaks"``, ``"dbscan"`` or, on a GPU, ``"cuml-dbscan"``, for mode p2c; None for the mode's own.
    classes
        The most classes that mode p2c looks for in an image; None for the model's own number, which is 1 by default.
    pointer
        What is pointed with: ``"box"`` around all of each object, or for mode p2c its ``"core"``, for combined an
        ``"ellipse"`` or a ``"mixture"``; None for the model's own, by default cores and ellipses.
    count
        How many objects each image shows, where that is known, or ``"each"`` where each `SourceImage` says it: they
        are pointed at, and no counter is needed. None to count them.
    network
        A compiled network that keeps what the mode reads, shared by several engines and closed by whoever opened it;
        ``backend`` to ``batch_size`` are its own then. None to compile one.
    decoding
        Limits of what is decoded, and whether it is in processes of its own, which may die.
    report
        Called with a sentence for the user now and then, before something slow; by default it is discarded.

    Attributes
    ----------
    model, mode, settings
        What is run, as loaded.
    network
        The compiled network.
    workers
        Threads that decode images.
    clock
        Seconds spent in each stage so far.
    decoders
        What decodes files.
    first_of_several
        Number of files so far that hold several pictures, of which the first is what was decoded.

    Raises
    ------
    PcEngineError
        If anything asked for does not exist or does not work here.

    Examples
    --------
    >>> with Engine("lego", mode="c2p") as engine:
    ...     for result in engine.run(["photos"]):
    ...         print(result.path, result.count)
    """

    def __init__(
        self,
        model: str | Path | Model | None = None,
        *,
        mode: str = "c2p",
        backend: str = AUTO,
        precision: str = AUTO,
        device: str = AUTO,
        batch_size: int | None = None,
        workers: int | None = None,
        threads: int | None = None,
        cluster: str | None = None,
        classes: int | None = None,
        pointer: str | None = None,
        count: int | str | None = None,
        network: Backbone | None = None,
        decoding: Decoding = DEFAULT_DECODING,
        report: Say = lambda _: None,
    ) -> None:
        self._guard = CallGuard()
        # Ahead of the model, which may have to be fetched first.
        text("mode", mode, "c2p")
        execution = Execution(backend, precision, device, batch_size)
        workers = maybe_whole_number("workers", workers, MOST_THREADS)
        threads = maybe_whole_number("threads", threads, MOST_THREADS)
        classes = maybe_whole_number("classes", classes)
        self._known = KnownCounts(count)
        _check_types(model, network, decoding, report)
        place = network.request.device if network else choose_device(execution, report)
        self.mode = find_mode(mode) if count is None else find_mode(mode).told()
        check_choices(self.mode, cluster=cluster, classes=classes, pointer=pointer)
        if cluster == CUML_DBSCAN:
            require_cuml(place)
        if isinstance(model, Model):
            model.require(self.mode)
            self.model = model
        else:
            self.model = model_for(model, self.mode, report)
        if self.mode.weighs_clusters and self.model.clusters_set_aside:
            report(
                f"The signatures, or the maps of p2c.heat, are not those that the counter was fitted with, so "
                f"{mode} counts by the counter alone: fit it again with 'pc-engine fit-counter DATA --model "
                f"{self.model.argument}'."
            )
        self.settings = settings_for(self.model.manifest, mode=mode, pointer=pointer, cluster=cluster, classes=classes)
        if count is not None:
            check_known_count(self.mode, self.settings)
        self.clock = StageClock()
        self.first_of_several = 0
        self._counting = threading.Lock()
        self.workers = workers or threads or usable_cores()
        if network is not None and (absent := set(self.mode.taps(self.model.manifest)) - set(network.request.taps)):
            raise UsageError(
                f"The network keeps no {', '.join(sorted(absent))}, which mode {mode} reads: compile one that does, or "
                f"leave it out."
            )
        self._owns_network = network is None
        self.network: Backbone = network or open_network(
            self.model,
            self.mode.taps(self.model.manifest),
            replace(execution, device=place),
            threads=threads,
            mode=self.mode.name,
            report=report,
        )
        try:
            self._mode_run = ModeRun(self.mode, self.model, self.settings, self.batch_size, report, self._known.of_all)
            self._limit = BatchLimit(self.batch_size, self._mode_run.go_on_smaller)
            on_device = self._owns_network and self.device != "cpu"
            self.decoders = Decoders(decoding, self.workers, self.device if on_device else None, report)
        except BaseException:
            if self._owns_network:  # nobody else can free it, and what it holds of a GPU
                self.network.close()
            raise

    def __repr__(self) -> str:
        model, mode = self.model.name, self.mode.name
        return f"<Engine of {model}, {mode}, by {self.backend} at {self.precision} on {self.device}>"

    @property
    def backend(self) -> str:
        """Name of the backend that runs the network."""
        return self.network.backend

    @property
    def precision(self) -> str:
        """Precision that the network runs at."""
        return self.network.request.precision

    @property
    def device(self) -> str:
        """Where the network and all that follows it run: ``"cpu"`` or ``"cuda:N"``."""
        return self.network.request.device

    @property
    def batch_size(self) -> int:
        """Images in a batch."""
        return self.network.request.batch_size

    def identity(self) -> dict[str, Any]:
        """Return all that the rows depend on beside the images, JSON-ready: rows of two engines mix if it is equal."""
        request, files = self.network.request, self.model.manifest.files
        return {
            "mode": self.mode.name,
            "model": self.model.name,
            "network_sha256": request.network_sha256,
            **{f"{part}_sha256": files.get(PART_FILES[part]) for part in self.mode.parts(self.model.manifest)},
            "backend": self.backend,
            "precision": self.precision,
            "device": self.device.partition(":")[0],
            "parameters": json.loads(json.dumps(asdict(self.settings))),
            "known_count": self._known.count,
        }

    def describe(self) -> dict[str, Any]:
        """Return what is said of a run by this engine, JSON-ready."""
        return {
            "mode": self.mode.name,
            "model": self.model.name,
            "network_sha256": self.network.request.network_sha256,
            "backend": self.backend,
            "precision": self.precision,
            "device": self.device,
            "batch_size": self.batch_size,
            "known_count": self._known.count,
        }

    def run(self, sources: Source | Iterable[Source]) -> Generator[Result]:
        """Yield one result for every image of ``sources``, in order, as batches are finished.

        Several runs may be under way, on several threads as well; each iterator is for one thread at a time. One that
        is left half-way does no more work once it is closed or gone.

        Parameters
        ----------
        sources
            Files, folders (walked recursively), globs, shards, addresses, lists, or ``"demo:"``, as text or paths; one
            or several. See `pc_engine.sources.iter_images`. For pictures in memory see `run_paths`.

        Raises
        ------
        UsageError
            If a source does not exist or is no text or path, or the engine was closed; both are said at once. Where it
            is closed during the run, the iterator says so. An image that cannot be read is not an error: its result
            says why.
        BackendError
            If the network fails, as by the loss of the GPU; the results of all batches before have been yielded.
        """
        self._guard.check()
        return self._results(iter_images(sources))

    def run_paths(self, paths: Source | Iterable[SourceImage | Source]) -> Generator[Result]:
        """Yield one result for every image, or path of a file, in order; otherwise as `run`.

        They are taken some batches ahead of the results: call it for each where they come one by one, as by requests. A
        `pc_engine.sources.SourceImage` may hold pixels or the bytes of a file, or ``read`` these from anywhere.
        """
        self._guard.check()
        if not isinstance(paths, Iterable) or isinstance(paths, (str, bytes)):
            paths = [paths]
        return self._results(map(as_source_image, paths))

    def _results(self, images: Iterable[SourceImage]) -> Generator[Result]:
        self._guard.check()
        hooks = BatchHooks(
            clock=self.clock,
            limit=self._limit,
            decoder=self.decoders.on_device,
            decode=self._decode,
            guard=self._guard,
            room=self._mode_run.room,
        )
        batches = map_batches(self._known.checked(images), self.network, self.workers, self.evaluate, hooks)
        with contextlib.closing(batches):
            try:
                for results in batches:
                    yield from results
            except UsageError:
                self._guard.check()  # a decoder that was closed with it speaks of itself
                raise

    def _decode(self, data: bytes, height: int, width: int) -> DecodedImage:
        image = self.decoders.decode(data, height, width)
        if image.has_others:
            with self._counting:
                self.first_of_several += 1
        return image

    def evaluate(self, batch: TapBatch, known_count: Array | None = None) -> list[Result]:
        """Return one result for every entry of ``batch``, whose taps are those that this engine's mode reads.

        Where ``known_count`` (n,), beside these, says how many objects its n images show, the mode only points: as if
        each image had its own ``count``.
        """
        rows: dict[int, Result] = {}
        if batch.taps is not None:
            known_count = self._known.of_batch(batch) if known_count is None else known_count
            # What overflows is found by its result, image by image.
            with self.clock.measure("mode"), np.errstate(over="ignore", invalid="ignore"):
                answer = self._mode_run.answer(batch.taps, batch.finite, known_count)
            with self.clock.measure("rows"):
                rows = dict(zip(batch.rows, batch_rows(batch, answer, self.model, self.mode.name), strict=True))
        return [
            rows.get(i) or failed_row(entry, entry.error or "unknown error", self.model, self.mode.name)
            for i, entry in enumerate(batch.entries)
        ]

    def close(self) -> None:
        """Free the network, if it is the engine's own. The engine cannot run afterwards, and what runs yet ends."""
        if self._guard.close():
            self.decoders.close()
            self._mode_run.close()
            if self._owns_network:
                self.network.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_types(model: object, network: object, decoding: object, report: object) -> None:
    """Raise UsageError unless these arguments of an engine are what it takes."""
    if not (model is None or isinstance(model, (str, os.PathLike, Model))):
        raise UsageError(f"model is {model!r:.60}, expected a name, a directory, or a Model.")
    if not (network is None or isinstance(getattr(network, "request", None), CompileRequest)):
        raise UsageError(f"network is {network!r:.60}, expected a network as open_network returns it.")
    if not isinstance(decoding, Decoding):
        raise UsageError(f"decoding is {decoding!r:.60}, expected a Decoding.")
    if not callable(report):
        raise UsageError(f"report is {report!r:.60}, expected a function that takes a sentence.")
