"""Images and labels to train on and to measure by, read box by box: PNG, TIFF of any kind, and OME-Zarr.

Slides are opened as `wsipipe run` opens them. Beyond that there are PNG files, which it does not take, and
labels: one channel of integers, of more types than a slide may have. Every value here can be pickled; pixels
stay in the file, and each process opens it again at its first read.

What comes in one piece, a PNG or the strips of a small TIFF, is decoded once and kept, up to `KEPT_BYTES` per
process: patches of a training are many and small.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import zarr
from tifffile import TiffFile, TiffPage
from zarr.storage import LocalStore

from wsipipe.errors import LabelError, PlaneError, SlideError, SlideFormatError, SlideReadError, UsageError
from wsipipe.events import Spent
from wsipipe.geometry.grid import Box
from wsipipe.slides.identity import file_identity
from wsipipe.slides.omezarr import count_pieces, open_dataset, zarr_identity, zarr_resolution
from wsipipe.slides.readers import named
from wsipipe.slides.reading import Pixels, read_box
from wsipipe.slides.resolution import tiff_resolution
from wsipipe.slides.slide import Level, Slide, open_slide
from wsipipe.slides.source import OpenFile
from wsipipe.slides.tiffimage import TiledImage
from wsipipe.slides.tiffstore import tiff_store

PNG = "png"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
"""Channels by the colour type of the header; imagecodecs turns palettes into RGB."""
MAX_PIECE_BYTES = 2**30
"""A PNG, or a tile of labels, that needs more than this once decoded is refused: it can only be decoded whole."""
MAX_WHOLE_BYTES = 2**26
"""A TIFF in strips of up to this size once decoded is kept decoded; of a larger one, strips are decoded as needed."""
KEPT_BYTES = 2**28
"""What one process keeps decoded, at most, or a single image if that is larger."""
OPEN_FILE_BYTES = 2**22
"""What an open file counts for among what is kept: 64 of them, below the 256 that macOS allows."""
LOSSY = {"jpeg", "alt_jpeg", "jpeg_lossy", "jpeg_2000_lossy"}
"""Compressions that change the values of labels."""
MAX_LABEL = int(np.iinfo(np.int32).max)
WAY_OUT = "save the labels as one channel of integers: PNG of 8 or 16 bit grey, or TIFF"
TILE_IT = "convert it, e.g. with: vips tiffsave IN OUT --tile --compression deflate"

Read = Callable[[Box], Pixels]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Opened:
    """Pixels that this process can read."""

    read: Read
    """The pixels of a box, (h, w, channels) or for labels (h, w), in the dtype of the file."""
    held_bytes: int
    """What keeping it costs; 0 where only the file is open."""


class Source(Protocol):
    """Where pixels are, as a value that can be hashed and pickled; equal sources hold equal pixels."""

    def open(self) -> Opened:
        """Open it in this process.

        Raises
        ------
        SlideError
            If it is gone, damaged, or not what it was when it was first opened.
        """
        ...


_lock = threading.Lock()
_kept: OrderedDict[Source, Opened] = OrderedDict()


@dataclass(frozen=True)
class Raster:
    """An image to train on: a PNG, or one level of a slide."""

    name: str
    """File name, as messages call it."""
    path: str
    """Absolute."""
    shape: tuple[int, int]
    """(height, width) in pixels."""
    channels: int
    """1 for grey, 3 for RGB, others as the slide has them."""
    dtype: str
    """``uint8`` or ``uint16``."""
    mpp: float | None
    """Micrometres per pixel; of a PNG only what was given: what it says of itself is mostly 72 dpi."""
    source: Source
    """Where the pixels are."""

    def read(self, box: Box) -> Pixels:
        """The pixels of ``box``, (h, w, channels), in `dtype`, to keep and to change.

        Raises
        ------
        SlideError
            If they can not be read or decoded, or the file is not the one that it was.
        """
        _check_inside(box, self.shape)
        return _opened(self.source).read(box)


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
        _check_inside(box, self.shape)
        return _as_labels(self.name, box, _opened(self.source).read(box))


def open_raster(path: str | os.PathLike[str], *, mpp: float | None = None) -> Raster:
    """Open an image to train on: a PNG, or level 0 of a slide.

    A PNG of 8 or 16 bit, grey or RGB, is decoded here once, so that a damaged one is found before the work begins;
    palettes become RGB, and an alpha channel is left out where all of it is opaque.

    Parameters
    ----------
    path
        A PNG, a TIFF file of any kind, or an OME-Zarr folder.
    mpp
        Micrometres per pixel, instead of those in the file.

    Raises
    ------
    SlideFormatError
        If it is none of these, or a PNG that is partly transparent or too large.
    SlideReadError
        If it can not be opened, or is damaged.
    UsageError
        If ``mpp`` is not a positive number.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - as open_slide
    if _kind(path, SlideFormatError, "images are read from") != PNG:
        return raster_of(_only(path, mpp).levels[0])
    if mpp is not None and not 0 < mpp < float("inf"):
        raise UsageError(f"--mpp {mpp} is not a positive number of micrometres per pixel, such as 0.25")
    shape = _png_header(path).shape
    source = PngFile(str(path), file_identity(path))
    pixel = _opened(source).read(Box(0, 1, 0, 1))
    return Raster(path.name, str(path), shape, pixel.shape[2], str(pixel.dtype), mpp, source)


