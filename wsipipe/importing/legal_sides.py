"""The sides of tiles that an opaque network takes, found by trying."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import lcm

import numpy as np
import numpy.typing as npt

from wsipipe.arrays import size_text
from wsipipe.errors import ModelError, WsipipeError
from wsipipe.geometry.network import round_up

Floats = npt.NDArray[np.float32]
Compute = Callable[[Floats], Floats]
"""A network: (n, class, y', x') of normalised images (n, channel, y, x), both float32."""

COMMON_SIDES = (32, 64, 96, 128, 256, 240, 512, 480, 1024, 960)
"""Sides tried first, px: multiples of the strides in use, small ones first, as they take the least time."""
STEPS = (*range(1, 9), 10, 12, 14, 16, 20, 24, 28, 32, 36, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)
"""Differences tried between a legal side and the next, px."""
SPANS = (1440, 4320)
"""Differences of two sides, px, from which the scale of the output is told: the first is a multiple of every scale in
use, the second of 27 as well."""


@dataclass(frozen=True)
class SidesHint:
    """What a model file declares about the sides of its input."""

    fixed: int | None = None
    """The only side that the network takes, px."""
    step: int = 1
    """Every side is a multiple of it, px."""


@dataclass(frozen=True)
class Sides:
    """The sides that a network takes, px: ``legal + k * step``; only ``legal`` if ``step`` is 0."""

    legal: int
    step: int
    scale: int
    """px of the input per px of the output."""
    square: bool = False
    """Whether a tile has to be as wide as high."""

    def at_least(self, side: int) -> int:
        """The smallest legal side of ``side`` px or more; the only one if there is just one."""
        return self.legal + round_up(max(side - self.legal, 0), self.step) if self.step else self.legal

    def width(self, height: int) -> int:
        """The smallest width that was found legal for tiles of ``height`` px."""
        return height if self.square else self.legal


def noise(channels: int, height: int, width: int, seed: int = 0) -> Floats:
    """Noise, (channel, y, x) in float32, of about unit variance, as strong in 16 px blocks as from pixel to pixel.

    White noise alone averages out on the way to the deepest layers, and they would hardly be tested.
    """
    rng = np.random.default_rng(seed)
    fine = rng.standard_normal((channels, height, width), np.float32)
    coarse = rng.standard_normal((channels, -(-height // 16), -(-width // 16)), np.float32)
    return (fine + coarse.repeat(16, 1).repeat(16, 2)[:, :height, :width]) * np.float32(0.7)


def find_sides(compute: Compute, channels: int, hint: SidesHint) -> Sides:
    """Find the sides that ``compute`` takes, with as few and as small tiles as tell them.

    Raises
    ------
    ModelError
        If no tile is accepted, or the output is not a map that grows with the input.
    """
    trial = Trial(compute, channels)
    if hint.fixed:
        return trial.only(hint.fixed)
    legal = next((side for side in first_sides(hint.step) if trial.output(side, side)), None)
    if legal is None:
        raise ModelError(
            f"the network takes no square tile of {channels} channels that was tried, from {min(COMMON_SIDES)} to "
            f"{max(COMMON_SIDES)} px; {trial.refusal}"
        )
    steps = [step for step in STEPS if step % hint.step == 0] or [hint.step]
    for square in (False, True):
        for step in steps:
            higher = (legal + step * times for times in (1, 2, 3))  # a step could be legal once by chance
            if all(trial.output(height, height if square else legal) for height in higher):
                return Sides(legal, step, trial.scale(legal, step, square), square)
    return trial.only(legal)


def first_sides(step: int) -> list[int]:
    """Sides to try, px, all multiples of ``step``: common ones, then those next to them, even before odd."""
    even = [base + more for base in (128, 256, 512) for more in range(2, 66, 2)]
    odd = range(257, 320, 2)
    return [side for side in (*COMMON_SIDES, *even, *odd) if side % step == 0] or [step]


class Trial:
    """Tiles given to a network to see whether it takes them."""

    def __init__(self, compute: Compute, channels: int) -> None:
        self.compute, self.channels = saying_tile(compute), channels
        self.refusal = ""
        """What the network said to the last tile that it refused."""

    def output(self, height: int, width: int) -> tuple[int, int] | None:
        """Height and width of the output, px, for such a tile; None if the network does not take it.

        Raises
        ------
        ModelError
            If it takes the tile, and the output is not a map.
        """
        try:
            shape = self.compute(np.zeros((1, self.channels, height, width), np.float32)).shape
        except WsipipeError as error:
            self.refusal = f"last: {error}"
            return None
        if len(shape) != 4 or shape[0] != 1 or min(shape) < 1:
            raise ModelError(
                f"the network's output for one image of {size_text((height, width))} has the shape {tuple(shape)}, "
                "which is no map of classes; needed: (1, class, y, x)"
            )
        return shape[2], shape[3]

    def only(self, side: int) -> Sides:
        """The geometry of a network that takes tiles of ``side`` px and no others.

        Raises
        ------
        ModelError
            If it does not take them.
        """
        output = self.output(side, side)
        if output is None:
            raise ModelError(f"the network does not take its only tile, of {side} px; {self.refusal}")
        return Sides(side, 0, max(round(side / output[0]), 1), square=True)

    def scale(self, legal: int, step: int, square: bool) -> int:
        """Px of the input per px of the output, from two tiles whose heights differ.

        Raises
        ------
        ModelError
            If the output is not larger for the larger tile, or not by whole px.
        """
        small = self.output(legal, legal)
        for more in (lcm(step, span) for span in SPANS):
            large = self.output(legal + more, legal + more if square else legal)
            grown = large[0] - small[0] if large and small else 0
            if grown <= 0:
                break
            if more % grown == 0:
                return more // grown
        raise ModelError(
            f"the network's output is {small and small[0]} px high for a tile of {legal} px, and "
            f"{large and large[0]} px for {legal + more} px; it has to grow with the tile, by a px for each 1, 2, "
            "3, ... px of the input"
        )


def saying_tile(compute: Compute) -> Compute:
    """``compute``, whose errors say for which tile they came, and are a ModelError."""

    def computing(images: Floats) -> Floats:
        try:
            return compute(images)
        except WsipipeError:
            raise
        except Exception as error:  # whatever an unknown runtime raises
            height, width = images.shape[2:]
            raise ModelError(
                f"the network does not take a tile of {size_text((height, width))}: {str(error).strip()[:300]}"
            ) from error

    return computing


def transposed(compute: Compute) -> Compute:
    """``compute`` with y and x exchanged."""
    return lambda images: compute(np.ascontiguousarray(images.swapaxes(2, 3))).swapaxes(2, 3)
