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
from dataclasses import dataclass, replace
from math import prod
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
import zarr
from tifffile import TiffFile, TiffPage

from wsipipe.errors import SlideError, SlideFormatError, SlideReadError
from wsipipe.files import Location, locate
from wsipipe.slides.identity import file_identity
from wsipipe.slides.jpeg import JPEG_CODECS
from wsipipe.slides.planes import ALL, Planes, choose_channels, choose_one
from wsipipe.slides.resolution import tiff_downsamples, tiff_resolution
from wsipipe.slides.slide import Level, Slide, downsample_of
from wsipipe.slides.source import RemoteFile, as_file, open_source
from wsipipe.slides.tiffimage import PALETTE, WHITE_IS_ZERO, TiledImage
from wsipipe.slides.tiffstore import UPRIGHT, UprightStore, tiff_store
from wsipipe.urls import Url

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
    "philips": "philips",
    "qpi": "perkinelmer",
    "indica": "indica",
    "avs": "avs",
    "sis": "olympus",
    "ome": "ome",
    "imagej": "imagej",
}
"""tifffile's flag for a kind of file, and what we call it."""
BRIGHTFIELD = {"svs", "ndpi", "scn", "philips"}
"""The flags of files from scanners whose glass is white."""
OWN_STRUCTURE = {"ndpi", "scn", "bif", "philips", "qpi", "indica", "avs", "sis", "ome", "lsm", "stk", "fluoview"}
"""The flags of files whose images and levels tifffile's series know."""
XMP = 700
"""The tag in which Ventana's scanners describe themselves."""
WAY_OUT = "copy it again from where it came from, or export it again"
CONVERT = "convert it, e.g. with: vips tiffsave IN OUT --tile --pyramid --compression jpeg"


@dataclass(frozen=True)
class Found:
    """What a TIFF file holds, as far as this reader is concerned."""

    images: tuple[TiledImage, ...]
    """The levels, from fine to coarse."""
    series: int
    """Which of tifffile's series they are; 0 where levels are worked out from the pages."""
    planes: Planes
    """What was chosen where there is a choice."""
    channel_names: tuple[str, ...]
    associated: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Candidates:
    """The levels of one image, as yet unchecked."""

    levels: tuple[TiledImage, ...]
    series: int
    planes: Planes
    associated: tuple[str, ...]
    channel_names: tuple[str, ...] = ()


class TiffReader:
    """Opens TIFF files."""

    name = "tiff"
    why = "it begins as TIFF does"

    def recognises(self, path: Location) -> bool:
        """Whether it is a file that begins as TIFF does."""
        return path.is_file() and open_source(path).read(0, 4) in MAGIC

    def open(self, path: Location, planes: Planes = ALL) -> Slide:
        """See `Reader.open`."""
        with _tifffile(path) as tiff:
            found = _find(path, tiff, planes)
            resolution = tiff_resolution(tiff, found.images[0].pages[0], found.series)
            stated = tiff_downsamples(tiff)
            vendor = next((VENDORS[flag] for flag in VENDORS if flag in tiff.flags), "generic")
        identity = file_identity(path)
        _probe(path, found.images[0])
        shapes = [_shape(image.pages[0]) for image in found.images]
        numbers = [image.pages[0].index for image in found.images]
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

    def open_array(self, level: Level) -> zarr.Array[Any]:
        """See `Reader.open_array`."""
        path = locate(level.path)
        if file_identity(path) != level.identity:
            raise SlideReadError(f"{path.name} is not the file that it was when it was opened; start again")
        with _tifffile(path) as tiff:
            image = _find(path, tiff, level.planes).images[level.index]
        stored, orientation = tiff_store(open_source(path), image), _orientation(image.pages[0])
        store = stored if orientation == 1 else UprightStore(stored, level.axes, orientation)
        return zarr.open_array(store, mode="r", zarr_format=3)


@contextmanager
def _tifffile(path: Location) -> Iterator[TiffFile]:
    """The file as tifffile sees it; whatever goes wrong with that is a SlideError, after which OpenSlide is asked."""
    try:
        with TiffFile(as_file(RemoteFile(path)) if isinstance(path, Url) else path, _multifile=False) as tiff:
            yield tiff
    except (SlideError, OSError):
        raise
    except Exception as err:  # tifffile and what it calls raise all sorts on damaged files
        raise SlideReadError(f"{path.name} is a damaged TIFF ({type(err).__name__}: {err}); {WAY_OUT}") from err


