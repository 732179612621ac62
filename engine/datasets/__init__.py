"""Readers of labelled images: counts to fit and judge the counter, classes for the signatures, boxes for pointing.

>>> from pc_engine.datasets import read_labelled
>>> for image in read_labelled("sos:data/SOS#test").images:
...     print(image.path, image.count)

Every form of labels has a module of its own that gives a :class:`LabelledSet`; :func:`read_labelled` picks the one for
a specification. An entry that cannot be used is listed with its reason and never stops the reading.
"""

from __future__ import annotations

from pc_engine.datasets.classes import ResolvedClasses, resolve_class_ids
from pc_engine.datasets.read import KNOWN_FORMS, read_labelled
from pc_engine.datasets.records import Box, LabelledImage, LabelledSet, clip_to_frame

__all__ = [
    "KNOWN_FORMS",
    "Box",
    "LabelledImage",
    "LabelledSet",
    "ResolvedClasses",
    "clip_to_frame",
    "read_labelled",
    "resolve_class_ids",
]
