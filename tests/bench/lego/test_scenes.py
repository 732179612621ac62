import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pc_engine.bench.lego.backgrounds import light_field, load_photos
from pc_engine.bench.lego.dataset import LegoSettings, make_scenes
from pc_engine.bench.lego.scenes import SceneSettings, SceneSource
from pc_engine.datasets.labels_json import LABELS_JSON
from pc_engine.errors import DataError, UsageError

SMALL = LegoSettings(n_classes=6, variants=5)


@pytest.fixture(scope="module")
def source() -> SceneSource:
    return SMALL.source("train", 0)


def _files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_scenes_keep_what_they_promise(source: SceneSource) -> None:
    settings = source.settings
    scenes = [source.scene(7, index) for index in range(120)]
    assert set(np.unique([scene.count for scene in scenes])) == set(range(settings.max_count + 1))
    for scene in scenes:
        assert scene.image.shape == (settings.size, settings.size, 3)
        assert scene.image.dtype == np.uint8
        assert scene.count == len(scene.objects)
        assert (scene.class_id == -1) == (scene.count == 0)
        boxes = np.array([placed.box for placed in scene.objects]).reshape(-1, 4)
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= settings.size).all()
        longer = boxes[:, 2:].max(axis=1) if len(boxes) else np.zeros(0)
        assert (longer <= settings.scale[1] * settings.size * (1 + settings.scale_jitter) + 1).all()
        for first in range(len(boxes)):
            for second in range(first):
                a, b = boxes[first], boxes[second]
                gap = max(a[0] - b[0] - b[2], b[0] - a[0] - a[2], a[1] - b[1] - b[3], b[1] - a[1] - a[3])
                assert gap > 0


def test_a_scene_depends_on_seed_and_index_alone(source: SceneSource) -> None:
    first, again = source.scene(3, 9), source.scene(3, 9)
    assert np.array_equal(first.image, again.image)
    assert first.objects == again.objects
    assert not np.array_equal(first.image, source.scene(3, 10).image)
    assert not np.array_equal(first.image, source.scene(4, 9).image)


@pytest.mark.parametrize(
    "values", [{"orientation": -1}, {"orientation": 181}, {"lighting": -0.1}, {"lighting": 1.1}, {"lighting": math.nan}]
)
def test_impossible_turns_and_light_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="use 0 to 180 degrees, and a change from 0 to 1"):
        SceneSettings(**values)


def test_objects_stand_out_where_their_boxes_are() -> None:
    plain = replace(SMALL, scenes=SceneSettings(noise=0, strokes=0, lighting=0, max_count=3))
    source = plain.source("train", 0)
    for index in range(40):
        scene = source.scene(1, index)
        changed = (np.abs(scene.image.astype(int) - scene.image[0, 0].astype(int)) > 25).any(axis=2)
        covered = np.zeros_like(changed)
        for placed in scene.objects:
            x, y, width, height = placed.box
            covered[y : y + height, x : x + width] = True
            assert changed[y : y + height, x : x + width].mean() > 0.1
        # A corner may lie in a box, in which case everything else differs from it.
        if not covered[0, 0]:
            assert not (changed & ~covered).any()


def test_settings_that_crowd_the_image_still_end() -> None:
    crowded = replace(SMALL, scenes=SceneSettings(size=64, max_count=9, scale=(0.8, 0.9), spacing=0.1))
    source = crowded.source("train", 0)
    assert max(source.scene(0, index).count for index in range(20)) >= 7


def test_bystanders_are_listed_but_not_counted() -> None:
    mixed = replace(SMALL, scenes=SceneSettings(classes_per_scene=3, max_count=2))
    source = mixed.source("train", 0)
    scenes = [scene for scene in (source.scene(0, index) for index in range(30)) if scene.objects]
    assert scenes
    for scene in scenes:
        assert len({placed.class_id for placed in scene.objects}) == 3
        assert scene.count == len(scene.objects) - 2
        sizes = {
            c: max(max(p.box[2:]) for p in scene.objects if p.class_id == c)
            for c in {p.class_id for p in scene.objects}
        }
        assert max(sizes, key=lambda c: sizes[c]) == scene.class_id


def test_make_scenes_writes_the_same_bytes_and_its_truth(tmp_path: Path) -> None:
    seen: list[int] = []
    labels = make_scenes(tmp_path / "a", 12, 5, SMALL, progress=seen.append)
    make_scenes(tmp_path / "b", 12, 5, SMALL)
    make_scenes(tmp_path / "c", 12, 6, SMALL)
    assert seen == list(range(1, 13))
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    assert _files(tmp_path / "a") != _files(tmp_path / "c")
    truth = json.loads(labels.read_text())
    assert truth["n"] == len(truth["images"]) == 12
    for record in truth["images"]:
        with Image.open(tmp_path / "a" / record["file"]) as image:
            assert image.size == (record["w"], record["h"])
        assert record["count"] == len(record["boxes"]) == record["n_boxes"]
        assert record["count_ge1pct"] <= record["count"]
        assert record["has_crowd"] is False
        if record["count"]:
            assert {box["c"] for box in record["boxes"]} == {record["dominant"]}
            assert truth["classes"][record["class_id"]] == record["dominant"]
        else:
            assert record["dominant"] is None
            assert record["class_id"] == -1


