"""Where TIFF files of each scanner, and of other writers, say how large their pixels are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from wsipipe.slides.resolution import HINT, TAGS, Reading, Resolution, micrometres_in, weighed

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

UM_OF_MAGNIFICATION = 10.0
"""Micrometres per pixel times magnification: 40x is about 0.25."""
SOURCE_LENS = 65421
"""The tag of Hamamatsu's magnification."""
SPACING = './/DataObject[@ObjectType="PixelDataRepresentation"]/Attribute[@Name="DICOM_PIXEL_SPACING"]'
"""In Philips' XML: two numbers in quotes, millimetres from row to row and from column to column, for each level."""
Statements = Iterator[Reading | str]
"""The readings of one kind of place, or texts that say why it has none."""


def tiff_resolution(tiff: TiffFile, page: TiffPage, series: int) -> Resolution:
    """The resolution that a TIFF file states.

    Parameters
    ----------
    tiff
        The file.
    page
        Its level 0.
    series
        The number of its image in the OME-XML, or in Leica's.
    """
    return weighed(
        [
            *_of_aperio(page),
            *_of_hamamatsu(page),
            *_of_leica(tiff, page, series),
            *_of_philips(tiff),
            *_of_akoya(tiff, page),
            *_of_imagej(tiff, page),
            *_of_ome(tiff, series),
            *_of_tags(page),
        ]
    )


def tiff_downsamples(tiff: TiffFile) -> dict[int, float]:
    """The downsample of each level by the number of its page, where the file states them.

    The sides of Philips' levels do not tell: they are padded to whole tiles.
    """
    sizes: dict[int, float] = {}
    if tiff.is_philips:
        levels = [p.index for p in _pages(tiff) if p.is_tiled and not p.description.startswith(("Macro", "Label"))]
        spacings = _philips_spacings(tiff)
        if len(levels) == len(spacings):
            sizes = {index: (y + x) / 2 for index, (y, x) in zip(levels, spacings, strict=True)}
    if not all(0 < size < math.inf for size in sizes.values()):
        return {}
    return {index: float(round(size / min(sizes.values()))) for index, size in sizes.items()}


def _magnification(value: str, source: str) -> Statements:
    """``20``, ``20x`` or ``20.0`` as a hint; nothing if it is not a positive number, as of an overview."""
    power = _number(value.strip().rstrip("xX"))
    if power > 0:
        yield Reading(source, UM_OF_MAGNIFICATION / power, UM_OF_MAGNIFICATION / power, HINT)


def _of_aperio(page: TiffPage) -> Statements:
    """``MPP = 0.499`` and ``AppMag = 20`` in the ImageDescription of an Aperio file."""
    if not page.description.startswith("Aperio"):
        return
    values = dict(re.findall(r"\|\s*(\w+)\s*=\s*([^|\s]+)", page.description))
    if "MPP" in values:
        mpp = _number(values["MPP"])
        yield Reading("MPP in ImageDescription", mpp, mpp)
    else:
        yield "no MPP in ImageDescription"
    yield from _magnification(values.get("AppMag", ""), "AppMag in ImageDescription")


def _of_hamamatsu(page: TiffPage) -> Statements:
    """The magnification of the lens; the resolution of an NDPI is in its tags."""
    yield from _magnification(str(page.tags.valueof(SOURCE_LENS, "")), "SourceLens tag")


def _of_leica(tiff: TiffFile, page: TiffPage, series: int) -> Statements:
    """The side of the view, nanometres, over that of level 0 in pixels."""
    root = _xml(tiff.scn_metadata)
    images = [] if root is None else root.findall("{*}collection/{*}image")
    images = [image for image in images if image.find("{*}pixels/{*}dimension") is not None]
    if series >= len(images):
        return
    view = images[series].find("{*}view")
    if view is not None:
        y, x = (_number(view.get(f"size{axis}", "")) / 1000 for axis in "YX")
        yield Reading("view in Leica's XML", y / page.imagelength, x / page.imagewidth)
    yield from _magnification(images[series].findtext(".//{*}objective") or "", "objective in Leica's XML")