def _find(path: Location, tiff: TiffFile, planes: Planes) -> Found:
    """Levels and associated images of the file, checked.

    What is damaged is a SlideReadError, after which no other reader is asked: OpenSlide ended the process at some files
    whose tags do not fit together.

    Raises
    ------
    SlideError
        If something is wrong with them, or there are several to choose from and nobody chose.
    """
    pages = _pages(path, tiff)
    xmp = pages[0].tags.valueof(XMP)
    if "bif" in tiff.flags or (isinstance(xmp, bytes) and b"<iScan" in xmp):
        raise SlideFormatError(
            f"{path.name} is a Ventana BIF, whose tiles overlap; OpenSlide puts them together: "
            "pip install 'wsipipe[openslide]'"
        )
    of_series = OWN_STRUCTURE & tiff.flags or _is_stack(path, tiff, pages)
    candidates = _levels_of_series(path, tiff, planes) if of_series else _levels_of_pages(path, tiff, pages, planes)
    images: list[TiledImage] = []
    warnings = list(_odd(candidates))
    size = tiff.filehandle.size
    for index, image in enumerate(candidates.levels):
        for page in image.pages:
            _check_kind(path, page)
        if index and _orientation(image.pages[0]) != _orientation(candidates.levels[0].pages[0]):
            raise SlideFormatError(f"{path.name} has levels of another Orientation than the finest; {CONVERT}")
        empty, total = _count_empty(path, image, size)
        if empty == total:
            if index == 0:
                raise SlideReadError(f"{path.name} is half-written: none of its {total} tiles has data; {WAY_OUT}")
            warnings.append(f"level of {_size(image.pages[0])} is left out: none of its tiles has data")
            continue
        if empty:
            why = "" if image.nodata is None else ", as GDAL_NODATA says"
            warnings.append(
                f"{empty} of {total} tiles of {_size(image.pages[0])} have no data and read as {image.fill}{why}"
            )
        if image.tile_bytes > LARGE_TILE_BYTES:
            mib = image.tile_bytes / 2**20
            warnings.append(f"tiles of {_size(image.pages[0])} take {mib:.0f} MiB each: every block decodes whole ones")
        image.prepare()
        images.append(image)
    chosen, names = candidates.planes, candidates.channel_names
    return Found(tuple(images), candidates.series, chosen, names, candidates.associated, tuple(warnings))


def _odd(candidates: Candidates) -> Iterator[str]:
    """What is odd about an image, by its finest level."""
    page = candidates.levels[0].pages[0]
    if _orientation(page) != 1:
        yield f"Orientation is {_orientation(page)}: it is turned upright as it is read"
    if any(name.startswith("mask") for name in candidates.associated):
        yield "a transparency mask is in the file, and nothing is masked by it"
    if page.photometric == PALETTE:
        yield "its palette is read as RGB"
    elif page.bitspersample < 8:
        yield f"its {page.bitspersample} bit a pixel are stretched to 8"
    if page.photometric == WHITE_IS_ZERO:
        yield "white is zero in the file, and is inverted"


def _orientation(page: TiffPage) -> int:
    """Of TIFF, 1 to 8; 0, as some write, is 1."""
    return int(page.tags.valueof(274, 1)) or 1


def _is_white(tiff: TiffFile, page: TiffPage) -> bool:
    """Whether tiles that were left out are white: a scanner's in colour, as OpenSlide's transparent ones over white."""
    return bool(BRIGHTFIELD & tiff.flags) and page.samplesperpixel == 3


def _pages(path: Location, tiff: TiffFile) -> list[TiffPage]:
    """The pages of the main chain of directories, each with its tags."""
    pages: list[TiffPage] = []
    offsets: set[int] = set()
    for number in itertools.count():
        try:
            page = tiff.pages[number]
        except IndexError:
            break
        if page.offset in offsets or number >= MAX_PAGES:
            circle = page.offset in offsets
            what = "its directories (IFDs) go round in a circle" if circle else f"it has over {MAX_PAGES} pages"
            raise SlideReadError(f"{path.name} is damaged, or not a slide: {what}; {WAY_OUT}")
        offsets.add(page.offset)
        pages.append(page.aspage())
    if not pages:
        raise SlideReadError(f"{path.name} is a damaged TIFF: it holds no image; {WAY_OUT}")
    return pages


