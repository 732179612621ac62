"""Folders made to break a run: each file has one row, the others' rows are what they were, and memory stays flat."""

from __future__ import annotations

import io
import json
import math
import os
import random
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image, features

from pc_engine import Engine
from pc_engine.decoding.heif import is_read
from pc_engine.runs.rows import iter_rows
from pc_engine.sources import SourceImage
from pc_engine.sources.image import local_image
from pc_engine.sources.stored_names import stored_name

MODEL = ("--backend", "onnxruntime", "--precision", "fp32", "--batch-size", "8", "--quiet")
# A longer trial: PC_ENGINE_MUTATED=10000 pytest tests/engine/cli/test_hostile_files.py
MUTATED = int(os.environ.get("PC_ENGINE_MUTATED", "300"))
MOST_MB = 200

# The command line in a process of its own; what it took of memory goes beside its errors.
PROGRAM = """
import sys
from pathlib import Path
from pc_engine.bench.environment import peak_memory_mb
from pc_engine.cli import main
peak = Path(sys.argv[1])
sys.argv = ["pc-engine", *sys.argv[2:]]
try:
    main()
finally:
    peak.write_text(str(peak_memory_mb()))
"""

OK, BAD, EITHER = "ok", "error", None


class Hostile(NamedTuple):
    """A file: its name, its bytes, and the status of its row, None where that is the codecs' affair."""

    name: str
    data: bytes
    status: str | None


def scene(width: int = 96, height: int = 64) -> Image.Image:
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return Image.fromarray((np.stack([x, y, x * y], axis=-1) * 255).astype(np.uint8))


