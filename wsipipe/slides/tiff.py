"""TIFF of every kind: tiled, striped, pyramidal, Big- and OME-TIFF, Aperio SVS, Hamamatsu NDPI and others.

Which page is a level and which a label is worked out here for plain TIFF and for SVS, because writers copy the
scanner's ImageDescription, and by it tifffile takes levels for a thumbnail and a label. The formats with a
structure of their own are left to tifffile's series.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from tifffile import TiffFile, TiffPage

from wsipipe.errors import SlideError, SlideFormatError, SlideReadError
from wsipipe.slides.identity import file_identity
from wsipipe.slides.jpeg import JPEG_CODECS
from wsipipe.slides.planes import ALL, Planes
from wsipipe.slides.resolution import tiff_resolution
from wsipipe.slides.slide import Level, Slide
from wsipipe.slides.tiles import OpenFile, TiffStore, TiledImage

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it logs is found and reported here, by file name

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first bytes of TIFF and BigTIFF, in both byte orders."""
MAX_PAGES = 10_000
"""More directories than this are a stack or a circle, not a slide."""
MAX_TILE_BYTES = 2**30
"""A tile or strip that needs more than this once decoded is refused: every block would need it."""
LARGE_TILE_BYTES = 2**26
"""A tile larger than this once decoded is worth a warning, and is not decoded just to try whether it can be."""
COMPARABLE = 0.5
"""An image of this share of the largest one's pixels, or more, may be the one that is meant."""
VENDORS = {
    "svs": "aperio",
    "ndpi": "hamamatsu",
    "scn": "leica",
    "bif": "ventana",
    "philips": "philips",
    "qpi": "perkinelmer",
    "indica": "indica",
    "avs": "avs",
    "sis": "olympus",
    "ome": "ome",
    "imagej": "imagej",
}
"""tifffile's flag for a kind of file, and what we call it."""
OWN_STRUCTURE = {"ndpi", "scn", "bif", "philips", "qpi", "indica", "avs", "sis", "ome", "lsm", "stk", "fluoview"}
"""The flags of files whose images and levels tifffile's series know."""
WAY_OUT = "copy it again from where it came from, or export it again"
CONVERT = "convert it, e.g. with: vips tiffsave IN OUT --tile --pyramid --compression jpeg"


@dataclass(frozen=True)
class Found:
    """What a TIFF file holds, as far as this reader is concerned."""

    images: tuple[TiledImage, ...]
    """The levels, from fine to coarse."""
    series: int
    """Which of tifffile's series they are; 0 where levels are worked out from the pages."""
    associated: tuple[str, ...]
    warnings: tuple[str, ...]


class TiffReader:
    """Opens TIFF files."""

    name = "tiff"
    why = "it begins as TIFF does"

    def recognises(self, path: Path) -> bool:
        """Whether it is a file that begins as TIFF does."""
        if path.is_dir():
            return False
        with path.open("rb") as file:
            return file.read(4) in MAGIC

    def open(self, path: Path, planes: Planes = ALL) -> Slide:
        """See `Reader.open`."""
        with _tifffile(path) as tiff:
            found = _find(path, tiff)
            resolution = tiff_resolution(tiff, found.images[0].pages[0], found.series)
            vendor = next((VENDORS[flag] for flag in VENDORS if flag in tiff.flags), "generic")
        identity = file_identity(path)
        _probe(path, found.images[0])
        levels = tuple(
            _level(path, index, identity, image, found.images[0], resolution.mpp)
            for index, image in enumerate(found.images)
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
        )

    def open_array(self, level: Level) -> zarr.Array[Any]:
        """See `Reader.open_array`."""
        path = Path(level.path)
        if file_identity(path) != level.identity:
            raise SlideReadError(f"{path.name} is not the file that it was when it was opened; start again")
        with _tifffile(path) as tiff:
            image = _find(path, tiff).images[level.index]
        return zarr.open_array(TiffStore(OpenFile(path), image), mode="r", zarr_format=3)


