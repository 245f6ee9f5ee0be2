"""Looks drawn from the statistics of all training images: mean and spread of lightness and colour (CIE L*a*b*).

Source: Shen et al. 2022, RandStainNA, arXiv:2206.12694. Colours are sRGB (IEC 61966-2-1) with the white point D65.
Images are RGB, float32 (y, x, 3), in 0 .. 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatImage = npt.NDArray[np.float32]

XYZ_OF_RGB = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]], np.float32
)
WHITE = np.array([0.95047, 1.0, 1.08883], np.float32)
RGB_OF_XYZ = np.linalg.inv(XYZ_OF_RGB.astype(np.float64)).astype(np.float32)
KINK = np.float32(6 / 29)
"""Below this cube root, L*a*b* is linear."""
LEAST_SPREAD = 1.0
"""A standard deviation of L*, a* or b* below this counts as this: noise of a blank patch is not stretched to tissue."""


def lab_of(image: FloatImage) -> FloatImage:
    """L*a*b* of sRGB in 0 .. 1, float32 (y, x, 3)."""
    linear = np.where(image > 0.04045, ((image.clip(0) + 0.055) / 1.055) ** 2.4, image / 12.92)
    xyz = np.einsum("yxc,kc->yxk", linear, XYZ_OF_RGB) / WHITE
    f = np.where(xyz > KINK**3, np.cbrt(xyz), xyz / (3 * KINK**2) + 4 / 29)
    lab = np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)
    return np.asarray(lab, np.float32)


def rgb_of(lab: FloatImage) -> FloatImage:
    """The inverse of `lab_of`, clipped to 0 .. 1, float32 (y, x, 3)."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    xyz = np.where(f > KINK, f**3, 3 * KINK**2 * (f - 4 / 29)) * WHITE
    linear = np.einsum("yxk,ck->yxc", xyz, RGB_OF_XYZ).clip(0, 1)
    image = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return np.asarray(image, np.float32)


@dataclass(frozen=True, eq=False)
class Styles:
    """The looks of some patches."""

    looks: npt.NDArray[np.float64]
    """(patch, 6): mean of L*, a* and b*, and their standard deviations."""

    def draw(self, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """A look, (6,), float64: normal, with the mean and the covariance of `looks`."""
        mean = self.looks.mean(0)
        weights = rng.standard_normal(len(self.looks)) / np.sqrt(max(len(self.looks) - 1, 1))
        look: npt.NDArray[np.float64] = mean + np.einsum("n,nk->k", weights, self.looks - mean)
        return look


def look_of(image: FloatImage) -> npt.NDArray[np.float64]:
    """The look of an image, float32 (y, x, 3): mean of L*, a* and b*, and their standard deviations, float64 (6,)."""
    lab = lab_of(image).astype(np.float64)
    return np.concatenate([lab.mean((0, 1)), lab.std((0, 1))])


def restyled(image: FloatImage, styles: Styles, rng: np.random.Generator) -> FloatImage:
    """``image``, float32 (y, x, 3), with a look drawn from ``styles``, in 0 .. 1."""
    old, new = look_of(image), styles.draw(rng)
    gain = np.maximum(new[3:], 0) / np.maximum(old[3:], LEAST_SPREAD)
    lab = (lab_of(image) - old[:3]) * gain + new[:3]
    return rgb_of(lab.astype(np.float32))
