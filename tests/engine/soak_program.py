"""A run with faults injected everywhere, for a settable time: `test_soak.py` starts it in a process of its own.

Arguments, as JSON: ``model`` and ``folder``, ``seconds``, ``isolate``, ``out``. Faults: files that are damaged, gone or
no files; disks, decoders and networks that fail now and then; memory that runs out in any of these; servers that answer
with errors, break off or say nothing; decoders that crash. What it writes to ``out`` is how many rows of which kind it
got, and what the process held at each of many moments.
"""

from __future__ import annotations

import errno
import functools
import gc
import http.server
import io
import json
import os
import random
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

import pc_engine.decoding.isolated_decoder
import pc_engine.engine
import pc_engine.sources.image
import pc_engine.sources.retries
from pc_engine import Decoding, Engine, Result
from pc_engine.backends import OnnxRuntimeBackend
from pc_engine.decoding.decode import silence_codecs
from pc_engine.errors import DeviceMemoryError
from pc_engine.model import load_model
from pc_engine.modes import MODES
from pc_engine.networks import network_request
from pc_engine.runs import writers as rows_on_disk
from pc_engine.runs.writers import PartitionWriter
from pc_engine.sources import SourceImage, named_image

MOMENTS = 60
# Images of a short soak on a busy machine, so that every fault comes up.
FEWEST = 600
DECODE_MARKS = (b"segfault", b"abort", b"exit", b"killed", b"hang", b"many")
chance = random.Random(0)
lock = threading.Lock()
injected: Counter[str] = Counter()


def strikes(what: str, share: float) -> bool:
    with lock:
        if chance.random() >= share:
            return False
        injected[what] += 1
        return True


def faulty_open(original: Any, path: str) -> Any:
    if strikes("disk: cannot be opened", 0.03):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return original(path)


def faulty_read(original: Any, descriptor: int, size: int) -> Any:
    if strikes("disk: breaks off", 0.03):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    if strikes("memory: reading", 0.03):
        raise MemoryError
    return original(descriptor, size)


def faulty_jpeg(original: Any, *arguments: Any, **options: Any) -> Any:
    if strikes("memory: decoding", 0.1):
        raise MemoryError
    if strikes("decoder: fails", 0.1):
        raise ValueError("broken")
    return original(*arguments, **options)


class FaultyNetwork:
    """The network, whose memory runs out now and then, and whose numbers are none."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self.request, self.backend, self.parallel = network.request, network.backend, network.parallel
        self.remarks: tuple[str, ...] = ()

    def infer(self, images: np.ndarray, into: object = None) -> dict[str, np.ndarray]:
        if len(images) > 1 and strikes("memory: network", 0.25):
            raise DeviceMemoryError("no memory")
        taps = {name: np.array(tap) for name, tap in self._network.infer(images).items()}
        if strikes("network: no number", 0.15):
            for tap in taps.values():
                tap[0] = np.nan
        return taps

    def close(self) -> None:
        self._network.close()


class FaultyServer(http.server.BaseHTTPRequestHandler):
    data = b""

    def do_GET(self) -> None:
        if strikes("server: error", 0.1):
            self.send_error(chance.choice((404, 500, 503)))
            return
        if strikes("server: says nothing", 0.05):
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()
        cut = strikes("server: breaks off", 0.1)
        self.wfile.write(self.data[: len(self.data) // 2] if cut else self.data)
        self.close_connection = cut

    def log_message(self, *_: Any) -> None: ...


def make_files(folder: Path, isolate: bool) -> list[str]:
    """Write the photos; those that are whole and named ``good`` have the same row each time that they have one."""
    y, x = np.mgrid[0:1:60j, 0:1:90j]
    for k in range(40):
        pixels = (np.stack([x, y, x * y], axis=-1) * (55 + 5 * k)).astype(np.uint8)
        stream = io.BytesIO()
        suffix = ("jpg", "png", "webp", "tif")[k % 4]
        Image.fromarray(pixels).save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
        data = stream.getvalue()
        (folder / f"good-{k:02d}.{suffix}").write_bytes(data)
        if k % 3 == 0:
            (folder / f"cut-{k:02d}.{suffix}").write_bytes(data[: 30 + 8 * k])
        if isolate and k % 6 == 0:
            (folder / f"marked-{k:02d}.{suffix}").write_bytes(data + b"#" + DECODE_MARKS[k // 6 % len(DECODE_MARKS)])
    (folder / "empty.jpg").touch()
    os.mkfifo(folder / "pipe.jpg")
    return sorted(str(path) for path in folder.iterdir())


def held() -> dict[str, float]:
    """What this process holds, and those that decode for it."""
    gc.collect()
    processes = [os.getpid(), *children_of(os.getpid())]
    return {
        "seconds": time.monotonic(),
        "mb": megabytes(os.getpid())[0],
        # The largest, as a sum tells how many have just died: one that is dead holds nothing, and a new one has not yet
        # touched its libraries, which are no memory of its own anyway.
        "decoder_mb": max((megabytes(pid)[1] for pid in processes[1:]), default=0.0),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "processes": len(processes),
    }


def megabytes(pid: int) -> tuple[float, float]:
    """What of a process lies in memory, and how much of that is its own; zeros of one that has died."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0.0, 0.0
    page = os.sysconf("SC_PAGE_SIZE") / 1e6
    return int(resident) * page, (int(resident) - int(shared)) * page


