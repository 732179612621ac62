from __future__ import annotations

from pathlib import Path

import pytest

from pc_engine.errors import ImageError
from pc_engine.fitting.file_digests import FileDigests


def test_a_file_is_read_as_it_is_and_known_by_its_contents(tmp_path: Path) -> None:
    for name, content in (("a", b"photo"), ("copy of a", b"photo"), ("b", b"another")):
        (tmp_path / name).write_bytes(content)
    digests, paths = FileDigests(), [tmp_path / name for name in ("a", "copy of a", "b", "absent")]
    assert digests.of(paths) == []
    images = [digests.image(path) for path in paths]
    assert [image.name for image in images] == list(map(str, paths))
    assert [image.read() for image in images[:3]] == [b"photo", b"photo", b"another"]
    with pytest.raises(ImageError):
        images[3].read()
    first, second, third = digests.of(paths)
    # It has to stay the same from one version to the next.
    assert first == second == 0x7B7061E9F43A7D77 != third
