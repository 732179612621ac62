"""The peers on a VGG of a few channels: they agree, and one that does not is left out before anything is timed."""

import json
import multiprocessing
import re
import signal
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="the peers are PyTorch's")

from pc_engine.backbone import PRECISIONS  # noqa: E402
from pc_engine.backends.onnxruntime import OnnxRuntimeBackend  # noqa: E402
from pc_engine.bench.peers import torch_pipeline as peers_torch  # noqa: E402
from pc_engine.bench.peers.comparison import compare_with_peers, race  # noqa: E402
from pc_engine.bench.peers.contract import Workload  # noqa: E402
from pc_engine.bench.peers.runtimes import OpenVinoPeer  # noqa: E402
from pc_engine.bench.peers.torch_pipeline import ImageByImage, TorchRunner, torch_vgg, tuned_runner  # noqa: E402
from pc_engine.bench.throughput import ThroughputSettings  # noqa: E402
from pc_engine.decoding.decode import decode_image  # noqa: E402
from pc_engine.errors import BackendError, MissingPackageError, ModelError  # noqa: E402
from pc_engine.export import Preprocessing, VggSpec, export_vgg  # noqa: E402
from pc_engine.fitted.counter import CountSVM  # noqa: E402
from pc_engine.manifest import NETWORK_FILE  # noqa: E402
from pc_engine.model import load_model  # noqa: E402
from pc_engine.modes import C2PSettings  # noqa: E402
from pc_engine.networks import network_request  # noqa: E402
from pc_engine.selection.candidates import probe_images, tap_difference  # noqa: E402
from pc_engine.selection.execution import Execution  # noqa: E402

SPEC = VggSpec("small", ((8,), (8, 10), (12, 14), (16, 16)), fc_width=24, trained_size=64)
TAPS = ("pool5", "fc6", "fc7", "conv_last")


@pytest.fixture(scope="module")
def vgg_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("vgg") / "small"
    export_vgg(
        SPEC, "random:5", directory, preprocessing=Preprocessing(mean=(100.0, 110.0, 90.0), std=(50.0, 60.0, 70.0))
    )
    return directory


@pytest.fixture
def photos(tmp_path, draw_scene):
    folder = tmp_path / "photos"
    folder.mkdir()
    places = [(1, 1), (6, 1), (1, 6), (6, 6), (3, 4), (4, 2)]
    for k in range(12):
        draw_scene(places[: k % 7], size=(90 + k, 70), colour=(255, 20 * k, 100)).save(folder / f"{k:02d}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def images():
    return probe_images(64, 64, 3)


@pytest.fixture
def reference(vgg_directory, images):
    request = replace(network_request(load_model(vgg_directory), TAPS, batch_size=3), threads=1)
    return OnnxRuntimeBackend().compile(request).infer(images)


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [({}, 1e-4), ({"channels_last": True}, 1e-4), ({"channels_last": True, "precision": "bf16"}, 3e-2)],
)
def test_rebuilt_vgg_says_what_the_exported_one_says(vgg_directory, images, reference, options, tolerance):
    manifest = load_model(vgg_directory).manifest
    network = torch_vgg(vgg_directory / NETWORK_FILE, manifest, TAPS)
    assert network.layers[0].weight.shape == (8, 3, 3, 3)
    assert not any(layer.out_features == 1000 for layer in network.layers if hasattr(layer, "out_features"))
    found = TorchRunner(network, **options)(images)
    assert tuple(sorted(found)) == tuple(sorted(TAPS))
    assert all(tap.dtype == np.float32 for tap in found.values())
    assert tap_difference(found, reference) < tolerance
    assert network.layers[0].weight.is_contiguous()  # the runners share the layers, and leave them as they are


@pytest.mark.parametrize(("known", "method"), [(("fork", "spawn", "forkserver"), "forkserver"), (("spawn",), "spawn")])
def test_workers_are_not_forked_from_threads(vgg_directory, monkeypatch, known, method):
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: list(known))  # on Windows one
    manifest = load_model(vgg_directory).manifest
    peer = peers_torch.TunedPeer(None, "", "fp32", manifest, None, batch_size=2)
    assert peer._loader.multiprocessing_context.get_start_method() == method


