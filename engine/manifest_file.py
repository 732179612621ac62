"""``manifest.json`` as a file: written with its own sum, and read with every value checked.

Under ``"sha256"`` the file holds that of its own bytes, with 64 zeros in the place of the sum. Who changes a manifest
by hand takes that line out.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from pc_engine.errors import ManifestError, system_reason
from pc_engine.files.digest import file_sha256
from pc_engine.files.durable import publish_bytes
from pc_engine.files.json_values import (
    as_list,
    as_number,
    as_numbers,
    as_object,
    as_size,
    as_strings,
    as_text,
    as_texts,
    as_three_numbers,
)
from pc_engine.manifest import (
    MANIFEST_FILE,
    MODEL_FILES,
    Fidelity,
    Manifest,
    NetworkInput,
    QuantisedNetwork,
    Tap,
)

FORMAT = 1
# The field with the sum of the manifest itself, and what stands in its place while that is taken.
_OWN_SUM, _NO_SUM = "sha256", "0" * 64
#: Pixels along a side; beyond it, and beyond so many values of a tap, no memory holds a batch.
LARGEST_INPUT = 16_384
_LARGEST_TAP = 2**31 - 1


def write_manifest(
    manifest: Manifest,
    directory: Path,
    to_come: Mapping[str, Path] | None = None,
    lost: Mapping[str, str] | None = None,
) -> Manifest:
    """Write ``manifest.json`` into ``directory`` with the sha256 of its model files; return it.

    ``to_come`` are files that lie elsewhere yet, by the name that they are going to have. Of those ``lost`` the sum is
    kept, so that they are missed.
    """
    places = {name: directory / name for name in MODEL_FILES} | dict(to_come or {})
    files = {name: file_sha256(places[name]) for name in MODEL_FILES if places[name].is_file()}
    manifest = replace(manifest, files={**(lost or {}), **files})
    # Ahead of others: without the last line the comma before it would be left, and no JSON.
    content = {"format": FORMAT, _OWN_SUM: _NO_SUM, **asdict(manifest)}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    start, _, end = text.partition(_NO_SUM)
    publish_bytes(directory / MANIFEST_FILE, (start + hashlib.sha256(text.encode()).hexdigest() + end).encode())
    return manifest


def read_manifest(directory: Path) -> Manifest:
    """Read ``directory/manifest.json``.

    Raises
    ------
    ManifestError
        If it is absent, is not JSON, was changed since it was written, lacks a field or has one that is not known, or
        a field has the wrong form.
    """
    path = directory / MANIFEST_FILE
    try:
        if path.exists() and not path.is_file():  # a FIFO would be waited for without end
            raise ManifestError(f"{path} is not a regular file: put the manifest there, or make it again.")
        content = path.read_bytes()
        raw = json.loads(content.decode())
    except FileNotFoundError:
        raise ManifestError(
            f"{directory} has no {MANIFEST_FILE}, so it is not a model directory: make one with 'pc-engine export'."
        ) from None
    except OSError as error:
        raise ManifestError(f"{path} cannot be read ({system_reason(error)}): check its permissions.") from None
    except (ValueError, RecursionError) as error:
        raise ManifestError(
            f"{path} cannot be read as JSON ({error}): mend it there, or make it again with 'pc-engine export'."
        ) from None
    if not isinstance(raw, dict):
        raise ManifestError(f"{path} holds {type(raw).__name__}, expected a JSON object.")
    if raw.get("format") != FORMAT:
        raise ManifestError(
            f"{path} has format {raw.get('format')!r}, this version reads {FORMAT}: make it again with 'pc-engine "
            "export'."
        )
    unknown = raw.keys() - {"format", _OWN_SUM, *(item.name for item in fields(Manifest))}
    if unknown:
        raise ManifestError(
            f"{path} has the field '{min(unknown)}', which is not known: remove it, or restore the file."
        )
    if _OWN_SUM in raw and not _has_its_sum(content, raw[_OWN_SUM]):
        raise ManifestError(
            f"{path} was changed since it was written: restore it, or remove its line '{_OWN_SUM}' if you changed it."
        )
    try:
        return _parse(raw)
    except KeyError as error:
        raise ManifestError(f"{path} lacks the field {error}.") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ManifestError(f"{path} has a field of the wrong form: {error}.") from None


def _has_its_sum(content: bytes, found: Any) -> bool:
    if not isinstance(found, str) or not re.fullmatch("[0-9a-f]{64}", found):
        return False
    start, digits, end = content.rpartition(found.encode())
    return bool(digits) and hashlib.sha256(start + _NO_SUM.encode() + end).hexdigest() == found


def _parse(raw: Mapping[str, Any]) -> Manifest:
    return Manifest(
        name=as_text(raw["name"], "name"),
        input=_parse_input(raw["input"], "input"),
        taps=_parse_taps(raw["taps"], "taps"),
        count_features=as_texts(raw["count_features"], "count_features"),
        classes=as_texts(raw.get("classes", []), "classes"),
        licence=as_text(raw.get("licence", "unknown"), "licence"),
        source=as_text(raw.get("source", "unknown"), "source"),
        settings=_parse_settings(raw.get("settings", {})),
        quantised={
            str(precision): QuantisedNetwork(
                _parse_input(network["input"], f"quantised.{precision}.input"),
                _parse_taps(network["taps"], f"quantised.{precision}.taps"),
            )
            for precision, network in _objects_in(raw, "quantised").items()
        },
        fidelity={
            str(precision): _parse_fidelity(report) for precision, report in _objects_in(raw, "fidelity").items()
        },
        files=as_strings(raw.get("files", {}), "files"),
    )


def _objects_in(raw: Mapping[str, Any], field: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the objects by name that a field holds, which may be absent."""
    found = as_object(raw.get(field, {}), field)
    return {name: as_object(value, f"{field}.{name}") for name, value in found.items()}


