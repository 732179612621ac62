"""Reads files that were changed at random, and fails where a reader answers otherwise than with a sentence.

    python tests/fuzz/fuzz.py                       # every target in turn, for 10 seconds
    python tests/fuzz/fuzz.py --seconds 3600 decode run
    python tests/fuzz/fuzz.py run --seed 7 --first 812 --cases 1    # a case that failed

A case is decided by the target, the seed and its number. What a reader may do is return, or raise a `PcEngineError`.
Anything else (another exception, a case that takes longer than a minute, the death of the process) leaves the files
of the case in the folder that is printed at the start, and ends with a code other than 0.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch
from xml.etree import ElementTree

import h5py
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io
from onnx import helper, numpy_helper
from PIL import Image
from safetensors.numpy import save

from pc_engine.converters import convert
from pc_engine.datasets import read_labelled
from pc_engine.decoding.decode import decode_bytes
from pc_engine.decoding.heif import HeifFormat, is_read
from pc_engine.errors import ImageError, PcEngineError
from pc_engine.export import keras_files
from pc_engine.export.class_names import read_class_names
from pc_engine.export.external_data import embed_external_data
from pc_engine.export.keras_files import read_keras
from pc_engine.export.weight_files import read_safetensors, read_torch
from pc_engine.fitted.counter import load_counter
from pc_engine.fitted.fitted_images import FittedImages
from pc_engine.fitted.signatures import load_signatures
from pc_engine.graph.prepare import open_graph, parse_graph
from pc_engine.manifest import MANIFEST_FILE, NETWORK_FILE
from pc_engine.manifest_file import read_manifest
from pc_engine.modes import settings_for
from pc_engine.report import write_report
from pc_engine.result import Result
from pc_engine.runs.rows import iter_rows
from pc_engine.runs.run_directory import RunDirectory
from pc_engine.runs.run_status import read_status
from pc_engine.runs.writers import write_partition
from pc_engine.sources import SourceImage, iter_images, listing
from pc_engine.sources.folders import walk_folder

_LONGEST_CASE = 60.0
# Turns that each target gets.
_ROUNDS = 5
_EMBEDDED = Path(sys.modules["pc_engine.manifest"].__file__ or "").parent / "embedded" / "lego"

#: The files of a case by name; a value may be a folder's photo, which is not changed.
Files = dict[str, bytes]


@dataclass(frozen=True)
class Target:
    """A reader: files that it reads, of which one is changed at a time, and what reads them."""

    seeds: Callable[[], list[Files]]
    read: Callable[[Path], object]
    unchanged: tuple[str, ...] = ()


@cache
def picture(kind: str, size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


@cache
def photos() -> list[Files]:
    exif = Image.Exif()
    exif[0x0112] = 6
    with_exif = picture("JPEG", exif=exif.tobytes())
    boxed: tuple[HeifFormat, ...] = ("AVIF", "HEIF")
    kinds = "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", *filter(is_read, boxed)
    plain = [picture(kind) for kind in kinds]
    options = [picture("JPEG", progressive=True), picture("WEBP", lossless=True), picture("PNG", bits=2), with_exif]
    options += [picture("TIFF", big_tiff=True), b"P2 3 1 4095 0 9 4095", b"P5 2 1 4095 \0\0\1\1"]
    return [{"photo": content} for content in (*plain, *options)]


def decode(folder: Path) -> None:
    try:
        decode_bytes((folder / "photo").read_bytes(), 32, 32)
    except ImageError as error:
        check_sentence(error)


@cache
def embedded(name: str) -> bytes:
    return (_EMBEDDED / name).read_bytes()


def fitted(name: str, load: Callable[[Path], Any]) -> list[Files]:
    """Return the embedded model's part as it is, and with the images that it was fitted on."""
    old = embedded(f"{name}.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(old)
        replace(load(path), images=FittedImages.of(range(9))).save(path)
        return [{name: old}, {name: path.read_bytes()}]


def manifests() -> list[Files]:
    raw = json.loads(embedded(MANIFEST_FILE))
    raw.pop("sha256", None)
    network = {name: raw[name] for name in ("input", "taps")}
    report = {"backend": "openvino", "n": 9, "top1": 1, "counts": {"c2p": 1}, "tap_errors": {"logits": 0}, "files": {}}
    full = {**raw, "quantised": {"int8": network}, "fidelity": {"int8": report}}
    return [{MANIFEST_FILE: json.dumps(content).encode()} for content in (raw, full)]


def read_model(folder: Path) -> None:
    settings_for(read_manifest(folder))


def networks() -> list[Files]:
    return [{NETWORK_FILE: embedded(NETWORK_FILE)}]


def read_network(folder: Path) -> None:
    manifest = read_manifest(_EMBEDDED)
    manifest.files.clear()  # type: ignore[attr-defined]
    open_graph(folder / NETWORK_FILE, manifest, tuple(manifest.taps))


@cache
def beside() -> list[Files]:
    """A network whose weights lie in a file beside it."""
    values = [np.arange(12, dtype=np.float32).reshape(3, 4), np.arange(5, dtype=np.int64)]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w0"], ["y"]), helper.make_node("Identity", ["w1"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("y", "z")],
        [numpy_helper.from_array(array, f"w{k}") for k, array in enumerate(values)],
    )
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / NETWORK_FILE
        onnx.save(helper.make_model(graph), path, save_as_external_data=True, location="data", size_threshold=0)
        return [{NETWORK_FILE: path.read_bytes(), "data": (path.parent / "data").read_bytes()}]


