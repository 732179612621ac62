from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

import pytest

from pc_engine.errors import ImageError
from pc_engine.sources import SourceImage

Pack = Callable[..., bytes]
Said = Callable[[SourceImage], str]


@pytest.fixture(scope="session")
def packed() -> Pack:
    """Return ``packed(members, format=...)``, the bytes of a tar archive of (name, content)."""

    def packed(members: list[tuple[str, bytes]], **options: int) -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", **options) as archive:
            for name, content in members:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return stream.getvalue()

    return packed


@pytest.fixture(scope="session")
def said() -> Said:
    """Return ``said(image)``, what an image that cannot be read says."""

    def said(image: SourceImage) -> str:
        with pytest.raises(ImageError) as caught:
            image.read()
        message = str(caught.value)
        assert message.endswith(".")
        assert "\n" not in message
        return message

    return said
