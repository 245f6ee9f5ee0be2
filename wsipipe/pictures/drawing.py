"""What was found, drawn over the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
OUTLINE = (40, 255, 80)


def outlined(image: Image, labels: npt.NDArray[Any], color: tuple[int, int, int] = OUTLINE) -> Image:
    """``image`` (y, x, 3), uint8, with the pixels coloured at which ``labels`` (y, x) change."""
    edge = np.zeros(labels.shape, bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    result = image.copy()
    result[edge] = color
    return result
