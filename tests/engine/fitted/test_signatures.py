from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pc_engine.errors import ModelError
from pc_engine.fitted.fitted_images import FittedImages
from pc_engine.fitted.signatures import SignatureDictionary, check_signatures, load_signatures
from pc_engine.manifest import Manifest, NetworkInput, Tap


def make_signatures(n_classes: int = 4, n_maps: int = 6, depth: int = 3) -> SignatureDictionary:
    rng = np.random.default_rng(0)
    ranking = {
        tap: np.stack([rng.permutation(n_maps)[:depth] for _ in range(n_classes)]).astype(np.int32)
        for tap in ("conv_last", "conv_prev")
    }
    known = np.arange(n_classes) != 1
    return SignatureDictionary(ranking, known)


def make_manifest(n_classes: int = 4, **taps: tuple[int, ...]) -> Manifest:
    shapes = {"conv_last": (6, 2, 2), "conv_prev": (6, 2, 2), "logits": (n_classes,), **taps}
    return Manifest(
        name="tiny",
        input=NetworkInput("image", 32, 32),
        taps={name: Tap(name, shape) for name, shape in shapes.items()},
        count_features=(),
    )


def test_lookup_gives_each_image_the_best_maps_of_its_class() -> None:
    signatures = make_signatures()
    maps = signatures.lookup("conv_prev", np.array([2, 0, 2]), 2)
    assert maps.dtype == np.int32
    np.testing.assert_array_equal(maps, signatures.ranking["conv_prev"][[2, 0, 2], :2])
    assert signatures.lookup("conv_last", np.array([], np.int64), 3).shape == (0, 3)


def test_lookup_does_not_hand_out_the_dictionary_itself() -> None:
    signatures = make_signatures()
    signatures.lookup("conv_last", np.array([0]), 3)[:] = -1
    assert signatures.ranking["conv_last"].min() >= 0


def test_lookup_names_what_is_not_kept() -> None:
    signatures = make_signatures()
    with pytest.raises(
        ModelError, match=r"no signatures for the tap 'pool5' \(only for \['conv_last', 'conv_prev'\]\)"
    ):
        signatures.lookup("pool5", np.array([0]), 1)
    with pytest.raises(ModelError, match="4 maps of 'conv_last' are asked for, but the signatures keep 3"):
        signatures.lookup("conv_last", np.array([0]), 4)


def test_saved_signatures_come_back_equal(tmp_path: Path) -> None:
    signatures, path = make_signatures(), tmp_path / "signatures.safetensors"
    signatures.save(path)
    loaded = load_signatures(path)
    assert list(loaded.ranking) == list(signatures.ranking)
    for tap, ranking in signatures.ranking.items():
        np.testing.assert_array_equal(loaded.ranking[tap], ranking)
    np.testing.assert_array_equal(loaded.known, signatures.known)
    assert loaded.images is None


def test_signatures_know_what_they_were_made_of(tmp_path: Path) -> None:
    path = tmp_path / "signatures.safetensors"
    replace(make_signatures(), images=FittedImages.of([7, 3, 7])).save(path)
    images = load_signatures(path).images
    assert images is not None
    assert (images.digests.tolist(), images.n, images.among([3, 5])) == ([3, 7], 3, 1)


def test_loading_says_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "signatures.safetensors"
    with pytest.raises(ModelError, match=r"does not exist.*pc-engine fit-signatures"):
        load_signatures(path)
    save_file({"known": np.ones(2, bool)}, path, metadata={"format": "pc-engine-counter-1"})
    with pytest.raises(ModelError, match="has format 'pc-engine-counter-1'"):
        load_signatures(path)
    save_file({"known": np.ones(2, bool)}, path, metadata={"format": "pc-engine-signatures-1", "taps": "3"})
    with pytest.raises(ModelError, match="does not list its taps"):
        load_signatures(path)
    save_file({"known": np.ones(2, bool)}, path, metadata={"format": "pc-engine-signatures-1", "taps": '["conv_last"]'})
    with pytest.raises(ModelError, match=r"lacks 'ranking.conv_last'"):
        load_signatures(path)
    tensors = {"known": np.ones(2, bool), "ranking.conv_last": np.zeros((3, 1), np.int32)}
    save_file(tensors, path, metadata={"format": "pc-engine-signatures-1", "taps": '["conv_last"]'})
    with pytest.raises(ModelError, match=r"cannot be used.*shape \(3, 1\)"):
        load_signatures(path)


def test_negative_maps_are_refused() -> None:
    with pytest.raises(ModelError, match="name the map -1"):
        SignatureDictionary({"conv_last": np.array([[-1]], np.int32)}, np.array([True]))


@pytest.mark.parametrize("known", [np.ones((1, 1), bool), np.array(True), np.ones(1)])
def test_anything_but_one_flag_a_class_is_refused(known: np.ndarray) -> None:
    with pytest.raises(ModelError, match="one flag per class"):
        SignatureDictionary({"conv_last": np.array([[0]], np.int32)}, known)


def test_signatures_of_no_tap_are_refused() -> None:
    with pytest.raises(ModelError, match="a ranking for at least one tap"):
        SignatureDictionary({}, np.array([True]))


def test_check_signatures_against_the_manifest() -> None:
    check_signatures(make_signatures(), make_manifest())
    with pytest.raises(ModelError, match="hold 4 classes, but the network 'tiny' has 7"):
        check_signatures(make_signatures(), make_manifest(n_classes=7))
    with pytest.raises(ModelError, match="name the map 5 of 'conv_prev', but the network gives 4 maps"):
        check_signatures(make_signatures(depth=6), make_manifest(conv_prev=(4, 2, 2)))
    with pytest.raises(ModelError, match="name the map 5 of 'conv_prev', but the network gives 5 maps"):
        check_signatures(make_signatures(depth=6), make_manifest(conv_prev=(5, 2, 2)))
    only_last = Manifest(
        "tiny", NetworkInput("i", 8, 8), {"conv_last": Tap("c", (6, 1, 1)), "logits": Tap("l", (4,))}, ()
    )
    with pytest.raises(ModelError, match="for the tap 'conv_prev', which the model 'tiny' does not have"):
        check_signatures(make_signatures(), only_last)
