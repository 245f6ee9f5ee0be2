"""Drawn slides at a low level: tissue of a known shape on glass."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from wsipipe.demo import GLASS, draw_tissue
from wsipipe.geometry.mirror import mirror

SHAPE = (300, 400)
Image = np.ndarray


@lru_cache
def drawn_tissue(seed: int) -> Image:
    """Tissue of `SHAPE` without any glass, as means of 2 x 2 pixels."""
    fine = draw_tissue(np.random.default_rng(seed), (4 * SHAPE[0], 4 * SHAPE[1]))
    middle = fine[SHAPE[0] : 3 * SHAPE[0], SHAPE[1] : 3 * SHAPE[1]]
    small: Image = middle.reshape(SHAPE[0], 2, SHAPE[1], 2, 3).mean((1, 3)).round().astype(np.uint8)
    return small


def tissue(shape: tuple[int, int] = SHAPE, seed: int = 1) -> Image:
    """Tissue without any glass: what was drawn, which takes long, and its mirror images beside it."""
    rows, columns = (mirror(np.arange(n), side) for n, side in zip(shape, drawn_tissue(seed).shape[:2], strict=True))
    return drawn_tissue(seed)[rows][:, columns]


def glass(shape: tuple[int, int] = SHAPE, seed: int = 2) -> Image:
    """Glass with noise, a little darker towards the right."""
    noise = np.random.default_rng(seed).normal(0, 0.5, (*shape, 3))
    return (GLASS - np.linspace(0, 3, shape[1])[None, :, None] + noise).round().astype(np.uint8)


def disc(centre: tuple[float, float], radius: float, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """The pixels of a disc, bool."""
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    inside: np.ndarray = np.hypot(ys - centre[0], xs - centre[1]) <= radius
    return inside


def on_glass(where: np.ndarray) -> Image:
    """Tissue where ``where`` is True, else glass."""
    return np.where(where[..., None], tissue(where.shape), glass(where.shape))