def _of_philips(tiff: TiffFile) -> Statements:
    """The first of `_philips_spacings`."""
    for y, x in _philips_spacings(tiff)[:1]:
        yield Reading("DICOM_PIXEL_SPACING in ImageDescription", y * 1000, x * 1000)


def _philips_spacings(tiff: TiffFile) -> list[tuple[float, float]]:
    """(y, x) millimetres per pixel of each level of a Philips file."""
    root = _xml(tiff.philips_metadata)
    texts = [] if root is None else [element.text or "" for element in root.findall(SPACING)]
    pairs = [[_number(part) for part in text.replace('"', " ").split()] for text in texts]
    return [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]


def _of_akoya(tiff: TiffFile, page: TiffPage) -> Statements:
    """The objective of a QPTIFF; its resolution is in the tags."""
    root = _xml(page.description) if tiff.is_qpi else None
    if root is not None:
        yield from _magnification(root.findtext(".//Objective") or "", "Objective in ImageDescription")


def _of_imagej(tiff: TiffFile, page: TiffPage) -> Statements:
    """The unit that ImageJ names; the resolution tags are pixels per unit."""
    unit = str((tiff.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ")
    size = micrometres_in(unit)
    if size is not None and 282 in page.tags and 283 in page.tags:
        y, x = (size * _units_of_pixel(page, axis) for axis in "YX")
        yield Reading("unit in ImageJ's description", y, x)


def _of_ome(tiff: TiffFile, series: int) -> Statements:
    """PhysicalSizeX and PhysicalSizeY in the OME-XML, micrometres unless it names another unit, and the objective."""
    root = _xml(tiff.ome_metadata) if tiff.is_ome else None
    images = [] if root is None else [image for image in root.iter() if image.tag.endswith("}Image")]
    if series >= len(images) or root is None:
        return
    pixels, settings = images[series].find("{*}Pixels"), images[series].find("{*}ObjectiveSettings")
    attributes, used = ({} if one is None else one.attrib for one in (pixels, settings))
    sizes = []
    for axis in "YX":
        unit = attributes.get(f"PhysicalSize{axis}Unit", "µm")
        if f"PhysicalSize{axis}" not in attributes:
            yield f"no PhysicalSize{axis} in OME-XML"
            break
        size = micrometres_in(unit)
        if size is None:
            yield f"PhysicalSize{axis}Unit in OME-XML is {unit!r}, not a length"
            break
        sizes.append(_number(attributes[f"PhysicalSize{axis}"]) * size)
    else:
        yield Reading("PhysicalSizeX and Y in OME-XML", sizes[0], sizes[1])
    for objective in root.findall(".//{*}Objective"):
        if objective.get("ID", "") == used.get("ID"):
            yield from _magnification(objective.get("NominalMagnification", ""), "NominalMagnification in OME-XML")


def _of_tags(page: TiffPage) -> Statements:
    """XResolution and YResolution, in pixels per ResolutionUnit."""
    unit = page.tags.valueof(296)
    micrometres = {2: 25400.0, 3: 10000.0}.get(0 if unit is None else int(unit))
    if micrometres is None:
        yield "no ResolutionUnit tag" if unit is None else f"ResolutionUnit tag is {int(unit)}, no unit of length"
        return
    for axis, code in (("Y", 283), ("X", 282)):
        if code not in page.tags:
            yield f"no {axis}Resolution tag"
            return
    y, x = (micrometres * _units_of_pixel(page, axis) for axis in "YX")
    yield Reading("XResolution and YResolution tags", y, x, TAGS)


def _units_of_pixel(page: TiffPage, axis: str) -> float:
    """Side of a pixel in the file's unit of length, or NaN."""
    pixels, units = page.tags.valueof({"Y": 283, "X": 282}[axis])
    return units / pixels if pixels else math.nan


def _pages(tiff: TiffFile) -> Iterator[TiffPage]:
    """The pages of the main chain, with their tags."""
    return (page.aspage() for page in tiff.pages)


def _xml(text: str | bytes | None) -> ElementTree.Element | None:
    """The root of the document, or None if ``text`` is not XML."""
    try:
        return ElementTree.fromstring(text) if text else None
    except ElementTree.ParseError:
        return None


def _number(text: str) -> float:
    """``text`` as a number, with a decimal point or comma; NaN if it is not one."""
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return math.nan