def raster_of(level: Level) -> Raster:
    """One level of a slide as a raster."""
    return Raster(
        name=Path(level.path).name if level.index == 0 else level.name,
        path=level.path,
        shape=level.shape,
        channels=level.channels,
        dtype=level.dtype,
        mpp=level.mpp,
        source=SlideLevel(level),
    )


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
    kind = _kind(path, LabelError, "labels are read from")
    kinds = {PNG: _png_labels, "tiff": _tiff_labels, "ome-zarr": _zarr_labels}
    if kind not in kinds:
        raise LabelError(
            f"{path.name} is a slide that {kind} reads; labels are read from PNG, TIFF and OME-Zarr ({path})"
        )
    raster = kinds[kind](path)
    if _opened(raster.source).held_bytes:
        raster.read(_whole(raster.shape))
    return raster


def forget_all() -> None:
    """Drop what this process keeps; files are closed when nobody holds them any more."""
    with _lock:
        _kept.clear()


def _opened(source: Source) -> Opened:
    """``source``, opened at the first call in this process, and after it was dropped."""
    with _lock:
        if source in _kept:
            _kept.move_to_end(source)
            return _kept[source]
    opened = source.open()  # outside the lock: others go on reading meanwhile
    with _lock:
        opened = _kept.setdefault(source, opened)
        while len(_kept) > 1 and sum(one.held_bytes or OPEN_FILE_BYTES for one in _kept.values()) > KEPT_BYTES:
            _kept.popitem(last=False)
    return opened


def _keep(pixels: npt.NDArray[Any]) -> Opened:
    """Decoded pixels, (h, w, ...), of which each reader gets a copy."""
    return Opened(lambda box: pixels[box.slices].copy(), pixels.nbytes)


def _only(path: Path, mpp: float | None = None) -> Slide:
    """The slide of a file that holds one image of one plane.

    Raises
    ------
    SlideFormatError
        If it holds several.
    """
    try:
        return open_slide(path, mpp=mpp)
    except PlaneError as err:
        raise SlideFormatError(
            f"{path.name} holds several images or planes; images and labels are read from a file of one ({path})"
        ) from err


def _whole(shape: tuple[int, int]) -> Box:
    """All of it."""
    return Box(0, shape[0], 0, shape[1])


def _check_inside(box: Box, shape: tuple[int, int]) -> None:
    """Mirroring at the borders is the caller's."""
    assert 0 <= box.y0 < box.y1 <= shape[0], f"{box} is outside {shape}"
    assert 0 <= box.x0 < box.x1 <= shape[1], f"{box} is outside {shape}"