def _levels_of_pages(path: Location, tiff: TiffFile, pages: list[TiffPage], planes: Planes) -> Candidates:
    """The levels of the image that is meant, from the pages of a plain TIFF or SVS and from their SubIFDs."""
    first = max(pages, key=_area)
    images = [first] if "svs" in tiff.flags else [page for page in pages if page is first or _is_image(page, first)]
    chosen = choose_one(path.name, "series", planes.series, [_size(page) for page in images])
    base = images[chosen]
    begin, end = pages.index(base), pages.index(images[chosen + 1]) if chosen + 1 < len(images) else len(pages)
    # Of several images each is followed by its levels.
    around = pages[begin:end] if len(images) > 1 else pages
    levels, associated = [base], []
    for page in sorted([*around, *_subpages(base)], key=_area, reverse=True):
        if page is base:
            continue
        if _is_level(page, base) and _area(page) < _area(levels[-1]):
            levels.append(page)
        else:
            associated.append(_associated_name(page))
    for option in ("z", "t"):
        choose_one(path.name, option, getattr(planes, option), ["0"])
    channels = choose_channels(path.name, planes.channels, (), _channels(base))
    ycc, white = "svs" in tiff.flags and int(base.compression) == 33003, _is_white(tiff, base)
    return Candidates(
        tuple(TiledImage((page,), ycc, channels, white) for page in levels),
        0,
        Planes(channels=channels, series=chosen if len(images) > 1 else None),
        tuple(associated),
    )


def _channels(page: TiffPage) -> int:
    """How many a page has, once its palette is looked up."""
    return 3 if page.photometric == PALETTE else int(page.samplesperpixel)


def _is_stack(path: Location, tiff: TiffFile, pages: list[TiffPage]) -> bool:
    """Whether ImageJ's or tifffile's description says that the pages are planes of one image.

    Raises
    ------
    SlideFormatError
        If one directory stands for several planes.
    """
    if not {"imagej", "shaped"} & tiff.flags:
        return False
    series = tiff.series[0]
    planes = prod(series.shape) // max(prod(pages[0].shape), 1)
    if planes > len(pages):
        raise SlideFormatError(
            f"{path.name} holds a stack of shape {series.shape} ({series.axes}) under one directory; "
            "wsipipe reads planes that have one each, so save them so, e.g. as OME-TIFF"
        )
    return planes > 1


def _subpages(page: TiffPage) -> list[TiffPage]:
    """The SubIFDs of ``page``."""
    if not page.subifds or page.pages is None:
        return []
    return [sub.aspage() for sub in itertools.islice(page.pages, MAX_PAGES)]


def _area(page: TiffPage) -> int:
    """Pixels of the image."""
    return int(page.imagelength) * int(page.imagewidth)


def _shape(page: TiffPage) -> tuple[int, int]:
    """(height, width) of the image."""
    return int(page.imagelength), int(page.imagewidth)


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


def _is_image(page: TiffPage, first: TiffPage) -> bool:
    """Whether ``page`` could be the image that is meant, as ``first``, the largest, could."""
    reduced_or_mask = page.subfiletype & 0b101
    return not reduced_or_mask and _area(page) >= COMPARABLE * _area(first) and not _is_level(page, first)


def _associated_name(page: TiffPage) -> str:
    """What to call an image that is not a level: as its description does, or by its size."""
    description = page.description.lower()
    named = next((name for name in ("label", "macro", "thumbnail") if name in description), None)
    if page.subfiletype & 4:
        named = "mask"
    if named is None and description.startswith("aperio") and "->" in description:
        named = "thumbnail"
    return f"{named or 'image'} {_size(page)}"


def _levels_of_series(path: Location, tiff: TiffFile, planes: Planes) -> Candidates:
    """The levels of the image that is meant, where tifffile knows the format."""
    series = [one for one in tiff.series if prod(one.shape)]
    sizes = [prod(one.shape) for one in series]
    large = [i for i, size in enumerate(sizes) if size >= COMPARABLE * max(sizes)]
    wanted = planes.series
    if wanted is None and len(large) == 1:
        wanted = large[0]
    names = [f"{one.name or 'image'} {_size(one.keyframe)}" for one in series]
    chosen = choose_one(path.name, "series", wanted, names)
    names_of = _channel_names(tiff, chosen)
    found = [_choose_planes(path, level, planes, names_of) for level in series[chosen].levels]
    levels = tuple(TiledImage(pages, False, samples, _is_white(tiff, pages[0])) for pages, samples, _ in found)
    return Candidates(
        levels,
        chosen,
        replace(found[0][2], series=chosen if len(large) > 1 or planes.series is not None else None),
        tuple(name for i, name in enumerate(names) if i != chosen),
        names_of,
    )


