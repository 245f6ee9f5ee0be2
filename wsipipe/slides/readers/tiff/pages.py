"""The pages of a TIFF that are levels of the wanted image.

For plain TIFF and SVS, levels and labels are told apart here, because writers copy the scanner's ImageDescription, by
which tifffile takes levels for a thumbnail and a label. Formats with a structure of their own are left to tifffile's
series.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from math import prod
from xml.etree import ElementTree

import numpy as np
import tifffile
from tifffile import TiffFile, TiffPage

from wsipipe.arrays import size_text
from wsipipe.errors import SlideFormatError, SlideReadError
from wsipipe.files import Location
from wsipipe.slides.planes import Planes, all_chosen, choose_channels, choose_one
from wsipipe.slides.readers.tiff.image import PALETTE, TiledImage

MAX_PAGES = 10_000
"""More directories than this are a stack or a cycle, not a slide."""
COMPARABLE = 0.5
"""An image with at least this share of the largest one's pixels may be the wanted one."""
WHITE_GLASS = {"svs", "ndpi", "scn", "philips"}
"""tifffile's flags of files from scanners whose glass is white."""
OWN_STRUCTURE = {"ndpi", "scn", "bif", "philips", "qpi", "indica", "avs", "sis", "ome", "lsm", "stk", "fluoview"}
"""tifffile's flags of files whose images and levels its series know."""
FOCUS = re.compile(r"OffsetZ *= *[-+.\d]+")
"""Where Aperio's scanners write the focal plane, in the ImageDescription."""
COPY_AGAIN = "copy it again from where it came from, or export it again"


@dataclass(frozen=True)
class TiffContent:
    """The content of a TIFF file, as far as its reader is concerned."""

    levels: tuple[TiledImage, ...]
    """The levels of the wanted image, from fine to coarse."""
    series: int
    """Number of the levels' series in tifffile; 0 if the levels are worked out from the pages."""
    planes: Planes
    """The planes that were chosen, where there is a choice."""
    associated: tuple[str, ...]
    """Names and sizes of the images that are not levels."""
    channel_names: tuple[str, ...] = ()
    """Names of the channels in the OME-XML, if all have one."""
    warnings: tuple[str, ...] = ()
    """Warnings from checking the levels."""


def pages_of(path: Location, tiff: TiffFile) -> list[TiffPage]:
    """The pages of the main chain of directories, each with its tags.

    Raises
    ------
    SlideReadError
        If there are none or too many, or they form a cycle.
    """
    pages: list[TiffPage] = []
    offsets: set[int] = set()
    for number in itertools.count():
        try:
            page = tiff.pages[number]
        except IndexError:
            break
        if page.offset in offsets or number >= MAX_PAGES:
            circle = page.offset in offsets
            what = "its directories (IFDs) form a cycle" if circle else f"it has over {MAX_PAGES} pages"
            raise SlideReadError(f"{path.name} is damaged, or not a slide: {what}; {COPY_AGAIN}")
        offsets.add(page.offset)
        pages.append(page.aspage())
    if not pages:
        raise SlideReadError(f"{path.name} is a damaged TIFF: it holds no image; {COPY_AGAIN}")
    return pages