def _kind(path: Path, error: type[SlideFormatError | LabelError], what: str) -> str:
    """``png``, or the name of the reader of slides that knows the file.

    Raises
    ------
    SlideError
        ``error`` if nobody does; SlideReadError if it can not be opened.
    """
    try:
        found = "is not an OME-Zarr image" if path.stat() and path.is_dir() else "is neither a file nor a folder"
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(16)
            if start.startswith(PNG_MAGIC):
                return PNG
            found = f"begins with {start!r}" if start else "is empty (0 bytes)"
        if path.is_file() or path.is_dir():  # a pipe would be waited for
            for reader in named(None):
                if reader.recognises(path):
                    return reader.name
    except OSError as err:
        raise SlideReadError(f"{path.name} can not be opened: {err.strerror or err} ({path})") from err
    raise error(f"{path.name} {found}; {what} PNG, TIFF of many kinds, and OME-Zarr folders ({path})")


def _check_same(path: Path, identity: str) -> None:
    """Refuse a file that was replaced since it was opened first.

    Raises
    ------
    SlideReadError
        If it was, or is gone.
    """
    try:
        same = file_identity(path) == identity
    except OSError as err:
        raise SlideReadError(f"{path.name} is gone: {err.strerror or err} ({path})") from err
    if not same:
        raise SlideReadError(f"{path.name} is not the file that it was when it was opened; start again")


@dataclass(frozen=True)
class PngFile:
    """A PNG, decoded whole."""

    path: str
    identity: str
    """That of the file when it was opened first."""

    def open(self) -> Opened:
        """See `Source.open`; (h, w, channels), without an alpha channel.

        Raises
        ------
        SlideFormatError
            If it is partly transparent.
        SlideReadError
            If it is damaged.
        """
        from imagecodecs import png_decode

        path = Path(self.path)
        _check_same(path, self.identity)
        try:
            pixels = png_decode(path.read_bytes())
        except Exception as err:  # imagecodecs' own class for each codec, and what Python raises
            raise SlideReadError(f"{path.name} is a damaged PNG ({err}); write it again") from err
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        if pixels.shape[2] not in (2, 4):
            return _keep(pixels)
        if (pixels[:, :, -1] < np.iinfo(pixels.dtype).max).any():
            raise SlideFormatError(
                f"{path.name} is partly transparent, and what is behind it is not known; save it without alpha channel"
            )
        return _keep(np.ascontiguousarray(pixels[:, :, :-1]))


@dataclass(frozen=True)
class PngHeader:
    """What the first chunk of a PNG says (https://www.w3.org/TR/png-3/, section 11.2.1)."""

    shape: tuple[int, int]
    """(height, width) in pixels."""
    depth: int
    """Bits of a sample."""
    colour: int
    """Colour type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha."""


