"""Fetching from a stand-in for the hub on 127.0.0.1."""

import contextlib
import hashlib
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from safetensors.numpy import save

from pc_engine.catalogue import FETCHABLE, PinnedWeights
from pc_engine.errors import DownloadError, ModelError, UsageError
from pc_engine.export import ARCHITECTURES, fetch_vgg
from pc_engine.files.digest import file_sha256
from pc_engine.manifest_file import read_manifest

needs_hub_2 = pytest.mark.skipif(
    int(huggingface_hub.__version__.partition(".")[0]) < 2,
    reason="huggingface_hub 1 neither retries a body that breaks off nor notices a server that ignores Range",
)

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the stand-in serves: ``cut_at`` bytes of the first body, then ``status`` until it is set back to 200."""

    content: bytes
    status: int = 200
    cut_at: int | None = None
    head_status: int = 200
    ignores_range: bool = False
    ranges: list[str | None] = field(default_factory=list)
    address: str = ""


def handler_for(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def refuse(self, status):
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self):
            if hub.head_status != 200 or self.path != f"/timm/small/resolve/{REVISION}/model.safetensors":
                self.refuse(hub.head_status if hub.head_status != 200 else 404)
                return
            self.send_response(200)
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("ETag", '"an-etag"')
            self.send_header("Content-Length", str(len(hub.content)))
            self.end_headers()

        def do_GET(self):
            wanted = self.headers.get("Range")
            hub.ranges.append(wanted)
            if hub.status != 200:
                self.refuse(hub.status)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and not hub.ignores_range else 0
            body = hub.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(hub.content) - 1}/{len(hub.content)}")
            self.end_headers()
            if hub.cut_at is not None:
                body, hub.cut_at, hub.status = body[: hub.cut_at], None, 503
                self.close_connection = True
            with contextlib.suppress(OSError):
                self.wfile.write(body)

    return Handler


@pytest.fixture
def hub(tiny_weights):
    hub = Hub(save(tiny_weights))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_for(hub)) as server:
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield hub
        server.shutdown()
        thread.join()


@pytest.fixture
def pins(hub, tiny, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "small", tiny)
    monkeypatch.setattr("pc_engine.export.fetch.imagenet_class_names", lambda: tuple("abcdefg"))
    digest = hashlib.sha256(hub.content).hexdigest()
    return {"small": PinnedWeights("timm/small", REVISION, digest, licence="BSD-3-Clause")}


@pytest.fixture
def models(tmp_path, monkeypatch):
    # The hub library writes whole chunks of 10 MB; the stand-in file is smaller than one.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "data" / "models"


def left_over(models):
    return [path for path in (models.parent / "downloads").iterdir() if path.suffix != ".lock"]


def assert_names_the_ways_out(error, models):
    text = str(error.value)
    assert "https://huggingface.co/timm/small" in text
    assert f"pc-engine export small --weights model.safetensors --classes imagenet --out {models / 'small'}" in text
    assert "--model lego, which needs no network" in text
    assert "\n" not in text


def test_what_lies_where_the_model_is_to_be_is_said_before_anything_is_fetched(hub, pins, models):
    (models / "small").mkdir(parents=True)
    (models / "small" / "network.onnx").touch()
    with pytest.raises(ModelError, match=r"small is no longer a model, as it lacks manifest\.json: delete the folder"):
        fetch_vgg("small", models, print, pins=pins, endpoint=hub.address)
    assert hub.ranges == []


def test_fetches_exports_and_clears_up(hub, pins, models, tiny):
    said = []
    path = fetch_vgg("small", models, said.append, pins=pins, endpoint=hub.address)
    manifest = read_manifest(path)
    assert path == models / "small"
    assert (manifest.name, manifest.classes, manifest.licence) == ("tiny", tuple("abcdefg"), "BSD-3-Clause")
    assert manifest.source == f"https://huggingface.co/timm/small @ {REVISION}"
    assert manifest.files["model.onnx"] == file_sha256(path / "model.onnx")
    assert left_over(models) == []
    assert hub.ranges == [None]
    assert fetch_vgg("small", models, said.append, pins=pins, endpoint=hub.address) == path
    assert said == ["Fetching small from https://huggingface.co/timm/small (about 550 MB, once) ..."]
    assert hub.ranges == [None]  # an installed model is not fetched again


@pytest.mark.parametrize("ignores_range", [False, pytest.param(True, marks=needs_hub_2)])
def test_cut_off_then_resumed_at_the_next_call(hub, pins, models, ignores_range):
    half = len(hub.content) // 2
    hub.cut_at = half
    with pytest.raises(DownloadError, match="MB are kept and the next try goes on") as error:
        fetch_vgg("small", models, pins=pins, endpoint=hub.address)
    assert_names_the_ways_out(error, models)
    assert not (models / "small").exists()
    (partial,) = left_over(models)
    assert 0 < partial.stat().st_size <= half

    kept = partial.stat().st_size
    hub.status, hub.ignores_range = 200, ignores_range
    path = fetch_vgg("small", models, pins=pins, endpoint=hub.address)
    assert hub.ranges[-1] == f"bytes={kept}-"
    assert read_manifest(path).files["model.onnx"] == file_sha256(path / "model.onnx")
    assert left_over(models) == []


@needs_hub_2
def test_short_interruption_is_bridged_within_a_call(hub, pins, models, monkeypatch):
    hub.cut_at = len(hub.content) // 3
    waits = []

    def wait(seconds):
        waits.append(seconds)
        hub.status = 200

    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", wait)
    fetch_vgg("small", models, pins=pins, endpoint=hub.address)
    assert len(hub.ranges) == 2
    assert hub.ranges[1].startswith("bytes=")
    assert waits


def test_wrong_bytes_are_deleted(hub, pins, models):
    right = hub.content
    hub.content = right[:-1] + bytes([right[-1] ^ 1])
    with pytest.raises(DownloadError, match=r"has sha256 [0-9a-f]{12}…, expected [0-9a-f]{12}…, and was") as error:
        fetch_vgg("small", models, pins=pins, endpoint=hub.address)
    assert_names_the_ways_out(error, models)
    assert left_over(models) == []
    assert not (models / "small").exists()
    hub.content = right
    assert fetch_vgg("small", models, pins=pins, endpoint=hub.address).is_dir()


def test_partial_file_of_other_bytes_does_not_poison(hub, pins, models):
    """A partial file that is too long starts anew; one with other bytes is deleted, and the next call is clean."""
    partial = models.parent / "downloads" / f"small-{REVISION[:8]}.safetensors"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"\0" * 100)
    with pytest.raises(DownloadError, match="was deleted"):
        fetch_vgg("small", models, pins=pins, endpoint=hub.address)
    partial.write_bytes(b"\0" * (len(hub.content) + 5))
    assert fetch_vgg("small", models, pins=pins, endpoint=hub.address).is_dir()


def test_download_that_is_complete_needs_no_network(hub, pins, models):
    partial = models.parent / "downloads" / f"small-{REVISION[:8]}.safetensors"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(hub.content)
    assert fetch_vgg("small", models, pins=pins, endpoint="http://127.0.0.1:1").is_dir()
    assert hub.ranges == []


@pytest.mark.parametrize("status", [401, 404, 500])
def test_refusal_by_the_server(hub, pins, models, status):
    hub.head_status = status
    with pytest.raises(DownloadError, match=f"the server answered {status}") as error:
        fetch_vgg("small", models, pins=pins, endpoint=hub.address)
    assert_names_the_ways_out(error, models)
    assert left_over(models) == []


def test_nothing_listening_fails_fast(pins, models, monkeypatch):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    with pytest.raises(DownloadError, match=r"could not be fetched from http://127\.0\.0\.1:1/timm/small") as error:
        fetch_vgg("small", models, pins=pins, endpoint="http://127.0.0.1:1")
    assert_names_the_ways_out(error, models)
    assert sum(waits) < 5


def test_offline_mode_of_the_hub_library(pins, models, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="OfflineModeIsEnabled"):
        fetch_vgg("small", models, pins=pins, endpoint="http://127.0.0.1:1")


def test_place_that_cannot_be_written(pins, tmp_path):
    (tmp_path / "downloads").write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match=r"downloads cannot be written .*PC_ENGINE_HOME"):
        fetch_vgg("small", tmp_path / "models", pins=pins)


def test_unknown_name(tmp_path):
    with pytest.raises(UsageError, match="no weights 'vgg17' to fetch, only vgg16, vgg19"):
        fetch_vgg("vgg17", tmp_path)


def test_pins_are_whole():
    assert set(FETCHABLE) == {"vgg16", "vgg19"}
    for name, pin in FETCHABLE.items():
        assert ARCHITECTURES[name].name == name
        assert pin.page == f"https://huggingface.co/timm/{name}.tv_in1k"
        assert re.fullmatch(r"[0-9a-f]{64}", pin.sha256)
        assert re.fullmatch(r"[0-9a-f]{40}", pin.revision)
