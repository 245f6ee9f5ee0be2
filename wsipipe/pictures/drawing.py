"""Planes as RGB pictures, and outlines drawn over them."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt

from wsipipe.arrays import Labels
from wsipipe.slides.pixels.overview import Plane, RgbImage, averaged_plane, choose_source
from wsipipe.slides.slide import Slide

OUTLINE, REGION_OUTLINE = (40, 255, 80), (30, 120, 255)
"""The colours of the outlines of tissue and region in every picture; found objects have that of their class."""
LEFT_OUT = 160
"""The grey that pixels are mixed with that are not segmented."""


def draw_searched(
    image: RgbImage, tissue: npt.NDArray[np.bool_] | None, region: npt.NDArray[np.bool_] | None, *, grey_glass: bool
) -> None:
    """Outline the ``tissue`` and the ``region`` in ``image`` (y, x, 3), uint8, and grey what is outside.

    Parameters
    ----------
    image
        Drawn into.
    tissue, region
        (y, x), bool; None: the whole image.
    grey_glass
        Whether what is outside the tissue is greyed, too, and not only what is outside the region.
    """
    everywhere = np.ones(image.shape[:2], bool)
    inside = everywhere if region is None else region
    found = everywhere if tissue is None else tissue
    outside = ~(inside & found) if grey_glass else ~inside
    image[outside] = image[outside] // 2 + LEFT_OUT // 2
    image[inner_edge(found) & inside] = OUTLINE
    image[inner_edge(inside)] = REGION_OUTLINE


def draw_found(image: RgbImage, labels: Labels, classes: Sequence[tuple[str, int, str]]) -> None:
    """Outline what ``labels`` (y, x), uint8, have found in ``image`` (y, x, 3), uint8, which is drawn into.

    ``classes`` are (name, label, #rrggbb).
    """
    for _, label, color in classes:
        image[inner_edge(labels == label)] = list(bytes.fromhex(color[1:]))


def outlined(image: RgbImage, labels: npt.NDArray[Any], color: tuple[int, int, int]) -> RgbImage:
    """``image`` (y, x, 3), uint8, with the pixels coloured at which ``labels`` (y, x), of any dtype, change."""
    result = image.copy()
    result[outlines(labels)] = color
    return result


def outlines(labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """The pixels (y, x) at which ``labels`` (y, x), of any dtype, change from the one above or to the left."""
    edge = np.zeros(labels.shape, bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    return edge


def nearest_cells(cells: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[Any]:
    """``cells`` (y, x), of any dtype, at another ``shape``: those that the middles of its pixels lie in."""
    rows, cols = (
        np.minimum((2 * np.arange(n) + 1) * count // (2 * n), count - 1)
        for n, count in zip(shape, cells.shape, strict=True)
    )
    nearest: npt.NDArray[Any] = cells[rows][:, cols]
    return nearest


def as_rgb(plane: Plane, dtype: str, brightest: float | None = None) -> RgbImage:
    """``plane`` (y, x, channels), float32, as an RGB picture (y, x, 3), uint8.

    Of 3 or 4 channels the first three are RGB; any other number is averaged to grey. If ``dtype``, that of the slide,
    has 16 bits, values are scaled so that the ``brightest``, by default that of the plane, is 255.
    """
    channels = plane.shape[-1]
    colors = plane[..., :3] if channels in (3, 4) else plane.mean(-1, keepdims=True).repeat(3, -1)
    if np.dtype(dtype).itemsize > 1:
        colors = colors * (255 / max(float(colors.max()) if brightest is None else brightest, 1.0))
    rgb: RgbImage = colors.round().clip(0, 255).astype(np.uint8)
    return rgb


def level_at(slide: Slide, index: int, shape: tuple[int, int], *, most_bytes: float = inf) -> RgbImage:
    """Level ``index`` of ``slide`` at ``shape``, (y, x), as RGB (y, x, 3), uint8, from the coarsest level that will do.

    Raises
    ------
    SlideFormatError
        If no level of at most ``most_bytes`` will do.
    SlideError
        If pixels cannot be read.
    """
    source, extent = choose_source(slide, index, shape, most_bytes=most_bytes)
    return as_rgb(averaged_plane(source, extent, shape), source.dtype)


def inner_edge(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The pixels of ``mask`` (y, x), bool, that have one outside it beside, above or below; of the same shape.

    The end of the image is not an edge. Two classes that touch keep a line each, and a single pixel stays in place.
    """
    inside = np.pad(mask, 1, mode="edge")
    return mask & ~(inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:])
