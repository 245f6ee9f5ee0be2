"""Drawn slides at a low level: tissue of a known shape on glass."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from wsipipe.demo import GLASS, draw_tissue

SHAPE = (300, 400)
Image = np.ndarray


@lru_cache
def tissue(shape: tuple[int, int] = SHAPE, seed: int = 1) -> Image:
    """Tissue without any glass, as means of 2 x 2 pixels."""
    fine = draw_tissue(np.random.default_rng(seed), (4 * shape[0], 4 * shape[1]))
    middle = fine[shape[0] : 3 * shape[0], shape[1] : 3 * shape[1]]
    small: Image = middle.reshape(shape[0], 2, shape[1], 2, 3).mean((1, 3)).round().astype(np.uint8)
    return small


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
