"""Data sets for other tools from the rows of a run: one module for each format.

>>> convert(lambda: iter_rows(Path("run")), "coco", Path("run.json"))
"""

from __future__ import annotations

from pc_engine.converters.conversion import DATASET_FORMATS, Conversion, convert, default_out
from pc_engine.converters.dataset_format import ConversionSettings, DatasetFormat, DatasetWriter

__all__ = [
    "DATASET_FORMATS",
    "Conversion",
    "ConversionSettings",
    "DatasetFormat",
    "DatasetWriter",
    "convert",
    "default_out",
]
