"""The labels of a finished store as OME-TIFF, for viewers that do not read Zarr 3.

A BigTIFF of tiles, whose coarser levels are SubIFDs of the finest, as Bio-Formats and QuPath expect them. OME-XML has a
place for the size of a pixel, but none for the classes of labels; they are map annotations, one for each class.

Source: https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/specification.html#sub-resolutions
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from tifffile import TiffWriter

from wsipipe.arrays import Labels
from wsipipe.errors import SlideReadError, UsageError
from wsipipe.files import Named, appearing, locate
from wsipipe.geometry.grid import CHUNK_PX, Box
from wsipipe.rasters.opened import damage_of, reading
from wsipipe.slides.readers.omezarr.chunks import count_pieces
from wsipipe.store.finished import FinishedStore, open_complete
from wsipipe.urls import Url

NAMESPACE = "wsipipe/class"
"""The namespace of the annotations."""
TIFF_STEP_PX = 16
"""Sides of tiles are multiples of this (TIFF 6.0, section 15)."""
TILES_AT_ONCE = 16
"""Tiles of a row that are read at once."""
BUFFER_BYTES = 2**24
"""Tiles that wait for being compressed."""
THREADS = 2
"""Threads that compress."""


def export_ome_tiff(path: Named, target: Path) -> int:
    """Write the labels of a finished store as OME-TIFF, and return how many levels.

    The file appears whole or not at all.

    Parameters
    ----------
    path
        The store, a folder.
    target
        The file to write.

    Raises
    ------
    UsageError
        If the store is behind a URL.
    StoreError, DamagedStoreError
        If it is not a store of wsipipe, or not finished.
    SlideReadError
        If labels cannot be read.
    OutputError
        If the file cannot be written.
    """
    where = locate(path)
    if isinstance(where, Url):
        raise UsageError(f"{where}: stores are exported from a disk; copy the store first")
    store = open_complete(where)
    with appearing(target) as partial, TiffWriter(partial, bigtiff=True, ome=True) as tiff:
        for level in range(store.levels):
            _write_level(tiff, store, level)
    return store.levels


def _level(store: FinishedStore, level: int) -> zarr.Array[Any]:
    """The labels of a level, all of whose shards are there: one that is missing would read as background."""
    path = Path(store.path)
    with damage_of(path):
        array = store.labels(level)
        there, total = count_pieces(path, str(level), array)
    if there < total:
        raise SlideReadError(
            f"{path.name} is not whole: {there} of {total} shards of level {level} are there; the same wsipipe run "
            "makes the others"
        )
    return array


def _write_level(tiff: TiffWriter, store: FinishedStore, level: int) -> None:
    array = _level(store, level)
    chunk = int(array.chunks[0])
    tile = CHUNK_PX if chunk % TIFF_STEP_PX else chunk
    where: dict[str, Any] = {}
    if store.mpp is not None:
        per_cm = 1e4 / (store.mpp * 2**level)
        where = {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
    if level:
        where |= {"subfiletype": 1, "metadata": None}
    else:
        where |= {"subifds": store.levels - 1, "metadata": _metadata(store)}
    tiff.write(
        _tiles(store, array, tile),
        shape=array.shape,
        dtype=np.uint8,
        tile=(tile, tile),
        photometric="minisblack",
        compression="adobe_deflate",
        maxworkers=THREADS,
        buffersize=BUFFER_BYTES,
        **where,
    )


def _tiles(store: FinishedStore, array: Any, side: int) -> Iterator[Labels]:
    """The tiles of a level, (side, side) each, row by row; beyond its ends they are 0."""
    height, width = array.shape
    across = side * TILES_AT_ONCE
    for y0 in range(0, height, side):
        for x0 in range(0, width, across):
            box = Box(y0, min(y0 + side, height), x0, min(x0 + across, width))
            with reading(Path(store.path), box):
                labels = np.asarray(array[box.slices])
            labels = np.pad(labels, ((0, side - labels.shape[0]), (0, -labels.shape[1] % side)))
            yield from np.split(labels, labels.shape[1] // side, axis=1)


def _metadata(store: FinishedStore) -> dict[str, Any]:
    """What tifffile writes as OME-XML."""
    size = {} if store.mpp is None else {"PhysicalSizeX": store.mpp, "PhysicalSizeY": store.mpp}
    units = {f"{name}Unit": "µm" for name in size}
    classes = [
        {
            "Namespace": NAMESPACE,
            "Value": {"label": str(label), "class": "".join(filter(str.isprintable, name))}
            | ({"color": color} if color else {}),
        }
        for name, label, color in store.classes
    ]
    return {"axes": "YX", "Channel": {"Name": "labels"}, **size, **units, "MapAnnotation": classes}
