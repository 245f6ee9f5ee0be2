"""One level of a TIFF file: which pages hold it, how its tiles are numbered, and what they decode to."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from tifffile import PHOTOMETRIC
from tifffile.tifffile import jpeg_decode_colorspace

from wsipipe.errors import SlideReadError
from wsipipe.slides.readers.colour import RGB, YCBCR, Space, believed, rgb_of
from wsipipe.slides.readers.jpeg import (
    END,
    GREY,
    JPEG_CODECS,
    RESTART_INTERVAL,
    frame_of,
    samples_said,
    what_is_missing,
)

if TYPE_CHECKING:
    from tifffile import TiffPage

PLACES = (273, 279, 324, 325)
"""The tags with the places and lengths of strips and tiles: StripOffsets to TileByteCounts."""
GDAL_NODATA = 42113
WHITE_IS_ZERO, PALETTE = 0, 3
"""Photometric interpretations."""
SPACES: dict[int, Space] = {2: RGB, 6: YCBCR}
"""The colour spaces that photometric interpretations say."""
FILLED_UP = 2
"""A strip may be padded with rows; one that says it has more than this many times its samples is not decoded."""


@dataclass(frozen=True)
class TiledImage:
    """One level of a TIFF file: a page, or one page per channel.

    Palettes become RGB, and grey of less than 8 bits is stretched to 8; where white is zero it is inverted.
    """

    pages: tuple[TiffPage, ...]
    """One, or as many as there are channels, all alike."""
    samples: tuple[int, ...] | None = None
    """The channels to read of a page that has several; None: all."""
    white: bool = False
    """Whether tiles that were left out are white if the file does not say: a brightfield scanner's are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a page, after an axis of the pages if there are several, before one of the colours of a palette."""
        return self._over_pages(self._over_channels(self.pages[0].shape), len(self.pages))

    @cached_property
    def expanded(self) -> bool:
        """Whether its pixels are not the samples that the codec gives."""
        page = self.pages[0]
        return int(page.photometric) in (WHITE_IS_ZERO, PALETTE) or page.bitspersample < 8

    @cached_property
    def said(self) -> Space | None:
        """The colour space that its tags say; None if its samples are not three colours, side by side."""
        page = self.pages[0]
        coloured = page.samplesperpixel == 3 and not page.extrasamples and not self.planar
        return SPACES.get(int(page.photometric)) if coloured else None

    @cached_property
    def planar(self) -> bool:
        """Whether one page has its channels one after the other."""
        return self.pages[0].planarconfig == 2 and self.pages[0].samplesperpixel > 1

    @cached_property
    def palette(self) -> npt.NDArray[np.uint8] | None:
        """The colours of the indices, (n, 3), uint8; None if the image has no palette."""
        page = self.pages[0]
        if int(page.photometric) != PALETTE:
            return None
        colours = np.asarray(page.colormap).T
        # 16 bit, as the specification has it, or 8, as some writers do; libtiff tells them apart in the same way.
        return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)

    @cached_property
    def by_row(self) -> bool:
        """Whether rows of pixels lie in the file as they are: a few are read without the rest of their strip."""
        page = self.pages[0]
        plain = page.compression == page.predictor == page.fillorder == 1 and page.bitspersample in (8, 16)
        plain = plain and not self.expanded and self.samples is None
        return plain and not page.is_tiled and page.ndim - (page.samplesperpixel > 1) == 2 and page.planarconfig == 1

    @cached_property
    def chunks(self) -> tuple[int, ...]:
        """Shape of what is read at once: a tile, a strip, or a row of an uncompressed strip."""
        page = self.pages[0]
        if self.by_row:
            return self._over_pages((1, *page.shape[1:]), 1)
        if self.planar:
            return self._over_pages((1, *page.chunks), 1)
        return self._over_pages(self._over_channels(page.chunks), 1)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Type of the decoded pixels, in the byte order of this machine."""
        narrow = self.pages[0].bitspersample < 8 or self.palette is not None
        return np.dtype(np.uint8 if narrow else self.pages[0].dtype)

    @cached_property
    def nodata(self) -> int | None:
        """Value of tiles that the file left out according to GDAL_NODATA, if that is a valid sample."""
        text = str(self.pages[0].tags.valueof(GDAL_NODATA, "")).strip("\0 ")
        value = int(text) if text.isdecimal() else None
        return value if value is not None and value < 2 ** self.pages[0].bitspersample else None

    @cached_property
    def fill(self) -> int:
        """Value of the pixels of a tile that the file left out; for a palette, the first of the three samples."""
        if self.nodata is None and self.white:
            return int(np.iinfo(self.dtype).max)
        return int(self.expand(np.full(1, self.nodata or 0, self.dtype)).flat[0])

    @cached_property
    def tile_bytes(self) -> int:
        """Size of one decoded tile."""
        return self.tile_size * self.dtype.itemsize

    @cached_property
    def tile_size(self) -> int:
        """Samples of one decoded tile."""
        return prod(self.chunks)

    @cached_property
    def colours(self) -> tuple[Any, Any] | None:
        """The colour spaces of a JPEG tile and of its pixels, for imagecodecs, if the codec gives these pixels.

        The first is what the tags say, and holds for tiles that are not `said` to be three colours.
        """
        page = self.pages[0]
        plain = page.compression in JPEG_CODECS and page.jpegheader is None and self.dtype == np.uint8
        plain = plain and RESTART_INTERVAL not in (page.jpegtables or b"")
        if not plain or self.expanded or self.samples is not None:
            return None
        stored, wanted = jpeg_decode_colorspace(page.photometric, page.planarconfig, page.extrasamples, page.is_jfif)
        return stored, wanted

    @cached_property
    def decoders(self) -> dict[Space, Any]:
        """The functions of tifffile that decode to RGB, by the colour space of a JPEG; none if none is `said`.

        A page itself has only one, which goes by its tags and by its first tile.
        """
        functions = {}
        for photometric, space in SPACES.items() if self.said is not None else ():
            told = copy(self.pages[0])
            told.__dict__.pop("decode", None)
            told.photometric, told.is_jfif, told.subsampling = PHOTOMETRIC(photometric), False, (1, 1)
            told.hash = hash((told.hash, space))  # by which tifffile finds a function that it has made already
            told.dataoffsets = told.databytecounts = ()  # the function keeps the page
            functions[space] = told.decode
        return functions

    def prepare(self) -> None:
        """Make the decode functions, while the file is still open in tifffile.

        They look into the file for the kind of JPEG, and must not be made by several threads at once. The places of
        the tiles are then held as 8 bytes each; as Python integers they take 14 MB for 10 gigapixels.
        """
        _ = self.colours, self.decoders
        for page in self.pages:
            _ = page.decode  # a cached property; TiffPage.init_decode does the same, from tifffile 2026.2.20 on
            page.dataoffsets = np.asarray(page.dataoffsets, np.uint64)  # type: ignore[assignment]
            page.databytecounts = np.asarray(page.databytecounts, np.uint64)  # type: ignore[assignment]
            for tag in PLACES:
                if tag in page.tags:
                    del page.tags[tag]

    def expand(self, samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The pixels of a codec's ``samples`` (...), uint8 or uint16; a palette adds a last axis, of colours."""
        page = self.pages[0]
        if self.palette is not None:
            return self.palette[samples.astype(np.intp)]
        most = 2**page.bitspersample - 1
        if int(page.photometric) == WHITE_IS_ZERO:
            samples = most - samples.astype(self.dtype, copy=False)
        return samples if page.bitspersample >= 8 else samples.astype(np.uint8) * np.uint8(255 // most)

    def locate(self, chunk: tuple[int, ...]) -> tuple[TiffPage, int]:
        """The page of ``chunk`` and its number in that page's offsets."""
        page, within = (self.pages[chunk[0]], chunk[1:]) if len(self.pages) > 1 else (self.pages[0], chunk)
        if self.palette is not None:
            within = within[:-1]
        if self.planar and self.samples is not None:
            within = (self.samples[within[0]], *within[1:])
        number = 0
        for index, count in zip(within, page.chunked, strict=True):
            number = number * count + index
        return page, number

    def decode(
        self, page: TiffPage, number: int, data: bytes, into: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """The pixels of tile ``number``; ``into`` itself, if given and if that saves a copy.

        They are as many as a full tile has, uint8 or uint16; their shape (...) can be reshaped to `chunks`.

        Raises
        ------
        SlideReadError
            If the data are not those of a whole tile.
        """
        if self.colours is not None:
            into = np.empty(page.chunks, self.dtype) if into is None else into
            if self._decode_jpeg(page, data, into):
                return into
        headless = page.jpegheader is not None
        missing = what_is_missing(data, page.compression, headless=headless)
        if missing:
            raise SlideReadError(f"tile {number} is damaged: {missing}")
        said = 0 if headless else samples_said(data, page.compression)
        if said > FILLED_UP * prod(page.chunks):
            raise SlideReadError(f"tile {number} of {page.chunks} says that it has {said} samples: it is damaged")
        try:
            pixels = self._decode_any(page, number, data)
        except MemoryError:
            raise
        except Exception as err:  # every codec raises a class of its own
            raise SlideReadError(f"tile {number} cannot be decoded: {type(err).__name__}: {err}") from err
        if pixels is None or pixels.size != prod(page.chunks) or pixels.dtype != page.dtype:
            got = "nothing" if pixels is None else f"{pixels.shape} {pixels.dtype}"
            raise SlideReadError(f"tile {number} decodes to {got}, not to {page.chunks} {page.dtype}")
        if self.expanded:
            return self.expand(pixels.reshape(page.chunks))
        if self.samples is not None and not self.planar:
            pixels = pixels.reshape(page.chunks)[..., list(self.samples)]
        return pixels

    def _over_channels(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """``shape`` of a page, with the channels that are read of it."""
        if self.palette is not None:
            return (*shape, 3)
        if self.samples is None:
            return shape
        return (len(self.samples), *shape[1:]) if self.planar else (*shape[:-1], len(self.samples))

    def _over_pages(self, shape: tuple[int, ...], count: int) -> tuple[int, ...]:
        """``shape``, with the axis of the pages in front if there are several."""
        return (count, *shape) if len(self.pages) > 1 else shape

    def _decode_any(self, page: TiffPage, number: int, data: bytes) -> npt.NDArray[Any] | None:
        """What tifffile decodes of a tile, (...) in the type of the page; colours as RGB, whatever the tags say."""
        extra = {} if page.jpegtables is None else {"jpegtables": page.jpegtables}
        extra |= {} if page.jpegheader is None else {"jpegheader": page.jpegheader}
        if self.said is None:
            return page.decode(data, number, _fullsize=True, **extra)[0]
        found = believed(page.jpegheader or data, page.compression, self.said)
        by_codec = page.compression in JPEG_CODECS
        pixels = self.decoders[found.space if by_codec else RGB](data, number, _fullsize=True, **extra)[0]
        return pixels if by_codec or pixels is None else rgb_of(pixels, found)

    def _decode_jpeg(self, page: TiffPage, data: bytes, into: npt.NDArray[Any]) -> bool:
        """Decode a JPEG tile ``into`` its place and say whether that worked: only if its last pixel shows it is whole.

        Looking for markers amid the data, which this saves, takes a tenth of the time of decoding them.
        """
        assert self.colours is not None
        if not data.endswith(END):
            return False
        frame = frame_of(data)
        if not frame.plain or frame.samples != into.size:
            return False
        stored, wanted = self.colours
        if self.said is not None:
            stored = believed(data, page.compression, self.said).space
        try:
            imagecodecs.jpeg8_decode(data, tables=page.jpegtables, colorspace=stored, outcolorspace=wanted, out=into)
        except MemoryError:
            raise
        except Exception:  # the long way will say the same
            return False
        return int(into.item(-1)) != GREY