@contextmanager
def _tifffile(path: Path) -> Iterator[TiffFile]:
    """The file as tifffile sees it; whatever goes wrong with that is a SlideError."""
    try:
        with TiffFile(path, _multifile=False) as tiff:
            yield tiff
    except (SlideError, OSError):
        raise
    except Exception as err:  # tifffile and what it calls raise all sorts on damaged files
        raise SlideFormatError(f"{path.name} is a damaged TIFF ({type(err).__name__}: {err}); {WAY_OUT}") from err


def _find(path: Path, tiff: TiffFile) -> Found:
    """Levels and associated images of the file, checked.

    Raises
    ------
    SlideError
        If something is wrong with them, or there is more than one image to choose from.
    """
    pages = _pages(path, tiff)
    if OWN_STRUCTURE & tiff.flags:
        candidates, series, associated = _levels_of_series(path, tiff)
    else:
        (candidates, associated), series = _levels_of_pages(path, tiff, pages), 0
    images, warnings = [], []
    if "bif" in tiff.flags:
        warnings.append("its tiles may overlap, as scanned; they are set side by side as they are")
    size = tiff.filehandle.size
    for index, image in enumerate(candidates):
        for page in image.pages:
            _check_kind(path, page)
        empty, total = _count_empty(path, image, size)
        if empty == total:
            if index == 0:
                raise SlideReadError(f"{path.name} is half-written: none of its {total} tiles has data; {WAY_OUT}")
            warnings.append(f"level of {_size(image.pages[0])} is left out: none of its tiles has data")
            continue
        if empty:
            warnings.append(
                f"{empty} of {total} tiles of {_size(image.pages[0])} have no data and read as {image.fill}"
            )
        if image.tile_bytes > LARGE_TILE_BYTES:
            mib = image.tile_bytes / 2**20
            warnings.append(f"tiles of {_size(image.pages[0])} take {mib:.0f} MiB each: every block decodes whole ones")
        image.prepare()
        images.append(image)
    return Found(tuple(images), series, tuple(associated), tuple(warnings))


def _pages(path: Path, tiff: TiffFile) -> list[TiffPage]:
    """The pages of the main chain of directories, each with its tags."""
    pages: list[TiffPage] = []
    offsets: set[int] = set()
    for number in itertools.count():
        try:
            page = tiff.pages[number]
        except IndexError:
            break
        if page.offset in offsets or number >= MAX_PAGES:
            what = (
                "directories (IFDs) go round in a circle" if page.offset in offsets else f"has over {MAX_PAGES} pages"
            )
            raise SlideFormatError(f"{path.name} is damaged, or not a slide: it {what}; {WAY_OUT}")
        offsets.add(page.offset)
        pages.append(page.aspage())
    if not pages:
        raise SlideFormatError(f"{path.name} is a damaged TIFF: it holds no image; {WAY_OUT}")
    return pages


def _levels_of_pages(path: Path, tiff: TiffFile, pages: list[TiffPage]) -> tuple[list[TiledImage], list[str]]:
    """Levels and names of associated images, from the pages of a plain TIFF or SVS and from their SubIFDs."""
    base = max(pages, key=_area)
    _refuse_stack(path, tiff, base)
    levels, associated = [base], []
    for page in sorted([*pages, *_subpages(base)], key=_area, reverse=True):
        if page is base:
            continue
        if _area(page) == _area(base) and _same_kind(page, base) and page.shape == base.shape:
            raise SlideFormatError(
                f"{path.name} holds several images of {_size(base)}, a stack or a document; "
                "wsipipe reads one image per file, so save the one that is meant by itself"
            )
        if _is_level(page, base) and _area(page) < _area(levels[-1]):
            levels.append(page)
        elif _may_be_meant(page, base, aperio="svs" in tiff.flags):
            raise SlideFormatError(
                f"{path.name} holds several images, of {_size(base)} and {_size(page)} among others; "
                "wsipipe reads one image per file, so save the one that is meant by itself"
            )
        else:
            associated.append(_associated_name(page))
    ycc = "svs" in tiff.flags and int(base.compression) == 33003
    return [TiledImage((page,), ycc) for page in levels], associated


