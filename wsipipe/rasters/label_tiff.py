"""Labels in TIFF files."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from tifffile import TiffFile, TiffPage

from wsipipe.arrays import Pixels
from wsipipe.errors import LabelError, SlideFormatError, SlideReadError
from wsipipe.events import Spent
from wsipipe.geometry.grid import Box
from wsipipe.rasters.image import SlideLevel, only_slide
from wsipipe.rasters.label_raster import SAVE_AS_INTEGERS, LabelRaster, OneChannel, refuse_channels, refuse_dtype
from wsipipe.rasters.opened import (
    MAX_PIECE_BYTES,
    MAX_WHOLE_BYTES,
    Opened,
    check_same,
    damage_of,
    keep,
    reading,
    whole,
)
from wsipipe.slides.byte_source import OpenFile
from wsipipe.slides.identity import file_identity
from wsipipe.slides.readers.picture_file import TILE_IT
from wsipipe.slides.readers.tiff.image import TiledImage
from wsipipe.slides.readers.tiff.resolution import tiff_resolution
from wsipipe.slides.readers.tiff.store import tiff_store

LOSSY = {"jpeg", "alt_jpeg", "jpeg_lossy", "jpeg_2000_lossy"}
"""Compressions that change the values of labels."""


def tiff_labels(path: Path) -> LabelRaster:
    """Open a TIFF of labels: as a slide if slides have its dtype, else as a `LabelTiff`.

    Raises
    ------
    LabelError
        If it is not an image of integers in one channel, or may have been changed by its palette or compression.
    SlideError
        If it is damaged, half-written, or holds several images.
    """
    with damage_of(path), TiffFile(path, _multifile=False) as tiff:
        page = tiff.pages[0].aspage()
        _check_page(path, page)
        if page.dtype not in (np.uint8, np.uint16):
            return _label_tiff(path, tiff, page)
    level = only_slide(path).levels[0]
    if level.channels != 1:
        refuse_channels(path, level.channels)
    with damage_of(path), TiffFile(path, _multifile=False) as tiff:
        _check_complete(path, max((page.aspage() for page in tiff.pages), key=lambda page: prod(page.shape)))
    return LabelRaster(path.name, str(path), level.shape, level.mpp, OneChannel(SlideLevel(level)))


def _label_tiff(path: Path, tiff: TiffFile, page: TiffPage) -> LabelRaster:
    """Open a TIFF of one image, of integers that slides do not have.

    Raises
    ------
    SlideError
        If it holds several, or is damaged.
    """
    if len(tiff.series) != 1 or prod(tiff.series[0].shape) != prod(page.shape) or page.ndim != 2:
        raise SlideFormatError(
            f"{path.name} holds several images or planes of {page.dtype}; labels need a file with only one"
        )
    _check_complete(path, page)
    tile_bytes = TiledImage((page,)).tile_bytes
    if tile_bytes > MAX_PIECE_BYTES:
        raise SlideFormatError(
            f"{path.name} has tiles or strips of {tile_bytes / 2**30:.1f} GiB once decoded; "
            f"at most {MAX_PIECE_BYTES / 2**30:.0f} GiB is allowed; {TILE_IT}"
        )
    shape = (int(page.imagelength), int(page.imagewidth))
    mpp = tiff_resolution(tiff, page, 0).mpp
    return LabelRaster(path.name, str(path), shape, mpp, LabelTiff(str(path), file_identity(path)))


@dataclass(frozen=True)
class LabelTiff:
    """The first page of a TIFF that has been checked."""

    path: str
    identity: str
    """The file's identity when it was first opened."""

    def open(self) -> Opened:
        """See `Source.open`; the page is decoded whole if it is small, and stored in strips."""
        path = Path(self.path)
        check_same(path, self.identity)
        with damage_of(path), TiffFile(path, _multifile=False) as tiff:
            image = TiledImage((tiff.pages[0].aspage(),))
            image.prepare()
        store = tiff_store(OpenFile(path), image)

        def read(box: Box) -> Pixels:
            with reading(path, box):
                return store.read(box.slices, Spent(), across=1)

        height, width = image.shape
        if prod(image.shape) * image.dtype.itemsize <= MAX_WHOLE_BYTES and image.chunks[1] >= width:
            return keep(read(whole((height, width))))
        return Opened(read, 0)


def _check_page(path: Path, page: TiffPage) -> None:
    """Refuse a page that cannot be labels, whichever reader takes it.

    Raises
    ------
    LabelError
        If it cannot; the message names the tag, its value, and what is allowed.
    """
    if page.samplesperpixel != 1:
        refuse_channels(path, page.samplesperpixel)
    if page.dtype is None or page.dtype.kind not in "iu" or page.bitspersample % 8:
        refuse_dtype(path, f"{page.bitspersample}-bit {page.dtype or 'unknown'}")
    orientation, photometric = page.tags.valueof(274, 1), int(page.photometric)
    if orientation not in (0, 1) or photometric != 1:
        raise LabelError(
            f"{path.name} has Orientation {orientation} and PhotometricInterpretation {photometric}; labels must be "
            f"upright (1) and grey (1), since a palette (3) may mean its indices or its colours; {SAVE_AS_INTEGERS}"
        )
    codec = str(getattr(page.compression, "name", page.compression)).lower()
    if codec in LOSSY:
        raise LabelError(f"{path.name} has lossy compression ({codec}), which changes labels; save it losslessly")


def _check_complete(path: Path, page: TiffPage) -> None:
    """Refuse an image with tiles or strips that are missing, or lie beyond the end of the file.

    Raises
    ------
    SlideReadError
        If it has any; the message says how many.
    """
    wanted, offsets, counts = prod(page.chunked), page.dataoffsets, page.databytecounts
    if not len(offsets) == len(counts) == wanted:
        raise SlideReadError(f"{path.name} is damaged: {wanted} tiles, {len(offsets)} offsets; write it again")
    empty = sum(not offset or not count for offset, count in zip(offsets, counts, strict=True))
    if empty:
        raise SlideReadError(
            f"{path.name} is half-written: {empty} of {wanted} tiles have no data, because they are empty or "
            "because the writer died; write it again (with GDAL: SPARSE_OK=FALSE)"
        )
    end = max(offset + count for offset, count in zip(offsets, counts, strict=True))
    if end > path.stat().st_size:
        raise SlideReadError(
            f"{path.name} is truncated: its tiles end at byte {end}, the file at {path.stat().st_size}; "
            "copy it again from where it came from"
        )
