from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pc_engine.errors import ManifestError
from pc_engine.manifest import (
    MANIFEST_FILE,
    NETWORK_FILE,
    QUANTISED_FILES,
    Fidelity,
    Manifest,
    QuantisedNetwork,
    Tap,
)
from pc_engine.manifest_file import read_manifest, write_manifest
from pc_engine.result import name_of_class


@pytest.fixture
def edited(tiny_manifest: Manifest, tmp_path: Path) -> Callable[..., Path]:
    """Return ``write(change)``, which writes a manifest after ``change(raw)``."""

    def write(change: Callable[[dict[str, Any]], object]) -> Path:
        write_manifest(tiny_manifest, tmp_path)
        raw = json.loads((tmp_path / MANIFEST_FILE).read_text(encoding="utf-8"))
        del raw["sha256"]
        change(raw)
        (tmp_path / MANIFEST_FILE).write_text(json.dumps(raw), encoding="utf-8")
        return tmp_path

    return write


def test_what_was_written_is_read(tiny_manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / NETWORK_FILE).write_bytes(b"network")
    (tmp_path / "other.bin").write_bytes(b"not a model file")
    manifest = replace(tiny_manifest, classes=("röd", "grün", "青"), source="https://example.org")
    written = write_manifest(manifest, tmp_path)
    assert read_manifest(tmp_path) == written
    assert written == replace(manifest, files={NETWORK_FILE: hashlib.sha256(b"network").hexdigest()})
    assert written.network_sha256 == hashlib.sha256(b"network").hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST_FILE, NETWORK_FILE, "other.bin"]


def test_classes_have_names_or_numbers(tiny_manifest: Manifest) -> None:
    assert tiny_manifest.n_classes == 3
    assert tiny_manifest.class_name(2) == "blue"
    for nameless in ((), ("red", "green", "")):  # called by its number, as where a row has no name
        assert replace(tiny_manifest, classes=nameless).class_name(2) == name_of_class(2) == "2"


def test_optional_fields_have_defaults(edited: Callable[..., Path]) -> None:
    def strip(raw: dict[str, Any]) -> None:
        for name in ("classes", "licence", "source", "settings", "files"):
            del raw[name]
        for name in ("layout", "dtype", "channels", "mean", "std"):
            del raw["input"][name]

    manifest = read_manifest(edited(strip))
    assert (manifest.classes, manifest.licence, manifest.settings, manifest.files) == ((), "unknown", {}, {})
    assert (manifest.input.layout, manifest.input.dtype, manifest.input.std) == ("NHWC", "uint8", (1.0, 1.0, 1.0))


@pytest.mark.parametrize("name", ["conv_last", "logits"])
def test_a_required_tap_that_is_missing_is_named(tiny_manifest: Manifest, name: str) -> None:
    taps = {tap: value for tap, value in tiny_manifest.taps.items() if tap != name}
    with pytest.raises(ManifestError, match=f"names no tap '{name}'"):
        replace(tiny_manifest, taps=taps)


def test_count_features_have_to_be_taps(tiny_manifest: Manifest) -> None:
    with pytest.raises(ManifestError, match="lists 'fc6' under count_features"):
        replace(tiny_manifest, count_features=("gap", "fc6"))


def test_a_name_for_each_logit_or_none(tiny_manifest: Manifest) -> None:
    with pytest.raises(ManifestError, match="names 2 classes, but its logits have 3"):
        replace(tiny_manifest, classes=("a", "b"))
    with pytest.raises(ManifestError, match="names 3 classes, but its logits have 7"):
        replace(tiny_manifest, taps={**tiny_manifest.taps, "logits": Tap("scores", (7,))})


