"""Images of labels, read box by box: PNG, TIFF and OME-Zarr, one channel of integers, of more types than a slide has.

Every value here can be pickled; labels stay in the file, and each process opens it again at its first read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from tifffile import TiffFile, TiffPage
from zarr.storage import LocalStore

from wsipipe.errors import LabelError, SlideFormatError, SlideReadError
from wsipipe.events import Spent
from wsipipe.geometry.grid import Box
from wsipipe.rasters.image import PNG, SlideLevel, kind_of, only_slide
from wsipipe.rasters.opened import (
    MAX_PIECE_BYTES,
    MAX_WHOLE_BYTES,
    Opened,
    Source,
    check_inside,
    check_same,
    damage_of,
    keep,
    opened,
    reading,
    whole,
)
from wsipipe.rasters.png import PNG_CHANNELS, TILE_IT, PngFile, png_header
from wsipipe.slides.byte_source import OpenFile
from wsipipe.slides.identity import file_identity
from wsipipe.slides.pixels.mirrored import Pixels
from wsipipe.slides.readers.omezarr.reader import count_pieces, open_dataset, zarr_identity, zarr_resolution
from wsipipe.slides.readers.tiff.image import TiledImage
from wsipipe.slides.readers.tiff.store import tiff_store
from wsipipe.slides.resolution import tiff_resolution

LOSSY = {"jpeg", "alt_jpeg", "jpeg_lossy", "jpeg_2000_lossy"}
"""Compressions that change the values of labels."""
MAX_LABEL = int(np.iinfo(np.int32).max)
WAY_OUT = "save the labels as one channel of integers: PNG of 8 or 16 bit grey, or TIFF"
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class LabelRaster:
    """An image of labels: 0 where there is nothing, else the pixel's class or object."""

    name: str
    """File name, as messages call it."""
    path: str
    """Absolute."""
    shape: tuple[int, int]
    """(height, width) in pixels."""
    mpp: float | None
    """Micrometres per pixel, or None where the file does not say."""
    source: Source
    """Where the labels are."""

    def read(self, box: Box) -> Labels:
        """The labels of ``box``, int32 (h, w), to keep and to change.

        Raises
        ------
        LabelError
            If there are negative ones, or some above 2**31 - 1.
        SlideError
            If they can not be read or decoded, or the file is not the one that it was.
        """
        check_inside(box, self.shape)
        return _as_labels(self.name, box, opened(self.source).read(box))


def open_label_raster(path: str | os.PathLike[str]) -> LabelRaster:
    """Open an image of labels: one channel of integers, level 0.

    Integers may have 8 to 64 bit. Tiles and chunks are read as needed, a PNG and the strips of a small TIFF at once.
    A chunk that an OME-Zarr left out reads as its fill value, mostly 0, for Zarr writes nothing where
    there is nothing; not so in a store of `wsipipe run`, which writes every chunk. A TIFF with tiles
    left out is refused: that is what a file looks like whose writer died.

    Raises
    ------
    LabelError
        If it is not an image, has several channels, or holds anything but integers from 0 to 2**31 - 1; if a
        PNG has a palette, of which both the indices and the colours may be meant; if it is compressed as JPEG.
    SlideError
        If it can not be opened, is damaged or half-written, or holds several images.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - as open_slide
    kind = kind_of(path, LabelError, "labels are read from")
    kinds = {PNG: _png_labels, "tiff": _tiff_labels, "ome-zarr": _zarr_labels}
    if kind not in kinds:
        raise LabelError(
            f"{path.name} is a slide that {kind} reads; labels are read from PNG, TIFF and OME-Zarr ({path})"
        )
    raster = kinds[kind](path)
    if opened(raster.source).held_bytes:
        raster.read(whole(raster.shape))
    return raster


@dataclass(frozen=True)
class OneChannel:
    """A source of one channel as (h, w), without the axis of the channels."""

    source: Source

    def open(self) -> Opened:
        """See `Source.open`."""
        one = self.source.open()
        return Opened(lambda box: one.read(box)[:, :, 0], one.held_bytes)


def _png_labels(path: Path) -> LabelRaster:
    """A PNG of 8 or 16 bit grey."""
    header = png_header(path)
    if header.colour == 3:
        raise LabelError(
            f"{path.name} has a palette, and labels may be its indices or stand for its colours; "
            "save it as 8 or 16 bit grey"
        )
    if header.colour != 0:
        _refuse_channels(path, PNG_CHANNELS[header.colour])
    if header.depth < 8:
        raise LabelError(f"{path.name} has {header.depth} bit a pixel; 8 and 16 are allowed; save it as 8 bit grey")
    source = OneChannel(PngFile(str(path), file_identity(path)))
    return LabelRaster(path.name, str(path), header.shape, None, source)


def _tiff_labels(path: Path) -> LabelRaster:
    """A TIFF as the slides' reader opens it where it takes such integers; others by `LabelTiff`."""
    with damage_of(path), TiffFile(path, _multifile=False) as tiff:
        page = tiff.pages[0].aspage()
        _check_page(path, page)
        if page.dtype not in (np.uint8, np.uint16):
            return _label_tiff(path, tiff, page)
    level = only_slide(path).levels[0]
    if level.channels != 1:
        _refuse_channels(path, level.channels)
    with damage_of(path), TiffFile(path, _multifile=False) as tiff:
        _check_complete(path, max((page.aspage() for page in tiff.pages), key=lambda page: prod(page.shape)))
    return LabelRaster(path.name, str(path), level.shape, level.mpp, OneChannel(SlideLevel(level)))