def read_beside(folder: Path) -> None:
    embed_external_data(parse_graph(folder / NETWORK_FILE), folder / NETWORK_FILE)


@cache
def weights() -> list[Files]:
    kernel, bias = np.ones((3, 3, 3, 4), np.float32), np.zeros(4, np.float32)
    old, new, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with h5py.File(old, "w") as file:
        own = file.create_group("model_weights/block1_conv1/block1_conv1")
        own["kernel:0"], own["bias:0"] = kernel, bias
    with h5py.File(new, "w") as file:
        own = file.create_group("layers/conv2d/vars")
        own["0"], own["1"] = kernel, bias
        own.attrs["name"] = "block1_conv1"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("model.weights.h5", new.getvalue())
    tensors = save({"features.0.weight": kernel, "features.0.bias": bias})
    keras = [{"w.h5": old.getvalue()}, {"w.h5": new.getvalue()}, {"w.keras": archive.getvalue()}]
    return [*keras, {"w.safetensors": tensors}, *({"w.pth": written} for written in torch_files())]


def torch_files() -> Iterator[bytes]:
    """Yield files of PyTorch, which alone writes them; none without it."""
    if find_spec("torch") is None:
        return
    import torch  # takes seconds, and the other targets have no use for it

    kernel = torch.zeros(4, 3, 3, 3)
    state = {"features.0.weight": kernel, "features.0.bias": kernel[0, 0, 0].half(), "turned": kernel[0, 0].t()}
    content = {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1, "steps": [1]}}
    for kind in ({}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}):
        stream = io.BytesIO()
        torch.save(content, stream, **kind)
        yield stream.getvalue()


def read_weight_file(folder: Path) -> None:
    keras_files._SECONDS = 20  # some changes keep HDF5's library for ever
    readers = {"w.h5": read_keras, "w.keras": read_keras, "w.safetensors": read_safetensors, "w.pth": read_torch}
    for name, read in readers.items():
        if (folder / name).exists():
            read(folder / name)


def labels(name: str, *contents: Any) -> list[Files]:
    texts = [content if isinstance(content, str) else json.dumps(content) for content in contents]
    return [{name: text.encode(), "img/1.jpg": picture("JPEG"), "img/2.jpg": picture("JPEG")} for text in texts]


