"""A byte that changed in a cached file, a manifest or a model's file: it is made anew, or refused, and never used.

PC_ENGINE_FLIPS sets the number of bytes, 1,000 for the full check.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from pc_engine.backbone import Backbone, CompileRequest
from pc_engine.backends import BACKENDS
from pc_engine.errors import ManifestError
from pc_engine.files.storage import cache_directory
from pc_engine.manifest import MANIFEST_FILE, MODEL_FILES
from pc_engine.model import load_model
from pc_engine.networks import network_request
from pc_engine.selection.candidates import probe_images
from pc_engine.selection.selection import open_backbone, select

FLIPS = int(os.environ.get("PC_ENGINE_FLIPS", "60"))
CPU_BACKENDS = tuple(name for name, backend in BACKENDS.items() if "cpu" in backend.devices)


@dataclass
class Watched:
    """A backend, and what was done with it."""

    inner: object
    compiled: int = 0
    loaded: bytes = b""

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def compile(self, request: CompileRequest, save_to: Path | None = None) -> Backbone:
        self.compiled += 1
        return self.inner.compile(request, save_to)  # type: ignore[attr-defined]

    def load(self, request: CompileRequest, saved: Path) -> Backbone:
        self.loaded = saved.read_bytes()
        return self.inner.load(request, saved)  # type: ignore[attr-defined]


def flip(path: Path, draw: random.Random) -> bytes:
    """Change one byte of a file to another one; return its content from then on."""
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= draw.randrange(1, 256)
    path.write_bytes(content)
    return bytes(content)


@pytest.fixture
def request_(tiny_directory: Path) -> CompileRequest:
    return replace(network_request(load_model(tiny_directory), ("conv_last", "logits"), batch_size=2), threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_compiled_network_is_built_anew(
    request_: CompileRequest, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    if not BACKENDS[backend].probe().available:
        pytest.skip(BACKENDS[backend].probe().reason)
    watched = Watched(BACKENDS[backend])
    monkeypatch.setitem(BACKENDS, backend, watched)  # type: ignore[arg-type]
    images, draw = probe_images(64, 64, 2), random.Random(1)
    with_network = open_backbone(request_, backend, "fp32")
    expected = with_network.infer(images)
    with_network.close()
    open_backbone(request_, backend, "fp32").close()
    assert watched.compiled == 1  # taken from the cache, where nothing is the matter
    [network] = [path for path in cache_directory().iterdir() if path.suffix != ".sha256"]
    total = network.with_name(network.name + ".sha256")
    for number in range(-(-FLIPS // 3)):
        changed = flip(total if number % 4 == 0 else network, draw)
        before, watched.loaded = watched.compiled, b""
        again = open_backbone(request_, backend, "fp32")
        assert watched.compiled == before + 1
        assert watched.loaded != changed
        for name, tap in again.infer(images).items():
            np.testing.assert_array_equal(tap, expected[name])
        again.close()


@pytest.mark.slow
def test_a_choice_of_backend_is_made_anew(request_: CompileRequest) -> None:
    draw, said = random.Random(2), []
    select(request_, report=said.append)
    select(request_, report=said.append)
    assert len(said) == 1
    [choice] = [path for path in cache_directory().glob("selection-*") if path.suffix != ".sha256"]
    for number in range(-(-FLIPS // 30)):
        flip(choice if number % 2 else choice.with_name(choice.name + ".sha256"), draw)
        said.clear()
        select(request_, report=said.append)
        assert [sentence.split()[0] for sentence in said] == ["Choosing"]


def test_a_manifest_and_the_files_of_a_model_are_refused(make_model: Callable[..., Path], tmp_path: Path) -> None:
    directory, draw = make_model(tmp_path / "m"), random.Random(3)
    names = [MANIFEST_FILE, *(name for name in MODEL_FILES if (directory / name).is_file())]
    for number in range(FLIPS):
        name = MANIFEST_FILE if number % 2 else draw.choice(names)
        content = (directory / name).read_bytes()
        flip(directory / name, draw)
        with pytest.raises(ManifestError):
            load_model(directory)
        (directory / name).write_bytes(content)
    assert load_model(directory).name == "tiny"
