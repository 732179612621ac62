import zipfile

import numpy as np
import pytest
from PIL import Image

from pc_engine.bench.photos import in_batches, photos_of, readable_photos, repeat_to
from pc_engine.decoding.decode import decode_image
from pc_engine.errors import DataError, UsageError


def test_random_photos_are_jpegs_of_640_by_480_that_go_when_done():
    with photos_of("random:3") as photos:
        assert len(photos) == 3
        for path in photos:
            with Image.open(path) as photo:
                assert (photo.format, photo.size) == ("JPEG", (640, 480))
        contents = [path.read_bytes() for path in photos]
    assert len(set(contents)) == 3
    assert not any(path.exists() for path in photos)
    with photos_of("random:2") as again:
        assert [path.read_bytes() for path in again] == contents[:2]


@pytest.mark.parametrize("source", ["random:", "random:0", "random:-3", "random:many"])
def test_random_needs_a_number(source):
    with pytest.raises(UsageError, match="random:200"), photos_of(source):
        pass


def test_random_photos_are_not_without_end():
    with pytest.raises(UsageError, match="more than 100,000 photos"), photos_of("random:99999999999"):
        pass


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(DataError, match="no image"), photos_of(str(tmp_path)):
        pass


def test_images_that_are_no_files_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.jpg", b"x")
    with pytest.raises(UsageError, match="not files on this machine"), photos_of(f"zip://::{tmp_path}/photos.zip"):
        pass


def test_unreadable_photos_are_left_out_and_the_first_readable_ones_kept(tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(6)]
    for k, path in enumerate(paths):
        Image.new("RGB", (10, 8), (40 * k, 0, 0)).save(path)
    paths[0].write_bytes(b"no picture")
    readable, images = readable_photos(paths, 4, 5, keep=2)
    assert readable == paths[1:]
    assert [image.pixels.shape for image in images] == [(4, 5, 3)] * 2
    for path, image in zip(readable, images, strict=False):
        np.testing.assert_array_equal(image.pixels, decode_image(path, 4, 5).pixels)


def test_no_readable_photo_is_an_error(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="can be read"):
        readable_photos([tmp_path / "a.jpg"], 4, 5, keep=2)


def test_batches_are_full_and_repeat_what_there_is(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (10, 8), (40, 0, 0)).save(path)
    images = [decode_image(path, 4, 5)] * 3
    assert [batch.shape for batch in in_batches(images, 2, most=9)] == [(2, 4, 5, 3)] * 2
    assert [batch.shape for batch in in_batches(images, 8, most=9)] == [(8, 4, 5, 3)]
    assert len(in_batches(images, 1, most=2)) == 2
    assert repeat_to([path, tmp_path], 5) == [path, tmp_path, path, tmp_path, path]