BOXES = [{"c": "apple", "b": [1, 2, 10, 12], "crowd": 0}, {"c": "pear", "b": [4.5, 2, 3, 3], "crowd": 1}]
LABELS_JSON = {
    "set": "fruit",
    "images": [
        {"file": "img/1.jpg", "dominant": "apple", "count": 1, "class_id": 3, "boxes": BOXES},
        {"file": "img/2.jpg", "boxes": BOXES},
    ],
}
COCO = {
    "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
    "annotations": [
        {"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "iscrowd": 0},
        {"image_id": 1, "category_id": 8, "bbox": [1, 2, 3, 4], "iscrowd": 1},
    ],
    "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
}
TASKS = [
    {
        "id": 1,
        "data": {"image": "/data/local-files/?d=img/1.jpg", "path": "img/1.jpg"},
        "annotations": [
            {
                "updated_at": "2026-01-01",
                "result": [
                    {"type": "number", "value": {"number": 1}},
                    {
                        "type": "rectanglelabels",
                        "original_width": 64,
                        "original_height": 48,
                        "value": {"x": 1, "y": 2, "width": 30, "height": 40, "rotation": 5, "rectanglelabels": ["cat"]},
                    },
                ],
            }
        ],
        "predictions": [{"result": [{"type": "number", "value": {"number": 2}}]}],
    }
]
CVAT = """<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task><id>1</id></task></meta>
<image id="0" name="img/1.jpg" subset="Train" width="64" height="48">
<box label="cat" source="auto" xtl="1.00" ytl="2.50" xbr="30.00" ybr="40.00" rotation="12.5" z_order="0">
<attribute name="score">0.5</attribute></box>
<ellipse label="cat" cx="9" cy="9" rx="3" ry="4" rotation="30"/><points label="dog" points="1.50,2.00"/>
<polygon label="cat" points="1,2;3,4;5,1"/><mask label="cat" rle="0, 4, 2" left="1" top="2" width="3" height="2"/>
<skeleton label="dog"><points label="eye" outside="0" points="1,2"/><points label="ear" outside="1" points="3,4"/>
</skeleton></image><image id="1" name="2" width="64" height="48"><tag label="cat"/></image></annotations>"""
VOC = """<annotation><folder>img</folder><filename>1.jpg</filename><path>img/1.jpg</path>
<size><width>64</width><height>48</height><depth>3</depth></size><object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>1.50</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox><point><x>9</x><y>9</y></point>
</object><object><name>dog</name><difficult>1</difficult><part><name>head</name></part>
<bndbox><ymax>9</ymax><xmin>3</xmin><xmax>20</xmax><ymin>4</ymin></bndbox></object></annotation>"""
ROWS = [
    {"path": "img/1.jpg", "count": "4+", "class": "cat"},
    {"file": "img/2.jpg", "class_index": 3, "wnid": "n01440764"},
]
YAML = "path: .\ntrain: img\nval: [img, list.txt]\nnames:\n  0: cat\n  1: dog\n"
CSV = "path,count,class\nimg/1.jpg,2,cat\nimg/2.jpg,4+,dog\n"


def yolo() -> list[Files]:
    (files,) = labels("data.yaml", YAML)
    boxes = "0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.3 0.1 0.2 0.4\n"
    photo = files.pop("img/1.jpg")
    del files["img/2.jpg"]
    return [{**files, "img/images/1.jpg": photo, "img/labels/1.txt": boxes.encode(), "list.txt": b"img/images/1.jpg\n"}]


@cache
def matlab() -> list[Files]:
    entries = [("1.jpg", 0, 1, np.zeros((0, 4))), ("2.jpg", 2, 0, np.array([[1, 2, 3, 4.5], [3, 4, 9, 9]]))]
    names = ("name", "label", "istest", "anno")
    array = np.zeros((1, len(entries)), dtype=[(name, object) for name in names])
    for column, entry in enumerate(entries):
        for name, value in zip(names, entry, strict=True):
            array[0, column][name] = value
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "imgIdx.mat"
        for compressed in (False, True):
            scipy.io.savemat(path, {"imgIdx": array}, do_compression=compressed)
            found.append(path.read_bytes())
        with h5py.File(path, "w") as file:
            group = file.create_group("imgIdx")
            for name, values in zip(names, zip(*entries, strict=True), strict=True):
                references = np.empty((len(values), 1), h5py.ref_dtype)
                for row, value in enumerate(values):
                    data = [[ord(letter)] for letter in value] if isinstance(value, str) else np.atleast_2d(value).T
                    references[row, 0] = file.create_dataset(f"#refs#/{name}{row}", data=np.array(data)).ref
                group.create_dataset(name, data=references)
        found.append(path.read_bytes())
    return [{"imgIdx.mat": content, "1.jpg": picture("JPEG"), "2.jpg": picture("JPEG")} for content in found]


def read_matlab(folder: Path) -> None:
    # Each takes a process, so that one of the two has to do.
    kind = "mso" if (folder / "imgIdx.mat").stat().st_size % 2 else "sos"
    read_labelled(f"{kind}:{folder}")


@cache
def lists() -> list[Files]:
    photo = picture("JPEG")
    column = pa.array(
        [{"bytes": photo, "path": "1.jpg"}, None], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    tables = [pa.table({"image": column, "label": [1, 2]}), pa.table({"jpg": pa.array([photo, photo], pa.binary())})]
    parts = []
    for table in tables:
        stream = io.BytesIO()
        pq.write_table(table, stream)
        parts.append(stream.getvalue())
    files = {"list.txt": b"1.jpg\n# none\n./1.jpg\nabsent.jpg\n", "list.csv": b"path,n\n1.jpg,2\n,3\n", "1.jpg": photo}
    return [{**files, "part.parquet": part} for part in parts]


def read_lists(folder: Path) -> None:
    def walk_within(path: str, *arguments: Any, **options: Any) -> Iterator[SourceImage]:
        # A changed list may name a folder as large as "/".
        within = Path(path).resolve().is_relative_to(folder.resolve())
        return walk_folder(path, *arguments, **options) if within else iter(())

    with patch.object(listing, "walk_folder", walk_within):
        for source in (f"@{folder / 'list.txt'}", f"@{folder / 'list.csv'}", folder / "part.parquet"):
            try:
                for image in iter_images([source]):
                    try:
                        image.read()
                    except ImageError as error:
                        check_sentence(error)
            except PcEngineError as error:
                check_sentence(error)


ELLIPSE = {"kind": "ellipse", "x": 3.0, "y": 4.0, "rx": 2.0, "ry": 1.0, "score": 0.5}
BOX = {"kind": "box", "x0": 3.0, "y0": 4.0, "x1": 9.0, "y1": 8.0, "score": 0.5}
DONE = {
    **Result("1.jpg", "ok", None, 40, 30, "c2p", "lego", 1, "1", {"0": -1.0, "1": 1.0, "4+": -2.0}).to_dict(),
    "pointers": [ELLIPSE],
}
FOUND = {
    **Result("2.jpg", "ok", None, 40, 30, "p2c", "lego", 2, "2", None, 3, "apple", 0.5).to_dict(),
    "pointers": [BOX, BOX],
}
FAILED = Result("3.jpg", "error", "It is no image.", None, None, "c2p", "lego").to_dict()
STATE = {
    "state": "finished",
    "settings": {"model": "lego", "mode": "c2p", "backend": "openvino", "precision": "fp32", "format": 1},
    "shard": None,
    "total": 3,
    "seconds": 1.5,
    "images_per_second": 2.0,
    "stages": {"decode": 1.0},
}
CORRECTIONS = [
    {"path": "1.jpg", "count": 2, "pointers": [ELLIPSE, BOX], "when": "2026-01-01T00:00:00+00:00"},
    {"path": "2.jpg", "withdrawn": True, "when": ""},
    {"path": "2.jpg", "count": 0, "pointers": []},
]


@cache
def runs() -> list[Files]:
    corrections = "".join(json.dumps(line) + "\n" for line in CORRECTIONS).encode()
    others = {"run.json": json.dumps(STATE).encode(), "corrections.jsonl": corrections}
    seeds = []
    with tempfile.TemporaryDirectory() as scratch:
        for row_format in ("jsonl", "parquet"):
            path = Path(scratch) / f"part-00000.{row_format}"
            write_partition(path, [DONE, FOUND, FAILED])
            seeds.append({path.name: path.read_bytes(), **others})
    return seeds


def read_run(folder: Path) -> None:
    for read in (
        read_status,
        lambda path: list(map(Result.from_dict, iter_rows(path))),
        lambda path: convert(partial(iter_rows, path, corrected=True), "coco", path / "out.json"),
        lambda path: write_report(path, thumbnails=False),
        lambda path: RunDirectory(path, retry_failed=True).__exit__(None, None, None),
    ):
        try:
            read(folder)
        except PcEngineError as error:
            check_sentence(error)


TARGETS = {
    "decode": Target(photos, decode),
    "manifest": Target(manifests, read_model),
    "network": Target(networks, read_network),
    "beside": Target(beside, read_beside),
    "weights": Target(weights, read_weight_file),
    "counter": Target(
        lambda: fitted("counter", load_counter),
        lambda folder: load_counter(folder / "counter"),
    ),
    "signatures": Target(
        lambda: fitted("signatures", load_signatures),
        lambda folder: load_signatures(folder / "signatures"),
    ),
    "labels.json": Target(partial(labels, "labels.json", LABELS_JSON), lambda folder: read_labelled(str(folder))),
    "coco": Target(partial(labels, "coco.json", COCO), lambda folder: read_labelled(f"coco:{folder / 'coco.json'}")),
    "label studio": Target(
        partial(labels, "tasks.json", TASKS), lambda folder: read_labelled(f"label-studio:{folder / 'tasks.json'}")
    ),
    "cvat": Target(partial(labels, "cvat.xml", CVAT), lambda folder: read_labelled(f"cvat:{folder / 'cvat.xml'}")),
    "voc": Target(partial(labels, "annotations/1.xml", VOC), lambda folder: read_labelled(f"voc:{folder}")),
    "csv": Target(partial(labels, "labels.csv", CSV), lambda folder: read_labelled(str(folder))),
    "json": Target(partial(labels, "rows.json", ROWS), lambda folder: read_labelled(str(folder / "rows.json"))),
    "jsonl": Target(
        partial(labels, "rows.jsonl", "\n".join(map(json.dumps, ROWS))),
        lambda folder: read_labelled(str(folder / "rows.jsonl")),
    ),
    "yolo": Target(yolo, lambda folder: read_labelled(f"yolo:{folder / 'data.yaml'}")),
    "matlab": Target(matlab, read_matlab),
    "lists": Target(lists, read_lists),
    "names": Target(
        lambda: [{"names.json": b'["cat", "dog"]'}, {"names.txt": b"cat\ndog\n"}],
        lambda folder: [read_class_names(path) for path in folder.iterdir()],
    ),
    "run": Target(runs, read_run),
}

HOSTILE: tuple[Any, ...] = (
    *(None, True, [], {}, "", 0, -1, 1.5, 2**31, 2**63, 10**400, -(10**30), 1e308, -1e308, 1e-320),
    *(float("nan"), float("inf"), "nan", "\ud800", "\0", "a" * 5000, "../../../etc/passwd", "/dev/zero", "~nobody/x"),
    *([1], [[[]]], {"": None}, {"a": {"a": []}}, "9" * 5000, "1e999", "\u2028", "﷽", "4+", "-0"),
)
SNIPPETS = (
    *(
        b"\0",
        b"\xff" * 8,
        b"\x7f\xff\xff\xff",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b'"',
        b"{",
    ),
    *(
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5000,
        b"\n",
        b"\r",
        b",",
        b"&a [*a]",
        b"*a",
        b"!!python/none x",
        b"%s",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]>",
        b"&b;",
        b"&#0;",
        b"<a>" * 100_000,
        b"<a/>",
        b"<![CDATA[",
        b"<!--",
        b'encoding="gb2312"',
    ),
)


def change(content: bytes, draw: random.Random) -> bytes:
    """Return other bytes: a value of JSON or XML changed, or some bytes."""
    if draw.random() < 0.6:
        for change_value in (change_json, change_xml):
            try:
                return change_value(content, draw)
            except (ValueError, RecursionError, ElementTree.ParseError):
                pass
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        change_bytes(data, draw)
    return bytes(data)


def change_json(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines() or [b""]
    many = len(lines) > 1 and all(line[:1] in (b"{", b"[") for line in lines)
    index = draw.randrange(len(lines)) if many else 0
    raw = json.loads(lines[index] if many else content)
    if isinstance(raw, int | float | str):
        raise ValueError("a text that happens to be JSON")  # noqa: TRY004 (as the text that is none)
    changed = changed_value(raw, draw)
    text = json.dumps(changed, ensure_ascii=draw.random() < 0.9).encode("utf-8", "surrogatepass")
    return b"\n".join([*lines[:index], text, *lines[index + 1 :], b""]) if many else text


def change_xml(content: bytes, draw: random.Random) -> bytes:
    root = ElementTree.fromstring(content)
    parent = draw.choice([element for element in root.iter() if len(element)])
    child = draw.choice(list(parent))
    choice = draw.random()
    if choice < 0.1:
        parent.remove(child)
    elif choice < 0.2:
        parent.extend([child] * draw.choice((1, 5, 300)))
    elif choice < 0.3:
        child.append(deepcopy(draw.choice(list(root.iter()))))
    elif choice < 0.4:
        child.tag = draw.choice(list(root.iter())).tag
    elif child.attrib and choice < 0.9:
        child.set(draw.choice(list(child.attrib)), str(draw.choice(HOSTILE)))
    else:
        child.text = str(draw.choice(HOSTILE))
    return ElementTree.tostring(root, encoding="utf-8")


def changed_value(value: Any, draw: random.Random) -> Any:
    if isinstance(value, dict | list) and value and draw.random() < 0.85:
        items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        key, item = draw.choice(items)
        choice = draw.random()
        if choice < 0.05:
            return (
                {k: v for k, v in items if k != key} if isinstance(value, dict) else [v for k, v in items if k != key]
            )
        if choice < 0.1 and isinstance(value, dict):
            return {(str(draw.choice(HOSTILE)) if k == key else k): v for k, v in items}
        if choice < 0.15 and isinstance(value, list):
            return [*value, *[item] * draw.choice((1, 5, 300))]
        changed = changed_value(item, draw)
        return {**value, key: changed} if isinstance(value, dict) else [changed if k == key else v for k, v in items]
    return draw.choice(HOSTILE)


def change_bytes(data: bytearray, draw: random.Random) -> None:
    n = len(data)
    start = draw.randrange(n + 1)
    end = min(n, start + draw.choice((1, 2, 4, 8, 64, 1024)))
    kind = draw.randrange(7)
    if kind == 0 and n:
        data[draw.randrange(n)] ^= 1 << draw.randrange(8)
    elif kind == 1:
        data[start:end] = bytes(draw.randrange(256) for _ in range(end - start))
    elif kind == 2:
        data[start:start] = draw.choice(SNIPPETS)
    elif kind == 3:
        del data[start:end]
    elif kind == 4:
        data[start:start] = data[start:end] * draw.choice((1, 2, 50))
    elif kind == 5:
        data[start:end] = draw.choice(SNIPPETS)[: end - start]
    else:
        del data[start:]


def check_sentence(error: PcEngineError) -> None:
    text = str(error)
    assert text.strip(), "an error without a word"
    assert "\n" not in text.strip() or isinstance(error, ImageError), f"an error of several lines: {text!r}"
    assert len(text) < 3_000, f"an error of {len(text)} characters: {text[:200]!r}"


def run_case(name: str, seed: int, number: int, folder: Path) -> None:
    target, draw = TARGETS[name], random.Random(f"{name} {seed} {number}")
    files = draw.choice(target.seeds())
    changeable = [file for file in files if not file.endswith(".jpg")] or list(files)
    chosen = draw.choice(changeable)
    shutil.rmtree(folder, ignore_errors=True)
    for file, content in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(change(content, draw) if file == chosen else content)
    try:
        target.read(folder)
    except PcEngineError as error:
        check_sentence(error)


def run(names: list[str], seed: int, seconds: float, cases: int | None, first: int, work: Path) -> int:
    done, slowest = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
    end, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < end and (cases is None or rounds < cases):
        rounds += 1
        for name in names:
            # A case that takes a process of its own takes as long as hundreds of others: turns are of equal time.
            turn = time.monotonic() + seconds / len(names) / _ROUNDS
            while True:
                number, start = first + done[name], time.monotonic()
                faulthandler.dump_traceback_later(_LONGEST_CASE, exit=True)
                try:
                    run_case(name, seed, number, work / name)
                except Exception:
                    traceback.print_exc()
                    print(f"FAILED: {name} --seed {seed} --first {number} --cases 1; its files are in {work / name}.")
                    return 1
                faulthandler.cancel_dump_traceback_later()
                slowest[name] = max(slowest[name], time.monotonic() - start)
                done[name] += 1
                if cases is not None or time.monotonic() > turn:
                    break
    for name in names:
        print(f"{name}: {done[name]:,} cases, the slowest took {slowest[name]:.2f} s")
    print(f"{sum(done.values()):,} cases, seed {seed}: none failed.")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, help="end after so many of each target")
    options = parser.parse_args()
    unknown = set(options.targets) - TARGETS.keys()
    if unknown:
        parser.error(f"no target {min(unknown)}: choose from {', '.join(TARGETS)}")
    warnings.simplefilter("ignore")
    work = Path(tempfile.mkdtemp(prefix="pc-engine-fuzz-"))
    print(f"Cases are in {work} while they are read.", flush=True)
    code = run(options.targets or list(TARGETS), options.seed, options.seconds, options.cases, options.first, work)
    if code == 0:
        shutil.rmtree(work)
    return code


if __name__ == "__main__":
    sys.exit(main())
