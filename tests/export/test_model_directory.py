"""Model directories appear complete or not at all."""

import os
from pathlib import Path

import onnx
import pytest

from pc_engine.errors import ModelError, UsageError, WeightsError
from pc_engine.export import Description, build_vgg, export_vgg, write_model_directory
from pc_engine.export.model_directory import check_network
from pc_engine.export.vgg_graph import COUNT_FEATURES, IMAGENET_MEAN, IMAGENET_STD, vgg_input, vgg_taps
from pc_engine.manifest import Manifest


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
        export_vgg(tiny, weights, out, description=Description(classes=("a", "b")))
    with pytest.raises(WeightsError):
        export_vgg("vgg16", weights, out)

    def disk_full(self, content):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(ModelError, match=r"cannot be written \(No space left on device\): make room, or choose"):
        export_vgg(tiny, weights, out)
    assert list(out.parent.iterdir()) == []


def test_a_model_that_somebody_looks_into_is_waited_for(tmp_path, tiny, weights, open_for_a_moment):
    export_vgg(tiny, weights, tmp_path / "model")
    assert open_for_a_moment[-1].parent == tmp_path
    assert (tmp_path / "model/model.onnx").is_file()


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
