"""`Engine`: a model, compiled for this machine, that counts and points in one of the modes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from pc_engine.backbone import Backbone, CompileRequest
from pc_engine.catalogue import model_for
from pc_engine.counter import DEFAULT_LABELS
from pc_engine.devices import require_device
from pc_engine.errors import UsageError
from pc_engine.kernels.array_module import to_host
from pc_engine.machine import usable_cores
from pc_engine.model import Model
from pc_engine.modes import MODES, Mode, Outcome, check_clustering, settings_for
from pc_engine.pipeline import Entry, StageClock, TapBatch, map_batches
from pc_engine.result import BoxPointer, EllipsePointer, Pointer, Result, error_result
from pc_engine.selection import open_backbone
from pc_engine.sources import iter_images

# A network above this size keeps all cores busy with few images; a small one needs many to be worth a call.
_LARGE_NETWORK_BYTES = 100_000_000
_BATCH_LARGE, _BATCH_SMALL = 8, 32

Source = str | os.PathLike[str]


class Engine:
    """Count the salient objects of images and point at each.

    Parameters
    ----------
    model
        A name (see ``pc-engine models``), a model directory, a loaded `Model`, or None for the best one installed.
    mode
        ``"c2p"``, ``"p2c"`` or ``"combined"``.
    backend, precision
        A backend and precision by name; ``"auto"`` takes the fastest that agrees with the reference on this machine.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    batch_size
        Images per batch; None for a size that suits the network.
    workers
        Threads that decode images; None for one per usable core.
    cluster
        ``"density-peaks"`` or ``"dbscan"``, for mode p2c; None for the mode's own.
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
        backend: str = "auto",
        precision: str = "auto",
        device: str = "auto",
        batch_size: int | None = None,
        workers: int | None = None,
        cluster: str | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        require_device(device)
        self.mode = find_mode(mode)
        if cluster is not None:
            check_clustering(self.mode, cluster)
        if isinstance(model, Model):
            model.require(self.mode)
            self.model = model
        else:
            self.model = model_for(model, self.mode, report)
        self.settings = settings_for(self.model.manifest, cluster=cluster)
        self.clock = StageClock()
        self._closed = False
        self.workers = _positive("workers", workers) or usable_cores()
        self.network: Backbone = open_network(
            self.model,
            self.mode.taps(self.model.manifest),
            backend=backend,
            precision=precision,
            batch_size=batch_size,
            mode=self.mode.name,
            report=report,
        )

    @property
    def backend(self) -> str:
        """Name of the backend that runs the network."""
        return self.network.backend

    @property
    def precision(self) -> str:
        """Precision that the network runs at."""
        return self.network.request.precision

    @property
    def batch_size(self) -> int:
        """Images in a batch."""
        return self.network.request.batch_size

    def run(self, sources: Source | Iterable[Source]) -> Iterator[Result]:
        """Yield one result for every image of ``sources``, in order, as batches are finished.

        Parameters
        ----------
        sources
            Files, folders (walked recursively), globs, or ``"demo:"``; one or several.

        Raises
        ------
        UsageError
            If a source does not exist. An image that cannot be read is not an error: its result says why.
        BackendError
            If the network fails.
        """
        listed = [sources] if isinstance(sources, (str, os.PathLike)) else sources
        return self.run_paths(iter_images(listed))

    def run_paths(self, paths: Iterable[Path]) -> Iterator[Result]:
        """Yield one result for every path, in order; otherwise as `run`."""
        if self._closed:
            raise UsageError("This engine was closed and cannot run any more: make another.")
        batches = map_batches(paths, self.network, self.workers, self.evaluate, self.clock)
        with contextlib.closing(batches):
            for results in batches:
                yield from results

    def evaluate(self, batch: TapBatch) -> list[Result]:
        """Return one result for every entry of ``batch``, whose taps are those that this engine's mode reads."""
        rows: dict[int, Result] = {}
        if batch.taps is not None:
            with self.clock.measure("mode"):
                outcome = self.mode.evaluate(batch.taps, self.model.parts, self.settings)
            with self.clock.measure("rows"):
                rows = dict(zip(batch.rows, self._rows(batch, outcome), strict=True))
        return [
            rows.get(i) or self._failed(entry, entry.error or "unknown error") for i, entry in enumerate(batch.entries)
        ]

    def close(self) -> None:
        """Free the network. The engine cannot run afterwards."""
        if not self._closed:
            self._closed = True
            self.network.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rows(self, batch: TapBatch, outcome: Outcome) -> Iterator[Result]:
        counts = to_host(outcome.count)
        pointers = to_host(outcome.pointers)
        scores = None if outcome.count_scores is None else to_host(outcome.count_scores)
        classes = None if outcome.class_id is None else to_host(outcome.class_id)
        probabilities = None if outcome.class_score is None else to_host(outcome.class_score)
        # Only the counter's own counts are sure to fall under its labels, which may end with a plain "3".
        counter = None if scores is None else self.model.parts.counter
        labels = DEFAULT_LABELS if counter is None else counter.labels
        for n, row in enumerate(batch.rows):
            entry = batch.entries[row]
            if not batch.finite[n] or entry.image is None:
                yield self._failed(entry, "The network returned values that are not finite for this image.")
                continue
            class_id = None if classes is None else int(classes[n])
            yield Result(
                path=str(entry.path),
                status="ok",
                error=None,
                width=entry.image.width,
                height=entry.image.height,
                mode=self.mode.name,
                model=self.model.name,
                count=int(counts[n]),
                count_label=_row_label(int(counts[n]), labels[-1]),
                count_scores=None if scores is None else dict(zip(labels, map(float, scores[n]), strict=True)),
                class_id=class_id,
                class_name=None if class_id is None else self.model.manifest.class_name(class_id),
                class_score=None if probabilities is None else float(probabilities[n]),
                pointers=_in_pixels(outcome.kind, pointers[n], entry.image.width, entry.image.height),
            )

    def _failed(self, entry: Entry, message: str) -> Result:
        return error_result(str(entry.path), message, mode=self.mode.name, model=self.model.name)