def encode(file_format: str, picture: Image.Image | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    (scene() if picture is None else picture).save(stream, file_format, **options)
    return stream.getvalue()


WHOLE = {
    "jpg": encode("JPEG"),
    "png": encode("PNG"),
    "webp": encode("WEBP"),
    "bmp": encode("BMP"),
    "tif": encode("TIFF", compression="tiff_lzw"),
    "gif": encode("GIF"),
    "jp2": encode("JPEG2000"),
    "ppm": encode("PPM"),
    # As Pillow's wheels do; HEIC takes a package that is not everywhere.
    **({"avif": encode("AVIF")} if features.check("avif") else {}),
}


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def jpeg(frame: int, width: int = 64, height: int = 64, *, precision: int = 8, parts: int = 3) -> bytes:
    """A JPEG whose frame is of any kind. With arithmetic coding any data is a picture."""
    components = b"".join(bytes((k + 1, 0x11, 0)) for k in range(parts))
    chosen = b"".join(bytes((k + 1, 0)) for k in range(parts))
    predictor = 1 if frame == 0xC3 else 0
    return (
        b"\xff\xd8"
        + segment(0xDB, b"\0" + bytes([8] * 64))
        + segment(frame, struct.pack(">BHHB", precision, height, width, parts) + components)
        + segment(0xDA, bytes((parts,)) + chosen + bytes((predictor, 0 if frame in (0xC2, 0xCA, 0xC3) else 63, 0)))
        + bytes(range(1, 200)) * 8
        + b"\xff\xd9"
    )


def chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    sum_ = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", sum_)


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colours: int = 2, interlaced: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def png16(values: np.ndarray) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(values.shape[1], values.shape[0], chunk(b"IDAT", zlib.compress(rows)), bits=16)


def tiff(*entries: tuple[int, int, int, int], after: int = 0, data: bytes = b"") -> bytes:
    """A little-endian TIFF with one directory of (tag, type, count, value)."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + directory + struct.pack("<I", after) + data


def sized_tiff(width: int, height: int, **changes: int) -> bytes:
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: height, 279: width * height}
    tags |= {int(tag[1:]): value for tag, value in changes.items()}
    tags[279] = min(tags[279], 2**32 - 1)
    return tiff(*((tag, 4, 1, value) for tag, value in sorted(tags.items())), data=b"\x80" * 4000)


def bmp(width: int, height: int, *, bits: int = 24, compression: int = 0, offset: int = 54) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 300, 0, 0, offset) + header + bytes(range(100)) * 3


def exif(*entries: tuple[int, int, int, bytes], after: int = 0) -> bytes:
    directory = struct.pack(">H", len(entries)) + b"".join(
        struct.pack(">HHI", tag, kind, count) + value for tag, kind, count, value in entries
    )
    return b"Exif\0\0MM\0*\0\0\0\x08" + directory + struct.pack(">I", after)


def truncated() -> Iterator[Hostile]:
    for suffix, data in WHOLE.items():
        for share in (0.02, 0.3, 0.6, 0.9):
            yield Hostile(f"cut-{share}.{suffix}", data[: int(len(data) * share)], EITHER)
        yield Hostile(f"last-byte-gone.{suffix}", data[:-1], EITHER)
        yield Hostile(f"empty.{suffix}", b"", BAD)
        yield Hostile(f"one-byte.{suffix}", data[:1], BAD)
        yield Hostile(f"zeroes-behind.{suffix}", data[: len(data) // 2] + bytes(len(data) // 2), EITHER)


def misnamed() -> Iterator[Hostile]:
    suffixes = list(WHOLE)
    for suffix, other in zip(suffixes, suffixes[1:] + suffixes[:1], strict=True):
        yield Hostile(f"really-{suffix}.{other}", WHOLE[suffix], OK)
    yield Hostile("no-suffix", WHOLE["jpg"], OK)
    yield Hostile("capitals.JPEG", WHOLE["jpg"], OK)
    for name, data in (
        ("eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"),
        ("eps-of-dos", b"\xc5\xd0\xd3\xc6\x1e\0\0\0" + bytes(40)),
        ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"),
        ("svg-with-entities", b"<?xml version='1.0'?><!DOCTYPE svg [<!ENTITY a 'aa'>]><svg>&a;</svg>"),
        ("pdf", b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n"),
        ("heic", b"\0\0\0\x18ftypheic\0\0\0\0" + bytes(60)),
        ("avif", b"\0\0\0\x1cftypavif\0\0\0\0" + bytes(60)),
        ("jpeg-2000", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60)),
        ("psd", b"8BPS\0\x01" + bytes(60)),
        ("icon", b"\0\0\x01\0\x01\0" + bytes(60)),
        ("zip", b"PK\x03\x04" + bytes(60)),
        ("html", b"<!DOCTYPE html><html><body><img src='a.jpg'></body></html>"),
        ("text", b"hello, world\n" * 99),
        ("program", b"\x7fELF\x02\x01\x01" + bytes(99)),
        ("pickle", b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93."),
        ("noise", random.Random(0).randbytes(5000)),
        ("zeroes", bytes(5000)),
        ("pam", b"P7\nWIDTH 9\nHEIGHT 9\nDEPTH 3\nMAXVAL 255\nENDHDR\n" + bytes(243)),
        ("fits", b"SIMPLE  =                    T" + b" " * 3000),
    ):
        yield Hostile(f"a-{name}.jpg", data, BAD)


def polyglots() -> Iterator[Hostile]:
    archive = b"PK\x03\x04" + bytes(26) + b"PK\x05\x06" + bytes(18)
    script = b"/*\0*/=1;alert(document.cookie)//"
    for suffix, data in WHOLE.items():
        yield Hostile(f"and-a-zip.{suffix}", data + archive, OK)
        yield Hostile(f"and-a-pdf.{suffix}", data + b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n%%EOF", OK)
    yield Hostile("gif-and-script.gif", b"GIF89a" + script + WHOLE["gif"][6:], EITHER)
    yield Hostile("pdf-then-jpeg.jpg", b"%PDF-1.4\n" + WHOLE["jpg"], BAD)
    yield Hostile("zip-then-png.png", archive + WHOLE["png"], BAD)
    yield Hostile("html-in-comment.jpg", WHOLE["jpg"][:2] + segment(0xFE, b"<script>") + WHOLE["jpg"][2:], OK)
    yield Hostile("jpeg-then-png.jpg", WHOLE["jpg"] + WHOLE["png"], OK)
    yield Hostile("png-then-jpeg.png", WHOLE["png"] + WHOLE["jpg"], OK)


def too_large() -> Iterator[Hostile]:
    empty = chunk(b"IDAT", zlib.compress(b""))
    for side in (13_378, 100_000, 2**31 - 1, 2**32 - 1):
        yield Hostile(f"{side}.png", png(side, side, empty), BAD)
    yield Hostile("wide.png", png(2**31 - 1, 1, empty), BAD)
    yield Hostile("nothing.png", png(0, 0, empty), BAD)
    # Below the limit by its header, with nothing behind.
    yield Hostile("13000-and-no-data.png", png(13_000, 13_000, empty), BAD)
    yield Hostile("12000-and-no-data.jpg", jpeg(0xC0, 12_000, 12_000), EITHER)
    yield Hostile("65535.jpg", jpeg(0xC0, 65_535, 65_535), BAD)
    yield Hostile("65500-progressive.jpg", jpeg(0xC2, 65_500, 65_500), BAD)
    yield Hostile("65535.gif", b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + WHOLE["gif"][10:], BAD)
    yield Hostile("huge.bmp", bmp(2**31 - 1, 2**31 - 1), BAD)
    yield Hostile("upside-down.bmp", bmp(50_000, -50_000), BAD)
    yield Hostile("negative.bmp", bmp(-50, 50), BAD)
    yield Hostile("huge.tif", sized_tiff(2**31 - 1, 2**31 - 1), BAD)
    yield Hostile("wide.tif", sized_tiff(2**31, 1), BAD)
    vp8x = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + b"\xff\x3f\0\xff\x3f\0"
    yield Hostile("16384.webp", b"RIFF" + struct.pack("<I", 4 + len(vp8x)) + b"WEBP" + vp8x, BAD)
    bomb = zlib.compress(bytes(50 << 20), 9)
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + b"\x40" * 24) * 8))
    yield Hostile("text-bomb.png", png(8, 8, chunk(b"zTXt", b"a\0\0" + bomb), pixels), EITHER)
    yield Hostile("profile-bomb.png", png(8, 8, chunk(b"iCCP", b"a\0\0" + bomb), pixels), EITHER)
    yield Hostile("data-bomb.png", png(8, 8, chunk(b"IDAT", bomb)), EITHER)


def shapes() -> Iterator[Hostile]:
    for suffix, file_format in (("jpg", "JPEG"), ("png", "PNG"), ("bmp", "BMP"), ("tif", "TIFF"), ("gif", "GIF")):
        for width, height in ((1, 1), (1, 10_000), (10_000, 1)):
            yield Hostile(f"{width}x{height}.{suffix}", encode(file_format, Image.new("RGB", (width, height))), OK)
    yield Hostile("1x1.webp", encode("WEBP", Image.new("RGB", (1, 1))), OK)
    yield Hostile("1x10000.webp", encode("WEBP", Image.new("RGB", (1, 10_000))), OK)


def kinds() -> Iterator[Hostile]:
    grey = np.asarray(scene().convert("L"))
    sixteen = np.asarray(scene()).astype(np.uint16) * 257
    yield Hostile("grey-16.png", encode("PNG", Image.fromarray(grey.astype(np.uint16) * 257)), OK)
    yield Hostile("grey-16.tif", encode("TIFF", Image.fromarray(grey.astype(np.uint16) * 257)), OK)
    for suffix, options in (("jp2", {}), ("j2k", {"no_jp2": True})):
        data = encode("JPEG2000", **options)
        yield Hostile(f"film.{suffix}", data, OK)
        yield Hostile(f"film-cut.{suffix}", data[: len(data) // 2], EITHER)
    yield Hostile("colours.ppm", encode("PPM"), OK)
    yield Hostile("grey-16.pgm", encode("PPM", Image.fromarray(grey.astype(np.uint16) * 257)), OK)
    yield Hostile("written-out.pgm", b"P2 2 2 4095 0 1 2 4095", OK)
    yield Hostile("remarks.pgm", b"P2 2 2 255 0 #\n 1 2 3", OK)
    yield Hostile("nothing-but-remarks.pgm", b"P2 900 900 255 " + b"#\n" * 300_000, BAD)
    yield Hostile("cut.ppm", encode("PPM")[:-9], BAD)
    yield Hostile("huge.pgm", b"P5 2147483647 2147483647 255 ", BAD)
    yield Hostile("no-numbers.ppm", b"P6 #", BAD)
    yield Hostile("large.btf", encode("TIFF", big_tiff=True), OK)
    yield Hostile("colours-16.png", png16(sixteen), OK)
    for name, value in (("nan", math.nan), ("infinite", math.inf), ("large", 3e38)):
        yield Hostile(f"{name}.tif", encode("TIFF", Image.fromarray(np.full((8, 8), value, np.float32))), OK)
    yield Hostile("integers.tif", encode("TIFF", Image.fromarray(grey.astype(np.int32) * -70_000)), OK)
    yield Hostile("cmyk.jpg", encode("JPEG", scene().convert("CMYK")), OK)
    yield Hostile("cmyk.tif", encode("TIFF", scene().convert("CMYK")), OK)
    yield Hostile("lab.tif", encode("TIFF", Image.new("LAB", (9, 9))), EITHER)
    yield Hostile("bits.png", encode("PNG", scene().convert("1")), OK)
    yield Hostile("fax.tif", encode("TIFF", scene().convert("1"), compression="group4"), OK)
    yield Hostile("progressive.jpg", encode("JPEG", progressive=True), OK)
    yield Hostile("arithmetic.jpg", jpeg(0xC9), OK)
    yield Hostile("arithmetic-grey.jpg", jpeg(0xC9, parts=1), OK)
    yield Hostile("arithmetic-progressive.jpg", jpeg(0xCA), EITHER)
    yield Hostile("lossless.jpg", jpeg(0xC3), EITHER)
    yield Hostile("twelve-bits.jpg", jpeg(0xC1, precision=12), EITHER)
    yield Hostile("hierarchical.jpg", jpeg(0xC5), BAD)
    yield Hostile("two-components.jpg", jpeg(0xC0, parts=2), EITHER)
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue", "green")]
    for suffix, file_format in (("gif", "GIF"), ("png", "PNG"), ("webp", "WEBP"), ("tif", "TIFF")):
        data = encode(file_format, frames[0], save_all=True, append_images=frames[1:])
        yield Hostile(f"animated.{suffix}", data, OK)
        yield Hostile(f"animation-cut.{suffix}", data[: len(data) - 20], EITHER)
    yield Hostile("several.jpg", encode("MPO", frames[0], save_all=True, append_images=frames[1:]), OK)


def broken_exif() -> Iterator[Hostile]:
    turned = exif((0x0112, 3, 1, b"\0\x06\0\0"))
    tags = {
        "turned": turned,
        "cut": turned[:20],
        "only-its-name": b"Exif\0\0",
        "no-order": b"Exif\0\0XX\0*\0\0\0\x08" + bytes(20),
        "in-a-circle": exif((0x0112, 3, 1, b"\0\x06\0\0"), after=8),
        "outside": exif((0x010F, 2, 4000, b"\xff\xff\xff\xf0")),
        "uncountable": exif((0x0112, 3, 2**32 - 1, b"\0\0\0\0")),
        "as-text": exif((0x0112, 2, 4, b"six\0")),
        "as-fraction-by-zero": exif((0x0112, 5, 1, struct.pack(">I", 26))) + bytes(8),
        "orientation-9": exif((0x0112, 3, 1, b"\0\x09\0\0")),
        "many": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(200),
        "directory-of-itself": exif((0x8769, 4, 1, struct.pack(">I", 8))),
        "unknown-type": exif((0x0112, 99, 1, b"\0\x06\0\0")),
    }
    for name, content in tags.items():
        yield Hostile(f"exif-{name}.jpg", encode("JPEG", exif=content), OK)
    content = turned.removeprefix(b"Exif\0\0")
    yield Hostile("exif-cut.png", WHOLE["png"].replace(WHOLE["png"][-12:], chunk(b"eXIf", content[:9])), EITHER)
    yield Hostile("exif.webp", encode("WEBP", exif=content[:9]), EITHER)


def damaged_inside() -> Iterator[Hostile]:
    data = zlib.compress((b"\0" + b"\x40" * 24) * 8)
    yield Hostile("sum-wrong.png", png(8, 8, chunk(b"IDAT", data, crc=1)), EITHER)
    yield Hostile("header-sum-wrong.png", WHOLE["png"][:29] + b"\0\0\0\0" + WHOLE["png"][33:], BAD)
    yield Hostile("no-data.png", png(8, 8), BAD)
    yield Hostile("no-palette.png", png(8, 8, chunk(b"IDAT", data), colours=3), EITHER)
    yield Hostile("filter-9.png", png(8, 8, chunk(b"IDAT", zlib.compress((b"\x09" + bytes(24)) * 8))), EITHER)
    yield Hostile("bits-77.png", png(8, 8, chunk(b"IDAT", data), bits=77), BAD)
    yield Hostile("interlaced-cut.png", png(64, 64, chunk(b"IDAT", data), interlaced=1), EITHER)
    yield Hostile("length-wrong.png", WHOLE["png"][:33] + b"\xff\xff\xff\xff" + WHOLE["png"][37:], EITHER)
    yield Hostile("two-headers.png", WHOLE["png"][:33] + WHOLE["png"][8:], EITHER)
    yield Hostile("no-tables.jpg", jpeg(0xC0), EITHER)
    yield Hostile("start-and-end.jpg", b"\xff\xd8\xff\xd9", BAD)
    yield Hostile("starts.jpg", b"\xff\xd8" * 3000, BAD)
    yield Hostile("markers.jpg", b"\xff\xd8" + segment(0xE1, b"") * 9000, BAD)
    yield Hostile("profile-of-255-parts.jpg", encode("JPEG", icc_profile=bytes(70_000)), OK)
    yield Hostile("size-wrong.webp", b"RIFF\xff\xff\xff\xff" + WHOLE["webp"][8:], EITHER)
    yield Hostile("no-chunk.webp", b"RIFF\x04\0\0\0WEBP", BAD)
    yield Hostile("code-size-99.gif", WHOLE["gif"].replace(b"\x08", b"\x63"), EITHER)
    yield Hostile("no-frame.gif", b"GIF89a\x08\0\x08\0\0\0\0;", BAD)
    yield Hostile("compression-9.bmp", bmp(9, 9, compression=9), BAD)
    yield Hostile("bits-7.bmp", bmp(9, 9, bits=7), BAD)
    yield Hostile("runs.bmp", bmp(9, 9, bits=8, compression=1), EITHER)
    yield Hostile("offset-outside.bmp", bmp(9, 9, offset=2**31), BAD)
    yield Hostile("circle.tif", sized_tiff(9, 9)[:-4000].replace(b"\0\0\0\0", struct.pack("<I", 8)), EITHER)
    yield Hostile("strip-outside.tif", sized_tiff(9, 9, t273=2**31), BAD)
    yield Hostile("compression-7.tif", sized_tiff(9, 9, t259=7), BAD)
    yield Hostile("compression-5.tif", sized_tiff(60, 60, t259=5), BAD)
    yield Hostile("samples-60000.tif", sized_tiff(9, 9, t277=60_000), BAD)
    yield Hostile("bits-0.tif", sized_tiff(9, 9, t258=0), BAD)
    yield Hostile("no-tags.tif", tiff(), BAD)


def names() -> Iterator[Hostile]:
    for name in (
        "new\nline.png",
        "return\rhere.png",
        "tab\there.png",
        "\x1b[31mred\x1b[0m.png",
        "bell\x07.png",
        "-rf.png",
        "--json.png",
        "caf\udce9.png",
        "\udcff\udcfe.png",
        "back\\slash.png",
        "quote'\".png",
        "$(touch here).png",
        "per%cent%s{}.png",
        " .png",
        "..png",
        "#7.png",
        "a.tar#0.png",
        "tar:::x.png",
        "\u202egnp.png",
        "x" * 250 + ".png",
        "\U0001f4f7" * 60 + ".png",
        "@list.png",
        "[a-z].png",
        "{0..9}.png",
    ):
        yield Hostile(name, WHOLE["png"], OK)


def mutated(n: int, seed: int) -> Iterator[bytes]:
    """JPEGs, PNGs, WebPs, AVIFs and HEICs with bytes changed, cut out, doubled and swapped, in turn."""
    rng = random.Random(seed)
    whole = [
        *(encode("JPEG"), encode("JPEG", progressive=True), encode("JPEG", exif=exif((0x0112, 3, 1, b"\0\x06\0\0")))),
        *(encode("PNG"), encode("PNG", scene().quantize(16)), encode("PNG", scene().convert("RGBA"))),
        *(encode("WEBP"), encode("WEBP", lossless=True), encode("WEBP", scene().convert("RGBA"), exact=True)),
        encode("WEBP", scene(), save_all=True, append_images=[scene().transpose(Image.Transpose.ROTATE_180)]),
        *([WHOLE["avif"], encode("AVIF", scene().convert("RGBA"))] if "avif" in WHOLE else []),
        *([encode("HEIF"), encode("HEIF", tile_size=64)] if is_read("HEIF") else []),
    ]
    for k in range(n):
        data = bytearray(whole[k % len(whole)])
        for _ in range(rng.choice((1, 1, 2, 5, 20))):
            # Headers are where it hurts.
            place = int(rng.random() ** rng.choice((1, 3)) * len(data))
            span = rng.choice((1, 1, 1, 2, 4, 32))
            change = rng.choice(("set", "set", "set", "flip", "cut", "double", "extreme"))
            if change == "set":
                data[place : place + span] = rng.randbytes(len(data[place : place + span]))
            elif change == "flip":
                data[place] ^= 1 << rng.randrange(8)
            elif change == "cut" and len(data) > 100:
                del data[place : place + span]
            elif change == "double":
                data[place:place] = data[place : place + span]
            else:
                data[place : place + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), b"\0\0\0\1"))
        yield bytes(data)


def corpus() -> list[Hostile]:
    groups = truncated, misnamed, polyglots, too_large, shapes, kinds, broken_exif, damaged_inside, names
    files = [file for group in groups for file in group()]
    files += [Hostile(f"mutated-{k:02d}.img.jpg", data, EITHER) for k, data in enumerate(mutated(40, 1))]
    assert len({file.name for file in files}) == len(files)
    return files


def special_files(folder: Path) -> dict[str, str]:
    """Make what is no file, or none that can be read; return the status of each, by its path."""
    made = {}
    for name, target in (
        ("zero.jpg", "/dev/zero"),
        ("random.png", "/dev/urandom"),
        ("terminal.png", "/dev/tty"),
        ("memory.jpg", "/proc/self/mem"),
        ("nowhere.jpg", "gone.jpg"),
        ("circle.jpg", "circle.jpg"),
    ):
        (folder / name).symlink_to(target)
        made[name] = BAD
    (folder / "link.png").symlink_to(folder / "1x1.png")
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        # A socket's path may not be long.
        here = os.open(folder, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{here}/socket.jpg")
        os.close(here)
    with (folder / "sparse.jpg").open("wb") as stream:
        stream.truncate(3 << 30)
    (folder / "secret.png").write_bytes(WHOLE["png"])
    (folder / "secret.png").chmod(0)
    made |= {"link.png": OK, "pipe.jpg": BAD, "socket.jpg": BAD, "sparse.jpg": BAD}
    made["secret.png"] = OK if os.geteuid() == 0 else BAD
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg" / "inside.png").write_bytes(WHOLE["png"])
    (folder / "folder.jpg" / "above").symlink_to(folder)
    return {**made, "folder.jpg/inside.png": OK}


@pytest.fixture
def clean(tmp_path: Path, draw_scene: Callable[..., Image.Image]) -> Path:
    """A folder of 12 photos."""
    folder = tmp_path / "photos"
    (folder / "clean").mkdir(parents=True)
    for k in range(12):
        cells = [(1 + 3 * (j % 2), 1 + 3 * (j // 2)) for j in range(k % 5)]
        draw_scene(cells, (64 + 8 * k, 64)).save(folder / "clean" / f"{k:02d}.{'png' if k % 2 else 'jpg'}")
    return folder


class Ended(NamedTuple):
    code: int
    rows: dict[str, dict[str, Any]]
    n: int
    said: str
    peak_mb: float


@pytest.fixture
def run(tmp_path: Path, tiny_directory: Path) -> Callable[..., Ended]:
    """Return ``run(source, *options)``, which is `pc-engine run` in a process of its own."""
    number = 0

    def start(source: Path, *options: str) -> Ended:
        nonlocal number
        number += 1
        out, peak = tmp_path / f"run-{number}", tmp_path / f"peak-{number}"
        arguments = ("run", source, "--out", out, "--mode", "combined", "--model", tiny_directory, *MODEL, *options)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(peak), *map(str, arguments)],
            capture_output=True,
            check=False,
            timeout=3600,
        )
        rows = [*iter_rows(out)]
        said = (done.stdout + done.stderr).decode(errors="replace")
        return Ended(done.returncode, {row["path"]: row for row in rows}, len(rows), said, float(peak.read_text()))

    return start


def said_alone(ended: Ended) -> bool:
    """Whether nothing was printed but how many images failed: no library's own words, that is."""
    failed = sum(row["status"] == "error" for row in ended.rows.values())
    begins, ends = f"{failed:,} of {ended.n:,} images failed: 'pc-engine status ", "' says why.\n"
    return ended.said.startswith(begins) and ended.said.endswith(ends) and ended.said.count("\n") == 1


def is_sentence(text: str) -> bool:
    return text.isprintable() and text.isascii() and text.endswith(".") and 10 < len(text) < 300 and "0x" not in text


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="makes files as Linux has them")
def test_a_folder_of_hostile_files_costs_their_own_rows_only(clean: Path, run: Callable[..., Ended]) -> None:
    before = run(clean)
    assert (before.code, before.n, before.said) == (0, 12, "")
    folder = clean / "hostile"
    folder.mkdir()
    files = corpus()
    for file in files:
        (folder / file.name).write_bytes(file.data)
    expected: dict[str, str | None] = {file.name: file.status for file in files} | special_files(folder)
    assert len(expected) > 250

    threads, processes = run(clean), run(clean, "--isolate")
    for ended in (threads, processes):
        assert (ended.code, said_alone(ended)) == (3, True), ended.said
        assert ended.n == len(ended.rows) == 12 + len(expected)
        assert {path: ended.rows[path] for path in before.rows} == before.rows
        assert ended.peak_mb - before.peak_mb < MOST_MB
        for name, status in expected.items():
            row = ended.rows[stored_name(str(folder / name))]
            assert row["status"] in ([status] if status else ["ok", "error"]), (name, row)
            assert (row["count"] is None) == (row["status"] == "error") == (row["error"] is not None)
            assert row["error"] is None or is_sentence(row["error"]), row
    assert threads.rows == processes.rows
    peaks = f"{threads.peak_mb:.0f} MB, isolated {processes.peak_mb:.0f} MB, without them {before.peak_mb:.0f} MB"
    print(f"{len(expected)} files: {peaks}")


