"""Whether rows depend on the batch that an image is in: batch sizes, orders and threads, on every backend here.

    python -m pc_engine.bench.batch_invariance ./photos --model mynet --images 1200

Each backend's rows in batches of 32, in order, are compared with those of the other `VARIANTS`, and with the first
backend's. What counts is that counts and classes are the same; pointers and scores may differ by rounding, as a matrix
product of another size may add up in another order.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pc_engine.backends import BACKENDS
from pc_engine.catalogue import find_model
from pc_engine.engine import Engine
from pc_engine.errors import PcEngineError, UsageError
from pc_engine.hardware.machine import describe_machine
from pc_engine.model import Model
from pc_engine.modes import MODES
from pc_engine.result import Result
from pc_engine.sources import SourceImage, iter_images


@dataclass(frozen=True)
class Variant:
    """Images in a batch, the seed of their order (None as they are listed), and decoding threads."""

    batch_size: int
    order: int | None = None
    workers: int = 2


#: The first is what the others are compared with.
VARIANTS = (Variant(32), Variant(1), Variant(7, workers=3), Variant(32, order=1, workers=1), Variant(7, order=2))


@dataclass(frozen=True)
class Difference:
    """How many images have another count, class or row; and the largest shift of a pointer, in picture sides."""

    counts: int
    classes: int
    rows: int
    shift: float


def compare_rows(rows: Mapping[str, Result], expected: Mapping[str, Result]) -> Difference:
    """Compare the rows of the same images, by name; pointers where there are as many.

    Raises
    ------
    UsageError
        If the images are not the same.
    """
    if rows.keys() != expected.keys():
        raise UsageError("The two runs are not of the same images, or an image was listed twice.")
    pairs = [(rows[name], expected[name]) for name in expected]
    return Difference(
        counts=sum(a.count != b.count for a, b in pairs),
        classes=sum(a.class_id != b.class_id for a, b in pairs),
        rows=sum(a != b for a, b in pairs),
        shift=max((_shift(a, b) for a, b in pairs), default=0.0),
    )


def measure(model: Model, images: Sequence[SourceImage], modes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for each mode, backend and precision that works on this machine's CPU, and each of `VARIANTS`."""
    for mode in modes:
        first: Mapping[str, Result] | None = None
        for name, backend in BACKENDS.items():
            for precision in backend.probe().precisions:
                if precision == "int8" and precision not in model.manifest.quantised:
                    continue
                in_batches: Mapping[str, Result] | None = None
                for variant in VARIANTS:
                    rows = _run(model, images, variant, mode, name, precision)
                    in_batches, first = in_batches or rows, first or rows
                    yield {
                        "mode": mode,
                        "backend": name,
                        "precision": precision,
                        **asdict(variant),
                        "n": len(rows),
                        "failed": sum(not row.ok for row in rows.values()),
                        "from_batches_of_32": asdict(compare_rows(rows, in_batches)),
                        "from_first_backend": asdict(compare_rows(rows, first)),
                    }


def _run(
    model: Model, images: Sequence[SourceImage], variant: Variant, mode: str, backend: str, precision: str
) -> dict[str, Result]:
    ordered = list(images)
    if variant.order is not None:
        random.Random(variant.order).shuffle(ordered)
    with Engine(
        model,
        mode=mode,
        backend=backend,
        precision=precision,
        device="cpu",
        batch_size=variant.batch_size,
        workers=variant.workers,
    ) as engine:
        return {row.path: row for row in engine.run_paths(ordered)}


def _shift(a: Result, b: Result) -> float:
    if len(a.pointers) != len(b.pointers):
        return 0.0
    side = max(a.width or 1, a.height or 1)
    pairs = [pair for x, y in zip(a.pointers, b.pointers, strict=True) for pair in zip(x.bounds, y.bounds, strict=True)]
    return max((abs(u - v) / side for u, v in pairs), default=0.0)


def main() -> int:
    """Print the rows as one JSON object; return 0 if no count and no class depends on the batch, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SOURCE")
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images")
    options = parser.parse_args()
    try:
        model = find_model(options.model)
        images = list(iter_images(options.sources))
        random.Random(options.seed).shuffle(images)
        modes = [name for name, mode in MODES.items() if not model.missing_parts(mode)]
        rows = []
        for row in measure(model, list(islice(images, options.images)), modes):
            print(json.dumps(row), file=sys.stderr, flush=True)
            rows.append(row)
    except PcEngineError as error:
        print(f"batch_invariance: {error}", file=sys.stderr)
        return error.exit_code
    sources = [Path(source).name for source in options.sources]
    print(json.dumps({"model": model.name, "sources": sources, "machine": describe_machine(), "rows": rows}, indent=1))
    depends = [row for row in rows if row["from_batches_of_32"]["counts"] or row["from_batches_of_32"]["classes"]]
    return 1 if depends else 0


if __name__ == "__main__":
    sys.exit(main())
