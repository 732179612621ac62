"""Windows over maps that lie with their channels last: what pooling and convolution have in common."""

from __future__ import annotations

from dataclasses import dataclass

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import Device

#: Adjacent channels that a thread reads at once, where their number allows it.
LOAD = 8


@dataclass(frozen=True)
class Windows:
    """Windows over maps of ``size`` rows and columns.

    Attributes
    ----------
    size, window, stride
        Rows and columns of the maps, of a window, and from one window to the next.
    pads
        Cells outside the map that windows may begin or end on: above, left, below, right.
    """

    size: tuple[int, int]
    window: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def count(self) -> tuple[int, int]:
        """Windows below and beside one another; those that reach beyond the pads are left out. 0 or less for none."""
        (height, width), (top, left, bottom, right) = self.size, self.pads
        rows = (height + top + bottom - self.window[0]) // self.stride[0] + 1
        return rows, (width + left + right - self.window[1]) // self.stride[1] + 1

    @classmethod
    def over(
        cls,
        operation: str,
        maps: Array,
        window: tuple[int, ...],
        stride: tuple[int, int],
        pads: tuple[int, int, int, int],
    ) -> Windows:
        """Return the windows over ``maps``.

        Raises
        ------
        ValueError
            If they are no floating-point maps (N, H, W, C), or no window fits into them.
        """
        if maps.ndim == 4 and maps.dtype.kind == "f" and len(window) == 2 and min(pads) >= 0:
            windows = cls(maps.shape[1:3], (window[0], window[1]), stride, pads)
            if min(*windows.window, *stride) >= 1 and min(windows.count) >= 1:
                return windows
        raise ValueError(
            f"{operation} needs floating-point maps (N, H, W, C) that windows fit into, but got {maps.dtype} "
            f"{maps.shape}, windows of {window} every {stride} cells and pads {pads}."
        )

    def launch(
        self, device: Device, operation: str, maps: Array, *others: Array, numbers: tuple[Array, ...] = ()
    ) -> Array:
        """Launch a kernel of ``cuda/channels_last.cu`` and return its result (N, H', W', C), a block each row of it.

        The kernel takes ``maps``, of float16 or float32, and the ``others``; then these windows; then ``numbers``.
        """
        xp = get_array_module(maps)
        count, channels, (rows, columns) = maps.shape[0], maps.shape[3], self.count
        result = xp.empty((count, rows, columns, channels), maps.dtype)
        load = LOAD if channels % LOAD == 0 else 1
        sizes = (*self.size, *self.window, *self.stride, *self.pads[:2], *self.count, channels, load)
        device.launch(
            operation,
            *map(xp.ascontiguousarray, (maps, *others)),
            *map(xp.int32, sizes),
            *numbers,
            result,
            blocks=count * rows,
            tasks=columns * channels // load,
        )
        return result

    def cells(self, maps: Array, outside: float) -> list[tuple[int, int, Array]]:
        """Return for each cell of a window its row and column there, and that cell of all windows (N, H', W', C)."""
        xp = get_array_module(maps)
        (rows, columns), (top, left, bottom, right) = self.count, self.pads
        around = ((0, 0), (top, bottom), (left, right), (0, 0))
        padded = xp.pad(maps, around, constant_values=maps.dtype.type(outside))
        (down, across), (height, width) = self.stride, self.window
        return [
            (y, x, padded[:, y : y + (rows - 1) * down + 1 : down, x : x + (columns - 1) * across + 1 : across])
            for y in range(height)
            for x in range(width)
        ]
