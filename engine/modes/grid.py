"""How long lengths that are given for the usual grid of cells are on others."""

from __future__ import annotations

import math

#: Side of VGG's grid, for which lengths in the settings are given.
USUAL_GRID = 14


def grid_side(height: int, width: int) -> float:
    """Return the side of the square of as many cells.

    Photos are squashed to the network's input: what fills a share of a photo's area fills that share of its cells,
    whatever their rows and columns are.
    """
    return math.sqrt(height * width)