def _refuse_stack(path: Path, tiff: TiffFile, base: TiffPage) -> None:
    """Refuse a file whose single directory stands for several images, as ImageJ and tifffile write them."""
    if not {"imagej", "shaped"} & tiff.flags:
        return
    shape = tiff.series[0].shape
    if prod(shape) > prod(base.shape):
        raise SlideFormatError(
            f"{path.name} holds a stack of shape {shape} ({tiff.series[0].axes}); "
            "wsipipe reads one image per file, so save the one that is meant by itself"
        )


def _subpages(page: TiffPage) -> list[TiffPage]:
    """The SubIFDs of ``page``."""
    if not page.subifds or page.pages is None:
        return []
    return [sub.aspage() for sub in itertools.islice(page.pages, MAX_PAGES)]


def _area(page: TiffPage) -> int:
    """Pixels of the image."""
    return int(page.imagelength) * int(page.imagewidth)


def _size(page: TiffPage) -> str:
    """Height and width, for messages."""
    return f"{page.imagelength} x {page.imagewidth} px"


def _same_kind(page: TiffPage, base: TiffPage) -> bool:
    """Whether both hold the same sort of pixels, laid out alike. A scanner's levels are tiled, its labels are not."""
    return (
        page.is_tiled == base.is_tiled
        and page.samplesperpixel == base.samplesperpixel
        and page.planarconfig == base.planarconfig
        and page.dtype == base.dtype
        and _colour_family(page) == _colour_family(base)
        and not page.subfiletype & 4  # a transparency mask
    )


def _colour_family(page: TiffPage) -> int:
    """The photometric interpretation, with RGB for YCbCr: some writers give each level the one that suits it."""
    return 2 if page.photometric == 6 else int(page.photometric)


def _is_level(page: TiffPage, base: TiffPage) -> bool:
    """Whether ``page`` shows what ``base`` shows, smaller, give or take a pixel of rounding."""
    if not _same_kind(page, base) or not _area(page):
        return False
    down = max(base.imagelength / page.imagelength, base.imagewidth / page.imagewidth)
    return down > 1 and all(
        abs(large / down - small) <= 1
        for large, small in ((base.imagelength, page.imagelength), (base.imagewidth, page.imagewidth))
    )


def _may_be_meant(page: TiffPage, base: TiffPage, *, aperio: bool) -> bool:
    """Whether ``page``, which is not a level, could be the image that the user wants."""
    reduced_or_mask = page.subfiletype & 0b101
    return not aperio and not reduced_or_mask and _area(page) >= COMPARABLE * _area(base)


def _associated_name(page: TiffPage) -> str:
    """What to call an image that is not a level: as its description does, or by its size."""
    description = page.description.lower()
    named = next((name for name in ("label", "macro", "thumbnail") if name in description), None)
    if named is None and description.startswith("aperio") and "->" in description:
        named = "thumbnail"
    return f"{named or 'image'} {_size(page)}"


def _levels_of_series(path: Path, tiff: TiffFile) -> tuple[list[TiledImage], int, list[str]]:
    """Levels, number of their series, and names of associated images, where tifffile knows the format."""
    series = list(tiff.series)
    sizes = [prod(one.shape) for one in series]
    chosen = sizes.index(max(sizes))
    others = [one for one in series if one is not series[chosen]]
    for other in others:
        if prod(other.shape) >= COMPARABLE * max(sizes):
            raise SlideFormatError(
                f"{path.name} holds several images, of shape {series[chosen].shape} and {other.shape} among others; "
                "wsipipe reads one image per file, so save the one that is meant by itself"
            )
    levels = [_image_of_series(path, level) for level in series[chosen].levels]
    return levels, chosen, [f"{other.name or 'image'} {_size(other.keyframe)}" for other in others]