def _choose_planes(
    path: Location, level: tifffile.TiffPageSeries, planes: Planes, names: tuple[str, ...]
) -> tuple[tuple[TiffPage, ...], tuple[int, ...] | None, Planes]:
    """The pages of one level that are wanted, one or one per channel; the samples of these; and what was chosen.

    Raises
    ------
    SlideFormatError
        If planes are in other files, or laid out as is not read here.
    PlaneError
        If there are several and nobody chose.
    """
    keyframe = level.keyframe
    axes = [(axis, size) for axis, size in zip(level.axes, level.shape, strict=True) if size > 1]
    of_page = [size for size in keyframe.shape if size > 1]
    over = axes[: len(axes) - len(of_page)]
    kinds = ["c" if axis == "C" else "t" if axis == "T" else "z" for axis, _ in over]
    whole = [size for _, size in axes[len(over) :]] == of_page and len(level.pages) == prod(size for _, size in over)
    samples = _channels(keyframe)
    if not whole or len(set(kinds)) < len(kinds) or ("c" in kinds and samples > 1):
        sizes = ", ".join(f"{axis} {size}" for axis, size in axes)
        raise SlideFormatError(
            f"{path.name} holds planes in other files, or more axes than z, t and channels ({sizes}); "
            "wsipipe reads one plane (y, x) with its channels, so save the one that is meant by itself"
        )
    sizes_of = dict(zip(kinds, (size for _, size in over), strict=True))
    z, t = (
        choose_one(path.name, kind, getattr(planes, kind), [str(i) for i in range(sizes_of.get(kind, 1))])
        for kind in "zt"
    )
    channels = choose_channels(path.name, planes.channels, names, sizes_of.get("c", samples))
    numbers = np.arange(len(level.pages)).reshape([size for _, size in over])
    at: dict[str, int | slice] = {"z": z, "t": t, "c": slice(None)}
    wanted = numbers[tuple(at[kind] for kind in kinds)].ravel()
    if "c" in kinds and channels is not None:
        wanted = wanted[list(channels)]
    pages = [level.pages[int(number)] for number in wanted]
    if any(page is None for page in pages):
        raise SlideReadError(f"{path.name} lacks planes that it says it has; {WAY_OUT}")
    where = Planes(channels, z if "z" in kinds else None, t if "t" in kinds else None)
    return tuple(page.aspage() for page in pages if page), None if "c" in kinds else channels, where


def _channel_names(tiff: TiffFile, series: int) -> tuple[str, ...]:
    """Of the channels of an image, as the OME-XML has them."""
    if not tiff.is_ome or not tiff.ome_metadata:
        return ()
    images = [e for e in ElementTree.fromstring(tiff.ome_metadata).iter() if e.tag.endswith("}Pixels")]
    channels = [e for e in images[series] if e.tag.endswith("}Channel")] if series < len(images) else []
    names = tuple(channel.attrib.get("Name", "") for channel in channels)
    return names if all(names) else ()