def test_the_limit_of_pixels_is_an_option_and_failed_images_can_be_tried_with_another(
    clean: Path, pc_engine: Callable[..., Any], tiny_directory: Path, tmp_path: Path
) -> None:
    arguments = ("run", clean, "--out", tmp_path / "run", "--model", tiny_directory, "--json", *MODEL[:-1])
    few = pc_engine(*arguments, "--max-pixels", 100 * 64)
    assert (few.code, few.json()["failed"]) == (3, 7)
    errors = [row["error"] for row in iter_rows(tmp_path / "run") if row["status"] == "error"]
    assert errors[0] == (
        "It has 104 x 64 pixels, more than the limit of 6,400: scale it down, or raise the limit (--max-pixels)."
    )
    again = pc_engine(*arguments, "--retry-failed", "--max-pixels", 10**9)
    assert (again.code, again.json()["failed"], again.json()["n"]) == (0, 0, 12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-pixels", "0"), "--max-pixels is 0"),
        (("--image-seconds", "5"), "add --isolate"),
        (("--isolate", "--image-seconds", "-1"), "--image-seconds is -1.0"),
    ],
)
def test_limits_that_make_no_sense_are_wrong_use(
    clean: Path, pc_engine: Callable[..., Any], tiny_directory: Path, options: tuple[str, ...], message: str
) -> None:
    ended = pc_engine("run", clean, "--model", tiny_directory, *options)
    assert ended.code == 2
    assert message in ended.err


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_mutated_pictures_have_their_rows_and_processes_give_those_of_threads(
    tmp_path: Path, run: Callable[..., Ended]
) -> None:
    folder = tmp_path / "mutated"
    folder.mkdir()
    for k, data in enumerate(mutated(MUTATED, 0)):
        (folder / f"{k:05d}.jpg").write_bytes(data)
    threads, processes = run(folder), run(folder, "--isolate")
    for ended in (threads, processes):
        assert (ended.code, said_alone(ended)) == (3, True), ended.said
        assert ended.n == len(ended.rows) == MUTATED
        assert all(row["error"] is None or is_sentence(row["error"]) for row in ended.rows.values())
    assert threads.rows == processes.rows
    failed = sum(row["status"] == "error" for row in threads.rows.values())
    assert 0 < failed < MUTATED
    print(f"{MUTATED:,} files, {failed:,} refused: {threads.peak_mb:.0f} MB, isolated {processes.peak_mb:.0f} MB")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_crashing_decoders_cost_the_rows_of_their_files_and_their_pictures(
    clean: Path,
    pc_engine: Callable[..., Any],
    tiny_directory: Path,
    tmp_path: Path,
    crashing_decoder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ("--mode", "combined", "--model", tiny_directory, "--json", "--overlay", "--workers", "2", *MODEL[:-1])
    assert pc_engine("run", clean, "--out", tmp_path / "before", *options).code == 0
    before = {row["path"]: row for row in iter_rows(tmp_path / "before")}
    causes = {
        "segfault": "SIGSEGV",
        "abort": "SIGABRT",
        "exit": "exit code 7",
        "bug": "exit code 1",
        "killed": "was killed",
        "late": "longer than 600 seconds",
    }
    marks = [list(causes)[k % 6] for k in range(max(MUTATED // 10, 24))]
    sources = sorted((clean / "clean").iterdir())
    for k, mark in enumerate(marks):
        data = sources[k % len(sources)].read_bytes()
        (clean / f"{k:05d}.jpg").write_bytes(data + b"#" + mark.encode())
    n = len(marks)
    monkeypatch.setattr("pc_engine.decoding.isolated_decoder.FUNCTION", crashing_decoder)
    ended = pc_engine("run", clean, "--out", tmp_path / "run", "--isolate", "--image-seconds", "600", *options)
    assert (ended.code, ended.json()["n"], ended.json()["failed"]) == (3, 12 + n, n)
    rows = {row["path"]: row for row in iter_rows(tmp_path / "run")}
    assert {path: rows[path] for path in before} == before
    said = [rows[str(clean / f"{k:05d}.jpg")]["error"] for k in range(n)]
    assert all(causes[mark] in sentence for mark, sentence in zip(marks, said, strict=True))
    drawn = [path.name for path in sorted((tmp_path / "run" / "overlays").iterdir())]
    assert drawn == [path.name for path in sorted((tmp_path / "before" / "overlays").iterdir())]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["failed"] == n


def test_files_that_vanish_and_change_during_a_run_cost_nothing_but_themselves(
    clean: Path, tiny_directory: Path
) -> None:
    paths = sorted((clean / "clean").iterdir())
    with Engine(tiny_directory, mode="combined", backend="onnxruntime", precision="fp32", batch_size=2) as engine:
        before = list(engine.run_paths(paths))

        def while_they_run() -> Iterator[SourceImage]:
            for k, path in enumerate(paths):
                yield local_image(path)
                if k == 1:  # the images after it are read later
                    paths[8].unlink()
                    paths[9].write_bytes(b"no picture any more")
                    paths[10].write_bytes(paths[11].read_bytes())
                    paths[11].unlink()
                    os.mkfifo(paths[11])

        found = list(engine.run_paths(while_they_run()))
    assert [result.path for result in found] == [str(path) for path in paths]
    assert found[:8] == before[:8]
    assert found[8].error == "The file cannot be read: No such file or directory."
    assert "not an image" in (found[9].error or "")
    assert (found[10].width, found[10].count) == (before[11].width, before[11].count)
    assert found[11].error == "It is not a regular file."
