"""PNG and JPEG pictures as slides of one level, such as fields of view that were exported from a slide.

They can only be decoded whole. Each process keeps the last one decoded, and cuts tiles out of it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsipipe.errors import SlideError, SlideReadError, TruncatedError
from wsipipe.events import Spent
from wsipipe.files import Location, locate
from wsipipe.slides.byte_source import open_source, version_of
from wsipipe.slides.identity import file_identity
from wsipipe.slides.opened import OpenedSources
from wsipipe.slides.pixels.tile_cache import Tile
from wsipipe.slides.pixels.tile_store import Tiles, TileStore
from wsipipe.slides.pixels.tiled_array import TiledArray, tiled_array
from wsipipe.slides.planes import ALL, Planes, choose_channels, choose_one
from wsipipe.slides.readers.openslide import OPENSLIDE_SUFFIXES
from wsipipe.slides.readers.picture_file import (
    HEADERS_BYTES,
    TILE_IT,
    PictureHeader,
    decode,
    is_picture,
    read_header,
)
from wsipipe.slides.readers.tiff.store import UPRIGHT
from wsipipe.slides.resolution import TAGS, Reading, Resolution, weighed
from wsipipe.slides.slide import Level, Slide

TILE_PX = 512
"""Side of the tiles that are cut out of a picture."""
LARGE_BYTES = 2**26
"""A picture larger than this once decoded is worth a warning, and is not decoded just to try whether it can be."""
KEPT_BYTES = 2**26
"""The most that one process keeps decoded, or a single picture if that is larger."""
PRINT_DPI = 10_000
"""A lower density is meant for paper: most programs write 72 or 96, printers and flatbed scanners up to 9600."""
DENSITY = {"png": "pHYs", "jpeg": "JFIF"}
"""What holds the density of pixels."""


class PictureReader:
    """Opens PNG and JPEG files."""

    name = "picture"
    why = "it is a PNG or JPEG"

    def recognises(self, path: Location) -> bool:
        """Whether the file begins as a PNG or JPEG, and is no index of a slide: that of MIRAX begins as JPEG."""
        index = path.suffix.lower() in OPENSLIDE_SUFFIXES
        return not index and path.is_file() and is_picture(open_source(path).read(0, 8))

    def open(self, path: Location, planes: Planes = ALL) -> Slide:
        """See `Reader.open`; raises a SlideError as it says there."""
        header = read_header(path.name, open_source(path).read(0, HEADERS_BYTES))
        for option in ("z", "t", "series"):
            choose_one(path.name, option, getattr(planes, option), ["0"])
        chosen = Planes(channels=choose_channels(path.name, planes.channels, (), header.channels))
        picture = PictureFile(str(path), file_identity(path), version_of(path), header)
        resolution = _resolution(header)
        warnings = list(resolution.warnings)
        if header.orientation != 1:
            warnings.append(f"Orientation is {header.orientation}: it is turned upright as it is read")
        if header.decoded_bytes > LARGE_BYTES:
            mib = header.decoded_bytes / 2**20
            warnings.append(f"each process keeps it decoded, {mib:.0f} MiB; where that is too much, {TILE_IT}")
        else:
            decoded(picture)
        return Slide(
            path=str(path),
            name=path.stem,
            reader=self.name,
            vendor="generic",
            levels=(_level(picture, chosen, resolution.mpp),),
            mpp=resolution.mpp,
            mpp_source=resolution.source,
            identity=picture.identity,
            associated=(),
            warnings=tuple(warnings),
            readings=resolution.readings,
        )


@dataclass(frozen=True)
class PictureFile:
    """A picture, decoded whole by each process that reads it."""

    path: str
    identity: str
    """The file's identity when it was first opened."""
    version: str
    """See `version_of`."""
    header: PictureHeader

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels, upright."""
        height, width = self.header.shape
        return (width, height) if UPRIGHT[self.header.orientation][0] else (height, width)

    def open(self) -> npt.NDArray[Any]:
        """The pixels, upright: (y, x, channels), uint8 or uint16.

        Raises
        ------
        SlideError
            If it is damaged, partly transparent, or was replaced.
        """
        path = locate(self.path)
        source = open_source(path)
        pixels = decode(path.name, source.read(0, source.size))
        if pixels.shape != (*self.header.shape, self.header.channels) or pixels.dtype != self.header.dtype:
            raise SlideReadError(
                f"{path.name} decodes to {pixels.shape} {pixels.dtype}, not to what its header says; write it again"
            )
        transpose, *flips = UPRIGHT[self.header.orientation]
        pixels = pixels.swapaxes(0, 1) if transpose else pixels
        return np.ascontiguousarray(pixels[tuple(slice(None, None, -1 if flip else 1) for flip in flips)])


PICTURES: OpenedSources[npt.NDArray[Any]] = OpenedSources(KEPT_BYTES, lambda pixels: pixels.nbytes)
"""The pictures that this process keeps decoded."""
_DECODING = threading.Lock()


def decoded(picture: PictureFile) -> npt.NDArray[Any]:
    """The pixels of a picture, upright, (y, x, channels), uint8 or uint16; decoded by the first thread that asks.

    One is decoded at a time, so that there need be memory for only one more than those that are kept.
    """
    with _DECODING:
        return PICTURES.get(picture)


@dataclass(frozen=True)
class PictureLevel:
    """The only level of a picture."""

    picture: PictureFile
    planes: Planes

    def open(self) -> TiledArray:
        """See `Source.open`; raises a SlideError as it says there."""
        path = locate(self.picture.path)
        if file_identity(path) != self.picture.identity:
            raise SlideReadError(f"{path.name} has changed since it was opened; start again")
        return tiled_array(PictureStore(self))


class PictureStore(TileStore):
    """Tiles of a picture."""

    image: Tiles

    def __init__(self, level: PictureLevel) -> None:
        header, chosen = level.picture.header, level.planes.indices
        channels = (header.channels if chosen is None else len(chosen),) * (header.channels > 1)
        shape = (*level.picture.shape, *channels)
        super().__init__(Tiles(shape, (*tile_of(level.picture), *channels), np.dtype(header.dtype)))
        self.picture, self.chosen = level.picture, chosen

    def read_tile(self, chunk: tuple[int, ...], spent: Spent) -> Tile:
        """See `TileStore.read_tile`: (y, x, channels), uint8 or uint16.

        Raises
        ------
        TruncatedError
            If the picture cannot be decoded, or is gone: no tile of it can be read.
        """
        try:
            with spent.on("read"):
                pixels = decoded(self.picture)
        except SlideError as err:
            raise TruncatedError(str(err)) from err
        ys, xs = self.image.within(chunk)[:2]
        tile = np.zeros((*self.image.chunks[:2], self.image.shape[2] if len(chunk) > 2 else 1), self.image.dtype)
        part = pixels[ys, xs]
        tile[: part.shape[0], : part.shape[1]] = part if self.chosen is None else part[..., self.chosen]
        return tile


def tile_of(picture: PictureFile) -> tuple[int, int]:
    """(height, width) of the tiles of a picture."""
    height, width = picture.shape
    return min(height, TILE_PX), min(width, TILE_PX)


def _level(picture: PictureFile, planes: Planes, mpp: float | None) -> Level:
    """The level of a picture."""
    coloured = picture.header.channels > 1
    axes = "yxc" if coloured else "yx"
    return Level(
        path=picture.path,
        reader=PictureReader.name,
        index=0,
        identity=picture.identity,
        shape=picture.shape,
        downsample=1.0,
        mpp=mpp,
        axes=axes,
        channels=picture.header.channels if planes.channels is None else len(planes.channels),
        dtype=picture.header.dtype,
        tile=tile_of(picture),
        codec=picture.header.kind,
        stored_axes=axes,
        source=PictureLevel(picture, planes),
        planes=planes,
    )


def _resolution(header: PictureHeader) -> Resolution:
    """Micrometres per pixel, if the density is finer than any that is meant for paper."""
    place = DENSITY[header.kind]
    if header.per_metre is None or min(header.per_metre) <= 0:
        return weighed([f"no density of pixels in {place}"])
    y, x = (1e6 / density for density in header.per_metre)
    dpi = min(header.per_metre) * 0.0254
    if dpi < PRINT_DPI:
        return weighed([f"{dpi:.0f} dpi in {place}, which is for print"])
    return weighed([Reading(place, y, x, TAGS)])
