"""Weights to model directories: VGG and EfficientNet-Lite from their published files, or an ONNX classifier."""

from pc_engine.export.class_names import read_class_names
from pc_engine.export.classifier import import_classifier
from pc_engine.export.cooccurrence import Cooccurrence
from pc_engine.export.efficientnet_graph import LITE_ARCHITECTURES, LiteSpec
from pc_engine.export.efficientnet_lite import export_efficientnet_lite
from pc_engine.export.fetch import fetch_vgg
from pc_engine.export.model_directory import write_model_directory
from pc_engine.export.packaged import make_packaged
from pc_engine.export.settings import Description, Preprocessing, Readout
from pc_engine.export.vgg import export_vgg
from pc_engine.export.vgg_graph import ARCHITECTURES, VggSpec, build_vgg
from pc_engine.export.vgg_weights import VggWeights, random_weights, read_weights

__all__ = [
    "ARCHITECTURES",
    "LITE_ARCHITECTURES",
    "Cooccurrence",
    "Description",
    "LiteSpec",
    "Preprocessing",
    "Readout",
    "VggSpec",
    "VggWeights",
    "build_vgg",
    "export_efficientnet_lite",
    "export_vgg",
    "fetch_vgg",
    "import_classifier",
    "make_packaged",
    "random_weights",
    "read_class_names",
    "read_weights",
    "write_model_directory",
]
