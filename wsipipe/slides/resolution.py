"""Micrometres per pixel: every place of a file that says them, and which of these is taken at its word.

What a scanner or OME-XML states goes before the resolution tags, which other programs fill in as well. Readings that
can not be true are not used. Where two statements contradict each other there is no resolution; tags that contradict
one are not used. A magnification is a hint: by convention 10 / magnification, give or take what a scanner's optics do.
It is never used, but it is named where it contradicts, and mere tags are not used against it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from wsipipe.slides.slide import HINT, MPP_PLAUSIBLE, STATED, TAGS, Reading

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

UNITS: Mapping[str, float] = {
    "pm": 1e-6,
    "picometer": 1e-6,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micrometer": 1.0,
    "micron": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "m": 1e6,
    "meter": 1e6,
    "in": 25400.0,
    "inch": 25400.0,
}
"""Micrometres in a unit of length, as OME-XML and OME-Zarr name them (both Unicode letters that look like a mu)."""
ANISOTROPY = 0.05
"""x and y may differ by this share of the larger one; pixels that are further from square are not used."""


DISAGREEMENT = 0.05
"""Two readings that differ by more than this share of the larger one contradict each other."""
NOMINAL = 1.5
"""A magnification contradicts a reading that is so many times what it stands for; objectives differ by two."""
UM_OF_MAGNIFICATION = 10.0
"""Micrometres per pixel times magnification: 40x is about 0.25."""
SOURCE_LENS = 65421
"""The tag of Hamamatsu's magnification."""
SPACING = './/DataObject[@ObjectType="PixelDataRepresentation"]/Attribute[@Name="DICOM_PIXEL_SPACING"]'
"""In Philips' XML: two numbers in quotes, millimetres from row to row and from column to column, for each level."""

Found = Iterator[Reading | str]
"""What one kind of place says, and why it does not say anything."""


@dataclass(frozen=True)
class Resolution:
    """Micrometres per pixel of level 0, and what there is to say about them."""

    mpp: float | None
    source: str
    """Where it was read, or why there is none."""
    warnings: tuple[str, ...] = ()
    """What was found and not used, or is doubtful."""
    readings: tuple[Reading, ...] = ()
    """All that was found."""


