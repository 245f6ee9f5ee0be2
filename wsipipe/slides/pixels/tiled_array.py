"""The tiles of a format as a Zarr array that each thread reads for itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr

from wsipipe.events import Spent
from wsipipe.slides.pixels.tile_store import TileStore


def tiled_array(store: TileStore) -> TiledArray:
    """The array whose tiles ``store`` decodes."""
    return TiledArray(zarr.open_array(store, mode="r", zarr_format=3).async_array)


class TiledArray(zarr.Array[Any]):
    """A read-only Zarr array over a `TileStore`, whose tiles are decoded by the thread that reads them.

    zarr's own way is the one thread of its event loop (see `TileStore.read`). It remains for selections with steps or
    lists, and those that are wrong.
    """

    def __getitem__(self, selection: Any) -> Any:
        """The pixels of ``selection``, as `zarr.Array` takes and gives them; a damaged tile is a SlideReadError."""
        box = _box(selection, self.shape)
        if box is None:
            return super().__getitem__(selection)
        assert isinstance(self.store, TileStore)
        where = [part if isinstance(part, slice) else slice(part, part + 1) for part in box]
        pixels = self.store.read(where, Spent(), across=len(where) - 1)
        return pixels[tuple(slice(None) if isinstance(part, slice) else 0 for part in box)]


def _box(selection: Any, shape: tuple[int, ...]) -> list[slice | int] | None:
    """The box that ``selection`` takes of an array of ``shape``, axis by axis; None if it is not one, or is empty."""
    parts = list(selection) if isinstance(selection, tuple) else [selection]
    at = [i for i, part in enumerate(parts) if part is Ellipsis] or [len(parts)]
    parts[at[0] : at[0] + 1] = [slice(None)] * (len(shape) - len(parts) + (at[0] < len(parts)))
    if len(parts) != len(shape):
        return None
    box = [_along(part, side) for part, side in zip(parts, shape, strict=True)]
    return [part for part in box if part is not None] if None not in box else None


def _along(part: Any, side: int) -> slice | int | None:
    """``part`` of a selection along an axis of ``side`` px, as numbers from 0 on; None if it takes no range of them."""
    if isinstance(part, slice):
        start, stop, step = part.indices(side)
        return slice(start, stop) if step == 1 and start < stop else None
    if isinstance(part, int | np.integer) and not isinstance(part, bool) and -side <= part < side:
        return int(part) % side
    return None
