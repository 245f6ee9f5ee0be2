"""The smallest objects of models whose files do not state them, because they are older than that field."""

from __future__ import annotations

MIN_AREAS_UM2 = {"640fa0a2bc630b359b599091fb3edf61a1215c073d5f60d936ae580b9fc35aa3": 8.0}
"""By the sha256 of the file. That of the nuclei model which came with wsipipe before, and made many stores: without
objects below 8 um2, its F1 at IoU 0.5 on fields of other laboratories is 0.66 instead of 0.51."""


def min_area_of_older(model_sha256: str) -> float:
    """The area in square micrometres below which what this model finds is not an object; 0 if that is unknown."""
    return MIN_AREAS_UM2.get(model_sha256, 0.0)
