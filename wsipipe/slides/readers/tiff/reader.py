"""TIFF of every kind: tiled, striped, pyramidal, Big- and OME-TIFF, Aperio SVS, Hamamatsu NDPI and others."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tifffile import TiffFile

from wsipipe.errors import SlideError, SlideFormatError, SlideReadError
from wsipipe.files import Location, locate
from wsipipe.slides.byte_source import FETCHED_BYTES, RemoteFile, as_file, open_source
from wsipipe.slides.identity import file_identity
from wsipipe.slides.pixels.tiled_array import TiledArray, tiled_array
from wsipipe.slides.planes import ALL, Planes
from wsipipe.slides.readers.dicom_series import is_dicom
from wsipipe.slides.readers.sparse import MAX_TILES, check_share
from wsipipe.slides.readers.tiff.checks import (
    CONVERT,
    LARGE_TILE_BYTES,
    check_kind,
    codec_of,
    colour_doubts,
    count_empty,
    lacks_tiles,
    orientation_of,
    probe,
)
from wsipipe.slides.readers.tiff.elsewhere import refuse_elsewhere
from wsipipe.slides.readers.tiff.image import PALETTE, WHITE_IS_ZERO, TiledImage
from wsipipe.slides.readers.tiff.pages import (
    COPY_AGAIN,
    OWN_STRUCTURE,
    TiffContent,
    is_stack,
    levels_of_pages,
    levels_of_series,
    pages_of,
    regions_of,
    shape_of,
    size_of,
)
from wsipipe.slides.readers.tiff.resolution import tiff_downsamples, tiff_resolution
from wsipipe.slides.readers.tiff.store import UPRIGHT, UprightStore, tiff_store
from wsipipe.slides.slide import Level, Slide, downsample_of, is_shrunk
from wsipipe.urls import Url

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it logs is found and reported here, by file name

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first bytes of TIFF and BigTIFF, in both byte orders."""
HEAD_BYTES = 132
"""Bytes that tell DICOM from TIFF."""
VENDORS = {
    "svs": "aperio",
    "ndpi": "hamamatsu",
    "scn": "leica",
    "philips": "philips",
    "qpi": "perkinelmer",
    "indica": "indica",
    "avs": "avs",
    "sis": "olympus",
    "ome": "ome",
    "imagej": "imagej",
}
"""Vendors by tifffile's flags of their files."""


class TiffReader:
    """Opens TIFF files."""

    name = "tiff"
    why = "it begins as TIFF does"

    def recognises(self, path: Location) -> bool:
        """Whether ``path`` is a file that begins as TIFF does, and is not DICOM as well: then it is one of several."""
        start = open_source(path).read(0, HEAD_BYTES) if path.is_file() else b""
        return start[:4] in TIFF_MAGIC and not is_dicom(start)

    def open(self, path: Location, planes: Planes = ALL) -> Slide:
        """See `Reader.open`; raises a SlideError as it says there."""
        with _tifffile(path) as tiff:
            found = _find(path, tiff, planes)
            resolution = tiff_resolution(tiff, found.levels[0].pages[0], found.series)
            stated = tiff_downsamples(tiff)
            vendor = next((VENDORS[flag] for flag in VENDORS if flag in tiff.flags), "generic")
        identity = file_identity(path)
        probe(path, found.levels[0])
        shapes = [shape_of(image.pages[0]) for image in found.levels]
        numbers = [image.pages[0].index for image in found.levels]
        downsamples = [stated.get(n) or downsample_of(shapes[0], of) for n, of in zip(numbers, shapes, strict=True)]
        levels = tuple(
            _level(path, index, identity, found, downsample=downsample, mpp=resolution.mpp)
            for index, downsample in enumerate(downsamples)
        )
        return Slide(
            path=str(path),
            name=_stem(path),
            reader=self.name,
            vendor=vendor,
            levels=levels,
            mpp=resolution.mpp,
            mpp_source=resolution.source,
            identity=identity,
            associated=found.associated,
            warnings=found.warnings + resolution.warnings,
            readings=resolution.readings,
            channel_names=found.channel_names,
        )


@dataclass(frozen=True)
class TiffLevel:
    """One level of a TIFF file; all fields as in `Level`."""

    path: str
    identity: str
    index: int
    axes: str
    planes: Planes

    def open(self) -> TiledArray:
        """See `Source.open`; raises a SlideError as it says there."""
        path = locate(self.path)
        if file_identity(path) != self.identity:
            raise SlideReadError(f"{path.name} has changed since it was opened; start again")
        with _tifffile(path) as tiff:
            image = _find(path, tiff, self.planes).levels[self.index]
        stored, orientation = tiff_store(open_source(path), image), orientation_of(image.pages[0])
        store = stored if orientation == 1 else UprightStore(stored, self.axes, orientation)
        return tiled_array(store)


def count_regions(path: Location) -> int:
    """How many scanned regions a Leica SCN has; 0 if the file is another, or cannot be read."""
    try:
        if not TiffReader().recognises(path):
            return 0
        with _tifffile(path) as tiff:
            return len(regions_of(tiff))
    except (SlideError, OSError):
        return 0


