"""Slides of gigapixels in kilobytes: OME-Zarr of which 1 chunk in 10 000 is written; all others are the fill value."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import numpy as np
import zarr

from wsipipe.slides.readers.sparse import LEAST_SHARE

CHUNK = 512


def write_big_slide(path: Path, side: int, *, mpp: float = 0.5) -> Path:
    """An RGB slide (c, y, x) of ``side`` x ``side`` px whose first chunks are noise and whose rest is grey."""
    scale = [{"type": "scale", "scale": [1.0, mpp, mpp]}]
    space = {"type": "space", "unit": "micrometer"}
    multiscale = {
        "axes": [{"name": "c", "type": "channel"}, {"name": "y", **space}, {"name": "x", **space}],
        "datasets": [{"path": "0", "coordinateTransformations": scale}],
    }
    attributes = {"ome": {"version": "0.5", "multiscales": [multiscale]}}
    array = zarr.create_group(path, zarr_format=3, attributes=attributes).create_array(
        "0", shape=(3, side, side), chunks=(3, CHUNK, CHUNK), dtype="uint8", fill_value=200
    )
    noise = np.random.default_rng(0).integers(0, 255, (3, CHUNK, CHUNK), np.uint8)
    for first in range(0, CHUNK * ceil(array.nchunks * LEAST_SHARE), CHUNK):
        array[:, :CHUNK, first : first + CHUNK] = noise[:, :side, : side - first]
    return path
