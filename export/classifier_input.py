"""How a given ONNX classifier takes pixels: which of its inputs is the image, and what the file says of that one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx

from pc_engine.errors import ModelError, UsageError
from pc_engine.graph.names import stored_names
from pc_engine.graph.prepare import input_tensor
from pc_engine.graph.pruning import part_behind
from pc_engine.manifest import NetworkInput
from pc_engine.say import Say

# Pixels, where neither the user nor the network says how many.
_USUAL_SIZE = 224
_COLOURS = 3
_IMAGE_RANK = 4
#: Axes of height and width, by layout.
SPATIAL_AXES = {"NCHW": (2, 3), "NHWC": (1, 2)}
#: The axis of channels, by layout.
CHANNEL_AXES = {"NCHW": 1, "NHWC": 3}


def complete_input(model: onnx.ModelProto, tensors: Mapping[str, str], pixels: NetworkInput) -> NetworkInput:
    """Return ``pixels`` with what it leaves open taken from the network.

    Parameters
    ----------
    model
        The network.
    tensors
        Tap name to tensor.
    pixels
        What is known: an empty ``tensor`` or ``layout`` is open, as are a ``height`` and ``width`` of 0.

    Raises
    ------
    ModelError
        If the taps depend on no input, or on several of which none is the image beyond doubt, or if the network is made
        for images of another size, or of other than three channels.
    ManifestError
        If there is no input of the name given.
    UsageError
        If pixels are to be brought to a range, and the network takes them as bytes.
    """
    given = input_tensor(model, pixels.tensor or _image_name(model, tensors))
    takes_bytes = given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    if takes_bytes and not _are_unchanged(pixels):
        raise UsageError(
            f"The network's input '{given.name}' takes bytes, so that the network itself brings pixels to its range: "
            f"leave --mean and --std out."
        )
    # 0 where it is no number; some exporters write -1.
    sizes = [max(dim.dim_value, 0) for dim in given.type.tensor_type.shape.dim]
    if len(sizes) != _IMAGE_RANK:
        sizes = [0] * _IMAGE_RANK
    layout = pixels.layout or _layout(sizes, takes_bytes)
    channels = sizes[CHANNEL_AXES[layout]]
    if channels not in (0, _COLOURS):
        raise ModelError(
            f"The network's input '{given.name}' has {channels} channel(s) in the layout {layout}, but photos have "
            f"{_COLOURS}: choose another --layout, or a network that takes RGB."
        )
    declared = [sizes[axis] for axis in SPATIAL_AXES[layout]]
    asked = [pixels.height or declared[0], pixels.width or declared[1]]
    if any(own and own != one for own, one in zip(declared, asked, strict=True)):
        own_size, size = (" x ".join(str(side or "any") for side in sides) for sides in (declared, asked))
        raise ModelError(
            f"The network takes images of {own_size} pixels (height x width), not of {size}: omit --size, or export it "
            "from its framework with a dynamic height and width."
        )
    return replace(
        pixels,
        tensor=given.name,
        layout=layout,
        dtype="uint8" if takes_bytes else "float32",
        height=pixels.height or declared[0] or _USUAL_SIZE,
        width=pixels.width or declared[1] or _USUAL_SIZE,
    )


def say_range(pixels: NetworkInput, report: Say) -> None:
    """Report that pixels go in as they are, where they do: few networks that take floats were trained on such."""
    if pixels.dtype == "float32" and _are_unchanged(pixels):
        report(
            "Pixels go in as 0 to 255, nothing subtracted, undivided: if the network was trained on others, add --mean "
            "and --std, in units of 0..255 (most PyTorch networks: --mean 123.675,116.28,103.53 --std "
            "58.395,57.12,57.375; pixels of 0..1: --std 255)."
        )


def _are_unchanged(pixels: NetworkInput) -> bool:
    return not any(pixels.mean) and all(value == 1 for value in pixels.std)


def _image_name(model: onnx.ModelProto, tensors: Mapping[str, str]) -> str:
    """Return the input that the taps depend on, leaving out those that have a value in the file."""
    stored, part = set(stored_names(model.graph)), part_behind(model.graph, tensors.values())
    needed = [value for value in model.graph.input if value.name in part.tensors and value.name not in stored]
    if len(needed) > 1:
        needed = [value for value in needed if len(value.type.tensor_type.shape.dim) == _IMAGE_RANK] or needed
    if len(needed) == 1:
        return str(needed[0].name)
    if not needed:
        raise ModelError(f"The taps {sorted(tensors)} depend on no input of the network: name others with --tap.")
    names = ", ".join(f"'{value.name}'" for value in needed)
    raise ModelError(
        f"The taps {sorted(tensors)} need the inputs {names}: only networks with one image input can be run, so store "
        f"the values of all others in the file, as initializers of their names."
    )


def _layout(sizes: list[int], takes_bytes: bool) -> str:
    """Return on which axis three channels lie; NCHW where both or none could hold them."""
    found = [name for name, axis in CHANNEL_AXES.items() if sizes[axis] == _COLOURS]
    if len(found) == 1:
        return found[0]
    return "NHWC" if takes_bytes else "NCHW"
