"""What ``pc-engine evaluate`` says of the boxes that pointers were compared with."""

from __future__ import annotations

from collections.abc import Mapping

from pc_engine.cli.console import print_line


def why_none_fit(boxes: Mapping[str, int]) -> str:
    """Return why no image had boxes to compare with, of what `BoxReport` says of them."""
    if boxes["disagree"] or boxes["outside"]:
        return "no image with objects has as many boxes within it as its count says"
    if boxes["no_boxes"]:
        return "the labels give no boxes of what they count"
    return "no image that could be read has objects"


def print_boxes(boxes: Mapping[str, int]) -> None:
    """Say which images and boxes took no part or were changed, if any."""
    notes = {
        "no_boxes": ("image with objects has no boxes", "images with objects have no boxes"),
        "disagree": (
            "image has a number of boxes other than its count and was not used",
            "images have a number of boxes other than their count and were not used",
        ),
        "clipped": (
            "box reached beyond its picture and was clipped",
            "boxes reached beyond their picture and were clipped",
        ),
        "outside": (
            "box lay outside its picture and was left out",
            "boxes lay outside their picture and were left out",
        ),
    }
    said = [
        f"{boxes[key]} {one if boxes[key] == 1 else several}" for key, (one, several) in notes.items() if boxes[key]
    ]
    if said:
        print_line(f"{'; '.join(said)}.")
