from __future__ import annotations

import os
import tarfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pc_engine.distributed import block_worker
from pc_engine.distributed.block_worker import (
    ANSWER,
    BLOCK,
    BlockAnswer,
    BlockWorker,
    Refusal,
    WorkerSettings,
    choose,
    parse_answer,
)
from pc_engine.engine import Engine
from pc_engine.errors import PcEngineError, UsageError
from pc_engine.runs.block_folder import Block, make_blocks
from pc_engine.runs.rows import iter_rows
from pc_engine.sources import parquet_shards, resolve, tar_shards

CHOSEN = {"backend": "onnxruntime", "precision": "fp32", "device": "cpu", "batch_size": 4, "threads": 1}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers enter a folder of their own, in which they know the archives; the tests that come later do not."""
    monkeypatch.chdir(".")
    resolve._is_read_onwards.cache_clear()


@pytest.fixture
def photos(tmp_path: Path, draw_scene: Any) -> Path:
    folder = tmp_path / "work" / "photos"
    folder.mkdir(parents=True)
    for count in range(4):
        draw_scene([(1, 1), (6, 1), (1, 6)][:count]).save(folder / f"{count}.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture
def settings(tmp_path: Path, photos: Path, tiny_directory: Path) -> WorkerSettings:
    run = tmp_path / "run"
    run.mkdir()
    return WorkerSettings(
        blocks=make_blocks(run, "part", "jsonl"),
        engine={"model": str(tiny_directory), "mode": "c2p", "workers": None, "cluster": None, **CHOSEN},
        identity=None,
        sources=("photos",),
        folder=photos.parent,
        version=version("pc-engine"),
    )


def answers(worker: BlockWorker, *numbers: int) -> list[BlockAnswer]:
    return [parse_answer(text) for text in worker({BLOCK: np.array(numbers)})[ANSWER]]


def refusals(settings: WorkerSettings) -> str:
    """Why a worker of these settings does nothing, which is also why none can be chosen."""
    (answer,) = answers(BlockWorker(settings), 0)
    assert answer.tally.n == 0
    assert answer.refusal is not None
    assert answer.refusal == choose(settings).refusal
    return answer.refusal.message


def test_rows_are_those_of_an_engine_with_the_names_of_the_sources(settings: WorkerSettings) -> None:
    names = [f"photos/{name}" for name in ("0.png", "1.png", "broken.jpg", "3.png")]
    settings.blocks.put(Block(0, tuple(names[:2])))
    settings.blocks.put(Block(1, tuple(names[2:])))
    found = answers(BlockWorker(settings), 0, 1)
    assert [answer.block for answer in found] == [0, 1]
    assert [(answer.tally.n, answer.tally.failed, answer.tally.labels) for answer in found] == [
        (2, 0, {"0": 1, "1": 1}),
        (2, 1, {"3": 1}),
    ]
    assert found[0].stages["network"] > 0
    with Engine(**settings.engine) as engine:
        expected = [row.to_dict() for row in engine.run_paths(map(Path, names))]
    assert sorted(iter_rows(settings.blocks.run), key=str) == sorted(expected, key=str)


def test_pictures_are_of_the_images_that_could_be_read(settings: WorkerSettings, tmp_path: Path) -> None:
    overlays = tmp_path / "overlays"
    settings.blocks.put(Block(0, ("photos/1.png", "photos/broken.jpg", "photos/2.png")))
    answers(BlockWorker(replace(settings, overlays=overlays)), 0)
    assert sorted(path.name.partition("-")[0] for path in overlays.iterdir()) == ["1", "2"]


def test_a_worker_keeps_what_it_has_when_the_run_is_to_end(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = BlockWorker(settings)
    for number in range(2):
        settings.blocks.put(Block(number, tuple(f"photos/{k % 4}.png" for k in range(400))))
    monkeypatch.setattr(block_worker, "_SECONDS_BETWEEN_LOOKS", 0.0)
    run_paths = Engine.run_paths

    def ask_to_end(engine: Engine, paths: Any) -> Any:
        for result in run_paths(engine, paths):
            settings.blocks.stop()
            yield result

    monkeypatch.setattr(Engine, "run_paths", ask_to_end)
    first, second = answers(worker, 0, 1)
    assert 0 < first.tally.n < 400
    assert second.tally.n == 0
    assert len([*iter_rows(settings.blocks.run)]) == first.tally.n
    assert first.refusal is None
    assert second.refusal is None


def test_what_is_left_open_is_chosen_and_what_was_chosen_is_kept(settings: WorkerSettings) -> None:
    open_ = replace(settings, engine={**settings.engine, "backend": "onnxruntime", "precision": "auto"})
    choice = choose(open_)
    assert choice.refusal is None
    assert (choice.identity["backend"], choice.identity["precision"]) == ("onnxruntime", "fp32")
    assert Path(choice.model) == Path(settings.engine["model"])
    assert choice.about["batch_size"] == 4
    settings.blocks.put(Block(0, ("photos/0.png",)))
    (answer,) = answers(BlockWorker(replace(settings, identity=choice.identity)), 0)
    assert answer.tally.n == 1


def test_other_model_files_are_refused(settings: WorkerSettings, make_model: Any, tiny_counter: Any, tmp_path: Path):
    identity = choose(settings).identity
    other = make_model(tmp_path / "other", counter=replace(tiny_counter, bias=tiny_counter.bias + 1))
    there = replace(settings, identity=identity, engine={**settings.engine, "model": str(other)})
    assert "would give other rows than the other machines (counter_sha256 differ): put the same model" in refusals(
        there
    )


def test_a_model_that_is_installed_elsewhere_is_found_by_its_name(
    settings: WorkerSettings, make_model: Any, engine_home: Path
) -> None:
    identity = choose(settings).identity
    make_model(engine_home / "models" / "tiny")
    there = replace(settings, identity=identity, engine={**settings.engine, "model": "/on/the/first/machine/tiny"})
    settings.blocks.put(Block(0, ("photos/0.png",)))
    (answer,) = answers(BlockWorker(there), 0)
    assert answer.tally.n == 1


def test_a_machine_that_does_not_fit_says_why(settings: WorkerSettings, tmp_path: Path) -> None:
    assert "not 0.0.1: install the same on all machines" in refusals(replace(settings, version="0.0.1"))
    assert "cannot enter /nowhere" in refusals(replace(settings, folder=Path("/nowhere")))
    assert "There is no file or folder: 'elsewhere'" in refusals(replace(settings, sources=("elsewhere",)))
    unseen = replace(settings.blocks, run=tmp_path / "unseen")
    assert "unseen as the other machines do: choose a folder for --out" in refusals(replace(settings, blocks=unseen))


def test_nothing_comes_as_a_traceback(settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("division by zero")

    settings.blocks.put(Block(0, ("photos/0.png",)))
    worker = BlockWorker(settings)
    (missing,) = answers(worker, 7)
    assert missing.refusal is not None
    assert "00000007.json" in missing.refusal.message
    monkeypatch.setattr(Engine, "evaluate", break_off)
    (broken,) = answers(worker, 0)
    assert broken.refusal is not None
    assert "failed (ZeroDivisionError: division by zero): please report it." in broken.refusal.message
    monkeypatch.setattr(block_worker, "iter_images", break_off)
    assert "ZeroDivisionError" in refusals(settings)


def test_a_refusal_is_raised_with_its_exit_code() -> None:
    assert isinstance(Refusal("Wrong.", 2).error(), UsageError)
    error = Refusal("Broken.", 1).error()
    assert type(error) is PcEngineError
    assert str(error) == "Broken."


def test_names_that_are_not_utf8_are_read(settings: WorkerSettings, photos: Path) -> None:
    name = os.fsdecode(b"photos/caf\xe9.png")
    os.link(photos / "2.png", photos.parent / name)
    settings.blocks.put(Block(0, (name,)))
    answers(BlockWorker(settings), 0)
    (row,) = [*iter_rows(settings.blocks.run)]
    assert (row["path"], row["count"]) == ("photos/caf\\xe9.png", 2)


@pytest.mark.parametrize("kind", ["tar.gz", "parquet"])
@pytest.mark.parametrize("overlay", [False, True])
def test_what_is_read_from_its_beginning_is_so_once_however_many_threads_decode(
    settings: WorkerSettings, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, overlay: bool
) -> None:
    shard, n = photos.parent / f"shard.{kind}", 40
    content = (photos / "1.png").read_bytes()
    if kind == "parquet":
        pq.write_table(pa.table({"image": [content] * n}), shard)
        names = [f"shard.parquet#{k}" for k in range(n)]
    else:
        with tarfile.open(shard, "w:gz") as archive:
            for k in range(n):
                archive.add(photos / "1.png", f"{k}.png")
        names = [f"tar://{k}.png::shard.tar.gz" for k in range(n)]
    begun: list[str] = []
    for module, reader in ((tar_shards, tar_shards._Search), (parquet_shards, parquet_shards._Rows)):

        def begin(shard: str, reader: Any = reader) -> Any:
            begun.append(shard)
            return reader(shard)

        monkeypatch.setattr(module._last, "_open", begin)
    settings = replace(settings, engine={**settings.engine, "workers": 3}, overlays=tmp_path if overlay else None)
    settings.blocks.put(Block(0, tuple(names[:25])))
    settings.blocks.put(Block(1, (*names[25:], "photos/2.png", "shard.parquet#999", "tar://x.png::shard.tar.gz")))
    first, second = answers(BlockWorker(settings), 0, 1)
    assert (first.tally.n, first.tally.failed, second.tally.n, second.tally.failed) == (25, 0, n - 25 + 3, 2)
    # Once to decode them, once for the pictures, and where there is no such image it is looked for from the beginning.
    assert begun.count(shard.name) <= 1 + overlay + 2