def test_other_networks_are_refused_with_the_reason(vgg_directory, tiny_directory, tmp_path):
    tiny = load_model(tiny_directory)
    with pytest.raises(ModelError, match="'tiny' cannot be rebuilt in PyTorch"):
        torch_vgg(tiny.network, tiny.manifest, ("conv_last",))
    manifest = load_model(vgg_directory).manifest
    other = replace(manifest, input=replace(manifest.input, mean=(1.0, 2.0, 3.0)))
    with pytest.raises(ModelError, match="normalisation"):
        torch_vgg(vgg_directory / NETWORK_FILE, other, TAPS)
    branched = onnx.load(vgg_directory / NETWORK_FILE)
    branched.graph.node[5].input[0] = branched.graph.input[0].name
    onnx.save(branched, tmp_path / "branched.onnx")
    with pytest.raises(ModelError, match="not a chain"):
        torch_vgg(tmp_path / "branched.onnx", manifest, TAPS)
    unbiased = onnx.load(vgg_directory / NETWORK_FILE)
    next(node for node in unbiased.graph.node if node.op_type == "Conv").input.pop()
    onnx.save(unbiased, tmp_path / "unbiased.onnx")
    with pytest.raises(ModelError, match="it has a Conv without stored weights and bias: only the VGG"):
        torch_vgg(tmp_path / "unbiased.onnx", manifest, TAPS)


def test_compiling_that_fails_is_said(vgg_directory, images, monkeypatch):
    def broken(_):
        raise RuntimeError("no compiler\nand more")

    network = torch_vgg(vgg_directory / NETWORK_FILE, load_model(vgg_directory).manifest, TAPS)
    monkeypatch.setattr(peers_torch.torch, "compile", broken)
    runner, note = tuned_runner(network, "fp32", images, try_compile=True)
    assert runner(images).keys() == set(TAPS)
    assert note == "eager, as torch.compile does not work here (RuntimeError: no compiler)"
    monkeypatch.setattr(peers_torch.torch, "compile", lambda forward: forward)
    _, note = tuned_runner(network, "fp32", images, try_compile=True)
    assert " x " in note


def test_image_by_image_counts_as_the_svm_and_points_at_the_heat(bumps_of):
    rng = np.random.default_rng(0)
    taps = {"conv_last": bumps_of([(3, 4), (9, 2), (6, 6)]), "fc": rng.standard_normal((3, 8)).astype(np.float32)}
    weights = {"fc": rng.standard_normal((3, 8)).astype(np.float32)}
    counter = CountSVM(("fc",), ("0", "1", "2+"), weights, np.zeros(3, np.float32))
    expected = counter.scores(taps).argmax(axis=1)
    assert ImageByImage(counter, C2PSettings())(taps) == expected.tolist()
    one = replace(counter, bias=np.array([0, 100, 0], np.float32))
    for (pointer,), (x, y) in zip(
        ImageByImage(one, C2PSettings())._pointers(taps), [(3, 4), (9, 2), (6, 6)], strict=True
    ):
        assert pointer[:2] == pytest.approx((x, y), abs=0.2)
        assert min(pointer[2:]) > 0


@pytest.fixture
def bumps_of():
    def make(centres):
        rows, columns = np.mgrid[:12, :12]
        heat = [np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 2) for x, y in centres]
        return np.repeat(np.array(heat, np.float32)[:, None], 3, axis=1)

    return make


class Fake:
    """A peer that says what it is told, and notes what it is asked to do."""

    def __init__(self, log, letter="a", scope="end to end", precision="fp32", taps=1.0, counts=1):
        self.name, self.letter, self.scope, self.precision, self.note = f"fake {letter}", letter, scope, precision, ""
        self._log, self._taps, self._counts = log, taps, counts

    def taps(self, images):
        return {"conv_last": np.full((len(images), 2), self._taps, np.float32)}

    def run(self, work):
        self._log.append((self.letter, len(work.paths)))
        return [self._counts] * len(work.paths) if self.scope == "end to end" else []

    def close(self):
        pass