def _check_kind(path: Location, page: TiffPage) -> None:
    """Refuse pixels that are not grey, RGB or RGBA of 8 or 16 bit, a palette, or grey of fewer bits.

    Raises
    ------
    SlideFormatError
        Naming the tag, its value, and what is allowed.
    """
    samples, photometric = page.samplesperpixel, int(page.photometric)
    compression = int(page.compression)
    jpeg = compression in JPEG_CODECS
    planar = page.planarconfig == 2
    channels = len(page.extrasamples) == samples - 1 and set(page.extrasamples) == {0}  # neither of them alpha
    grey = samples == 1 and photometric in (0, 1, PALETTE)
    colours = None if page.colormap is None else page.colormap.shape
    turned = _orientation(page) in UPRIGHT and UPRIGHT[_orientation(page)][0]
    costly = turned and not page.is_tiled and compression != 1 and _area(page) * samples > LARGE_TILE_BYTES
    rules = {
        ("ImageWidth and ImageLength", _size(page), "at least 1 px"): page.imagelength > 0 and page.imagewidth > 0,
        ("Orientation", _orientation(page), "1 to 8"): _orientation(page) in UPRIGHT,
        ("Orientation", f"{_orientation(page)} in compressed strips", "that in tiles"): not costly,
        ("SampleFormat", page.sampleformat, "1, unsigned integers"): page.sampleformat == 1,
        ("BitsPerSample", page.bitspersample, "8 or 16, of grey and palettes 1, 2 or 4"): page.bitspersample in (8, 16)
        or (grey and page.bitspersample in (1, 2, 4)),
        ("ColorMap", colours, "2^BitsPerSample colours"): photometric != PALETTE
        or colours == (3, 2**page.bitspersample),
        ("ImageDepth", page.imagedepth, "1"): page.imagedepth == 1,
        # 6 is the old-style JPEG of TIFF 6.0, which every writer understood differently.
        ("Compression", compression, "none, LZW, deflate, zstd, JPEG (7), JPEG 2000 and others of today"): compression
        != 6
        and (compression == 1 or compression in tifffile.TIFF.DECOMPRESSORS),
        (
            "PhotometricInterpretation",
            photometric,
            "0 and 1 (grey), 2 (RGB), 3 (palette), or 6 (YCbCr) in JPEG",
        ): photometric in (0, 1, 2, PALETTE) or (photometric == 6 and jpeg),
        ("PlanarConfiguration", page.planarconfig, "1 for YCbCr"): photometric != 6 or not planar,
        ("SamplesPerPixel", samples, "1 for grey, or channels, 3 or 4 for RGB, 3 for YCbCr"): samples
        in {0: (1,), 1: (1,), 2: (3, 4), PALETTE: (1,), 6: (3,)}.get(photometric, ())
        or (photometric == 1 and (planar or channels)),
    }
    for (tag, value, allowed), fine in rules.items():
        if not fine:
            raise SlideFormatError(f"{path.name} has {tag} {value}; wsipipe reads {allowed}; {CONVERT}")


def _count_empty(path: Location, image: TiledImage, file_bytes: int) -> tuple[int, int]:
    """How many of the tiles have no data, and how many there are; nothing is read or allocated for it.

    Raises
    ------
    SlideError
        If the tags do not fit together, or point beyond the end of the file.
    """
    empty, total = 0, 0
    if len(image.chunks) != len(image.shape) or min(image.chunks) < 1:
        raise SlideReadError(
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
            raise SlideReadError(
                f"{path.name} is damaged: an image of {_size(page)} in tiles of {page.chunks} has {wanted} of them, "
                f"but there are {len(offsets)} offsets and {len(counts)} byte counts; {WAY_OUT}"
            )
        starts, lengths = np.asarray(offsets, np.float64), np.asarray(counts, np.float64)
        within = (starts >= 0) & (lengths >= 0) & (starts + lengths <= file_bytes)
        if not within.all():
            number = int(np.argmin(within))
            raise SlideReadError(
                f"{path.name} is truncated or damaged: tile {number} of {_size(page)} is at bytes "
                f"{starts[number]:.0f} to {starts[number] + lengths[number]:.0f}, the file has {file_bytes}; {WAY_OUT}"
            )
        empty += int(((starts < 1) | (lengths < 1)).sum())  # damaged tags may hold fractions
        total += wanted
    return empty, total


def _probe(path: Location, image: TiledImage) -> None:
    """Decode one tile, so that a file which can not be decoded is found before work is planned on it.

    Raises
    ------
    SlideReadError
        If it can not be decoded.
    """
    if image.by_row or image.tile_bytes > LARGE_TILE_BYTES:
        return
    there = (
        (page, number)
        for page in image.pages
        for number, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True))
        if offset and count
    )
    page, number = next(there)
    data = open_source(path).read(int(page.dataoffsets[number]), int(page.databytecounts[number]))
    try:
        image.decode(page, number, data)
    except SlideReadError as err:
        raise SlideReadError(f"{path.name} can not be decoded: {err} ({_codec(page)}); {WAY_OUT}") from err


def _level(path: Location, index: int, identity: str, found: Found, *, downsample: float, mpp: float | None) -> Level:
    """What is said of one level."""
    image = found.images[index]
    page = image.pages[0]
    axes = {2: "yx", 3: "cyx" if len(image.pages) > 1 or image.planar else "yxc"}[len(image.shape)]
    sides = [axes.index("y"), axes.index("x")]
    turned = sides[::-1] if UPRIGHT[_orientation(page)][0] else sides
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
        codec=_codec(page),
        stored_axes=axes,
        planes=found.planes,
    )


def _codec(page: TiffPage) -> str:
    """The compression by name, or by number where it has none."""
    return str(getattr(page.compression, "name", page.compression)).lower()


def _stem(path: Location) -> str:
    """The file's name without its suffix, and without ``.ome`` before it."""
    stem = path.stem
    return stem[:-4] if stem.lower().endswith(".ome") else stem
