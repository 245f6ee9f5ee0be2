"""Micrometres per pixel: what the places of a file say about them, and which of these is believed.

What a scanner or OME-XML states takes precedence over the resolution tags, which other programs fill in as well.
Readings that cannot be true are not used. Where two statements contradict each other there is no resolution; tags that
contradict a statement are not used. A magnification is a hint: by convention it stands for 10 / magnification, give or
take a scanner's optics. It is never used, but it is named where it contradicts, and tags alone are not used against it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_PREFIXES: Mapping[str, tuple[str, int]] = {
    "yotta": ("Y", 24),
    "zetta": ("Z", 21),
    "exa": ("E", 18),
    "peta": ("P", 15),
    "tera": ("T", 12),
    "giga": ("G", 9),
    "mega": ("M", 6),
    "kilo": ("k", 3),
    "hecto": ("h", 2),
    "deca": ("da", 1),
    "": ("", 0),
    "deci": ("d", -1),
    "centi": ("c", -2),
    "milli": ("m", -3),
    "micro": ("µ", -6),
    "nano": ("n", -9),
    "pico": ("p", -12),
    "femto": ("f", -15),
    "atto": ("a", -18),
    "zepto": ("z", -21),
    "yocto": ("y", -24),
}
"""Names of the powers of ten that a metre is multiplied with, and their symbols."""
_INCH = 25400.0
_LIGHT_YEAR, _PARSEC, _ASTRONOMICAL_UNIT = 9.4607304725808e21, 3.0856775814913673e22, 1.495978707e17
LENGTH_UNITS: Mapping[str, float] = {
    **{f"{name}meter": 10.0 ** (power + 6) for name, (_, power) in _PREFIXES.items()},
    **{f"{symbol}m": 10.0 ** (power + 6) for symbol, power in _PREFIXES.values()},
    **dict.fromkeys(("μm", "um", "micron"), 1.0),
    **dict.fromkeys(("angstrom", "Å", "\N{ANGSTROM SIGN}"), 1e-4),
    **dict.fromkeys(("inch", "in"), _INCH),
    **dict.fromkeys(("foot", "ft"), 12 * _INCH),
    **dict.fromkeys(("yard", "yd"), 36 * _INCH),
    **dict.fromkeys(("mile", "mi"), 63360 * _INCH),
    **dict.fromkeys(("parsec", "pc"), _PARSEC),
    "thou": _INCH / 1000,
    "li": _INCH / 12,
    "pt": _INCH / 72,
    "ly": _LIGHT_YEAR,
    "ua": _ASTRONOMICAL_UNIT,
}
"""Micrometres in a unit of length, as OME-Zarr and OME-XML name them (both Unicode letters that look like a mu).

Sources: https://ngff.openmicroscopy.org/0.5/#axes-md; ``UnitsLength`` in
https://www.openmicroscopy.org/Schemas/OME/2016-06/ome.xsd
"""


def micrometres_in(unit: str) -> float | None:
    """Micrometres in ``unit``, as it is spelled or else in lower case (``Micron``); None if it is not a length."""
    return LENGTH_UNITS.get(unit, LENGTH_UNITS.get(unit.lower()))


MPP_PLAUSIBLE = 20.0
"""No slide is scanned this coarsely, µm/px; libvips writes 1000 for an untagged TIFF, and 72 dpi is 353."""
MPP_DOUBTED = 0.05
"""Finer than any light microscope scans, µm/px: 100x objectives have 0.1, and light resolves 0.2 µm. Units are easily
mistaken, nanometres for ångströms or pixels per inch for those per centimetre; electron microscopes do go that far."""
DOUBT = f"finer than any light microscope, {MPP_DOUBTED:g}; it is used, and if it is wrong, --mpp corrects it"
STATED, TAGS, HINT = "stated", "tags", "magnification"
"""Kinds of a `Reading`, the most trusted first."""
ANISOTROPY = 0.05
"""x and y may differ by this share of the larger one; pixels that are further from square are not used."""
DISAGREEMENT = 0.05
"""Two readings that differ by more than this share of the larger one contradict each other."""
NOMINAL = 1.5
"""A magnification contradicts a reading that differs from it by more than this factor; objectives differ by two."""


@dataclass(frozen=True)
class Reading:
    """The size of a pixel according to one place of a file."""

    source: str
    """Where it was read."""
    y: float
    """Micrometres per pixel from row to row; for a magnification, those it stands for."""
    x: float
    """Micrometres per pixel from column to column."""
    kind: str = STATED
    """``stated`` by a scanner or in OME's words, ``tags`` of the file format, or a ``magnification``."""

    @property
    def mpp(self) -> float:
        """Mean of `y` and `x`."""
        return (self.y + self.x) / 2


@dataclass(frozen=True)
class Resolution:
    """Micrometres per pixel of level 0, and where they are from."""

    mpp: float | None
    """None if they are not known."""
    source: str
    """Where it was read, or why there is none."""
    warnings: tuple[str, ...] = ()
    """Readings that are not used, or are doubtful, and why."""
    readings: tuple[Reading, ...] = ()
    """All that were found, used or not."""


def checked(y: float, x: float, source: str) -> Resolution:
    """The resolution if ``source`` alone states that pixels are ``y`` by ``x`` µm."""
    return weighed([Reading(source, y, x)])


def weighed(found: Sequence[Reading | str]) -> Resolution:
    """The resolution that follows from all readings that were ``found``.

    Among equals the most trusted comes first; a text says why a place of the file gives no reading.
    """
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
    warnings += [f"{_says(best)}, which is {DOUBT}"] * (best.mpp < MPP_DOUBTED)
    return Resolution(best.mpp, best.source, tuple(warnings), readings)


def _problem(one: Reading) -> str:
    """Why ``one`` cannot be true of a slide, or nothing."""
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
    gives = "give" if " and " in one.source else "gives"  # XResolution and YResolution tags give
    verb = "stands for about" if one.kind == HINT else gives
    return f"{one.source} {verb} {numbers} micrometres per pixel"


def _reason(one: Reading) -> str:
    """Why ``one`` gives no resolution."""
    if one.kind == HINT:
        return f"{_says(one)}, which is no measurement"
    return f"{_says(one)}, which {_problem(one)}"