def tiff_resolution(tiff: TiffFile, page: TiffPage, series: int) -> Resolution:
    """What the TIFF file says.

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

    Of Philips' levels the sides do not tell: they are filled up to whole tiles.
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


def checked(y: float, x: float, source: str) -> Resolution:
    """What follows from the statement of ``source`` alone that pixels are ``y`` by ``x`` µm."""
    return weighed([Reading(source, y, x)])


def weighed(found: Sequence[Reading | str]) -> Resolution:
    """What follows from all that was ``found``, of equals the most trusted first."""
    readings = tuple(one for one in found if isinstance(one, Reading))
    sizes = [one for one in readings if one.kind != HINT]
    hints = [one for one in readings if one.kind == HINT and not _problem(one)]
    warnings = [f"{_says(one)}, which {problem}; it is not used" for one in sizes if (problem := _problem(one))]
    sound = [one for one in sizes if not _problem(one)]
    trusted = [one for one in sound if one.kind == STATED] or sound
    if not trusted:
        reasons = [one if isinstance(one, str) else _reason(one) for one in found]
        return Resolution(None, ", ".join(reasons), tuple(warnings), readings)
    best = trusted[0]
    others = [one for one in sound if abs(one.mpp - best.mpp) > DISAGREEMENT * max(one.mpp, best.mpp)]
    doubts = [one for one in hints if not 1 / NOMINAL < one.mpp / best.mpp < NOMINAL]
    against = [one for one in others if one.kind == best.kind] + (doubts if best.kind == TAGS else [])
    if against:
        named = ", but ".join(map(_says, (best, *against)))
        return Resolution(None, named, (*warnings, f"{named}; none of them is used"), readings)
    warnings += [f"{_says(one)}, but {_says(best)}; the former is not used" for one in others]
    warnings += [f"{_says(best)}, but {_says(one)}; the former is used" for one in doubts]
    return Resolution(best.mpp, best.source, tuple(warnings), readings)


def _problem(one: Reading) -> str:
    """Why ``one`` can not be true of a slide, or nothing."""
    y, x = one.y, one.x
    if not all(math.isfinite(v) and v > 0 for v in (y, x)):
        return "is not a size"
    if max(y, x) > MPP_PLAUSIBLE:
        return f"is coarser than any scanner, {MPP_PLAUSIBLE:g}"
    return "has pixels that are not square" if abs(y - x) > ANISOTROPY * max(y, x) else ""


def _says(one: Reading) -> str:
    """The reading in words."""
    square = one.y == one.x or (math.isnan(one.y) and math.isnan(one.x))
    numbers = f"{one.y:.6g}" if square else f"{one.y:.6g} (y) and {one.x:.6g} (x)"
    verb = "stands for about" if one.kind == HINT else "gives"
    return f"{one.source} {verb} {numbers} micrometres per pixel"


def _reason(one: Reading) -> str:
    """Why ``one`` gives no resolution."""
    if one.kind == HINT:
        return f"{_says(one)}, which is no measurement"
    return f"{_says(one)}, which {_problem(one)}"


def _magnification(value: str, source: str) -> Found:
    """``20``, ``20x`` or ``20.0`` as a hint; nothing where it is no number, or that of an overview."""
    power = number(value.strip().rstrip("xX"))
    if power > 0:
        yield Reading(source, UM_OF_MAGNIFICATION / power, UM_OF_MAGNIFICATION / power, HINT)


def _of_aperio(page: TiffPage) -> Found:
    """``MPP = 0.499`` and ``AppMag = 20`` in the ImageDescription of an Aperio file."""
    if not page.description.startswith("Aperio"):
        return
    values = dict(re.findall(r"\|\s*(\w+)\s*=\s*([^|\s]+)", page.description))
    if "MPP" in values:
        mpp = number(values["MPP"])
        yield Reading("MPP in ImageDescription", mpp, mpp)
    else:
        yield "no MPP in ImageDescription"
    yield from _magnification(values.get("AppMag", ""), "AppMag in ImageDescription")


def _of_hamamatsu(page: TiffPage) -> Found:
    """The magnification of the lens; the resolution of an NDPI is in its tags."""
    yield from _magnification(str(page.tags.valueof(SOURCE_LENS, "")), "SourceLens tag")


def _of_leica(tiff: TiffFile, page: TiffPage, series: int) -> Found:
    """The side of the view, nanometres, over that of level 0 in pixels."""
    root = _xml(tiff.scn_metadata)
    images = [] if root is None else root.findall("{*}collection/{*}image")
    images = [image for image in images if image.find("{*}pixels/{*}dimension") is not None]
    if series >= len(images):
        return
    view = images[series].find("{*}view")
    if view is not None:
        y, x = (number(view.get(f"size{axis}", "")) / 1000 for axis in "YX")
        yield Reading("view in Leica's XML", y / page.imagelength, x / page.imagewidth)
    yield from _magnification(images[series].findtext(".//{*}objective") or "", "objective in Leica's XML")


def _of_philips(tiff: TiffFile) -> Found:
    """The first of `_philips_spacings`."""
    for y, x in _philips_spacings(tiff)[:1]:
        yield Reading("DICOM_PIXEL_SPACING in ImageDescription", y * 1000, x * 1000)


def _philips_spacings(tiff: TiffFile) -> list[tuple[float, float]]:
    """(y, x) millimetres per pixel of each level of a Philips file."""
    root = _xml(tiff.philips_metadata)
    texts = [] if root is None else [element.text or "" for element in root.findall(SPACING)]
    pairs = [[number(part) for part in text.replace('"', " ").split()] for text in texts]
    return [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]


def _of_akoya(tiff: TiffFile, page: TiffPage) -> Found:
    """The objective of a QPTIFF; its resolution is in the tags."""
    root = _xml(page.description) if tiff.is_qpi else None
    if root is not None:
        yield from _magnification(root.findtext(".//Objective") or "", "Objective in ImageDescription")


def _of_imagej(tiff: TiffFile, page: TiffPage) -> Found:
    """The unit that ImageJ names, of which the resolution tags are pixels per one."""
    unit = str((tiff.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ")
    if unit.lower() in UNITS and 282 in page.tags and 283 in page.tags:
        y, x = (UNITS[unit.lower()] * _units_of_pixel(page, axis) for axis in "YX")
        yield Reading("unit in ImageJ's description", y, x)


def _of_ome(tiff: TiffFile, series: int) -> Found:
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
        if unit.lower() not in UNITS:
            yield f"PhysicalSize{axis}Unit in OME-XML is {unit!r}, not a length"
            break
        sizes.append(number(attributes[f"PhysicalSize{axis}"]) * UNITS[unit.lower()])
    else:
        yield Reading("PhysicalSizeX and Y in OME-XML", sizes[0], sizes[1])
    for objective in root.findall(".//{*}Objective"):
        if objective.get("ID", "") == used.get("ID"):
            yield from _magnification(objective.get("NominalMagnification", ""), "NominalMagnification in OME-XML")


def _of_tags(page: TiffPage) -> Found:
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
    """How many of the file's units of length a pixel spans, or NaN."""
    pixels, units = page.tags.valueof({"Y": 283, "X": 282}[axis])
    return units / pixels if pixels else math.nan


def _pages(tiff: TiffFile) -> Iterator[TiffPage]:
    """The pages of the main chain, with their tags."""
    return (page.aspage() for page in tiff.pages)


def _xml(text: str | bytes | None) -> ElementTree.Element | None:
    """The root of the document, or None where it is none."""
    try:
        return ElementTree.fromstring(text) if text else None
    except ElementTree.ParseError:
        return None


def number(text: str) -> float:
    """The number that ``text`` is, with a point or a comma, or NaN."""
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return math.nan
