"""What was found, drawn over the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from wsipipe.slides.pixels.overview import Plane, RgbImage

OUTLINE = (40, 255, 80)


def outlined(image: RgbImage, labels: npt.NDArray[Any], color: tuple[int, int, int] = OUTLINE) -> RgbImage:
    """``image`` (y, x, 3), uint8, with the pixels coloured at which ``labels`` (y, x) change."""
    edge = np.zeros(labels.shape, bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    result = image.copy()
    result[edge] = color
    return result


def as_rgb(plane: Plane, dtype: str) -> RgbImage:
    """A plane (y, x, channels) for the eye: 3 or 4 channels are RGB, others their mean; 16 bits up to the brightest."""
    channels = plane.shape[-1]
    colors = plane[..., :3] if channels in (3, 4) else plane.mean(-1, keepdims=True).repeat(3, -1)
    if np.dtype(dtype).itemsize > 1:
        colors = colors * (255 / max(float(colors.max()), 1.0))
    rgb: RgbImage = colors.round().clip(0, 255).astype(np.uint8)
    return rgb


def inner_edge(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The pixels of ``mask`` that one beside, above or below is not of; the end of the image is no edge.

    Of two classes that touch each keeps its own line, and what is one pixel small stays where it is.
    """
    inside = np.pad(mask, 1, mode="edge")
    return mask & ~(inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:])