def test_written_scenes_are_a_labelled_set(tmp_path: Path) -> None:
    from pc_engine.datasets import read_labelled

    make_scenes(tmp_path / "scenes", 8, 5, SMALL)
    truth = json.loads((tmp_path / "scenes" / LABELS_JSON).read_text())
    images = read_labelled(f"lego:{tmp_path / 'scenes'}").images
    assert [image.count for image in images] == [record["count"] for record in truth["images"]]
    assert [image.class_name for image in images] == [record["dominant"] for record in truth["images"]]


def test_held_out_scenes_differ_from_training_scenes() -> None:
    held_out, train = SMALL.source("held-out", 5), SMALL.source("train", 5)
    assert any((held_out.scene(5, n).image != train.scene(5, n).image).any() for n in range(5))


def test_photos_become_backgrounds(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(random.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "photos" / name)
    on_photos = replace(SMALL, backgrounds=tmp_path / "photos")
    make_scenes(tmp_path / "scenes", 3, 0, on_photos)
    make_scenes(tmp_path / "again", 3, 0, on_photos)
    assert _files(tmp_path / "scenes") == _files(tmp_path / "again")
    make_scenes(tmp_path / "noise", 3, 0, SMALL)
    assert _files(tmp_path / "scenes") != _files(tmp_path / "noise")


def test_unusable_photos_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds 0 background photos"):
        load_photos(tmp_path, "train")
    for name in ("broken.jpg", "broken_too.jpg"):
        (tmp_path / name).write_bytes(b"no photo")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        load_photos(tmp_path, "held-out")


def test_training_and_held_out_scenes_share_no_photo(tmp_path: Path) -> None:
    for shade in range(11):
        Image.fromarray(np.full((8, 8, 3), 20 * shade, np.uint8)).save(tmp_path / f"{shade:02d}.png")
    shades = {
        split: [int(image[0, 0, 0]) // 20 for image in load_photos(tmp_path, split)] for split in ("train", "held-out")
    }
    assert shades == {"train": [1, 2, 3, 4, 6, 7, 8, 9], "held-out": [0, 5, 10]}
    assert len(load_photos(tmp_path, "train", limit=3)) == 3


def test_counts_can_begin_above_none() -> None:
    source = replace(SMALL, scenes=SceneSettings(size=64, min_count=1, max_count=2)).source("train", 0)
    assert {source.scene(0, index).count for index in range(40)} == {1, 2}
    with pytest.raises(UsageError, match="Scenes of 3 to 2 objects"):
        SceneSettings(min_count=3, max_count=2)
    with pytest.raises(UsageError, match=r"200 objects do not fit .* lower --max-count to 28"):
        SceneSettings(size=32, max_count=200)
    for spacing in (-0.1, 1.0, math.nan):
        with pytest.raises(UsageError, match=r"spacing of objects is .*, expected a share from 0 to below 1"):
            SceneSettings(spacing=spacing)
    with pytest.raises(UsageError, match="use 32 to 4,096 pixels"):
        SceneSettings(size=100_000)


def test_as_many_objects_as_are_allowed_find_room() -> None:
    crowd = replace(SMALL, scenes=SceneSettings(size=32, min_count=28, max_count=28)).source("train", 0)
    assert [crowd.scene(0, index).count for index in range(5)] == [28] * 5


def test_wrong_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        make_scenes(tmp_path, 0, 0, SMALL)
    make_scenes(tmp_path / "scenes", 1, 0, SMALL)
    with pytest.raises(UsageError, match="exists and is not empty"):
        make_scenes(tmp_path / "scenes", 1, 0, SMALL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "000000.png").write_bytes(b"a photo")
    with pytest.raises(UsageError, match="exists and is not empty"):
        make_scenes(tmp_path / "mine", 1, 0, SMALL)
    assert (tmp_path / "mine" / "000000.png").read_bytes() == b"a photo"
    with pytest.raises(UsageError, match=r"cannot be .* choose another"):
        make_scenes(tmp_path / "mine" / "000000.png" / "below", 1, 0, SMALL)
    for wrong in (
        {"size": 16},
        {"scale": (0.5, 0.4)},
        {"scale": (0.5, 1.2)},
        {"max_count": -1},
        {"classes_per_scene": 0},
    ):
        with pytest.raises(UsageError):
            SceneSettings(**wrong)  # type: ignore[arg-type]


def test_light_keeps_the_mean_and_its_strength() -> None:
    field = light_field(np.random.default_rng(0), 64, 0.5)
    assert abs(float(field.mean()) - 1) < 1e-5
    assert 0 < float(np.ptp(field)) <= 0.5 * 2**0.5 + 1e-6


def test_a_background_too_large_for_pillow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"The background photo .*a\.png cannot be read"):
        load_photos(tmp_path, "held-out")
