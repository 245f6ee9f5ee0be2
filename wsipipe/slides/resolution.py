"""Micrometres per pixel: where files say them, and whether what they say can be."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from wsipipe.slides.slide import MPP_PLAUSIBLE

if TYPE_CHECKING:
    from collections.abc import Mapping

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


@dataclass(frozen=True)
class Resolution:
    """Micrometres per pixel of level 0, and what there is to say about them."""

    mpp: float | None
    source: str
    """Where it was read, or why there is none."""
    warnings: tuple[str, ...] = ()
    """What was found and not used."""


def tiff_resolution(tiff: TiffFile, page: TiffPage, series: int) -> Resolution:
    """What the TIFF file says: Aperio's description before OME-XML before the resolution tags.

    Parameters
    ----------
    tiff
        The file.
    page
        Its level 0.
    series
        The number of its image in the OME-XML.
    """
    reasons: list[str] = []
    warnings: list[str] = []
    for one in (_of_aperio(page), _of_ome(tiff, series), _of_tags(page)):
        if one is None:
            continue
        if one.mpp is not None:
            return Resolution(one.mpp, one.source, (*warnings, *one.warnings))
        reasons.append(one.source)
        warnings.extend(one.warnings)
    return Resolution(None, ", ".join(reasons), tuple(warnings))


def checked(y: float, x: float, source: str) -> Resolution:
    """The mean of ``y`` and ``x`` (µm/px) if both can be true of a slide, else none and a warning that says why."""
    problem = None
    if not all(math.isfinite(v) and v > 0 for v in (y, x)):
        problem = "is not a size"
    elif max(y, x) > MPP_PLAUSIBLE:
        problem = f"is coarser than any scanner, {MPP_PLAUSIBLE:g}"
    elif abs(y - x) > ANISOTROPY * max(y, x):
        problem = "has pixels that are not square"
    if problem is None:
        return Resolution((y + x) / 2, source)
    numbers = f"{y:.6g}" if y == x or (math.isnan(y) and math.isnan(x)) else f"{y:.6g} (y) and {x:.6g} (x)"
    says = f"{source} gives {numbers} micrometres per pixel, which {problem}"
    return Resolution(None, f"{source} gives {numbers}, which {problem}", (f"{says}; it is not used",))


def _of_aperio(page: TiffPage) -> Resolution | None:
    """``MPP = 0.499`` in the ImageDescription of an Aperio file."""
    if not page.description.startswith("Aperio"):
        return None
    match = re.search(r"\|\s*MPP\s*=\s*([^|\s]+)", page.description)
    if match is None:
        return Resolution(None, "no MPP in ImageDescription")
    try:
        mpp = float(match[1].replace(",", "."))
    except ValueError:
        mpp = math.nan
    return checked(mpp, mpp, "MPP in ImageDescription")


def _of_ome(tiff: TiffFile, series: int) -> Resolution | None:
    """PhysicalSizeX and PhysicalSizeY in the OME-XML, micrometres unless it names another unit."""
    text = tiff.ome_metadata if tiff.is_ome else None
    if not text:
        return None
    pixels = [element for element in ElementTree.fromstring(text).iter() if element.tag.endswith("}Pixels")]
    attributes = pixels[series].attrib if series < len(pixels) else {}
    sizes = []
    for axis in "YX":
        if f"PhysicalSize{axis}" not in attributes:
            return Resolution(None, f"no PhysicalSize{axis} in OME-XML")
        unit = attributes.get(f"PhysicalSize{axis}Unit", "µm")
        if unit.lower() not in UNITS:
            return Resolution(None, f"PhysicalSize{axis}Unit in OME-XML is {unit!r}, not a length")
        sizes.append(_number(attributes[f"PhysicalSize{axis}"]) * UNITS[unit.lower()])
    return checked(sizes[0], sizes[1], "PhysicalSizeX and Y in OME-XML")


def _of_tags(page: TiffPage) -> Resolution:
    """XResolution and YResolution, in pixels per ResolutionUnit."""
    unit = page.tags.valueof(296)
    if unit is None:
        return Resolution(None, "no ResolutionUnit tag")
    micrometres = {2: 25400.0, 3: 10000.0}.get(int(unit))
    if micrometres is None:
        return Resolution(None, f"ResolutionUnit tag is {int(unit)}, no unit of length")
    sizes = []
    for axis, code in (("Y", 283), ("X", 282)):
        value = page.tags.valueof(code)
        if value is None:
            return Resolution(None, f"no {axis}Resolution tag")
        pixels, units = value
        sizes.append(micrometres * units / pixels if pixels else math.nan)
    return checked(sizes[0], sizes[1], "XResolution and YResolution tags")


def _number(text: str) -> float:
    """The number that ``text`` is, or NaN."""
    try:
        return float(text)
    except ValueError:
        return math.nan