def _png_header(path: Path) -> PngHeader:
    """The header of a PNG.

    Raises
    ------
    SlideReadError
        If it is cut off, or not a header.
    SlideFormatError
        If the image is too large to be decoded whole.
    """
    with path.open("rb") as file:
        head = file.read(26)
    if len(head) < 26 or head[12:16] != b"IHDR" or head[25] not in PNG_CHANNELS:
        raise SlideReadError(f"{path.name} is a damaged PNG: it has no header; write it again")
    width, height, depth, colour = struct.unpack(">IIBB", head[16:])
    size = height * width * PNG_CHANNELS[colour] * max(depth // 8, 1)
    if size > MAX_PIECE_BYTES:
        raise SlideFormatError(
            f"{path.name} is {height} x {width} px, {size / 2**30:.1f} GiB once decoded, which a PNG is as a whole; "
            f"{MAX_PIECE_BYTES / 2**30:.0f} GiB are allowed; {TILE_IT}"
        )
    return PngHeader((height, width), depth, colour)


@dataclass(frozen=True)
class SlideLevel:
    """One level of a slide."""

    level: Level

    def open(self) -> Opened:
        """See `Source.open`; decoded whole if it is small, and laid out in strips or in one piece."""
        level = self.level
        size = prod(level.shape) * level.channels * np.dtype(level.dtype).itemsize
        if size <= MAX_WHOLE_BYTES and level.tile[1] >= level.stored.shape[1]:
            return _keep(read_box(level, _whole(level.shape)))
        return Opened(lambda box: read_box(level, box), 0)


@dataclass(frozen=True)
class OneChannel:
    """A source of one channel as (h, w), without the axis of the channels."""

    source: Source

    def open(self) -> Opened:
        """See `Source.open`."""
        opened = self.source.open()
        return Opened(lambda box: opened.read(box)[:, :, 0], opened.held_bytes)


def _refuse_channels(path: Path, channels: int) -> None:
    """Raise the error for an image of colours."""
    raise LabelError(f"{path.name} has {channels} channels; labels have one; {WAY_OUT}")


def _refuse_dtype(path: Path, dtype: str) -> None:
    """Raise the error for numbers that are not integers."""
    raise LabelError(f"{path.name} holds {dtype} values; labels are integers of 8 to 64 bit; {WAY_OUT}")


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


def _png_labels(path: Path) -> LabelRaster:
    """A PNG of 8 or 16 bit grey."""
    header = _png_header(path)
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
    with _damage_of(path), TiffFile(path, _multifile=False) as tiff:
        page = tiff.pages[0].aspage()
        _check_page(path, page)
        if page.dtype not in (np.uint8, np.uint16):
            return _label_tiff(path, tiff, page)
    level = _only(path).levels[0]
    if level.channels != 1:
        _refuse_channels(path, level.channels)
    with _damage_of(path), TiffFile(path, _multifile=False) as tiff:
        _check_complete(path, max((page.aspage() for page in tiff.pages), key=lambda page: prod(page.shape)))
    return LabelRaster(path.name, str(path), level.shape, level.mpp, OneChannel(SlideLevel(level)))


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


@contextmanager
def _damage_of(path: Path) -> Iterator[None]:
    """Whatever goes wrong in it is a SlideError that names the file."""
    try:
        yield
    except SlideError:
        raise
    except Exception as err:  # tifffile, zarr and what they call raise all sorts on damaged files
        raise SlideReadError(f"{path.name} is damaged ({type(err).__name__}: {err}); write it again") from err


@contextmanager
def _reading(path: Path, box: Box) -> Iterator[None]:
    """Whatever goes wrong in it is a SlideReadError that names the file and the box."""
    try:
        yield
    except Exception as err:  # whatever zarr, a codec or the file system raises
        reason = str(err) if isinstance(err, SlideReadError) else f"{type(err).__name__}: {err}"
        raise SlideReadError(f"{path.name} can not be read at {box}: {reason}") from err


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
        _check_same(path, self.identity)
        with _damage_of(path), TiffFile(path, _multifile=False) as tiff:
            image = TiledImage((tiff.pages[0].aspage(),), ycc=False)
            image.prepare()
        store = tiff_store(OpenFile(path), image)

        def read(box: Box) -> Pixels:
            with _reading(path, box):
                return store.read(box.slices, Spent(), across=1)

        height, width = image.shape
        if prod(image.shape) * image.dtype.itemsize <= MAX_WHOLE_BYTES and image.chunks[1] >= width:
            return _keep(read(_whole((height, width))))
        return Opened(read, 0)


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
        with _damage_of(path):
            array = open_dataset(path, self.dataset)
            if zarr_identity(path, (self.dataset,)) != self.identity:
                raise SlideReadError(f"{path.name} is not what it was when it was opened; start again")

        def read(box: Box) -> Pixels:
            where = dict(zip("yx", box.slices, strict=True))
            with _reading(path, box):
                return np.asarray(array[tuple(where.get(axis, 0) for axis in self.axes)])

        return Opened(read, 0)


def _zarr_labels(path: Path) -> LabelRaster:
    """An OME-Zarr of integers, whether or not it says ``image-label``.

    Raises
    ------
    SlideError
        If it is damaged or unfinished, has several channels, or holds other numbers.
    """
    with _damage_of(path):
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
