"""Tiles of a store: its labels in the colours of their classes, its probabilities as a heat map, and outlines.

A tile has the pixels of the slide, and each of them takes the label that lies at its middle::

    pixel i of a zoom of scale s    lies at (i + 1/2) * s in pixels of the slide's finest level
    pixel j of level k of labels    spans [j, j + 1) * downsample * 2**k of them
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from bokeh.palettes import Magma256

from wsipipe.arrays import Mask
from wsipipe.errors import StoreError
from wsipipe.geometry.grid import Box
from wsipipe.pictures.drawing import OUTLINE, REGION_OUTLINE, inner_edge
from wsipipe.rasters.region import Region
from wsipipe.store.finished import FinishedStore

RgbaImage = npt.NDArray[np.uint8]
"""(y, x, 4)."""
HEAT = np.array([[*bytes.fromhex(color[1:]), min(2 * i, 255)] for i, color in enumerate(Magma256)], np.uint8)
"""(256, 4), uint8: the colour of each probability; what is improbable does not cover the slide."""
MOST_PIXELS = 2**24
"""The most probabilities that a tile is made from; where it would take more, the heat map shows nothing."""


def label_colors(store: FinishedStore, shown: Collection[int]) -> npt.NDArray[np.uint8]:
    """The colour of each label, (256, 4), uint8; those of classes that are not ``shown`` are transparent."""
    table = np.zeros((256, 4), np.uint8)
    for _, label, color in store.classes:
        if label in shown:
            table[label] = [*bytes.fromhex(color.removeprefix("#")), 255]
    return table


def label_tile(store: FinishedStore, box: Box, scale: int, shown: Collection[int]) -> RgbaImage:
    """The labels of ``box``, in pixels that span ``scale`` of the slide's finest, as colours: (y, x, 4), uint8."""
    level = _level(store, scale)
    span = store.downsample * 2**level
    return label_colors(store, shown)[_nearest(store.labels(level), box, scale, (span, span))]


def heat_tile(store: FinishedStore, box: Box, scale: int, label: int) -> RgbaImage:
    """The probabilities of the class of ``label`` in ``box``, (y, x, 4), uint8, as in `label_tile`."""
    if np.prod([side * max(scale / store.downsample, 1.0) for side in box.shape]) > MOST_PIXELS:
        return np.zeros((*box.shape, 4), np.uint8)
    array, index = store.probabilities()
    return HEAT[_nearest(array, box, scale, (store.downsample, store.downsample), index[label])]


def tissue_tile(store: FinishedStore, box: Box, scale: int) -> RgbaImage:
    """The outline of the tissue mask of ``store`` in ``box``, (y, x, 4), uint8, as in `label_tile`.

    Raises
    ------
    StoreError
        If the store has none.
    """
    cells = store.tissue()
    if cells is None:
        raise StoreError(f"{store.path} has no tissue mask; segment the slide with --tissue auto")
    span = [side * store.downsample / n for side, n in zip(store.shapes[0], cells.shape, strict=True)]
    wider = _wider(box)
    inside = _nearest(cells, wider, scale, (span[0], span[1])).astype(bool)
    return _outline(inside, box.seen_from(wider), OUTLINE)


def region_tile(region: Region, box: Box, scale: int) -> RgbaImage:
    """The outline of ``region`` in ``box``, (y, x, 4), uint8, as in `label_tile`."""
    wider = _wider(box)
    inside = replace(region, downsample=float(scale)).inside(wider)
    return _outline(inside, box.seen_from(wider), REGION_OUTLINE)


def _wider(box: Box) -> Box:
    """``box`` with what its outline depends on, because edges of tiles are none of the mask."""
    return Box(max(box.y0 - 2, 0), box.y1 + 2, max(box.x0 - 2, 0), box.x1 + 2)


def _outline(inside: Mask, box: Box, color: tuple[int, int, int]) -> RgbaImage:
    """The outline of ``inside``, (y, x), bool, two pixels wide, in ``box`` of it."""
    line = inner_edge(inside)
    line |= inner_edge(inside & ~line)
    image = np.zeros((*box.shape, 4), np.uint8)
    image[line[box.slices]] = (*color, 255)
    return image


def _level(store: FinishedStore, scale: int) -> int:
    """The coarsest level of labels whose pixels span at most half of ``scale``.

    Of one that spans all of it, edges would be off by up to a pixel: two labels that are as frequent go to the first.
    """
    fitting = [level for level in range(store.levels) if 2 * store.downsample * 2**level <= scale]
    return fitting[-1] if fitting else 0


def _nearest(array: Any, box: Box, scale: int, span: tuple[float, float], *leading: int) -> npt.NDArray[np.uint8]:
    """The values at the middles of the pixels of ``box`` of an array whose pixels ``span`` so many; 0 beyond it."""
    rows, cols = (
        ((np.arange(start, stop) + 0.5) * (scale / of)).astype(np.int64)
        for start, stop, of in ((box.y0, box.y1, span[0]), (box.x0, box.x1, span[1]))
    )
    found = np.zeros(box.shape, np.uint8)
    rows, cols = rows[rows < array.shape[-2]], cols[cols < array.shape[-1]]
    if rows.size and cols.size:
        part = np.asarray(array[(*leading, slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))])
        found[: len(rows), : len(cols)] = part[rows - rows[0]][:, cols - cols[0]]
    return found
