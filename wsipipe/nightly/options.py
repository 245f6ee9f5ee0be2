"""The options of a run in a night's file: those of all slides, and those of the slides of one pattern."""

from __future__ import annotations

from dataclasses import dataclass

from wsipipe.geometry.symmetry import TTA_OFF
from wsipipe.pipeline.config import FAIL
from wsipipe.slides.slide import MAX_UPSAMPLE
from wsipipe.tissue.mask_file import TISSUE_AUTO


@dataclass(frozen=True)
class RunTable:
    """Options of `wsipipe run`, under the same names."""

    device: str = "auto"
    engine: str = "auto"
    precision: str = "float32"
    margin: int | None = None
    tta: str = TTA_OFF
    tile: int | None = None
    block: int | None = None
    batch: int | None = None
    threads: int | None = None
    max_memory: str | None = None
    tissue: str = TISSUE_AUTO
    """``auto``: segment only where tissue is found; ``off``: everywhere."""
    roi: str | None = None
    """Segment only this region of each slide: ``x,y,width,height`` in pixels of level 0, or with units,
    ``2mm,3mm,1mm,1mm``."""
    on_bad_tile: str = FAIL
    any_stain: bool = False
    probabilities: bool = False
    uncertainty: bool = False
    objects: bool = False
    min_area: float | None = None
    split: bool = False
    instances: bool = False
    max_upsample: float = MAX_UPSAMPLE
    reader: str | None = None
    channels: str | None = None
    z: int | None = None
    t: int | None = None
    series: int | None = None


OF_SLIDES = ("reader", "channels", "z", "t", "series", "roi")
"""Options of a run that can be set for the slides of one pattern."""


@dataclass(frozen=True)
class SlideTable:
    """Options of the slides that match one pattern; the first table that matches is used."""

    match: str
    """Pattern, compared with the whole name of the slide's file, and with its whole path: ``*_20x*.tif``,
    ``/scans/scanner-2/*``."""
    mpp: float | None = None
    """Micrometres per pixel of level 0, instead of those in the file."""
    model: str | None = None
    """Path of another model."""
    reader: str | None = None
    """As in ``[run]``, over which it takes precedence; so do the next five."""
    channels: str | None = None
    z: int | None = None
    t: int | None = None
    series: int | None = None
    roi: str | None = None
    """Region to segment, as in ``[run]``; or a file of annotations, if ``match`` is the name of one slide."""
