"""Training of the MNIST-LEGO classifier on generated scenes.

Supervision of the feature maps: the class of the whole image, nothing else, as in the paper; an empty scene has the
class "background". That maps come out local enough to point and count with is the work of global average pooling and
of the penalty on the mean of ``conv_last``, which leaves them silent where there is no object.

The counting branch (``fc6``, ``fc7``) learns the count, as the network of Zhang et al. does that the paper's C2P
follows; it passes no gradient back, so that no count ever shapes the maps. It is what lets a linear SVM count: on
pooled maps alone the SVM got 0.82 of the labels right (mean over labels), with the branch 0.97.

Many classes are learnt faster in `Lesson` after lesson: from small pictures of single digits, of single objects, then
from scenes. The supervision is the same, the class of the picture. The trunk takes pictures of any size and is handed
on from one to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from pc_engine.bench.lego.network import (
    PIXEL_MEAN,
    PIXEL_STD,
    Module,
    NetworkSettings,
    build_network,
    import_torch,
)
from pc_engine.bench.lego.rules import LegoClass
from pc_engine.bench.lego.scenes import SceneSource
from pc_engine.hardware.machine import describe_machine
from pc_engine.progress import Progress

#: Called as a stage of the work begins, with its name and its steps if they are known; returns what is told how far the
#: stage is, and in its name what else there is to say of it.
Begin = Callable[[str, int | None], Progress]


def in_silence(_stage: str, _steps: int | None) -> Progress:
    """Begin a stage that nobody is told of."""
    return lambda _text, _done, _total: None


@dataclass(frozen=True)
class Lesson:
    """Small pictures of one object each, to learn from before the scenes.

    Attributes
    ----------
    steps, batch_size
        Optimiser steps, and pictures a step.
    size
        Side of a picture in pixels, a multiple of 16.
    scale
        Range of the object's longer side as a share of the picture's; best what it is, in pixels, in the scenes.
    learning_rate
        Peak of the lesson's one-cycle schedule.
    digits_only
        Whether the objects are single digits, ten classes, instead of the scenes' classes.
    """

    steps: int
    size: int
    scale: tuple[float, float]
    batch_size: int = 64
    learning_rate: float = 3e-3
    digits_only: bool = False

    def source(self, scenes: SceneSource) -> SceneSource:
        """Return the source of its pictures, which are made like ``scenes`` otherwise."""
        settings = replace(scenes.settings, size=self.size, scale=self.scale, min_count=1, max_count=1)
        classes = tuple(LegoClass("row", (digit,)) for digit in range(10)) if self.digits_only else scenes.classes
        return replace(scenes, classes=classes, settings=settings)


@dataclass(frozen=True)
class TrainSettings:
    """How the network is trained.

    Attributes
    ----------
    steps
        Optimiser steps with scenes, in the first round.
    batch_size
        Scenes a step.
    passes
        Times that a generated scene is used, each time with its colour channels shuffled and maybe inverted.
    learning_rate
        Peak of the one-cycle schedule of AdamW.
    sparsity
        Weight of the mean of ``conv_last``, which keeps the feature maps silent where there is no object.
    threads
        Threads that PyTorch may use.
    chunk
        Scenes generated ahead, in multiples of the batch size.
    lessons
        What is learnt from before the scenes, each under a one-cycle schedule of its own.
    further_rounds
        Steps of further rounds with new scenes, each under a one-cycle schedule of its own.
    """

    steps: int = 1000
    batch_size: int = 64
    passes: int = 3
    learning_rate: float = 3e-3
    sparsity: float = 0.3
    threads: int = 2
    chunk: int = 32
    lessons: tuple[Lesson, ...] = ()
    further_rounds: tuple[int, ...] = ()
    network: NetworkSettings = field(default_factory=NetworkSettings)


def train_network(
    source: SceneSource,
    settings: TrainSettings,
    seed: int,
    begin: Begin = in_silence,
    kept: Path | None = None,
) -> Module:
    """Train the classifier; the same seed on the same machine and thread count gives the same network.

    Parameters
    ----------
    begin
        Called for each lesson and round.
    kept
        A folder to keep the weights in after each lesson and round, and to go on from; None for none.

    Returns
    -------
    The network of ``build_network``, with ``len(source.classes) + 1`` logits of which the last means "background".
    """
    torch = import_torch()
    torch.set_num_threads(settings.threads)
    torch.manual_seed(seed)
    network = _build(source, settings)
    for place, task in enumerate(_tasks(source, settings)):
        weights = None if kept is None else kept / f"{place}.safetensors"
        if weights is not None and weights.exists():
            # Not more than there is: earlier versions kept a head that they did not train.
            stored = load_file(weights)
            network.load_state_dict({name: torch.from_numpy(stored[name]) for name in network.state_dict()})
            continue
        # Single digits have other classes: only the trunk takes part in learning them.
        learner = network if task.source.classes == source.classes else _build(task.source, settings)
        learner.trunk = network.trunk
        _train(learner, task, settings, seed, begin)
        if weights is not None:
            weights.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: value.contiguous().numpy() for name, value in network.state_dict().items()}, weights)
    return network.eval()


@dataclass(frozen=True)
class _Task:
    """What to train on, for how many steps; ``first`` is the number of the first scene of its source."""

    name: str
    source: SceneSource
    steps: int
    batch_size: int
    learning_rate: float
    first: int = 0


def _tasks(source: SceneSource, settings: TrainSettings) -> Iterator[_Task]:
    """Yield the lessons, then the rounds with scenes."""
    for lesson in settings.lessons:
        name = "single digits" if lesson.digits_only else "single objects"
        yield _Task(name, lesson.source(source), lesson.steps, lesson.batch_size, lesson.learning_rate)
    first = 0
    for steps in (settings.steps, *settings.further_rounds):
        yield _Task("scenes", source, steps, settings.batch_size, settings.learning_rate, first)
        # No round draws more than its steps take, and the chunk that they end in.
        first += (steps + settings.chunk) * settings.batch_size


def _build(source: SceneSource, settings: TrainSettings) -> Module:
    torch = import_torch()
    network = build_network(settings.network, len(source.classes) + 1, source.settings.max_count + 1)
    return network.to(memory_format=torch.channels_last)


def _train(network: Module, task: _Task, settings: TrainSettings, seed: int, begin: Begin) -> None:
    torch = import_torch()
    cross_entropy = torch.nn.functional.cross_entropy
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 1e-2}, {"params": plain, "weight_decay": 0.0}], lr=task.learning_rate
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, task.learning_rate, total_steps=max(task.steps, 2), pct_start=0.15
    )
    # An object of a small picture covers more of the mean than the same object of a scene.
    sparsity = settings.sparsity * (task.source.settings.size / settings.network.size) ** 2
    counts_vary = task.source.settings.min_count < task.source.settings.max_count
    in_bf16 = bf16_is_fast()
    name = f"training on {task.name}"
    progress = begin(name, task.steps)
    losses: list[float] = []
    for images, labels, counts in _batches(task, settings, seed):
        pixels = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - PIXEL_MEAN) / PIXEL_STD
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            outputs = network(pixels)
        loss = cross_entropy(outputs.logits.float(), torch.from_numpy(labels))
        losses.append(float(loss.detach()))
        if counts_vary:
            loss = loss + cross_entropy(outputs.counts.float(), torch.from_numpy(counts))
        loss = loss + sparsity * outputs.activity
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        progress(f"{name}, loss {np.mean(losses[-50:]):.3f}", len(losses), task.steps)


def bf16_is_fast() -> bool:
    """Whether PyTorch computes faster in bfloat16 than in float32 here.

    With AVX2 alone it converts value by value: a step took 12 times as long.
    """
    machine = describe_machine()
    if machine["architecture"].lower() not in ("x86_64", "amd64"):
        return True
    return "avx512f" in machine["extensions"]


def _batches(task: _Task, settings: TrainSettings, seed: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield (images, labels, counts) for every step; the next chunk is drawn in the background meanwhile."""
    source, batch = task.source, task.batch_size
    background = len(source.classes)

    def draw(chunk: int) -> tuple[np.ndarray, ...]:
        first = task.first + chunk * settings.chunk * batch
        scenes = [source.scene(seed, index) for index in range(first, first + settings.chunk * batch)]
        labels = np.array([scene.class_id if scene.objects else background for scene in scenes])
        counts = np.array([scene.count for scene in scenes])
        return np.stack([scene.image for scene in scenes]), labels, counts

    random = np.random.default_rng([seed, 0x7A1])
    step = 0
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(draw, 0)
        chunk = 0
        while step < task.steps:
            images, *truth = ahead.result()
            chunk += 1
            ahead = pool.submit(draw, chunk)
            for _ in range(settings.passes):
                order = random.permutation(len(images))
                for start in range(0, len(order), batch):
                    if step == task.steps:
                        break
                    chosen = order[start : start + batch]
                    yield _recolour(images[chosen], random), *(part[chosen] for part in truth)
                    step += 1


def _recolour(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Shuffle the colour channels of the batch and invert half of the batches."""
    shuffled = images[..., random.permutation(3)]
    return np.ascontiguousarray(255 - shuffled if random.integers(2) else shuffled)