@pytest.fixture
def work(photos):
    return Workload(photos * 2, [np.zeros((5, 4, 4, 3), np.uint8)])


@pytest.mark.parametrize(
    "wrong",
    [
        {"taps": 1.01},
        {"taps": np.nan},
        {"taps": 1.01, "scope": "network"},
        {"taps": 1.1, "precision": "bf16"},
        {"counts": 2},
        *({"counts": 2, "precision": precision} for precision in PRECISIONS if precision != "fp32"),
    ],
)
def test_a_wrong_peer_is_left_out_and_the_others_are_timed(work, wrong):
    log = []
    peers = [Fake(log), Fake(log, "b", **wrong), Fake(log, "c")]
    first, left_out, last = race(peers, work, 2, work.paths[:3])
    assert {letter for letter, n in log if n == len(work.paths)} == {"a", "c"}
    assert (left_out.images_per_second, left_out.ratio, left_out.seconds) == (None, None, ())
    assert re.search(r"its (taps differ from|counts are) those of \(a\) fake a at fp32", left_out.reason)
    for result in (first, last):
        assert result.reason == ""
        assert len(result.seconds) == 2
    json.dumps([left_out.tap_difference, left_out.count_agreement], allow_nan=False)
    # With nobody to compare with there is nothing to say.
    log.clear()
    with pytest.raises(
        BackendError, match=r"No other peer agrees with \(a\) fake a .*\(b\) fake b .* 'pc-engine build'"
    ):
        race(peers[:2], work, 2, work.paths[:3])
    assert all(n == 3 for _, n in log)


def test_a_peer_that_is_left_out_is_in_the_report_with_the_reason(tiny_directory, photos, monkeypatch):
    rounding = OpenVinoPeer.taps
    monkeypatch.setattr(OpenVinoPeer, "taps", lambda *args: {k: 1.5 * v for k, v in rounding(*args).items()})
    settings = ThroughputSettings(str(tiny_directory), execution=Execution(batch_size=4), workers=1, n=4, repeats=1)
    said = []
    report = compare_with_peers(photos, settings, try_compile=False, report=said.append).to_dict()
    (one,) = [peer for peer in report["peers"] if (peer["letter"], peer["precision"]) == ("d", "fp32")]
    assert one["images_per_second"] is None
    assert f"(d) {one['name']} at fp32 is left out: {one['reason']}" in said
    assert one["reason"].startswith("its taps differ from those of (c) ONNX Runtime at fp32 by ")


def test_pc_engine_takes_the_cpu_as_the_others_do_where_there_is_a_gpu(make_model, tmp_path, photos, monkeypatch):
    asked = []
    monkeypatch.setattr("pc_engine.networks.choose_device", lambda asks, *_: asked.append(asks.device) or "cpu")
    # Without a counter: the network says there, too, what a random one is balanced on.
    bare = make_model(tmp_path / "bare", counter=None)
    settings = ThroughputSettings(str(bare), execution=Execution(batch_size=4), workers=1, n=4, repeats=1)
    compare_with_peers(photos, settings, try_compile=False)
    assert set(asked) == {"cpu"}


def test_peers_take_turns_and_rates_follow_from_their_runs(work):
    log = []
    peers = [Fake(log), Fake(log, "b", precision="bf16", taps=1.01), Fake(log, "d", "network")]
    results = race(peers, work, 3, work.paths[:3])
    timed = [letter for letter, n in log if n == len(work.paths)]
    assert timed == ["a", "b", "d", "b", "d", "a", "d", "a", "b"]
    assert [result.letter for result in results] == ["a", "b", "d"]
    for result, images in zip(results, (24, 24, 25), strict=True):
        assert result.images_per_second == images / np.median(result.seconds)
        assert result.ratio == result.images_per_second / results[0].images_per_second
    assert [result.count_agreement for result in results] == [1, 1, None]
    assert results[1].tap_difference == pytest.approx(0.01, rel=1e-3)


