"""Model directories appear complete or not at all."""

import json
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import save_file

from pc_engine.errors import ModelError, UsageError, WeightsError
from pc_engine.export import Cooccurrence, build_vgg, export_vgg, write_model_directory
from pc_engine.export.model_directory import check_network, find_architecture
from pc_engine.export.vgg import ARCHITECTURES, COUNT_FEATURES, IMAGENET_MEAN, IMAGENET_STD, vgg_input, vgg_taps
from pc_engine.files.digest import file_sha256
from pc_engine.graph.prepare import open_graph
from pc_engine.manifest import Manifest
from pc_engine.manifest_file import read_manifest


@pytest.fixture
def weights(tmp_path, tiny_weights):
    save_file(tiny_weights, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_exported_directory_says_what_it_holds(tmp_path, tiny, tiny_weights, weights):
    out = tmp_path / "deep" / "er" / "model"
    names = [f"class {k}" for k in range(7)]
    written = export_vgg(tiny, weights, out, classes=names, licence="BSD-3-Clause", source="somewhere")
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
    other = export_vgg(tiny, weights, tmp_path / "c", mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    assert (other.input.mean, other.input.std) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert other.network_sha256 != read_manifest(tmp_path / "a").network_sha256


def test_an_empty_directory_is_filled_and_a_full_one_left_alone(tmp_path, tiny, weights):
    out = tmp_path / "model"
    out.mkdir()
    export_vgg(tiny, weights, out)
    before = (out / "model.onnx").stat().st_mtime_ns
    with pytest.raises(UsageError, match="exists and is not empty"):
        export_vgg(tiny, "random:0", out)
    assert (out / "model.onnx").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="is a file, not a directory: name another"):
        export_vgg(tiny, "random:0", weights)


def test_new_directory_has_ordinary_permissions(tmp_path, tiny, weights):
    export_vgg(tiny, weights, tmp_path / "model")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_place_where_no_folder_can_be_made_is_wrong_use(tmp_path, tiny, weights):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file/model cannot be made \(Not a directory\): choose another place"):
        export_vgg(tiny, weights, tmp_path / "file" / "model")


def test_nothing_stays_of_a_failed_export(tmp_path, tiny, weights, monkeypatch):
    out = tmp_path / "out" / "model"
    out.parent.mkdir()
    with pytest.raises(UsageError, match="There are 2 class names, but the network has 7 logits"):
        export_vgg(tiny, weights, out, classes=("a", "b"))
    with pytest.raises(WeightsError):
        export_vgg("vgg16", weights, out)

    def disk_full(self, content):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(ModelError, match=r"cannot be written \(No space left on device\): make room, or choose"):
        export_vgg(tiny, weights, out)
    assert list(out.parent.iterdir()) == []


def test_what_a_killed_export_left_is_in_nobodys_way(tmp_path, tiny, weights):
    # In a container each process may have the number of the one before.
    left = [tmp_path / f".out.{os.getpid()}.new", tmp_path / ".out.0123456789abcdef.new"]
    for folder in left:
        folder.mkdir()
    export_vgg(tiny, weights, tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx").is_file()
    assert sorted(path for path in tmp_path.iterdir() if path.name.startswith(".out")) == sorted(left)


def test_faulty_network_is_not_written(tmp_path, tiny, tiny_weights):
    model = build_vgg(tiny, tiny_weights)
    model.graph.node[0].op_type = "NoSuchOperator"
    manifest = Manifest("bad", vgg_input(tiny, IMAGENET_MEAN, IMAGENET_STD), vgg_taps(tiny, 7), COUNT_FEATURES)
    with pytest.raises(ModelError, match=r"does not pass the ONNX checker.*NoSuchOperator"):
        write_model_directory(model, manifest, tmp_path / "bad")
    assert list(tmp_path.iterdir()) == []


def test_checker_is_given_the_file(tmp_path, tiny, tiny_weights):
    path = tmp_path / "model.onnx"
    onnx.save_model(build_vgg(tiny, tiny_weights), path)
    check_network(path)
    model = build_vgg(tiny, tiny_weights)
    model.graph.node[5].attribute[0].ints[:] = [5, 5]  # no kernel of the weights' size
    onnx.save_model(model, path)
    with pytest.raises(ModelError, match="ONNX checker"):
        check_network(path)


def test_architecture_is_looked_up_by_name():
    assert find_architecture("vgg19", ARCHITECTURES).name == "vgg19"
    with pytest.raises(UsageError, match="no architecture 'vgg15': choose one of vgg11, vgg13, vgg16, vgg19"):
        find_architecture("vgg15", ARCHITECTURES)


def test_class_names_come_from_a_file(tmp_path, tiny, weights):
    path = tmp_path / "names.json"
    path.write_text(json.dumps([[k, f"n{k:08d}", f"name {k}"] for k in range(7)]))
    assert export_vgg(tiny, weights, tmp_path / "m", classes=path).classes[3] == "name 3"
