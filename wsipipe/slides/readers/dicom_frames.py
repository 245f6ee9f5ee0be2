"""The frames of one DICOM level: which instance has them, and in which colours they decode."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from wsipipe.errors import SlideReadError
from wsipipe.events import Spent
from wsipipe.slides.pixels.tile_cache import Tile
from wsipipe.slides.pixels.tile_store import Tiles, TileStore
from wsipipe.slides.readers.colour import RGB, YCBCR, Space, believed, decode_jpeg, rgb_of
from wsipipe.slides.readers.jpeg import JPEG_CODECS, what_is_missing

if TYPE_CHECKING:
    from wsipipe.slides.readers.dicom import DicomLevel

COPY_SERIES_AGAIN = "copy it again from where it came from"
CODECS = {
    "1.2.840.10008.1.2.4.50": 7,
    "1.2.840.10008.1.2.4.51": 7,
    "1.2.840.10008.1.2.4.90": 34712,
    "1.2.840.10008.1.2.4.91": 34712,
    "1.2.840.10008.1.2.4.201": 34712,
    "1.2.840.10008.1.2.4.202": 34712,
    "1.2.840.10008.1.2.4.203": 34712,
    "1.2.840.10008.1.2.4.110": 50002,
    "1.2.840.10008.1.2.4.111": 50002,
    "1.2.840.10008.1.2.4.112": 50002,
}
"""The TIFF compression that corresponds to a transfer syntax: JPEG, JPEG 2000 and JPEG XL.

What the others decode to has the colour space of the header.
"""
TRANSFORMED = ("YBR_RCT", "YBR_ICT")
"""Photometric interpretations of JPEG 2000 whose component transform gives RGB."""


class FrameStore(TileStore):
    """The tiles of one level, each a frame of an instance."""

    image: Tiles

    def __init__(self, instances: Sequence[Any], level: DicomLevel) -> None:
        sizes = {"y": level.shape[0], "x": level.shape[1], "c": level.channels}
        sides = {"y": level.tile[0], "x": level.tile[1], "c": 1 if level.axes == "cyx" else level.channels}
        shape, chunks = (tuple(each[axis] for axis in level.axes) for each in (sizes, sides))
        super().__init__(Tiles(shape, chunks, np.dtype(level.dtype)))
        self.level = level
        self.optical, focal = planes_of(instances)
        self.z = focal[level.planes.z or 0]
        self.images = {path: _instance_at(instances, path, self.z).image_data for path in self.optical}

    def read_tile(self, chunk: tuple[int, ...], spent: Spent) -> Tile:
        """See `TileStore.read_tile`: (y, x), (y, x, c) or (c, y, x), uint8 or uint16.

        Raises
        ------
        SlideReadError
            If the frame is damaged, or does not decode to a whole tile.
        """
        geometry = import_module("wsidicom.geometry")
        at = dict(zip(self.level.axes, chunk, strict=True))
        wanted = self.level.planes.indices
        in_frame = self.level.axes == "yxc"
        number = at.get("c", 0)
        path = self.optical[0 if in_frame else wanted[number] if wanted else number]
        image, point = self.images[path], geometry.Point(at["x"], at["y"])
        with spent.on("read"):
            data = image.get_encoded_tile(point, self.z, path)
        codec = codec_of(image)
        missing = what_is_missing(data, codec)
        if missing:
            raise SlideReadError(f"frame of tile {at['y']}, {at['x']} is damaged: {missing}")
        with spent.on("decode"):
            if in_frame and not image.is_sparse(point, self.z, path):
                found = believed(data, codec, header_space(image))
                pixels = decode_jpeg(data, found) if codec in JPEG_CODECS else rgb_of(image.decoder.decode(data), found)
            else:
                pixels = np.asarray(image.get_decoded_tile(point, self.z, path, cache=False))
        if in_frame and wanted is not None:
            pixels = pixels[..., wanted]
        if pixels.size != prod(self.image.chunks) or pixels.dtype != self.image.dtype:
            raise SlideReadError(f"frame of tile {at['y']}, {at['x']} decodes to {pixels.shape} {pixels.dtype}")
        return np.ascontiguousarray(pixels).reshape(self.image.chunks)


def planes_of(instances: Sequence[Any]) -> tuple[list[str], list[float]]:
    """The optical paths and the focal planes (mm) of a level."""
    optical = sorted({path for instance in instances for path in instance.optical_paths})
    return optical, sorted({float(z) for instance in instances for z in instance.focal_planes})


def _instance_at(instances: Sequence[Any], path: str, z: float) -> Any:
    """The instance that has the plane of optical path ``path`` at ``z`` mm.

    Raises
    ------
    SlideReadError
        If no instance has it.
    """
    for instance in instances:
        if path in instance.optical_paths and z in map(float, instance.focal_planes):
            return instance
    raise SlideReadError(f"there is no instance of optical path {path} at {z} mm; {COPY_SERIES_AGAIN}")


def codec_of(image: Any) -> int:
    """The TIFF compression that corresponds to the transfer syntax; 1, none, for those that say nothing of colours."""
    return CODECS.get(str(image.transfer_syntax), 1)


def header_space(image: Any) -> Space:
    """The colour space of the samples by the header."""
    return YCBCR if str(image.photometric_interpretation).startswith("YBR") else RGB
