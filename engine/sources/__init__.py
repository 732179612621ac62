"""Where images come from: the words on the command line to a stream of images, and a row's name back to its bytes.

>>> from pc_engine.sources import iter_images
>>> for image in iter_images(["photos"]):
...     print(image.name, len(image.read()))
"""

from __future__ import annotations

from pc_engine.sources.folders import IMAGE_SUFFIXES
from pc_engine.sources.image import MAX_BYTES, SourceImage, as_source_image, read_file
from pc_engine.sources.listing import DEMO, DEMO_DIRECTORY, Source, count_images, iter_images, named_twice
from pc_engine.sources.resolve import image_stem, named_image, read_image

__all__ = [
    "DEMO",
    "DEMO_DIRECTORY",
    "IMAGE_SUFFIXES",
    "MAX_BYTES",
    "Source",
    "SourceImage",
    "as_source_image",
    "count_images",
    "image_stem",
    "iter_images",
    "named_image",
    "named_twice",
    "read_file",
    "read_image",
]