def _image_of_series(path: Path, level: tifffile.TiffPageSeries) -> TiledImage:
    """One level of one of tifffile's series: a page, or one page per channel.

    Raises
    ------
    SlideFormatError
        If it is a stack, a time series or a mosaic.
    """
    shape, axes = level.get_shape(squeeze=True), level.get_axes(squeeze=True)
    keyframe = level.keyframe
    if shape == keyframe.shape:
        page = level.pages[0]
        return TiledImage((page.aspage(),), ycc=False) if page is not None else _refuse_series(path, axes, shape)
    if axes != "CYX" or shape != (len(level.pages), *keyframe.shape):
        _refuse_series(path, axes, shape)
    return TiledImage(
        tuple(page.aspage() if page else _refuse_series(path, axes, shape) for page in level.pages), False
    )


def _refuse_series(path: Path, axes: str, shape: tuple[int, ...]) -> Any:
    """Raise the error for a series that is not one image."""
    sizes = ", ".join(f"{axis} {size}" for axis, size in zip(axes, shape, strict=True))
    raise SlideFormatError(
        f"{path.name} holds more than one plane, or planes in other files ({sizes}); "
        "wsipipe reads one plane (y, x) with its channels, so save the one that is meant by itself"
    )


def _check_kind(path: Path, page: TiffPage) -> None:
    """Refuse pixels that are not grey, RGB or RGBA of 8 or 16 bit, upright, whatever the file's layout.

    Raises
    ------
    SlideFormatError
        Naming the tag, its value, and what is allowed.
    """
    samples, photometric = page.samplesperpixel, int(page.photometric)
    compression = int(page.compression)
    jpeg = compression in JPEG_CODECS
    planar = page.planarconfig == 2
    orientation = page.tags.valueof(274, 1)
    rules = {
        ("ImageWidth and ImageLength", _size(page), "at least 1 px"): page.imagelength > 0 and page.imagewidth > 0,
        ("Orientation", orientation, "1, upright"): orientation in (0, 1),
        ("SampleFormat", page.sampleformat, "1, unsigned integers"): page.sampleformat == 1,
        ("BitsPerSample", page.bitspersample, "8 or 16"): page.bitspersample in (8, 16),
        ("ImageDepth", page.imagedepth, "1"): page.imagedepth == 1,
        # 6 is the old-style JPEG of TIFF 6.0, which every writer understood differently.
        ("Compression", compression, "none, LZW, deflate, zstd, JPEG (7), JPEG 2000 and others of today"): compression
        != 6
        and (compression == 1 or compression in tifffile.TIFF.DECOMPRESSORS),
        ("PhotometricInterpretation", photometric, "1 (grey), 2 (RGB), or 6 (YCbCr) in JPEG"): photometric in (1, 2)
        or (photometric == 6 and jpeg),
        ("PlanarConfiguration", page.planarconfig, "1 for YCbCr"): photometric != 6 or not planar,
        ("SamplesPerPixel", samples, "1 for grey, 3 or 4 for RGB, 3 for YCbCr"): samples
        in {1: (1,), 2: (3, 4), 6: (3,)}.get(photometric, ())
        or (photometric == 1 and planar),
    }
    for (tag, value, allowed), fine in rules.items():
        if not fine:
            raise SlideFormatError(f"{path.name} has {tag} {value}; wsipipe reads {allowed}; {CONVERT}")