def children_of(pid: int) -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text(errors="replace").rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def main() -> None:
    given = json.loads(sys.argv[1])
    folder, seconds, isolate = Path(given["folder"]), given["seconds"], given["isolate"]
    silence_codecs()
    warnings.filterwarnings("ignore", module="PIL")
    FaultyServer.data = b""
    names = make_files(folder, isolate)
    FaultyServer.data = (folder / "good-00.jpg").read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FaultyServer)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        import aiohttp  # noqa: F401 (what fsspec fetches with)

        names += [f"http://127.0.0.1:{server.server_port}/good-{k}.jpg" for k in range(4)]
    except ImportError:
        pass
    model = load_model(Path(given["model"]))
    mode = MODES["combined"]
    request = network_request(model, mode.taps(model.manifest), batch_size=8, threads=1)
    network: Any = OnnxRuntimeBackend().compile(request)
    pc_engine.decoding.isolated_decoder.FUNCTION = "crashing_decoder:decode"

    def engine_of(network: Any, image_seconds: float | None = None) -> Engine:
        decoding = Decoding(isolate=isolate, image_seconds=image_seconds)
        return Engine(model, mode="combined", network=network, workers=2, decoding=decoding)

    with engine_of(network) as engine:
        right = {row.path: row for row in engine.run_paths([Path(name) for name in names if "/good" in name][:40])}
    assert all(row.ok for row in right.values())

    image = pc_engine.sources.image
    image._open = functools.partial(faulty_open, image._open)  # type: ignore[assignment]
    image._read_to_end = functools.partial(faulty_read, image._read_to_end)  # type: ignore[assignment]
    simplejpeg.decode_jpeg = functools.partial(faulty_jpeg, simplejpeg.decode_jpeg)
    pc_engine.sources.retries.PAUSE = 0.001
    rows_on_disk.ROWS_PER_PARTITION = 2000

    kinds: Counter[str] = Counter()
    wrong: list[str] = []
    moments: list[dict[str, float]] = []
    end = time.monotonic() + seconds
    next_moment = 0.0
    listed = 0

    def images() -> Iterator[SourceImage]:
        nonlocal listed
        while time.monotonic() < end or listed < FEWEST:
            for name in names:
                listed += 1
                yield named_image(name)

    def add(row: Result) -> None:
        kinds["ok" if row.ok else (row.error or "").split("(")[0]] += 1
        if row.ok and row.path in right and row != right[row.path]:
            wrong.append(row.path)

    out = folder.parent / "rows"
    out.mkdir()
    writer = PartitionWriter(out, published=lambda _: [path.unlink() for path in out.glob("part-*")])
    # What Parquet's library takes once is none of what a run holds on to.
    for row in right.values():
        writer.write(row)
    writer.flush()
    with engine_of(FaultyNetwork(network), 2 if isolate else None) as engine:
        for number, row in enumerate(engine.run_paths(images())):
            writer.write(row)
            add(row)
            # The limit that was lowered is for ever: it is lifted so that batches go on to fail.
            if number % 100 == 0:
                engine._limit.images = 8
            if time.monotonic() >= next_moment:
                moments.append(held())
                next_moment = time.monotonic() + seconds / MOMENTS
        writer.flush()
    server.shutdown()
    server.server_close()
    content = {"listed": listed, "kinds": kinds, "wrong": wrong, "moments": moments, "injected": injected}
    Path(given["out"]).write_text(json.dumps(content))


if __name__ == "__main__":
    main()