def test_evidence_has_one_value_for_each_map_that_it_speaks_of(tiny_manifest: Manifest) -> None:
    taps = {**tiny_manifest.taps, "evidence": Tap("evidence", (5,))}
    assert replace(tiny_manifest, taps=taps).evidence_maps == "conv_last"
    with pytest.raises(ManifestError, match=r"'evidence' the shape \[4\] .* 'conv_last', the shape \[5, 8, 8\]"):
        replace(tiny_manifest, taps={**taps, "evidence": Tap("evidence", (4,))})
    with pytest.raises(ManifestError, match=r"'conv_top', the shape \[7, 2, 2\]"):
        replace(tiny_manifest, taps={**taps, "conv_top": Tap("top", (7, 2, 2))})
    top = replace(tiny_manifest, taps={**taps, "conv_top": Tap("top", (5, 2, 2))})
    assert top.evidence_maps == "conv_top"
    # Without evidence the name says nothing.
    assert replace(tiny_manifest, taps={**tiny_manifest.taps, "conv_top": Tap("top", (7,))})


def test_the_source_of_signatures_is_a_word_and_has_to_be_there(tiny_manifest: Manifest, tmp_path: Path) -> None:
    words = {"p2c.signature": "evidence", "combined.heat": "evidence"}
    words |= {"combined.pointer": "mixture", "combined.clusters": "peaks"}
    settings = {"p2c.trim": 0.5, **words}
    with pytest.raises(ManifestError, match=r"sets 'p2c\.signature' to 'evidence', a tap that it does not have"):
        replace(tiny_manifest, settings=settings)
    taps = {**tiny_manifest.taps, "evidence": Tap("evidence", (5,))}
    write_manifest(replace(tiny_manifest, taps=taps, settings=settings), tmp_path)
    assert read_manifest(tmp_path).settings == settings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as JSON"),
        (b'{"format": 1', "cannot be read as JSON"),
        (b"\xff\xfe{}", "cannot be read as JSON"),
        (b"[]", "holds list, expected a JSON object"),
        (b"null", "holds NoneType"),
        (b"{}", "has format None, this version reads 1"),
        (b'{"format": 2}', "has format 2, this version reads 1"),
        (b'{"format": 1}', "lacks the field 'name'"),
        (b"[" * 100_000, "cannot be read as JSON"),
    ],
)
def test_a_file_that_is_no_manifest(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        read_manifest(tmp_path)


def test_a_manifest_that_may_not_be_read_is_not_to_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / MANIFEST_FILE).touch()
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ManifestError, match=r"json cannot be read \(Permission denied\): check its permissions\.$"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.update(input=7),
        lambda raw: raw["input"].update(size=3),
        lambda raw: raw["input"].update(height="tall"),
        lambda raw: raw["input"].update(height=None),
        lambda raw: raw["input"].update(mean=[1, 2]),
        lambda raw: raw["input"].update(std=[1, 1, 0]),
        lambda raw: raw["input"].update(std="abc"),
        lambda raw: raw["input"].update(layout="HWC"),
        lambda raw: raw["input"].update(dtype="int8"),
        lambda raw: raw["input"].update(channels="GRB"),
        lambda raw: raw["input"].update(layout="NCHW"),
        lambda raw: raw.update(taps=[]),
        lambda raw: raw.update(taps={"conv_last": "x"}),
        lambda raw: raw["taps"].update(logits={"tensor": "scores"}),
        lambda raw: raw["taps"].update(logits={"tensor": "scores", "shape": ["N"]}),
        lambda raw: raw["taps"].update(logits={"tensor": "scores", "shape": []}),
        lambda raw: raw["taps"].update(logits={"tensor": "scores", "shape": 3}),
        lambda raw: raw.update(settings={"p2c.trim": ["much"]}),
        lambda raw: raw.update(settings={"p2c.heat": "\ud800"}),
        lambda raw: raw.update(settings=[1]),
        lambda raw: raw.update(files=["model.onnx"]),
        lambda raw: raw.update(count_features=None),
        lambda raw: raw.pop("name"),
        lambda raw: raw["input"].pop("tensor"),
        lambda raw: raw["input"].update(height=float("inf")),
        lambda raw: raw["input"].update(std=[1, 1, float("inf")]),
        lambda raw: raw.update(settings={"p2c.top_last": float("inf")}),
        lambda raw: raw.update(settings={"p2c.top_last": float("nan")}),
        lambda raw: raw["input"].update(height=0),
        lambda raw: raw["input"].update(width=-5),
        lambda raw: raw["input"].update(width=64.0),
        lambda raw: raw["input"].update(width=True),
        lambda raw: raw["input"].update(height=10**9),
        lambda raw: raw["input"].update(tensor=["pixels"]),
        lambda raw: raw["input"].update(mean=[10**400, 0, 0]),
        lambda raw: raw["taps"].update(logits={"tensor": "scores", "shape": [3e9]}),
        lambda raw: raw["taps"].update(fc6={"tensor": "x", "shape": [10**6, 10**6]}),
        lambda raw: raw.update(name="\ud800"),
        lambda raw: raw.update(name=7),
        lambda raw: raw.update(classes="rgb"),
        lambda raw: raw.update(settings={"p2c.trim": True}),
        lambda raw: raw.update(setings={}),
    ],
)
def test_a_field_of_the_wrong_form_is_one_sentence(
    edited: Callable[..., Path], change: Callable[[dict[str, Any]], object]
) -> None:
    with pytest.raises(ManifestError):
        read_manifest(edited(change))