def _label_tiff(path: Path, tiff: TiffFile, page: TiffPage) -> LabelRaster:
    """A TIFF of integers that slides do not have, of one image.

    Raises
    ------
    SlideError
        If it holds several, or is damaged.
    """
    if len(tiff.series) != 1 or prod(tiff.series[0].shape) != prod(page.shape) or page.ndim != 2:
        raise SlideFormatError(
            f"{path.name} holds several images or planes of {page.dtype}; labels are read from a file of one"
        )
    _check_complete(path, page)
    tile_bytes = TiledImage((page,)).tile_bytes
    if tile_bytes > MAX_PIECE_BYTES:
        raise SlideFormatError(
            f"{path.name} has tiles or strips of {tile_bytes / 2**30:.1f} GiB once decoded; "
            f"{MAX_PIECE_BYTES / 2**30:.0f} GiB are allowed; {TILE_IT}"
        )
    shape = (int(page.imagelength), int(page.imagewidth))
    mpp = tiff_resolution(tiff, page, 0).mpp
    return LabelRaster(path.name, str(path), shape, mpp, LabelTiff(str(path), file_identity(path)))


@dataclass(frozen=True)
class LabelTiff:
    """The first page of a TIFF that was checked."""

    path: str
    identity: str
    """That of the file when it was opened first."""

    def open(self) -> Opened:
        """See `Source.open`; decoded whole if it is small, and laid out in strips."""
        path = Path(self.path)
        check_same(path, self.identity)
        with damage_of(path), TiffFile(path, _multifile=False) as tiff:
            image = TiledImage((tiff.pages[0].aspage(),), ycc=False)
            image.prepare()
        store = tiff_store(OpenFile(path), image)

        def read(box: Box) -> Pixels:
            with reading(path, box):
                return store.read(box.slices, Spent(), across=1)

        height, width = image.shape
        if prod(image.shape) * image.dtype.itemsize <= MAX_WHOLE_BYTES and image.chunks[1] >= width:
            return keep(read(whole((height, width))))
        return Opened(read, 0)


def _zarr_labels(path: Path) -> LabelRaster:
    """An OME-Zarr of integers, whether or not it says ``image-label``.

    Raises
    ------
    SlideError
        If it is damaged or unfinished, has several channels, or holds other numbers.
    """
    with damage_of(path):
        attributes: dict[str, Any] = zarr.open(LocalStore(path, read_only=True), mode="r").attrs.asdict()
        multiscales = attributes.get("ome", attributes).get("multiscales")
        if not isinstance(multiscales, list) or len(multiscales) != 1:
            count = len(multiscales) if isinstance(multiscales, list) else "no"
            raise LabelError(
                f"{path.name} is a Zarr folder with {count} multiscales; one is allowed; "
                "give the folder of the label image"
            )
        multiscale = multiscales[0]
        axes = "".join(axis["name"][:1].lower() for axis in multiscale["axes"])
        dataset = multiscale["datasets"][0]["path"]
        array = open_dataset(path, dataset)
        mpp = zarr_resolution(multiscale, multiscale["axes"], axes).mpp
    sizes = dict(zip(axes, array.shape, strict=True)) if len(axes) == array.ndim else {}
    if not {"y", "x"} <= set(sizes) or any(sizes[axis] != 1 for axis in set(sizes) - {"y", "x"}):
        raise LabelError(
            f"{path.name} has the axes {axes} of lengths {array.shape}; labels have y and x, others of length 1"
        )
    if array.dtype.kind not in "iu":
        _refuse_dtype(path, str(array.dtype))
    if "wsipipe" in attributes:
        _check_finished(path, dataset, array, attributes["wsipipe"])
    source = LabelZarr(str(path), dataset, axes, zarr_identity(path, (dataset,)))
    return LabelRaster(path.name, str(path), (sizes["y"], sizes["x"]), mpp, source)


