"""A network that really recognises photos, brought by its user, in every mode: the MobileNet of the test data."""

from dataclasses import replace

import pytest

from pc_engine import Engine, load_model
from pc_engine.calibration import read_calibration_images
from pc_engine.datasets import read_labelled, resolve_class_ids
from pc_engine.datasets.imagenet import imagenet_class_names
from pc_engine.export import Cooccurrence, Description, Readout, import_classifier
from pc_engine.export.quantise import quantise_network
from pc_engine.fidelity import compare_with_fp32
from pc_engine.fitting.from_images import counter_from_images, signature_taps, signatures_from_images, store_parts
from pc_engine.manifest import QUANTISED_FILES, NetworkInput
from pc_engine.manifest_file import write_manifest
from pc_engine.model import write_model
from pc_engine.networks import open_network
from pc_engine.selection.execution import Execution

FAST = {"backend": "onnxruntime", "precision": "fp32"}

pytestmark = [pytest.mark.slow, pytest.mark.data]


@pytest.fixture(scope="module")
def fitted(data_directory, tmp_path_factory):
    """The MobileNet with signatures of 200 ImageNet classes and a counter from 200 photos of COCO."""
    network = data_directory.parent / "models" / "mobilenet_v2" / "model.onnx"
    if not network.is_file():
        pytest.skip(f"the ImageNet network is absent ({network})")
    directory = tmp_path_factory.mktemp("models") / "mobilenet_v2"
    import_classifier(
        network,
        directory,
        name="mobilenet_v2",
        pixels=NetworkInput("", 224, 224, layout="NCHW", mean=(128, 128, 128), std=(128, 128, 128)),
        readout=Readout(
            taps={
                "conv_last": "block_16_expand",
                "conv_prev": "block_13_expand",
                "pooled": "pooled",
                "middle": "block_12_add",
                "logits": "logits",
            },
            count_features=["pooled"],
            cooccurrences=[Cooccurrence("middle", distance) for distance in (0, 3)],
        ),
        description=Description(classes=("background", *imagenet_class_names())),
    )
    model = load_model(directory)

    samples = read_labelled(str(data_directory / "imagenet1k_sample")).images[::5]
    backbone = open_network(model, signature_taps(model.manifest), Execution(**FAST))
    class_ids = resolve_class_ids(samples, model.manifest).class_ids
    signatures, unreadable = signatures_from_images(samples, class_ids, backbone, workers=2, rank="contrast")
    assert not unreadable

    photos = [image for image in read_labelled(str(data_directory / "coco")).images if image.count][:200]
    backbone = open_network(model, model.manifest.count_features, Execution(**FAST))
    counter, report, _ = counter_from_images(photos, backbone, workers=2, labels=("1", "2", "3", "4+"))
    assert report.mean_accuracy > 0.25  # chance; measured 0.3 to 0.4 on so few photos
    store_parts(model, directory, counter=counter, signatures=signatures)
    return load_model(directory)


def test_the_network_recognises_photos(fitted, data_directory):
    samples = read_labelled(str(data_directory / "imagenet1k_sample")).images[:150]
    wanted = resolve_class_ids(samples, fitted.manifest).class_ids
    with Engine(fitted, mode="p2c", **FAST) as engine:
        found = [result.class_id for result in engine.run([image.path for image in samples])]
    # The network's README gives .865 over all 1,000, with a crop; here the whole picture is squashed.
    assert sum(int(a == b) for a, b in zip(found, wanted, strict=True)) / len(samples) > 0.75


@pytest.mark.parametrize("mode", ["c2p", "p2c", "combined"])
def test_every_photo_gets_a_row_with_pointers_inside_it(fitted, data_directory, mode):
    photos = sorted((data_directory / "coco" / "img").iterdir())[:120]
    with Engine(fitted, mode=mode, **FAST) as engine:
        results = list(engine.run(photos))
    assert [result.path for result in results] == [str(photo) for photo in photos]
    assert all(result.ok for result in results)
    assert len({result.count for result in results}) > 1
    for result in results:
        assert len(result.pointers) <= result.count
        for pointer in result.pointers:
            x, y = pointer.centre
            assert 0 <= x <= result.width
            assert 0 <= y <= result.height


@pytest.mark.usefixtures("int8_runs")
def test_quantised_on_photos_it_keeps_most_classes_and_counts(fitted, data_directory, tmp_path):
    """The hardest kind of network to quantise, with its saturated, depthwise layers; and on photos it has not seen."""
    write_model(fitted, tmp_path, fitted.manifest)
    photos = read_calibration_images([str(data_directory / "coco" / "img")], 224, 224, limit=300, workers=2)
    quantised = quantise_network(fitted.network, fitted.manifest, photos.used, tmp_path / QUANTISED_FILES["int8"])
    write_manifest(replace(fitted.manifest, quantised={"int8": quantised}), tmp_path)
    report = compare_with_fp32(load_model(tmp_path), "int8", photos.held_out)
    # Measured: 0.063 at the logits, 97 % and 98 %; with the quantiser's own ranges and biases 0.145 and 88 %.
    # And 0.048 and 0.102 at what came later, evidence and the maps of the head that it speaks of.
    errors = dict(report.tap_errors)
    assert errors.pop("conv_top") < 0.12
    assert max(errors.values()) < 0.09
    assert report.top1 >= 0.92
    assert report.counts["c2p"] >= 0.94
