"""Images of labels, read box by box: PNG, TIFF and OME-Zarr of one channel, with more integer types than slides have.

Every value here can be pickled; labels stay in the file, and each process opens it again at its first read.
"""

from __future__ import annotations

import os
from pathlib import Path

from wsipipe.errors import LabelError
from wsipipe.rasters.image import kind_of
from wsipipe.rasters.label_raster import SAVE_AS_INTEGERS, LabelRaster, OneChannel, refuse_channels
from wsipipe.rasters.label_tiff import tiff_labels
from wsipipe.rasters.label_zarr import zarr_labels
from wsipipe.rasters.opened import RASTERS, whole
from wsipipe.rasters.png import PngFile
from wsipipe.slides.identity import file_identity
from wsipipe.slides.readers.picture import PictureReader
from wsipipe.slides.readers.picture_file import HEADERS_BYTES, read_header


def open_label_raster(path: str | os.PathLike[str]) -> LabelRaster:
    """Open an image of labels: one channel of integers, level 0.

    Integers may have 8 to 64 bits. Tiles and chunks are read as needed, a PNG and the strips of a small TIFF at once.

    A missing chunk of an OME-Zarr reads as its fill value, mostly 0, because Zarr does not write empty chunks. But
    `wsipipe run` writes every chunk, so its store is refused if one is missing. A TIFF with missing tiles is refused,
    because a file whose writer died looks like that.

    Raises
    ------
    LabelError
        If it is not an image, has several channels, or holds anything but integers from 0 to 2**31 - 1; if it has a
        palette, which may mean its indices or its colours; if it has lossy compression.
    SlideError
        If it cannot be opened, is damaged or half-written, or holds several images.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - as open_slide
    kind = kind_of(path, LabelError, "labels are read from")
    kinds = {PictureReader.name: _png_labels, "tiff": tiff_labels, "ome-zarr": zarr_labels}
    if kind not in kinds:
        raise LabelError(
            f"{path.name} is a slide that {kind} reads; labels are read from PNG, TIFF and OME-Zarr ({path})"
        )
    raster = kinds[kind](path)
    if RASTERS.get(raster.source).held_bytes:
        raster.read(whole(raster.shape))
    return raster


def _png_labels(path: Path) -> LabelRaster:
    """Open an 8- or 16-bit grey PNG."""
    with path.open("rb") as file:
        header = read_header(path.name, file.read(HEADERS_BYTES))
    if header.kind != "png":
        raise LabelError(f"{path.name} has lossy compression ({header.kind}), which changes labels; {SAVE_AS_INTEGERS}")
    if header.palette:
        raise LabelError(
            f"{path.name} has a palette, and labels may be its indices or its colours; save it as 8- or 16-bit grey"
        )
    if header.channels + header.alpha > 1:
        refuse_channels(path, header.channels + header.alpha)
    if header.depth < 8:
        raise LabelError(f"{path.name} has {header.depth}-bit pixels; 8 and 16 are allowed; save it as 8-bit grey")
    source = OneChannel(PngFile(str(path), file_identity(path)))
    return LabelRaster(path.name, str(path), header.shape, None, source)
