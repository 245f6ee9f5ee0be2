"""How the input of a network is normalised, as options say it."""

from __future__ import annotations

import math

from wsipipe.errors import UsageError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Means and standard deviations of ImageNet's images, as torchvision has them."""


def normalisation(
    *, imagenet: bool, mean: str | None, std: str | None, scale: float | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and standard deviations, as shares of full scale, that these options say.

    Raises
    ------
    UsageError
        If they say none, or several.
    """
    if [imagenet, mean is not None or std is not None, scale is not None].count(True) != 1:
        raise UsageError(
            "say how the input is normalised by one of --imagenet, --mean and --std (shares of full scale), "
            "and --scale (255: from 0 to 1)"
        )
    if imagenet:
        return IMAGENET
    if scale is not None:
        if not 0 < scale < math.inf:
            raise UsageError(f"--scale must be a positive number, not {scale}")
        return (0.0,), (scale / 255,)
    if mean is None or std is None:
        raise UsageError("--mean and --std go together")
    return _numbers("--mean", mean), _numbers("--std", std)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as err:
        raise UsageError(f"{option} {text}: numbers are needed, with commas between them") from err
    if max(values) > 1:
        raise UsageError(f"{option} {text}: shares of full scale are needed; divide by 255")
    return values
