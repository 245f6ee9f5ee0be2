"""Optical densities of haematoxylin and eosin, as integers that add up exactly.

Ruifrok and Johnston, "Quantification of histochemical staining by color deconvolution" (2001), with the matrix and the
scale of `skimage.color.rgb2hed`: a density is the logarithm to the base of 10**-6 of the share of light that the stain
lets through.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from wsipipe.arrays import Pixels
from wsipipe.objects.numbers import Counts

STAINS = ("hematoxylin", "eosin")
STAIN_UNIT = 2.0**-24
"""The density that a 1 stands for. Rounding moves a pixel's density by less than 1e-7."""
_RGB_OF_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_DARKEST = 1e-6


def stain_densities(pixels: Pixels) -> Counts:
    """Densities of haematoxylin and eosin in units of `STAIN_UNIT`, (pixels, 2), int64.

    Parameters
    ----------
    pixels
        (pixels, 3), uint8 or uint16: red, green, blue.
    """
    tables = _tables(pixels.dtype)
    return np.stack(
        [
            np.maximum(sum(tables[channel, :, stain][pixels[:, channel]] for channel in range(3)), 0).astype(np.int64)
            for stain in range(len(STAINS))
        ],
        axis=1,
    )


@cache
def _tables(dtype: np.dtype[Any]) -> npt.NDArray[np.int32]:
    """(channel, value, stain): what each value of each channel adds to each density."""
    most = np.iinfo(dtype).max
    light = np.maximum(np.arange(most + 1) / most, _DARKEST)
    stains_of_rgb = np.linalg.inv(_RGB_OF_STAINS)[:, : len(STAINS)]
    absorbed = np.log(light) / np.log(_DARKEST)
    parts = absorbed[None, :, None] * stains_of_rgb[:, None, :]
    tables: npt.NDArray[np.int32] = np.rint(parts / STAIN_UNIT).astype(np.int32)
    return tables