def test_every_flipped_bit_of_a_manifest_is_found(tiny_manifest: Manifest, tmp_path: Path) -> None:
    written = write_manifest(replace(tiny_manifest, classes=("röd", "grün", "青")), tmp_path)
    content = (tmp_path / MANIFEST_FILE).read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        (tmp_path / MANIFEST_FILE).write_bytes(changed)
        with pytest.raises(ManifestError):
            read_manifest(tmp_path)
    (tmp_path / MANIFEST_FILE).write_bytes(content)
    assert read_manifest(tmp_path) == written


def test_a_manifest_that_was_changed_by_hand_says_how_to_have_it_taken(tiny_manifest: Manifest, tmp_path: Path) -> None:
    write_manifest(tiny_manifest, tmp_path)
    text = (tmp_path / MANIFEST_FILE).read_text(encoding="utf-8").replace('"tiny"', '"mine"')
    (tmp_path / MANIFEST_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=r"was changed since it was written: .* remove its line 'sha256'"):
        read_manifest(tmp_path)
    # As an editor takes the line out: where it was the last one, the comma before it was left, and what was no JSON.
    lines = text.splitlines(keepends=True)
    (line,) = (line for line in lines if line.startswith(' "sha256": '))
    (tmp_path / MANIFEST_FILE).write_text("".join(lines).replace(line, ""), encoding="utf-8")
    assert read_manifest(tmp_path).name == "mine"


def test_no_manifest_at_all_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"is not a model directory: make one with 'pc-engine export'"):
        read_manifest(tmp_path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_FILE).mkdir()
    with pytest.raises(ManifestError, match=r"manifest\.json is not a regular file"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST_FILE).rmdir()
    os.mkfifo(tmp_path / MANIFEST_FILE)
    with pytest.raises(ManifestError, match=r"manifest\.json is not a regular file"):
        read_manifest(tmp_path)


