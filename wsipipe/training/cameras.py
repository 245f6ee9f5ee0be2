"""Other cameras: patches dulled, tinted, out of focus, compressed. Images are float32 (y, x, c), in 0 .. 1."""

from __future__ import annotations

import imagecodecs
import numpy as np
import numpy.typing as npt
from scipy import fft

FloatImage = npt.NDArray[np.float32]

IN_FOCUS = 0.5
"""Share of the patches that `out_of_focus` leaves as they are."""
BEST_JPEG = 95
"""The best quality that is drawn."""


def dulled(image: FloatImage, rng: np.random.Generator, most: float, balance: float) -> FloatImage:
    """``image``, float32 (y, x, c), as a camera with another white shows it.

    Parameters
    ----------
    image
        float32 (y, x, c), in 0 .. 1.
    rng
        Draws the white point, evenly, and a gain of each channel, whose logarithm is normal.
    most
        White becomes 1 - ``most`` at the darkest.
    balance
        Standard deviation of that logarithm; the channels' gains have a geometric mean of 1.
    """
    white = 1 - rng.uniform(0, most) if most else 1.0
    gains = np.zeros(image.shape[-1])
    if balance:
        gains += rng.normal(0, balance, len(gains))
    dull: FloatImage = image * (white * np.exp(gains - gains.mean())).astype(np.float32)
    return dull


def out_of_focus(image: FloatImage, rng: np.random.Generator, most_px: float) -> FloatImage:
    """``image``, float32 (y, x, c), through a lens out of focus by up to ``most_px``, or in focus in `IN_FOCUS`."""
    if rng.random() < IN_FOCUS:
        return image
    kernel = disc(rng.uniform(0, most_px))
    reach = len(kernel) // 2
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
    shape = padded.shape[:2]
    spectrum = fft.rfft2(padded, axes=(0, 1)) * fft.rfft2(kernel, shape)[..., None]
    blurred: FloatImage = fft.irfft2(spectrum, shape, axes=(0, 1))[2 * reach :, 2 * reach :]
    return blurred


def disc(radius_px: float) -> npt.NDArray[np.float32]:
    """What becomes of a point out of focus: a disc with a soft edge, float32 (y, x), of sum 1 and odd side."""
    reach = int(np.ceil(radius_px))
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    kernel = (radius_px + 0.5 - np.hypot(y, x)).clip(0, 1)
    soft: npt.NDArray[np.float32] = (kernel / kernel.sum()).astype(np.float32)
    return soft


def compressed(image: FloatImage, rng: np.random.Generator, least: int) -> FloatImage:
    """``image``, float32 (y, x, 1 or 3), after JPEG of a quality from ``least`` to `BEST_JPEG`, drawn evenly."""
    quality = int(rng.integers(min(least, BEST_JPEG), BEST_JPEG + 1))
    levels = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    decoded: npt.NDArray[np.uint8] = imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(levels, level=quality))
    return np.asarray(decoded.reshape(image.shape), np.float32) / np.float32(255)