class _Tables(io.BufferedReader):
    """A file of which tifffile reads tags, not pixels: tables of more than `MAX_TILES` places are refused.

    As Python integers a place takes 40 bytes, and a sparse file has room for any number of them.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        """Like `io.BufferedReader.read`; raises a SlideFormatError if there is too much to read."""
        if size is not None and size > 8 * MAX_TILES:
            raise SlideFormatError(
                f"{Path(self.name).name} has a tag of {size} bytes, such as a table of {size // 8} tiles; "
                f"wsipipe reads up to {MAX_TILES} tiles; {CONVERT}"
            )
        return super().read(size)


@contextmanager
def _tifffile(path: Location) -> Iterator[TiffFile]:
    """The file as tifffile sees it; its errors become a SlideReadError, after which no other reader is asked."""
    try:
        raw = as_file(RemoteFile(path)).detach() if isinstance(path, Url) else io.FileIO(path)
        with _Tables(raw, FETCHED_BYTES) as file, TiffFile(file, _multifile=False) as tiff:
            yield tiff
    except (SlideError, OSError):
        raise
    except Exception as err:  # tifffile and what it calls raise all sorts on damaged files
        raise SlideReadError(f"{path.name} is a damaged TIFF ({type(err).__name__}: {err}); {COPY_AGAIN}") from err


def _find(path: Location, tiff: TiffFile, planes: Planes) -> TiffContent:
    """Levels and associated images of the file, checked.

    Damage is a SlideReadError, after which no other reader is asked: OpenSlide ended the process at some files whose
    tags do not fit together.

    Raises
    ------
    SlideError
        If something is wrong with them, or there are several to choose from and ``planes`` does not choose.
    """
    pages = pages_of(path, tiff)
    refuse_elsewhere(path, tiff, pages[0])
    of_series = OWN_STRUCTURE & tiff.flags or is_stack(path, tiff, pages)
    unchecked = levels_of_series(path, tiff, planes) if of_series else levels_of_pages(path, tiff, pages, planes)
    images: list[TiledImage] = []
    warnings = list(_odd(unchecked))
    size = tiff.filehandle.size
    finest = shape_of(unchecked.levels[0].pages[0])
    for index, image in enumerate(unchecked.levels):
        for page in image.pages:
            check_kind(path, page)
        if index and orientation_of(image.pages[0]) != orientation_of(unchecked.levels[0].pages[0]):
            raise SlideFormatError(f"{path.name} has levels whose Orientation is not that of the finest; {CONVERT}")
        empty, total = count_empty(path, image, size)
        sides = size_of(image.pages[0])
        if empty == total:
            if index == 0:
                raise SlideReadError(f"{path.name} is half-written: none of its {total} tiles has data; {COPY_AGAIN}")
            warnings.append(f"level of {sides} is left out: none of its tiles has data")
            continue
        if index == 0:
            check_share(path.name, total - empty, total, sides, way_out=COPY_AGAIN)
        # Philips fills levels up to whole tiles, and says what their downsamples are.
        if "philips" not in tiff.flags and not is_shrunk(finest, shape_of(image.pages[0])):
            warnings.append(f"level of {sides} is left out: its sides are not in the ratio of the finest level's")
            continue
        if empty and index and lacks_tiles(image, images[-1]):
            warnings.append(f"level of {sides} is left out: {empty} of its {total} tiles have no data, finer ones have")
            continue
        if empty:
            why = "" if image.nodata is None else ", as GDAL_NODATA says"
            warnings.append(f"{empty} of {total} tiles of {sides} have no data and read as {image.fill}{why}")
        if image.tile_bytes > LARGE_TILE_BYTES:
            mib = image.tile_bytes / 2**20
            warnings.append(f"tiles of {sides} take {mib:.0f} MiB each: every block decodes whole tiles")
        warnings += (doubt for doubt in colour_doubts(tiff, image) if doubt not in warnings)
        image.prepare()
        images.append(image)
    return replace(unchecked, levels=tuple(images), warnings=tuple(warnings))


def _odd(unchecked: TiffContent) -> Iterator[str]:
    """Oddities of an image, by its finest level."""
    page = unchecked.levels[0].pages[0]
    if orientation_of(page) != 1:
        yield f"Orientation is {orientation_of(page)}: it is turned upright as it is read"
    if any(name.startswith("mask") for name in unchecked.associated):
        yield "the file has a transparency mask, which is not used"
    if page.photometric == PALETTE:
        yield "its palette is read as RGB"
    elif page.bitspersample < 8:
        yield f"its {page.bitspersample}-bit grey is stretched to 8 bits"
    if page.photometric == WHITE_IS_ZERO:
        yield "white is zero in the file, and is inverted"


def _level(
    path: Location, index: int, identity: str, found: TiffContent, *, downsample: float, mpp: float | None
) -> Level:
    """Level ``index`` of the file, by the image that holds it."""
    image = found.levels[index]
    page = image.pages[0]
    axes = {2: "yx", 3: "cyx" if len(image.pages) > 1 or image.planar else "yxc"}[len(image.shape)]
    sides = [axes.index("y"), axes.index("x")]
    turned = sides[::-1] if UPRIGHT[orientation_of(page)][0] else sides
    return Level(
        path=str(path),
        reader=TiffReader.name,
        index=index,
        identity=identity,
        shape=(image.shape[turned[0]], image.shape[turned[1]]),
        downsample=downsample,
        mpp=None if mpp is None else mpp * downsample,
        axes=axes,
        channels=image.shape[axes.index("c")] if "c" in axes else 1,
        dtype=str(image.dtype),
        tile=(image.chunks[turned[0]], image.chunks[turned[1]]),
        codec=codec_of(page),
        stored_axes=axes,
        source=TiffLevel(str(path), identity, index, axes, found.planes),
        planes=found.planes,
    )


def _stem(path: Location) -> str:
    """The file's name without its suffix, and without ``.ome`` before it."""
    stem = path.stem
    return stem[:-4] if stem.lower().endswith(".ome") else stem
