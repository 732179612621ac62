"""Where local maxima of a batch of grids are joined: how deep one has to go from one to a greater one."""

from __future__ import annotations

from pc_engine.kernels.array_module import Array, get_array_module


def saddles(density: Array, parent: Array, maxima: Array) -> Array:
    """Return the highest pass from each local maximum to a denser one, (M,), and 0 where there is no path.

    Parameters
    ----------
    density
        (N, H, W), below 0 where no path leads.
    parent
        (N*H*W,): flat index of a denser one of each cell's 8 neighbours; its own where there is none.
    maxima
        (M,): flat indices, ascending, of the cells of which that is so and where a path may lead.

    Notes
    -----
    The cells from which one climbs to the same maximum are joined with it by paths that are nowhere lower than they, so
    that the passes that matter lie where cells of two maxima touch. From the highest down each joins what lies on its
    two sides, where that is not joined yet, and is the saddle of the less dense one of both sides' densest maxima. One
    pass of each image is gone through at a time.
    """
    xp = get_array_module(density)
    count, height, width = density.shape
    of_image = maxima // (height * width)
    # Maxima are numbered by image and density, so that of two the denser one has the lower number.
    order = xp.lexsort(xp.stack([-density.ravel()[maxima], of_image]))
    numbers = xp.arange(len(order))
    number_of_cell = xp.full(density.size, -1)
    number_of_cell[maxima[order]] = numbers
    sides, heights = highest_passes(density, number_of_cell[roots(parent)].reshape(density.shape))
    image = of_image[order][sides[0]]
    falling = xp.lexsort(xp.stack([-heights, image]))
    turn = position_in_image(image[falling], count)
    turns = falling[xp.argsort(turn, kind="stable")]
    saddle, greatest = xp.zeros(len(order)), numbers
    for passes in xp.split(turns, xp.cumsum(xp.bincount(turn))[:-1]):
        one, other = greatest[sides[0, passes]], greatest[sides[1, passes]]
        denser, less_dense = xp.minimum(one, other), xp.maximum(one, other)
        saddle[less_dense] = xp.where(denser < less_dense, heights[passes], saddle[less_dense])
        joined = numbers.copy()
        joined[less_dense] = denser
        greatest = joined[greatest]
    found = xp.empty(len(order))
    found[order] = saddle
    return found


def highest_passes(density: Array, number: Array) -> tuple[Array, Array]:
    """Return the pairs of regions whose cells touch, (2, P), and the height (P,) of the highest pass between them.

    ``number`` (N, H, W) has the number of each cell's region, -1 for none; no two images share one. Of a pair the lower
    number comes first. A pass is as high as the less dense one of two cells that are neighbours among 8.
    """
    xp = get_array_module(density)
    sides, heights = [], []
    _, rows, columns = density.shape
    for dy, dx in ((0, 1), (1, -1), (1, 0), (1, 1)):
        here = (slice(None), slice(0, rows - dy), slice(max(-dx, 0), columns - max(dx, 0)))
        there = (slice(None), slice(dy, rows), slice(max(dx, 0), columns - max(-dx, 0)))
        one, other = number[here], number[there]
        between = xp.nonzero((one != other) & (one >= 0) & (other >= 0))
        pair = xp.stack([one[between], other[between]])
        sides.append(xp.sort(pair, axis=0))
        heights.append(xp.minimum(density[here][between], density[there][between]))
    pairs, height = xp.concatenate(sides, axis=1), xp.concatenate(heights)
    order = xp.lexsort(xp.stack([-height, *pairs]))
    pairs, height = pairs[:, order], height[order]
    first = xp.ones(len(height), dtype=bool)
    first[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(axis=0)
    return pairs[:, first], height[first]


def position_in_image(image: Array, count: int) -> Array:
    """Number the entries of a list sorted by image from 0 within each image."""
    xp = get_array_module(image)
    sizes = xp.bincount(image, minlength=count)
    return xp.arange(len(image)) - (xp.cumsum(sizes) - sizes)[image]


def roots(parent: Array) -> Array:
    """Follow each cell's chain of denser cells to its end, halving the chains until nothing changes."""
    xp = get_array_module(parent)
    while True:
        further = parent[parent]
        if bool(xp.array_equal(further, parent)):
            return parent
        parent = further
