"""What models usually find, where their files do not state it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Usual:
    """What a model finds on a slide that suits it; results beyond it are doubted in a warning."""

    diameters_um: tuple[float, float]
    """Least and most median of its objects, in micrometres, as diameters of circles of equal area."""
    least_share: float
    """Least share of tissue that its objects cover."""


NUCLEI = Usual((4.7, 9.5), 0.01)
USUAL = {
    "5ddd315f1ec16bab88ce7db0d852e753f34a3411b4c3e6a4fcc7e3b4ea8c5eeb": NUCLEI,
    "acbfe3ce6d5693ec5da175cea1e8360a33832d3f2881fed2de6f61f458bb1d17": NUCLEI,  # in int8
    # the earlier ones, which stores of today name
    "b8385e9478e84368df3edd2cec4d30a22b08f0fec4eb08b1a7602dfdad07c507": NUCLEI,
    "4b15e6d964cfa846ec20b8bc1b8abd9f99c74b7620848ba889e221e66726eccb": NUCLEI,  # in int8
    "640fa0a2bc630b359b599091fb3edf61a1215c073d5f60d936ae580b9fc35aa3": NUCLEI,
    "c8fac86d6827deca9faa0a164d87750fb3fcc32e9c2c3fb4f1b118357646d41c": NUCLEI,  # in int8
}
"""By the sha256 of the file. The nuclei model was trained on nuclei of 4.4 to 9.9 um. On CMU-1-Small-Region.svs what
the first one found covers 9.3 % of the tissue, and its median is 5.0 um; 4.5 um if half of the true um per pixel
are given, 5.2 um if twice as many are: it finds what looks like one, so that a wrong resolution shows less in sizes
than in counts. On the slide of The Cancer Genome Atlas on which it missed most nuclei, they covered 0.4 %."""


def usual_of(model_sha256: str) -> Usual | None:
    """What the model of this file usually finds; None if unknown."""
    return USUAL.get(model_sha256)