def test_a_write_that_fails_leaves_the_old_manifest(
    tiny_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tiny_manifest, tmp_path)

    def fail(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space"):
        write_manifest(replace(tiny_manifest, name="new"), tmp_path)
    assert read_manifest(tmp_path).name == "tiny"


@pytest.fixture
def with_int8(tiny_manifest: Manifest, tmp_path: Path) -> Manifest:
    """The tiny manifest with a quantised network, and a report that holds for the files that are there."""
    (tmp_path / NETWORK_FILE).write_bytes(b"network")
    (tmp_path / QUANTISED_FILES["int8"]).write_bytes(b"in integers")
    quantised = QuantisedNetwork(tiny_manifest.input, tiny_manifest.taps)
    manifest = write_manifest(replace(tiny_manifest, quantised={"int8": quantised}), tmp_path)
    report = Fidelity("openvino", 150, 0.98, {"c2p": 0.99}, {"logits": 0.05}, manifest.precision_files("int8"))
    return write_manifest(replace(manifest, fidelity={"int8": report}), tmp_path)


def test_a_quantised_network_and_its_report_are_read_back(with_int8: Manifest, tmp_path: Path) -> None:
    assert read_manifest(tmp_path) == with_int8
    assert set(with_int8.files) == {NETWORK_FILE, QUANTISED_FILES["int8"]}
    assert with_int8.fidelity_now("int8") == with_int8.fidelity["int8"]
    assert with_int8.fidelity_now("bf16") is None


def test_a_report_holds_for_the_files_that_were_compared_only(with_int8: Manifest, tmp_path: Path) -> None:
    files = with_int8.files
    for name in (NETWORK_FILE, QUANTISED_FILES["int8"]):
        assert replace(with_int8, files={**files, name: "changed"}).fidelity_now("int8") is None
    assert replace(with_int8, files={**files, "counter.safetensors": "new"}).fidelity_now("int8") is None
    assert replace(with_int8, files={**files, "notes.txt": "new"}).fidelity_now("int8") is not None
    # Another precision does not care about the network in integers.
    assert set(with_int8.precision_files("bf16")) == {NETWORK_FILE}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda raw: raw["quantised"].update(int4=raw["quantised"]["int8"]),
            "quantised to 'int4', expected one of int8",
        ),
        (lambda raw: raw["quantised"]["int8"]["input"].update(height=32), "another input size, other taps"),
        (lambda raw: raw["quantised"]["int8"]["taps"].pop("logits"), "other taps or other shapes"),
        (lambda raw: raw["quantised"]["int8"].pop("taps"), "lacks the field 'taps'"),
        (lambda raw: raw.update(quantised=["int8"]), r"wrong form: quantised is \['int8'\], expected an object"),
        (lambda raw: raw["quantised"].update(int8=1), "wrong form: quantised.int8 is 1, expected an object"),
        (
            lambda raw: raw["quantised"]["int8"].update(input=[]),
            r"form: quantised.int8.input is \[\], expected an object",
        ),
        (
            lambda raw: raw["quantised"]["int8"]["input"].update(std=[1, 1]),
            r"int8.input.std is \[1, 1\], expected three",
        ),
        (lambda raw: raw["taps"]["logits"].update(shape=3), "wrong form: taps.logits.shape is 3, expected a list"),
        (lambda raw: raw["input"].update(depth=3), r"wrong form: input.depth is not known\.$"),
        (lambda raw: raw["input"].update(mean=None), "wrong form: input.mean is None, expected three numbers"),
        (lambda raw: raw["input"].update(mean=[0, [], 0]), r"wrong form: input.mean is \[\], expected a number"),
        (lambda raw: raw["taps"].update(logits=[3]), r"wrong form: taps.logits is \[3\], expected an object"),
        (lambda raw: raw.update(taps=[], input=7), "wrong form: input is 7, expected an object"),
        (lambda raw: raw.update(settings=None), "wrong form: settings is None, expected an object"),
        (lambda raw: raw["fidelity"]["int8"].pop("top1"), "lacks the field 'top1'"),
        (lambda raw: raw["fidelity"]["int8"].update(top1=float("nan")), "top1 is nan, expected a finite number"),
        (lambda raw: raw["fidelity"]["int8"].update(counts=1), "wrong form: counts is 1, expected an object"),
    ],
)
def test_a_quantised_network_of_the_wrong_form_is_one_sentence(
    with_int8: Manifest, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    raw = json.loads((tmp_path / MANIFEST_FILE).read_text(encoding="utf-8"))
    del raw["sha256"]
    change(raw)
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(ManifestError, match=message):
        read_manifest(tmp_path)
