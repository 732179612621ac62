from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pc_engine.bench.gpu import processes as gpu_processes
from pc_engine.bench.gpu.processes import measure_processes, steady_rate
from pc_engine.bench.gpu.subjects import Job, Subjects


def test_the_rate_is_that_of_the_middle_of_a_run() -> None:
    # Ten seconds to start, 100 images a second, and a last block that takes long.
    done = [(10 + k, 100 * k) for k in range(1, 10)] + [(60.0, 1000)]
    assert steady_rate(done) == pytest.approx(100)
    assert steady_rate([(4.0, 100)]) == 25
    assert steady_rate([(1.0, 10), (4.0, 100)]) == 25


@pytest.mark.parametrize("parts", [{}, {"counter": None, "signatures": None}], ids=["fitted", "made up"])
def test_runs_by_several_processes_are_measured(
    host_meter: Any,
    make_model: Any,
    draw_scene: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parts: dict[str, Any],
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for k in range(3):
        draw_scene([(k, k)]).save(photos / f"{k}.png")
    monkeypatch.setattr(gpu_processes, "PROCESSES", (1, 2))
    job = Job(
        host_meter,
        models=(str(make_model(tmp_path / "model", **parts)),),
        backends=("onnxruntime",),
        precisions=("fp32",),
        modes=("combined",),
        batch_size=4,
        images=3,
        photos=str(photos),
        n=150,
    )
    with Subjects(job) as subjects:
        rows = list(measure_processes(job, subjects))
        assert [(row["processes"], row["n"], row["backend"]) for row in rows] == [
            (1, 150, "onnxruntime"),
            (2, 300, "onnxruntime"),
        ]
        assert all(row["run_images_per_s"] > 0 for row in rows)
        refused = list(measure_processes(replace(job, modes=("none",)), subjects))
    assert all("There is no mode 'none'" in row["reason"] for row in refused)


def test_the_first_mode_of_every_model_comes_before_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the time of the part is over, it is the other modes that are missing."""
    monkeypatch.setattr(gpu_processes, "PROCESSES", (1,))
    monkeypatch.setattr(gpu_processes, "_on_disk", lambda subject: nullcontext(Path(subject.name)))
    monkeypatch.setattr(gpu_processes, "processes_row", lambda *_: {})
    job: Any = SimpleNamespace(photos="random:1", modes=("c2p", "p2c"))
    subjects: Any = [SimpleNamespace(name=name) for name in ("vgg16", "lego")]
    assert [(row["model"], row["mode"]) for row in measure_processes(job, subjects)] == [
        ("vgg16", "c2p"),
        ("lego", "c2p"),
        ("vgg16", "p2c"),
        ("lego", "p2c"),
    ]
