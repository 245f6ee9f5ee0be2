"""The usual sizes of objects of models whose files do not state them."""

from __future__ import annotations

MEDIAN_DIAMETERS_UM = {"640fa0a2bc630b359b599091fb3edf61a1215c073d5f60d936ae580b9fc35aa3": (4.7, 9.5)}
"""By the sha256 of the file: least and most median of a slide, in micrometres, as diameters of circles of equal area.
The nuclei model was trained on nuclei of 7.5 um. On CMU-1-Small-Region.svs its median is 5.0 um at the slide's 0.499
um/px, 4.5 um if 0.25 are given, and 5.2 um if 1 is given: it finds what looks like one, so that a wrong resolution
shows less in sizes than in counts."""


def usual_diameters_um(model_sha256: str) -> tuple[float, float] | None:
    """The least and the most median diameter of objects, in micrometres, that this model finds; None if unknown."""
    return MEDIAN_DIAMETERS_UM.get(model_sha256)
