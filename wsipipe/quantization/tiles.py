"""Tiles of tissue: some to calibrate a network on, others of the same slides to compare it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np

from wsipipe.arrays import Pixels
from wsipipe.errors import ChannelError, SlideFormatError
from wsipipe.files import Location
from wsipipe.geometry.grid import Box, boxes
from wsipipe.geometry.network import Receptive, round_up
from wsipipe.model.model_file import ModelInfo
from wsipipe.slides.open import open_slide
from wsipipe.slides.slide import Level, choose_level
from wsipipe.tissue.detect import find_tissue

CORE_PX = 256
"""About the side of a tile's core."""
SEED = 0
"""Seed of the choice of tiles."""
MOSTLY = 0.5
"""Share of a core that is tissue in tiles that are taken before others."""


@dataclass(frozen=True)
class TissueTile:
    """A tile as a run would cut it: a core in the tissue of a slide, and what the network needs around it."""

    slide: str
    """Name of the slide's file."""
    level: Level
    """The level that is segmented."""
    core: Box
    """The core, cut to the level, in its pixels."""

    def pixels(self, receptive: Receptive) -> Pixels:
        """(y, x, channel), uint8 or uint16, of the core, its sides rounded up to the stride, and half a margin around.

        Raises
        ------
        SlideReadError
            If they cannot be read.
        """
        half = receptive.margin // 2
        height, width = (round_up(side, receptive.stride) + receptive.margin for side in self.core.shape)
        return self.level.read(self.core.y0 - half, self.core.x0 - half, height, width, mirror=True)


def tissue_tiles(
    model: ModelInfo, slides: Sequence[Location], count: int, *, mpp: float | None = None
) -> tuple[list[TissueTile], list[TissueTile]]:
    """Up to ``count`` tiles to calibrate ``model`` on, and up to as many others of the same ``slides``.

    They are drawn at random, always the same, and evenly from the slides.

    Parameters
    ----------
    model
        The model; slides are read at its micrometres per pixel.
    slides
        Files of slides.
    count
        Number of tiles.
    mpp
        Micrometres per pixel of the slides' finest level, instead of those in their files.

    Raises
    ------
    ChannelError, ResolutionError
        If a slide does not suit the model.
    SlideFormatError
        If there is no tissue, or so little that no tile is left to compare on.
    SlideReadError
        If a slide cannot be read.
    """
    rng = np.random.default_rng(SEED)
    drawn = []
    for path in slides:
        tiles = _tiles_of(model, path, mpp)
        drawn.append([tiles[i] for i in rng.permutation(len(tiles))])
    # Of slides of one tile each, every other one is compared on.
    calibrating, comparing = (
        _in_turns([tiles[(number + side) % 2 :: 2] for number, tiles in enumerate(drawn)])[:count] for side in (0, 1)
    )
    if not comparing:
        raise SlideFormatError(
            f"{', '.join(tile.slide for tile in calibrating)} has tissue for one tile of {CORE_PX} px only; at least "
            "two are needed, to calibrate on and to compare on; give more slides (--on)"
        )
    return calibrating, comparing


def _tiles_of(model: ModelInfo, path: Location, mpp: float | None) -> list[TissueTile]:
    """The tiles of one slide that are mostly tissue, or if there are none, those that have some."""
    slide = open_slide(path, mpp=mpp)
    level = choose_level(slide, model.spec.mpp)
    if level.channels != (wanted := model.network.in_channels):
        raise ChannelError(f"{slide.file} has {level.channels} channels, model {model.spec.name!r} takes {wanted}")
    mask, _ = find_tissue(slide, level, halo=0)
    core = model.receptive.largest_core or round_up(CORE_PX, model.receptive.stride)
    shares = [(box, float(mask.over(box).mean())) for box in boxes(level.shape, core)]
    cores = [box for box, share in shares if share >= MOSTLY] or [box for box, share in shares if share > 0]
    if not cores:
        raise SlideFormatError(f"{slide.file}: no tissue was found, to calibrate on; give another slide (--on)")
    return [TissueTile(slide.file, level, box) for box in cores]


def _in_turns(lists: Sequence[Sequence[TissueTile]]) -> list[TissueTile]:
    """The first of each, the second of each, and so on."""
    return [tile for tile in chain.from_iterable(zip_longest(*lists)) if tile is not None]
