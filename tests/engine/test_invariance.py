"""What a row says depends on its image alone: not on the batch, its order, the threads, or what else is in it.

A backend gives an image the same counts, labels and classes in any batch, and pointers and scores within `TOLERANCE`;
matrix products of other sizes may add up in another order, and no further. Two backends agree in counts on these
scenes, whose answers are no close calls, and in scores within `BETWEEN_BACKENDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pc_engine.backends import BACKENDS
from pc_engine.engine import Engine
from pc_engine.fitted.counter import CountSVM
from pc_engine.modes import MODES
from pc_engine.result import Result
from pc_engine.runs.partition_names import FORMATS, partitions_of
from pc_engine.runs.writers import PartitionWriter

#: Of pointers, as a share of the picture, and of scores.
TOLERANCE = 1e-5
BETWEEN_BACKENDS = 1e-3
BACKENDS_HERE = tuple(name for name in ("onnxruntime", "openvino") if BACKENDS[name].probe().available)
N_SCENES = 14
BROKEN, NOT_FINITE = 4, 9


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that gives NaN for pictures that are red all over."""
    return make_model(tmp_path_factory.mktemp("model") / "m", nan_above=0.5)


@pytest.fixture(scope="module")
def scenes(draw_scene: Callable[..., Image.Image], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Scenes of 0 to 4 objects; one is no image, and one makes the network give NaN."""
    folder, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(5)
    paths = []
    for k in range(N_SCENES):
        path = folder / f"{k:02d}.png"
        places = [(1 + 3 * int(c % 2), 1 + 3 * int(c // 2)) for c in rng.permutation(4)[: k % 5]]
        draw_scene(places, size=(64 + 8 * (k % 3), 64)).save(path)
        if k == BROKEN:
            path.write_bytes(b"no image")
        if k == NOT_FINITE:
            Image.new("RGB", (64, 64), (255, 0, 0)).save(path)
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def rows(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Result]]:
    """Return ``rows(paths, mode=, backend=, batch_size=, workers=)``: the rows by name."""
    home = str(tmp_path_factory.mktemp("home"))

    def run(paths: Iterable[Path], **options: object) -> dict[str, Result]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PC_ENGINE_HOME", home)  # one for all, so that each network is compiled once
            with Engine(model, precision="fp32", device="cpu", threads=1, **options) as engine:  # type: ignore[arg-type]
                return {Path(row.path).name: row for row in engine.run_paths(paths)}

    return run


def assert_same(found: Result, expected: Result, tolerance: float) -> None:
    """Fail unless two rows of an image say the same, numbers within a tolerance."""
    plain = ("status", "error", "width", "height", "count", "count_label", "class_id")
    assert [getattr(found, name) for name in plain] == [getattr(expected, name) for name in plain]
    assert [pointer.kind for pointer in found.pointers] == [pointer.kind for pointer in expected.pointers]
    size = max(expected.width or 1, expected.height or 1)
    for a, b in zip(found.pointers, expected.pointers, strict=True):
        np.testing.assert_allclose(a.bounds, b.bounds, rtol=0, atol=tolerance * size)
        assert abs(a.score - b.score) <= tolerance
    assert (found.count_scores or {}) == pytest.approx(expected.count_scores or {}, abs=tolerance)
    if expected.class_score is not None:
        assert found.class_score == pytest.approx(expected.class_score, abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", BACKENDS_HERE)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    order=st.permutations(range(N_SCENES)).flatmap(lambda order: st.integers(1, N_SCENES).map(lambda n: order[:n])),
    batch_size=st.sampled_from([1, 2, 5, 7, 32]),
    workers=st.integers(1, 4),
)
def test_rows_do_not_depend_on_their_batch(
    rows: Callable[..., dict[str, Result]],
    scenes: list[Path],
    backend: str,
    mode: str,
    order: list[int],
    batch_size: int,
    workers: int,
) -> None:
    expected = rows(scenes, mode=mode, backend=backend, batch_size=32, workers=1)
    found = rows([scenes[k] for k in order], mode=mode, backend=backend, batch_size=batch_size, workers=workers)
    assert list(found) == [scenes[k].name for k in order]
    for name, row in found.items():
        assert_same(row, expected[name], TOLERANCE)


@pytest.mark.parametrize("backend", BACKENDS_HERE)
@pytest.mark.parametrize("mode", MODES)
def test_values_that_are_not_finite_are_the_row_of_their_image_alone(
    rows: Callable[..., dict[str, Result]], scenes: list[Path], mode: str, backend: str
) -> None:
    found = rows(scenes, mode=mode, backend=backend, batch_size=5, workers=2)
    failed = [name for name, row in found.items() if not row.ok]
    if mode == "c2p":  # reads no logits, where the NaN is, so that they are not computed
        assert failed == [scenes[BROKEN].name]
    else:
        assert failed == [scenes[BROKEN].name, scenes[NOT_FINITE].name]
        error = found[scenes[NOT_FINITE].name].error
        assert error == "The network returned values that are not finite for this image."


def test_scores_that_overflow_are_an_error_row_and_no_count(
    make_model: Callable[..., Path], tiny_counter: CountSVM, scenes: list[Path], tmp_path: Path
) -> None:
    weights = {"gap": np.full_like(tiny_counter.weights["gap"], np.finfo(np.float32).max)}
    model = make_model(tmp_path / "m", counter=replace(tiny_counter, weights=weights))
    with Engine(model, mode="c2p", backend="onnxruntime", precision="fp32", device="cpu") as engine:
        [row] = engine.run_paths([scenes[3]])
    assert row.error == "The count SVM's scores overflow for this image: its features are too large."


@pytest.mark.skipif(len(BACKENDS_HERE) < 2, reason="one backend works here")
@pytest.mark.parametrize("mode", MODES)
def test_backends_agree(rows: Callable[..., dict[str, Result]], scenes: list[Path], mode: str) -> None:
    first, second = (rows(scenes, mode=mode, backend=name, batch_size=7, workers=2) for name in BACKENDS_HERE[:2])
    for name, row in first.items():
        assert_same(second[name], row, BETWEEN_BACKENDS)


@pytest.mark.parametrize("row_format", FORMATS)
@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_the_same_run_writes_the_same_bytes(
    rows: Callable[..., dict[str, Result]], scenes: list[Path], tmp_path: Path, backend: str, row_format: str
) -> None:
    written = []
    for workers in (1, 3):
        folder = tmp_path / str(workers)
        folder.mkdir()
        with PartitionWriter(folder, row_format) as writer:  # type: ignore[arg-type]
            for row in rows(scenes, mode="combined", backend=backend, batch_size=5, workers=workers).values():
                writer.write(row)
        written.append([path.read_bytes() for path in partitions_of(folder)])
    assert written[0]
    assert written[0] == written[1]
