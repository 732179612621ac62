from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.datasets import load_sample_images

from pc_engine import Engine
from pc_engine.catalogue import PACKAGED, PackagedWeights
from pc_engine.errors import DownloadError, MissingPackageError, ModelError, UsageError, WeightsError
from pc_engine.export import LiteSpec, efficientnet_lite, make_packaged
from pc_engine.files.digest import file_sha256
from pc_engine.manifest_file import read_manifest
from pc_engine.packages import is_installed
from pc_engine.sources import SourceImage

NAME = "tiny"


@pytest.fixture
def pins(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_lite: LiteSpec,
    lite_state: Callable[..., dict[str, np.ndarray]],
) -> dict[str, PackagedWeights]:
    """A package that ends whoever imports it, and what is known of the weights in it."""
    monkeypatch.setattr(efficientnet_lite, "LITE_ARCHITECTURES", {NAME: tiny_lite})
    package = tmp_path / "site/small_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    save_file(lite_state(tiny_lite, n_classes=1000), package / "models/w.safetensors")
    monkeypatch.syspath_prepend(tmp_path / "site")
    sha256 = file_sha256(package / "models/w.safetensors")
    return {NAME: PackagedWeights("small_weights", "photos", "models/w.safetensors", sha256, licence="Apache-2.0")}


def test_a_model_is_made_of_the_packages_file(tmp_path: Path, pins: dict[str, PackagedWeights]) -> None:
    directory = make_packaged(NAME, tmp_path / "home/models", pins=pins)
    manifest = read_manifest(directory)
    assert directory == tmp_path / "home/models" / NAME
    assert (manifest.name, manifest.licence, manifest.source) == (NAME, "Apache-2.0", "small_weights (w.safetensors)")
    assert (len(manifest.classes), manifest.classes[0]) == (1000, "tench, Tinca tinca")
    assert "small_weights" not in sys.modules


def test_what_is_made_is_not_made_again(tmp_path: Path, pins: dict[str, PackagedWeights]) -> None:
    said: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        made = [*pool.map(lambda _: make_packaged(NAME, tmp_path / "models", said.append, pins=pins), range(4))]
    assert {*made} == {tmp_path / "models" / NAME}
    # Those that had to wait did not make it, and do not say so.
    assert [text for text in said if "Waiting" not in text] == [
        f"Making {NAME} from the package small_weights, once ..."
    ]
    (tmp_path / "site/small_weights/models/w.safetensors").write_bytes(b"")
    assert make_packaged(NAME, tmp_path / "models", pins=pins) == made[0]


def test_a_file_that_is_not_the_pinned_one_is_refused(tmp_path: Path, pins: dict[str, PackagedWeights]) -> None:
    with (tmp_path / "site/small_weights/models/w.safetensors").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(WeightsError, match=r"has sha256 \w{12}…, expected \w{12}…: reinstall the package small_w"):
        make_packaged(NAME, tmp_path / "models", pins=pins)
    assert not (tmp_path / "models" / NAME).exists()


def test_what_is_left_of_a_model_is_to_be_deleted(tmp_path: Path, pins: dict[str, PackagedWeights]) -> None:
    (make_packaged(NAME, tmp_path / "models", pins=pins) / "manifest.json").unlink()
    with pytest.raises(ModelError, match=r"tiny is no longer a model, as it lacks manifest\.json: delete the folder"):
        make_packaged(NAME, tmp_path / "models", pins=pins)


@pytest.mark.parametrize("lacking", ["package", "file"])
def test_an_absent_package_is_named_with_what_installs_it(
    tmp_path: Path, pins: dict[str, PackagedWeights], lacking: str
) -> None:
    path = tmp_path / "site/small_weights/models/w.safetensors"
    path.unlink()
    if lacking == "package":
        path.parent.rmdir()
        (tmp_path / "site/small_weights/__init__.py").unlink()
        (tmp_path / "site/small_weights").rmdir()
    with pytest.raises(
        MissingPackageError, match=r"'small_weights' is needed to make the model tiny.*engine\[photos\]"
    ):
        make_packaged(NAME, tmp_path / "models", pins=pins)


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path, pins: dict[str, PackagedWeights]) -> None:
    with pytest.raises(UsageError, match="no weights 'large' in a package, only tiny"):
        make_packaged("large", tmp_path / "models", pins=pins)


@pytest.mark.parametrize("lies", ["home", "home/downloads/tiny.lock/x"])
def test_a_home_that_cannot_be_written_says_so(tmp_path: Path, pins: dict[str, PackagedWeights], lies: str) -> None:
    (tmp_path / lies).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / lies).touch()
    with pytest.raises(DownloadError, match="say with PC_ENGINE_HOME where models may be kept"):
        make_packaged(NAME, tmp_path / "home/models", pins=pins)


@pytest.mark.skipif(
    not is_installed(PACKAGED["efficientnet_lite2"].package), reason="pip install '.[photos]' brings a real network"
)
def test_a_real_network_sees_what_a_photo_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Summer Palace, one of two photos that scikit-learn brings along."""
    monkeypatch.delitem(sys.modules, PACKAGED["efficientnet_lite2"].package)
    directory = make_packaged("efficientnet_lite2", tmp_path / "models")
    palace = next(image for image, name in zip(*_samples(), strict=True) if Path(name).name == "china.jpg")
    with Engine(directory, mode="p2c", backend="onnxruntime", precision="fp32") as engine:
        (result,) = engine.run_paths([SourceImage.from_pixels("palace", palace)])
    assert (result.class_name, result.count) == ("palace", 1)
    assert result.class_score is not None
    assert result.class_score > 0.4
    (pointer,) = result.pointers
    height, width, _ = palace.shape
    assert width * 0.2 < pointer.x0 + (pointer.x1 - pointer.x0) / 2 < width * 0.8
    assert height * 0.2 < pointer.y0 + (pointer.y1 - pointer.y0) / 2 < height * 0.8


def _samples() -> tuple[list[np.ndarray], list[str]]:
    samples = load_sample_images()
    return samples.images, samples.filenames
