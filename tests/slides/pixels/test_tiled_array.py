"""Who decodes the tiles of a format's Zarr array."""

from __future__ import annotations

import threading

import numpy as np

from wsipipe.events import Spent
from wsipipe.slides.pixels.tile_cache import Tile
from wsipipe.slides.pixels.tile_store import Tiles, TileStore
from wsipipe.slides.pixels.tiled_array import tiled_array


class NamedThreads(TileStore):
    """Tiles of 1, and the names of the threads that read them."""

    def __init__(self) -> None:
        super().__init__(Tiles((40, 30), (16, 16)))
        self.names: set[str] = set()

    def read_tile(self, chunk: tuple[int, ...], spent: Spent) -> Tile:  # noqa: ARG002
        self.names.add(threading.current_thread().name)
        return np.ones((16, 16), np.uint8)


def test_a_rectangle_is_decoded_by_the_thread_that_reads_it() -> None:
    store = NamedThreads()
    array = tiled_array(store)
    found = [array[5:20, 3:], array[-1], array[0, 0], array[...], np.asarray(array)]
    assert [np.shape(pixels) for pixels in found] == [(15, 27), (30,), (), (40, 30), (40, 30)]
    assert all(np.all(pixels == 1) for pixels in found)
    assert store.names == {threading.current_thread().name}


def test_other_selections_are_left_to_zarr() -> None:
    store = NamedThreads()
    array = tiled_array(store)
    found = [array[::3], array[[1, 5], :], array.oindex[[0, 39], 2:4], array.vindex[[1, 2], [3, 4]]]
    assert [np.shape(pixels) for pixels in found] == [(14, 30), (2, 30), (2, 2), (2,)]
    assert all(np.all(pixels == 1) for pixels in found)
    assert threading.current_thread().name not in store.names