def test_without_peer_a_there_are_rates_but_no_ratios(work):
    (result,) = race([Fake([], "e")], work, 1, work.paths[:3])
    assert result.images_per_second > 0
    assert result.ratio is None


def test_a_model_that_is_no_vgg_still_races_the_runtimes(tiny_directory, photos):
    settings = ThroughputSettings(str(tiny_directory), execution=Execution(batch_size=4), workers=1, n=4, repeats=1)
    report = compare_with_peers(photos, settings, try_compile=False).to_dict()
    assert report["reference"] == "(c) ONNX Runtime at fp32"
    for peer in report["peers"]:
        assert (peer["images_per_second"] is None) == bool(peer["reason"])
        if peer["letter"] in "ab":
            assert "cannot be rebuilt in PyTorch" in peer["reason"]
    assert {("c", "fp32"), ("d", "fp32"), ("e", "fp32")} <= {
        (peer["letter"], peer["precision"]) for peer in report["peers"] if peer["images_per_second"]
    }


def test_a_library_that_fails_with_an_error_of_its_own_costs_its_rows_alone(tiny_directory, photos, monkeypatch):
    def broken(*_):
        raise RuntimeError("no kernel for it\nin this build")

    monkeypatch.setattr(peers_torch, "torch_vgg", broken)
    monkeypatch.setattr(OpenVinoPeer, "__init__", broken)
    settings = ThroughputSettings(str(tiny_directory), execution=Execution(batch_size=4), workers=1, n=4, repeats=1)
    peers = compare_with_peers(photos, settings, try_compile=False).to_dict()["peers"]
    for peer in peers:
        if peer["letter"] in "ab" or (peer["letter"], peer["precision"]) == ("d", "fp32"):
            assert peer["reason"] == "RuntimeError: no kernel for it"
    assert any(peer["letter"] == "c" and peer["images_per_second"] for peer in peers)


def test_missing_torch_is_a_sentence(tiny_directory, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackageError, match=r"pc-engine\[train\]"):
        compare_with_peers(photos, ThroughputSettings(str(tiny_directory)))


def test_pillow_and_the_engine_see_nearly_the_same_pixels(photos):
    for path in photos[:3]:
        ours = decode_image(path, 64, 64).pixels.astype(int)
        assert np.abs(peers_torch.load_photo(path, 64, 64) - ours).max() <= 2


@pytest.mark.slow
def test_all_peers_agree_on_a_small_vgg(vgg_directory, photos):
    settings = ThroughputSettings(str(vgg_directory), execution=Execution(batch_size=4), workers=1, n=12, repeats=2)
    report = compare_with_peers(photos, settings, try_compile=False).to_dict()
    assert json.loads(json.dumps(report)) == json.loads(json.dumps(report, allow_nan=False))
    assert report["reference"] == "(a) PyTorch at fp32"
    assert report["random_parts"] == ["counter"]
    working = [peer for peer in report["peers"] if not peer["reason"]]
    assert [peer["name"] for peer in working if peer["letter"] == "a"] == ["PyTorch", "PyTorch in batches"]
    base = next(peer["images_per_second"] for peer in working if peer["name"] == "PyTorch")
    ran = {(peer["letter"], peer["scope"], peer["precision"]): peer for peer in working}
    assert {("a", "end to end", "fp32"), ("b", "end to end", "fp32"), ("b", "end to end", "bf16")} <= ran.keys()
    assert {("c", "network", "fp32"), ("d", "network", "fp32"), ("e", "network", "fp32")} <= ran.keys()
    for peer in working:
        letter, scope, precision = peer["letter"], peer["scope"], peer["precision"]
        assert peer["tap_difference"] <= report["tap_tolerance"][precision]
        assert len(peer["seconds"]) == 2
        assert peer["ratio"] == peer["images_per_second"] / base
        if scope == "end to end":
            assert peer["count_agreement"] >= report["least_count_agreement"][precision], letter
    # What does not run here is named, never left out.
    assert {peer["precision"] for peer in report["peers"] if peer["letter"] == "e"} == set(PRECISIONS)
    # The DataLoader of (b) leaves nothing behind.
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