def _parse_input(raw: Any, field: str) -> NetworkInput:
    pixels = dict(as_object(raw, field))
    if unknown := pixels.keys() - {item.name for item in fields(NetworkInput)}:
        raise ValueError(f"{field}.{min(unknown)} is not known")
    network_input = NetworkInput(
        **{
            **pixels,
            "tensor": as_text(pixels["tensor"], f"{field}.tensor"),
            "height": as_size(pixels["height"], f"{field}.height", LARGEST_INPUT),
            "width": as_size(pixels["width"], f"{field}.width", LARGEST_INPUT),
            "mean": as_three_numbers(pixels.get("mean", (0, 0, 0)), f"{field}.mean"),
            "std": as_three_numbers(pixels.get("std", (1, 1, 1)), f"{field}.std"),
        }
    )
    if min(network_input.std) <= 0:
        raise ValueError(f"{field}.std is {network_input.std}, expected three positive numbers")
    for name, allowed in (("layout", ("NHWC", "NCHW")), ("dtype", ("uint8", "float32")), ("channels", ("RGB", "BGR"))):
        if getattr(network_input, name) not in allowed:
            raise ValueError(f"{field}.{name} is {getattr(network_input, name)!r:.60}, expected one of {allowed}")
    if network_input.dtype == "uint8" and network_input.layout != "NHWC":
        raise ValueError("a uint8 input must have layout NHWC")
    return network_input


def _parse_taps(raw: Any, field: str) -> dict[str, Tap]:
    taps = as_object(raw, field)
    return {as_text(name, "a tap's name"): _parse_tap(tap, f"{field}.{name}") for name, tap in taps.items()}


def _parse_tap(raw: Any, field: str) -> Tap:
    tap = as_object(raw, field)
    sizes = as_list(tap["shape"], f"{field}.shape", "whole numbers")
    shape = tuple(as_size(size, f"{field}.shape", _LARGEST_TAP) for size in sizes)
    if math.prod(shape) > _LARGEST_TAP:
        raise ValueError(f"{field}.shape is {list(shape)}, expected at most {_LARGEST_TAP:,} values")
    return Tap(as_text(tap["tensor"], f"{field}.tensor"), shape)


def _parse_fidelity(raw: Mapping[str, Any]) -> Fidelity:
    return Fidelity(
        backend=str(raw["backend"]),
        n=as_size(raw["n"], "n", _LARGEST_TAP),
        top1=as_number(raw["top1"], "top1"),
        counts=as_numbers(raw["counts"], "counts"),
        tap_errors=as_numbers(raw["tap_errors"], "tap_errors"),
        files=as_strings(raw["files"], "files"),
    )


def _parse_settings(raw: Mapping[str, Any]) -> dict[str, float | str]:
    """Return numbers and text by name; which of both a setting takes, `pc_engine.modes.settings_for` says."""
    return {
        str(name): as_text(value, f"settings.{name}")
        if isinstance(value, str)
        else as_number(value, f"settings.{name}")
        for name, value in as_object(raw, "settings").items()
    }