def levels_of_pages(path: Location, tiff: TiffFile, pages: list[TiffPage], planes: Planes) -> TiffContent:
    """The levels of the wanted image, from the pages of a plain TIFF or SVS and from their SubIFDs."""
    first = max(pages, key=page_area)
    images = [first] if "svs" in tiff.flags else [page for page in pages if page is first or _is_image(page, first)]
    may_be_channels = len(images) > 1 and _channels(first) == 1 and all(_is_twin(page, first) for page in images)
    if may_be_channels and planes.channels is not None and planes.series is None:
        return _levels_of_channels(path, pages, images, planes)
    sizes = [size_of(page) for page in images]
    chosen = choose_one(path.name, "series", planes.series, sizes, unnamed=may_be_channels)
    base = images[chosen]
    begin, end = pages.index(base), pages.index(images[chosen + 1]) if chosen + 1 < len(images) else len(pages)
    # If there are several images, each is followed by its levels.
    around = pages[begin:end] if len(images) > 1 else pages
    focal = [page for page in pages if _is_twin(page, base)] if "svs" in tiff.flags else [base]
    z = choose_one(path.name, "z", planes.z, [_focus_of(page) or str(i) for i, page in enumerate(focal)])
    base, around = focal[z], around if len(focal) == 1 else _in_focus(around, focal, z)
    levels, associated = [base], []
    for page in sorted([*around, *_subpages(base)], key=page_area, reverse=True):
        if page is base:
            continue
        if _is_level(page, base) and page_area(page) < page_area(levels[-1]):
            levels.append(page)
        else:
            associated.append(_associated_name(page))
    choose_one(path.name, "t", planes.t, ["0"])
    channels = choose_channels(path.name, planes.channels, (), _channels(base))
    white = _is_white(tiff, base)
    return TiffContent(
        tuple(TiledImage((page,), channels, white) for page in levels),
        0,
        Planes(channels, z if len(focal) > 1 else None, None, chosen if len(images) > 1 else None),
        tuple(associated),
    )


def _levels_of_channels(path: Location, pages: list[TiffPage], images: list[TiffPage], planes: Planes) -> TiffContent:
    """The levels of an image whose channels are ``images``: pages of one size, as many in each level.

    The file does not say so, and the user does, by choosing channels.
    """
    sizes: dict[tuple[int, int], list[TiffPage]] = {}
    others: list[TiffPage] = []
    for page in [*pages, *(sub for image in images for sub in _subpages(image))]:
        of_level = page in images or _is_level(page, images[0])
        (sizes.setdefault(shape_of(page), []) if of_level else others).append(page)
    for option in ("z", "t"):
        choose_one(path.name, option, getattr(planes, option), ["0"])
    chosen = all_chosen(path.name, planes.channels, (), len(images))
    found = sorted((of_size for of_size in sizes.values() if len(of_size) == len(images)), key=_area_of_first)
    return TiffContent(
        tuple(TiledImage(tuple(of_size[number] for number in chosen)) for of_size in reversed(found)),
        0,
        Planes(chosen),
        tuple(map(_associated_name, others)),
    )


def _area_of_first(pages: list[TiffPage]) -> int:
    return page_area(pages[0])


def is_stack(path: Location, tiff: TiffFile, pages: list[TiffPage]) -> bool:
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
            "wsipipe reads planes that have a directory each; save them that way, e.g. as OME-TIFF"
        )
    return planes > 1


def levels_of_series(path: Location, tiff: TiffFile, planes: Planes) -> TiffContent:
    """The levels of the wanted image, where tifffile knows the format."""
    series = [one for one in tiff.series if prod(one.shape)]
    regions = regions_of(tiff)
    choices = regions or list(range(len(series)))
    sizes = [prod(one.shape) for one in series]
    large = regions or [i for i, size in enumerate(sizes) if size >= COMPARABLE * max(sizes)]
    wanted = planes.series
    if wanted is None and len(large) == 1:
        wanted = choices.index(large[0])
    names = [f"{one.name or 'image'} {size_of(one.keyframe)}" for one in series]
    number = choose_one(path.name, "series", wanted, [names[i] for i in choices])
    chosen = choices[number]
    names_of = _channel_names(tiff, series[chosen], chosen)
    found = [_choose_planes(path, level, planes, names_of) for level in series[chosen].levels]
    levels = tuple(TiledImage(pages, samples, _is_white(tiff, pages[0])) for pages, samples, _ in found)
    return TiffContent(
        levels,
        chosen,
        replace(found[0][2], series=number if len(large) > 1 or planes.series is not None else None),
        tuple(name for i, name in enumerate(names) if i != chosen),
        names_of,
    )


def regions_of(tiff: TiffFile) -> list[int]:
    """The numbers of tifffile's series that are scanned regions of an SCN: those but the macro, which shows the glass.

    Nothing if the file is not an SCN.
    """
    root = ElementTree.fromstring(tiff.scn_metadata) if "scn" in tiff.flags and tiff.scn_metadata else None
    collections = [] if root is None else root.findall("{*}collection")
    images = [(of, image) for of in collections for image in of.findall("{*}image")]
    images = [(of, image) for of, image in images if image.find("{*}pixels/{*}dimension") is not None]
    return [i for i, (of, image) in enumerate(images) if not _shows_all(image.find("{*}view"), of)]