@dataclass(frozen=True)
class LabelZarr:
    """The finest array of an OME-Zarr of labels."""

    path: str
    dataset: str
    """Path of the array within the folder."""
    axes: str
    """First letters of its axes; all but y and x have length 1."""
    identity: str
    """That of the folder when it was opened first."""

    def open(self) -> Opened:
        """See `Source.open`."""
        path = Path(self.path)
        with damage_of(path):
            array = open_dataset(path, self.dataset)
            if zarr_identity(path, (self.dataset,)) != self.identity:
                raise SlideReadError(f"{path.name} is not what it was when it was opened; start again")

        def read(box: Box) -> Pixels:
            where = dict(zip("yx", box.slices, strict=True))
            with reading(path, box):
                return np.asarray(array[tuple(where.get(axis, 0) for axis in self.axes)])

        return Opened(read, 0)


def _as_labels(name: str, box: Box, values: npt.NDArray[Any]) -> Labels:
    """``values`` as int32.

    Raises
    ------
    LabelError
        If there are some that int32 has no room for, or below 0.
    """
    if values.dtype.kind == "i" and values.min() < 0:
        raise LabelError(
            f"{name} holds the label {values.min()} at {box}; labels are 0 (nothing here) or more; save it without"
        )
    if values.dtype.itemsize >= 4 and values.max() > MAX_LABEL:
        raise LabelError(
            f"{name} holds the label {values.max()} at {box}; up to {MAX_LABEL} are allowed; number them anew"
        )
    return values.astype(np.int32)


def _refuse_channels(path: Path, channels: int) -> None:
    """Raise the error for an image of colours."""
    raise LabelError(f"{path.name} has {channels} channels; labels have one; {WAY_OUT}")


def _refuse_dtype(path: Path, dtype: str) -> None:
    """Raise the error for numbers that are not integers."""
    raise LabelError(f"{path.name} holds {dtype} values; labels are integers of 8 to 64 bit; {WAY_OUT}")


def _check_page(path: Path, page: TiffPage) -> None:
    """Refuse what can not be labels, whoever reads it.

    Raises
    ------
    LabelError
        Naming the tag, its value, and what is allowed.
    """
    if page.samplesperpixel != 1:
        _refuse_channels(path, page.samplesperpixel)
    if page.dtype is None or page.dtype.kind not in "iu" or page.bitspersample % 8:
        _refuse_dtype(path, f"{page.bitspersample} bit {page.dtype or 'unknown'}")
    orientation, photometric = page.tags.valueof(274, 1), int(page.photometric)
    if orientation not in (0, 1) or photometric != 1:
        raise LabelError(
            f"{path.name} has Orientation {orientation} and PhotometricInterpretation {photometric}; labels are "
            f"read upright (1) and as grey (1), for in a palette (3) indices or colours may be meant; {WAY_OUT}"
        )
    codec = str(getattr(page.compression, "name", page.compression)).lower()
    if codec in LOSSY:
        raise LabelError(f"{path.name} is compressed with loss ({codec}), which changes labels; save it without")


def _check_complete(path: Path, page: TiffPage) -> None:
    """Refuse an image of which tiles or strips were left out, or are beyond the end of the file.

    Raises
    ------
    SlideReadError
        Saying how many.
    """
    wanted, offsets, counts = prod(page.chunked), page.dataoffsets, page.databytecounts
    if not len(offsets) == len(counts) == wanted:
        raise SlideReadError(f"{path.name} is damaged: {wanted} tiles, {len(offsets)} offsets; write it again")
    empty = sum(not offset or not count for offset, count in zip(offsets, counts, strict=True))
    if empty:
        raise SlideReadError(
            f"{path.name} is half-written: {empty} of {wanted} tiles have no data, and whether nothing is there or "
            "the writer died is not known; write it again (with GDAL: SPARSE_OK=FALSE)"
        )
    end = max(offset + count for offset, count in zip(offsets, counts, strict=True))
    if end > path.stat().st_size:
        raise SlideReadError(
            f"{path.name} is truncated: its tiles end at byte {end}, the file at {path.stat().st_size}; "
            "copy it again from where it came from"
        )


def _check_finished(path: Path, dataset: str, array: zarr.Array[Any], record: dict[str, Any]) -> None:
    """Refuse a store of wsipipe that is not complete: a missing shard would read as background.

    Raises
    ------
    SlideReadError
        Saying what is missing.
    """
    there, total = count_pieces(path, dataset, array)
    if not record.get("complete") or there < total:
        raise SlideReadError(
            f"{path.name} is not finished: {there} of {total} blocks are there; run the same wsipipe run again"
        )
