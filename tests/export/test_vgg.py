"""Model directories of VGG networks say what they hold."""

import numpy as np
import onnxruntime
import pytest

from pc_engine.errors import UsageError
from pc_engine.export import Cooccurrence, Description, Preprocessing, export_vgg
from pc_engine.export.vgg_graph import IMAGENET_MEAN, IMAGENET_STD
from pc_engine.files.digest import file_sha256
from pc_engine.graph.prepare import open_graph
from pc_engine.manifest_file import read_manifest


def test_exported_directory_says_what_it_holds(tmp_path, tiny, tiny_weights, weights):
    out = tmp_path / "deep" / "er" / "model"
    names = [f"class {k}" for k in range(7)]
    written = export_vgg(
        tiny, weights, out, description=Description(classes=names, licence="BSD-3-Clause", source="somewhere")
    )
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "model.onnx"]
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    manifest = read_manifest(out)
    assert manifest == written
    assert manifest.files == {"model.onnx": file_sha256(out / "model.onnx")}
    assert manifest.count_features == ("pool5", "fc6", "fc7")
    assert manifest.classes == tuple(names)
    assert (manifest.licence, manifest.source) == ("BSD-3-Clause", "somewhere")
    assert (manifest.input.mean, manifest.input.std) == (IMAGENET_MEAN, IMAGENET_STD)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    for value, values in zip(session.get_outputs(), session.run(None, {"image": images}), strict=True):
        assert values.shape == (2, *manifest.taps[value.name].shape)
    pruned = open_graph(out / "model.onnx", manifest, ["fc7", "conv_last"])
    assert "classifier.6.weight" not in {tensor.name for tensor in pruned.graph.initializer}


def test_cooccurrence_is_a_tap_that_the_counter_reads(tmp_path, tiny, weights):
    wanted = [Cooccurrence("conv_last"), Cooccurrence("pool5", 1)]
    manifest = export_vgg(tiny, weights, tmp_path / "model", cooccurrences=wanted)
    assert manifest == read_manifest(tmp_path / "model")
    names = ("conv_last_cooccurrence_0", "pool5_cooccurrence_1")
    assert manifest.count_features == ("pool5", "fc6", "fc7", *names)
    channels = manifest.taps["pool5"].shape[0]
    assert [manifest.taps[name].shape for name in names] == [(channels * (channels + 1) // 2,)] * 2
    with pytest.raises(UsageError, match="the tap 'fc6' has shape"):
        export_vgg(tiny, weights, tmp_path / "other", cooccurrences=[Cooccurrence("fc6")])
    assert not (tmp_path / "other").exists()


def test_same_weights_give_the_same_files(tmp_path, tiny, weights):
    for name in ("a", "b"):
        export_vgg(tiny, weights, tmp_path / name)
    for file in ("model.onnx", "manifest.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_source_and_normalisation_defaults_and_overrides(tmp_path, tiny, weights):
    assert export_vgg(tiny, weights, tmp_path / "a").source == "w.safetensors"
    assert export_vgg(tiny, "random:1", tmp_path / "b").source == "random:1"
    other = export_vgg(
        tiny, weights, tmp_path / "c", preprocessing=Preprocessing(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    )
    assert (other.input.mean, other.input.std) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert other.network_sha256 != read_manifest(tmp_path / "a").network_sha256
