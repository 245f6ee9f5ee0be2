"""Whether a slide suits a model, and whether what was found is plausible."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from math import prod

from wsipipe.events import ClassCount
from wsipipe.model.model_file import ModelInfo
from wsipipe.model.spec import BACKGROUND, INT8_RECORD
from wsipipe.model.usual_objects import usual_of
from wsipipe.pipeline.slide_plan import SlidePlan
from wsipipe.slides.slide import Level, Slide
from wsipipe.tissue.detect import BRIGHTFIELD, FLUORESCENCE

BRIGHT, DARK = 0.28, 0.25
"""Means of the images of a training, as shares of full scale: at least the first in each channel is light through
tissue, at most the second is light of it; anything else is neither. The nuclei model has 0.30 and more: half of what
it learnt from is of a dull camera."""
MUCH_MM2, MUCH_PX = 0.25, 1_000_000
"""Tissue on which something should be found; the second where the size of a pixel is unknown."""
NEARLY_NOTHING = 0.001
"""Share of it below which a result is doubted if it is unknown what the model usually finds."""
ENOUGH_OBJECTS = 30
"""Objects from which on their median says something."""


def light_of(model: ModelInfo) -> str | None:
    """The light of the images that ``model`` was trained on: brightfield, fluorescence, or None if it does not say.

    By the means that normalise its input, which a training measures on these images.
    """
    spec = model.spec
    if not spec.training.keys() - {INT8_RECORD} or len(spec.mean) != model.network.in_channels:
        return None
    return BRIGHTFIELD if min(spec.mean) >= BRIGHT else FLUORESCENCE if max(spec.mean) <= DARK else None


def stain_conflict(slide: Slide, level: Level, model: ModelInfo, how: str) -> str:
    """Why ``slide`` is not of the light that ``model`` was trained on; empty if it is, or if that cannot be told.

    Parameters
    ----------
    slide
        The slide.
    level
        The level to segment. Only 8 bits are judged, because the full scale of 16 is unknown.
    model
        The model.
    how
        How its tissue was found: ``brightfield`` if half of its pixels or more are bright, or ``fluorescence``.
    """
    light = light_of(model)
    if light is None or how not in (BRIGHTFIELD, FLUORESCENCE) or how == light or level.dtype != "uint8":
        return ""
    words = {BRIGHTFIELD: "stained tissue in bright field", FLUORESCENCE: "fluorescence"}
    return (
        f"{slide.file} is {words[how]} by its brightness, model {model.spec.name!r} was trained on {words[light]}; "
        "use a model trained on such slides (-m), or segment it all the same: --any-stain"
    )


def little_found(
    plan: SlidePlan, model_sha256: str, labels: Mapping[int, int], tissue_share: float | None
) -> Iterator[str]:
    """A warning if nearly nothing was found on much tissue.

    Parameters
    ----------
    plan
        The slide's plan.
    model_sha256
        The model.
    labels
        Pixels of each label.
    tissue_share
        Share of the slide, or of its region, that is tissue, 0 to 1; None: all of it was searched.
    """
    region_share = 1.0 if plan.region is None else plan.region.share
    searched = prod(plan.grid.shape) * region_share * (1.0 if tissue_share is None else tissue_share)
    mpp, found = plan.level.mpp, sum(count for label, count in labels.items() if label != BACKGROUND)
    mm2 = None if mpp is None else searched * mpp**2 / 1e6
    much = searched >= MUCH_PX if mm2 is None else mm2 >= MUCH_MM2
    usual = usual_of(model_sha256)
    if much and found < (usual.least_share if usual else NEARLY_NOTHING) * searched:
        size = f"{searched / 1e6:.1f} MP" if mm2 is None else f"{mm2:.2g} mm2"
        of = "tissue" if tissue_share is not None else "the slide" if plan.region is None else "the region"
        yield (
            f"nearly nothing was found: {found / searched:.2%} of {size} of {of} is labelled; if that is not what you "
            f"expect, check {_resolution(plan.slide)}, and whether the model suits the stain (-m)"
        )


def odd_sizes(slide: Slide, model_sha256: str, classes: Iterable[ClassCount]) -> Iterator[str]:
    """A warning for each of ``classes`` whose median size is far from that of the model's objects."""
    usual = usual_of(model_sha256)
    for one in classes:
        if usual is None or one.median_um2 is None or one.objects < ENOUGH_OBJECTS:
            continue
        diameter = 2 * math.sqrt(one.median_um2 / math.pi)
        least, most = usual.diameters_um
        if not least <= diameter <= most:
            yield (
                f"the median {one.name} is {diameter:.1f} um across, but {least:g} to {most:g} um are usual for "
                f"this model; check {_resolution(slide)}"
            )


def _resolution(slide: Slide) -> str:
    known = "" if slide.mpp is None else f", {slide.mpp:.4g} um/px ({slide.mpp_source})"
    return f"the slide's resolution{known}, which --mpp corrects"
