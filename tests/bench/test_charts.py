import sys

import pytest
from PIL import Image

from pc_engine.bench import charts
from pc_engine.errors import MissingPackageError

THROUGHPUT = {
    "model": "m",
    "mode": "c2p",
    "backend": "openvino",
    "precision": "fp32",
    "batch_size": 8,
    "workers": 2,
    "decode_ips": 400.0,
    "network_ips": 17.0,
    "postprocess_ips": 3000.0,
    "end_to_end_ips": 16.5,
    "ratio": 16.5 / 17,
    "seconds": 2.0,
    "stages": {"decode": 0.1, "network": 1.9, "mode": 0.01},
    "machine": {"cores": 2},
}
PEER = {"letter": "a", "name": "PyTorch", "precision": "fp32", "scope": "end to end", "images_per_second": 9.0}


def is_picture(path):
    with Image.open(path) as picture:
        return picture.format == "PNG" and picture.size[0] > 400 and len(picture.convert("RGB").getcolors(1 << 24)) > 5


def test_charts_are_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    charts.throughput_chart(THROUGHPUT, tmp_path / "new" / "throughput.png")
    rows = [{**THROUGHPUT, "batch_size": size} for size in (1, 8)] + [{"precision": "int8", "error": "not here"}]
    charts.sweep_chart(rows, tmp_path / "sweep.png")
    missing = {**PEER, "letter": "d", "scope": "network", "images_per_second": None}
    peers = [PEER, {**PEER, "letter": "e", "name": "pc-engine", "scope": "network"}, missing]
    charts.peers_chart({**THROUGHPUT, "peers": peers}, tmp_path / "peers.png")
    for path in (tmp_path / "new" / "throughput.png", tmp_path / "sweep.png", tmp_path / "peers.png"):
        assert is_picture(path)


def test_missing_matplotlib_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"pc-engine\[bench\]"):
        charts.require_charts()