def _shows_all(view: ElementTree.Element | None, collection: ElementTree.Element) -> bool:
    """Whether the view of an image is the whole glass."""
    sides = ("sizeX", "sizeY")
    return view is not None and [view.get(side) for side in sides] == [collection.get(side) for side in sides]


def _choose_planes(
    path: Location, level: tifffile.TiffPageSeries, planes: Planes, names: tuple[str, ...]
) -> tuple[tuple[TiffPage, ...], tuple[int, ...] | None, Planes]:
    """The pages of one level that are wanted, one or one per channel; the samples of these; and the planes chosen.

    Raises
    ------
    SlideFormatError
        If planes are in other files, or are laid out in a way that is not read here.
    PlaneError
        If there are several to choose from, and ``planes`` does not choose.
    """
    keyframe = level.keyframe
    axes = [(axis, size) for axis, size in zip(level.axes, level.shape, strict=True) if size > 1]
    of_page = [size for size in keyframe.shape if size > 1]
    over = axes[: len(axes) - len(of_page)]
    samples = _channels(keyframe)
    # tifffile's names of an axis about which the file says nothing; whoever chooses channels says that it has them.
    may_be_channels = samples == 1 and bool(over) and all(axis in "QI" for axis, _ in over)
    as_channels = may_be_channels and planes.channels is not None
    kinds = ["c" if axis == "C" or as_channels else "t" if axis == "T" else "z" for axis, _ in over]
    whole = [size for _, size in axes[len(over) :]] == of_page and len(level.pages) == prod(size for _, size in over)
    if not whole or len(set(kinds)) < len(kinds) or ("c" in kinds and samples > 1):
        sizes = ", ".join(f"{axis} {size}" for axis, size in axes)
        raise SlideFormatError(
            f"{path.name} holds planes in other files, or more axes than z, t and channels ({sizes}); "
            "wsipipe reads one plane (y, x) with its channels; save the wanted one by itself"
        )
    sizes_of = dict(zip(kinds, (size for _, size in over), strict=True))
    numbers_of = {kind: [str(i) for i in range(sizes_of.get(kind, 1))] for kind in "zt"}
    z, t = (
        choose_one(path.name, kind, getattr(planes, kind), numbers_of[kind], unnamed=may_be_channels) for kind in "zt"
    )
    chosen = all_chosen if as_channels else choose_channels
    channels = chosen(path.name, planes.channels, names, sizes_of.get("c", samples))
    numbers = np.arange(len(level.pages)).reshape([size for _, size in over])
    at: dict[str, int | slice] = {"z": z, "t": t, "c": slice(None)}
    wanted = numbers[tuple(at[kind] for kind in kinds)].ravel()
    if "c" in kinds and channels is not None:
        wanted = wanted[list(channels)]
    pages = [level.pages[int(number)] for number in wanted]
    if any(page is None for page in pages):
        raise SlideReadError(f"{path.name} lacks planes that it says it has; {COPY_AGAIN}")
    where = Planes(channels, z if "z" in kinds else None, t if "t" in kinds else None)
    return tuple(page.aspage() for page in pages if page), None if "c" in kinds else channels, where


def _channel_names(tiff: TiffFile, series: tifffile.TiffPageSeries, number: int) -> tuple[str, ...]:
    """Names of the channels of image ``number``, as the OME-XML has them, or the description of each QPTIFF page."""
    if tiff.is_qpi and series.axes.startswith("C"):
        names = tuple(_name_in(page.aspage().description) for page in series.pages if page)
        return names if all(names) else ()
    if not tiff.is_ome or not tiff.ome_metadata:
        return ()
    images = [e for e in ElementTree.fromstring(tiff.ome_metadata).iter() if e.tag.endswith("}Pixels")]
    channels = [e for e in images[number] if e.tag.endswith("}Channel")] if number < len(images) else []
    names = tuple(channel.attrib.get("Name", "") for channel in channels)
    return names if all(names) else ()