def _count_empty(path: Path, image: TiledImage, file_bytes: int) -> tuple[int, int]:
    """How many of the tiles have no data, and how many there are; nothing is read or allocated for it.

    Raises
    ------
    SlideError
        If the tags do not fit together, or point beyond the end of the file.
    """
    empty, total = 0, 0
    if len(image.chunks) != len(image.shape) or min(image.chunks) < 1:
        raise SlideFormatError(
            f"{path.name} is damaged: an image of shape {image.shape} has tiles of {image.chunks}; {WAY_OUT}"
        )
    if image.tile_bytes > MAX_TILE_BYTES:
        raise SlideFormatError(
            f"{path.name} has tiles or strips of {image.chunks}, {image.tile_bytes / 2**30:.1f} GiB each; "
            f"wsipipe reads up to {MAX_TILE_BYTES / 2**30:.0f} GiB; {CONVERT}"
        )
    for page in image.pages:
        wanted = prod(page.chunked)
        offsets, counts = page.dataoffsets, page.databytecounts
        if not len(offsets) == len(counts) == wanted:
            raise SlideFormatError(
                f"{path.name} is damaged: an image of {_size(page)} in tiles of {page.chunks} has {wanted} of them, "
                f"but there are {len(offsets)} offsets and {len(counts)} byte counts; {WAY_OUT}"
            )
        starts, lengths = np.asarray(offsets, np.float64), np.asarray(counts, np.float64)
        if (starts < 0).any() or (lengths < 0).any() or (starts + lengths > file_bytes).any():
            number = int(np.argmax((starts + lengths > file_bytes) | (starts < 0) | (lengths < 0)))
            raise SlideReadError(
                f"{path.name} is truncated or damaged: tile {number} of {_size(page)} is at bytes "
                f"{starts[number]:.0f} to {starts[number] + lengths[number]:.0f}, the file has {file_bytes}; {WAY_OUT}"
            )
        empty += int(((starts == 0) | (lengths == 0)).sum())
        total += wanted
    return empty, total


def _probe(path: Path, image: TiledImage) -> None:
    """Decode one tile, so that a file which can not be decoded is found before work is planned on it.

    Raises
    ------
    SlideReadError
        If it can not be decoded.
    """
    if image.by_row or image.tile_bytes > LARGE_TILE_BYTES:
        return
    page = image.pages[0]
    number = next(i for i, count in enumerate(page.databytecounts) if count and page.dataoffsets[i])
    data = OpenFile(path).read(int(page.dataoffsets[number]), int(page.databytecounts[number]))
    try:
        image.decode(page, number, data)
    except SlideReadError as err:
        raise SlideReadError(f"{path.name} can not be decoded: {err} ({_codec(page)}); {WAY_OUT}") from err


def _level(path: Path, index: int, identity: str, image: TiledImage, base: TiledImage, mpp: float | None) -> Level:
    """What is said of one level."""
    page, largest = image.pages[0], base.pages[0]
    downsample = (largest.imagelength / page.imagelength + largest.imagewidth / page.imagewidth) / 2
    axes = {2: "yx", 3: "cyx" if len(image.pages) > 1 or page.planarconfig == 2 else "yxc"}[len(image.shape)]
    return Level(
        path=str(path),
        reader=TiffReader.name,
        index=index,
        identity=identity,
        shape=(int(page.imagelength), int(page.imagewidth)),
        downsample=downsample,
        mpp=None if mpp is None else mpp * downsample,
        axes=axes,
        channels=len(image.pages) if len(image.pages) > 1 else int(page.samplesperpixel),
        dtype=str(image.dtype),
        tile=(image.chunks[axes.index("y")], image.chunks[axes.index("x")]),
        codec=_codec(page),
        stored_axes=axes,
    )


def _codec(page: TiffPage) -> str:
    """The compression by name, or by number where it has none."""
    return str(getattr(page.compression, "name", page.compression)).lower()


def _stem(path: Path) -> str:
    """The file's name without its suffix, and without ``.ome`` before it."""
    stem = path.stem
    return stem[:-4] if stem.lower().endswith(".ome") else stem