def network_request(model: Model, taps: tuple[str, ...], *, batch_size: int | None = None) -> CompileRequest:
    """Return the request to compile the network of ``model`` with ``taps``, at fp32, in batches that suit it."""
    large = model.network.stat().st_size > _LARGE_NETWORK_BYTES
    return CompileRequest(
        network=model.network,
        manifest=model.manifest,
        taps=taps,
        precision="fp32",
        batch_size=_positive("batch_size", batch_size) or (_BATCH_LARGE if large else _BATCH_SMALL),
        threads=usable_cores(),
    )


def open_network(
    model: Model,
    taps: tuple[str, ...],
    *,
    backend: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    mode: str | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Backbone:
    """Compile the network of ``model`` for this machine, keeping ``taps``; see `Engine` for the parameters.

    ``mode`` is what the taps are for; None if they are for fitting, where ``"auto"`` has to suit every mode.
    """
    request = network_request(model, taps, batch_size=batch_size)
    return open_backbone(request, backend, precision, report, mode=mode)


def find_mode(name: str) -> Mode:
    """Return the mode of that name.

    Raises
    ------
    UsageError
        If there is none; the message lists them.
    """
    if name not in MODES:
        raise UsageError(f"There is no mode '{name}': choose one of {', '.join(MODES)}.")
    return MODES[name]


def _row_label(count: int, last: str) -> str:
    """Return the label of a count, which a clustering may find though the counter was never shown it."""
    return last if last.endswith("+") and count >= int(last[:-1]) else str(count)


def _positive(name: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise UsageError(f"{name} is {value}, expected a number of at least 1.")
    return value


def _in_pixels(kind: str, pointers: np.ndarray[Any, Any], width: int, height: int) -> tuple[Pointer, ...]:
    """Return the pointers (K, 5) of one image, fractions of the picture, in its pixels; NaN rows are none."""
    scaled = pointers[~np.isnan(pointers[:, 0])] * (width, height, width, height, 1)
    rows = [tuple(map(float, row)) for row in scaled]
    if kind == "ellipse":
        return tuple(EllipsePointer(x, y, rx, ry, score) for x, y, rx, ry, score in rows)
    return tuple(BoxPointer(x0, y0, x1, y1, score) for x0, y0, x1, y1, score in rows)