def _name_in(description: str) -> str:
    """The channel's name in a QPTIFF page's XML; empty if there is none."""
    try:
        return (ElementTree.fromstring(description).findtext("Name") or "").strip()
    except ElementTree.ParseError:
        return ""


def _channels(page: TiffPage) -> int:
    """Number of channels of a page, once its palette is looked up."""
    return 3 if page.photometric == PALETTE else int(page.samplesperpixel)


def _subpages(page: TiffPage) -> list[TiffPage]:
    """The SubIFDs of ``page``."""
    if not page.subifds or page.pages is None:
        return []
    return [sub.aspage() for sub in itertools.islice(page.pages, MAX_PAGES)]


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
    """The photometric interpretation, with RGB for YCbCr: some writers use the one that suits each level."""
    return 2 if page.photometric == 6 else int(page.photometric)


def _is_level(page: TiffPage, base: TiffPage) -> bool:
    """Whether ``page`` shows what ``base`` shows, smaller, give or take a pixel of rounding."""
    if not _same_kind(page, base) or not page_area(page):
        return False
    down = max(base.imagelength / page.imagelength, base.imagewidth / page.imagewidth)
    return down > 1 and all(
        abs(large / down - small) <= 1
        for large, small in ((base.imagelength, page.imagelength), (base.imagewidth, page.imagewidth))
    )


def _is_twin(page: TiffPage, base: TiffPage) -> bool:
    """Whether ``page`` has the size and the kind of ``base``: in an SVS, another focal plane."""
    return _same_kind(page, base) and shape_of(page) == shape_of(base)


def _focus_of(page: TiffPage) -> str:
    """What a page of an SVS says about its focal plane, such as ``OffsetZ = 0.5``; mostly nothing."""
    found = FOCUS.search(page.description)
    return found[0] if found else ""


def _in_focus(pages: list[TiffPage], focal: list[TiffPage], z: int) -> list[TiffPage]:
    """Those of ``pages`` that show focal plane ``z``, and those that are not levels.

    A page says which plane it shows; else the planes follow each other in every size, as scanners write them. A size
    that not every plane has is left out.
    """
    sizes: dict[tuple[int, int], list[TiffPage]] = {}
    for page in pages:
        if _same_kind(page, focal[z]):
            sizes.setdefault(shape_of(page), []).append(page)
    wanted = [page for page in pages if not _same_kind(page, focal[z])]
    said = len({_focus_of(page) for page in focal}) == len(focal)
    for found in sizes.values():
        if said:
            wanted += [page for page in found if _focus_of(page) == _focus_of(focal[z])]
        elif len(found) == len(focal):
            wanted.append(found[z])
    return wanted


def _is_image(page: TiffPage, first: TiffPage) -> bool:
    """Whether ``page`` could be the wanted image, as well as ``first``, the largest."""
    reduced_or_mask = page.subfiletype & 0b101
    return not reduced_or_mask and page_area(page) >= COMPARABLE * page_area(first) and not _is_level(page, first)


def _associated_name(page: TiffPage) -> str:
    """What to call an image that is not a level: as its description does, or by its size."""
    description = page.description.lower()
    named = next((name for name in ("label", "macro", "thumbnail") if name in description), None)
    if page.subfiletype & 4:
        named = "mask"
    if named is None and description.startswith("aperio") and "->" in description:
        named = "thumbnail"
    return f"{named or 'image'} {size_of(page)}"


def _is_white(tiff: TiffFile, page: TiffPage) -> bool:
    """Whether tiles that were left out are white: those of scanners in colour, which OpenSlide lays over white."""
    return bool(WHITE_GLASS & tiff.flags) and page.samplesperpixel == 3


def page_area(page: TiffPage) -> int:
    """Number of pixels of the image."""
    return int(page.imagelength) * int(page.imagewidth)


def shape_of(page: TiffPage) -> tuple[int, int]:
    """(height, width) of the image."""
    return int(page.imagelength), int(page.imagewidth)


def size_of(page: TiffPage) -> str:
    """Height and width, for messages."""
    return size_text(shape_of(page))
