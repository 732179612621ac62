"""``pc-engine lego train``: a complete model directory from nothing but digits and a seed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pc_engine.backbone import IMAGE, Backbone, CompileRequest, Taps
from pc_engine.backends import BACKENDS, REFERENCE
from pc_engine.bench.lego.dataset import LegoSettings
from pc_engine.bench.lego.network import PIXEL_MEAN, PIXEL_STD, fold
from pc_engine.bench.lego.onnx_graph import write_network
from pc_engine.bench.lego.scenes import SceneSource
from pc_engine.bench.lego.train import Begin, TrainSettings, in_silence, train_network
from pc_engine.errors import UsageError
from pc_engine.files.out_folder import check_makeable, check_vacant, make_folder
from pc_engine.fitting.class_heat import heat_source
from pc_engine.fitting.counter import CountedImages, fit_counter, fit_svms
from pc_engine.fitting.counter_report import CounterReport
from pc_engine.fitting.features import FeatureCollector
from pc_engine.fitting.signatures import SIGNATURE_TAPS, SignatureAccumulator
from pc_engine.manifest import COUNTER_FILE, NETWORK_FILE, SIGNATURES_FILE, Manifest, NetworkInput
from pc_engine.manifest_file import write_manifest
from pc_engine.progress import advancing

#: Name of the class that an empty scene belongs to, after all others.
BACKGROUND = "background"
#: Taps that the count SVM reads: the last pooling layer and the two fully connected layers, as in the paper (3.1).
COUNT_FEATURES = ("gap", "fc6", "fc7")
#: Defaults of the modes for the embedded network, chosen on validation scenes (held-out digits, seed 301).
MODE_SETTINGS: Mapping[str, float] = {
    "p2c.top_last": 16,
    "p2c.top_prev": 4,
    "p2c.mean_factor": 1.0,
    "p2c.cutoff": 0.85,
    "p2c.min_density": 0.2,
    "p2c.min_distance": 2.0,
    "p2c.trim": 0.7,
    # Its class is right nearly always, and seen on as fine a grid as what is salient.
    "combined.class_power": 1.0,
    "combined.salient_power": 1.0,
}

_BATCH = 64


@dataclass(frozen=True)
class LegoTraining:
    """Everything that decides the model besides the seed.

    Attributes
    ----------
    lego
        Classes, digits, backgrounds and scenes.
    network
        How the network is trained.
    fit_scenes
        Scenes, none of which the network was trained on, that the count SVM and the signatures are fitted to.
    mode_settings
        Defaults of the modes for the network, for its manifest.
    """

    lego: LegoSettings = field(default_factory=LegoSettings)
    network: TrainSettings = field(default_factory=TrainSettings)
    fit_scenes: int = 5000
    mode_settings: Mapping[str, float] = field(default_factory=lambda: MODE_SETTINGS)

    def __post_init__(self) -> None:
        if self.lego.scenes.size != self.network.network.size:
            raise UsageError(
                f"Scenes have {self.lego.scenes.size} pixels a side and the network takes {self.network.network.size}; "
                f"give both the same size."
            )


@dataclass(frozen=True)
class TrainedLego:
    """What `train_lego` made.

    Attributes
    ----------
    directory, manifest
        The model directory and its manifest.
    class_accuracy
        Share of the fitting scenes (digits of the training split, new scenes) whose class is right.
    counter
        Cross-validated accuracy of the count SVM on the same scenes.
    seconds
        Time of each stage.
    """

    directory: Path
    manifest: Manifest
    class_accuracy: float
    counter: CounterReport
    seconds: dict[str, float]


def train_lego(
    out_dir: Path,
    seed: int = 0,
    settings: LegoTraining | None = None,
    begin: Begin = in_silence,
    kept: Path | None = None,
) -> TrainedLego:
    """Train the network on generated scenes, fit count SVM and signatures, and write the model directory.

    The supervision is that of `pc_engine.bench.lego.train`. The same seed, settings, thread count and machine give the
    same weights, signatures and SVM.

    Parameters
    ----------
    out_dir
        Model directory to make; it may exist only if it is empty.
    seed
        Of the scenes, the network's start and the SVM's cross-validation.
    settings
        None for those of the embedded model: about 8 minutes on two cores that compute in bf16.
    begin
        Called for each stage of the training and the fitting.
    kept
        A folder to keep the weights in after each part of the training, and to go on from; None for none.

    Raises
    ------
    UsageError
        If ``out_dir`` is not empty or cannot be written.
    MissingPackageError
        If PyTorch is not installed.
    DataError
        If the digits or photos cannot be read, or there are too few fitting scenes.
    """
    settings = settings or LegoTraining()
    check_vacant(out_dir)
    check_makeable(out_dir)
    started = time.perf_counter()
    source = settings.lego.source("train", seed)
    network = train_network(source, settings.network, seed, begin, kept)
    trained = time.perf_counter()

    make_folder(out_dir)
    taps = write_network(fold(network, settings.network.network), out_dir / NETWORK_FILE)
    size = settings.network.network.size
    manifest = Manifest(
        name="lego",
        input=NetworkInput(IMAGE, size, size, mean=(PIXEL_MEAN,) * 3, std=(PIXEL_STD,) * 3),
        taps=taps,
        count_features=COUNT_FEATURES,
        classes=(*(lego_class.name for lego_class in source.classes), BACKGROUND),
        licence="MIT",
        source="trained by pc-engine lego train from "
        + ("scikit-learn digits" if settings.lego.digits is None else "MNIST digits"),
        settings={**settings.mode_settings, "p2c.background_class": len(source.classes)},
    )
    manifest = write_manifest(manifest, out_dir)
    class_accuracy, counter = _fit(out_dir, manifest, settings, seed, begin)
    manifest = write_manifest(manifest, out_dir)
    seconds = {"network": trained - started, "fit": time.perf_counter() - trained}
    return TrainedLego(out_dir, manifest, class_accuracy, counter, seconds)


def _fit(
    directory: Path, manifest: Manifest, settings: LegoTraining, seed: int, begin: Begin
) -> tuple[float, CounterReport]:
    """Fit count SVM and signatures to new scenes and write them; return the class accuracy and the SVM's report."""
    taps = tuple(dict.fromkeys((*COUNT_FEATURES, *SIGNATURE_TAPS, "logits")))
    request = CompileRequest(
        directory / NETWORK_FILE, manifest, taps, "fp32", batch_size=_BATCH, threads=settings.network.threads
    )
    network = BACKENDS[REFERENCE].compile(request)
    signatures = SignatureAccumulator(manifest.n_classes)
    right = 0
    for outputs, class_ids, _ in _outputs(network, settings, seed, begin, "fitting signatures"):
        truth = np.where(class_ids < 0, manifest.n_classes - 1, class_ids)
        signatures.add(outputs, truth)
        right += int((outputs["logits"].argmax(axis=1) == truth).sum())
    dictionary = signatures.finish()
    dictionary.save(directory / SIGNATURES_FILE)
    # Once more, as no memory holds all maps and what is seen of a class takes all signatures.
    features = FeatureCollector(COUNT_FEATURES, settings.fit_scenes)
    source = heat_source(write_manifest(manifest, directory), dictionary)
    maps, counts = [], []
    for outputs, _, batch_counts in _outputs(network, settings, seed, begin, "fitting the counter"):
        features.add(outputs)
        maps.append(source.maps(outputs))
        counts.append(batch_counts)
    network.close()
    svms = fit_svms(CountedImages(features.features(), np.concatenate(counts)), seed=seed)
    svm, report = fit_counter(svms, heat=source.gathered(np.concatenate(maps)))
    svm.save(directory / COUNTER_FILE)
    return right / settings.fit_scenes, report


def _outputs(
    network: Backbone, settings: LegoTraining, seed: int, begin: Begin, what: str
) -> Iterator[tuple[Taps, np.ndarray, np.ndarray]]:
    """Yield (taps, class ids, counts) of the fitting scenes, batch by batch; the taps are good until the next one."""
    advance = advancing(begin(what, settings.fit_scenes), what, settings.fit_scenes)
    # The sequence after the training's: same digits, augmented anew, other scenes.
    source = settings.lego.source("train", seed + 1)
    for images, class_ids, counts in _scene_batches(source, seed + 1, settings.fit_scenes):
        yield network.infer(images), class_ids, counts
        advance(len(images))


def _scene_batches(source: SceneSource, seed: int, n: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (images, class ids, counts) of ``n`` scenes; the next batch is drawn meanwhile."""

    def draw(first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scenes = [source.scene(seed, index) for index in range(first, min(first + _BATCH, n))]
        images = np.stack([scene.image for scene in scenes])
        return images, np.array([s.class_id for s in scenes]), np.array([s.count for s in scenes])

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(draw, 0)
        for following in range(_BATCH, n + _BATCH, _BATCH):
            batch = ahead.result()
            if following < n:
                ahead = pool.submit(draw, following)
            yield batch
