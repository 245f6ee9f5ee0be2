"""What margins below a network's reach change: the labels of real tissue, computed with less around them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from dask.system import CPU_COUNT

from wsipipe.errors import ChannelError, GeometryError, SlideFormatError
from wsipipe.geometry.grid import Box, boxes
from wsipipe.geometry.network import Receptive, round_up
from wsipipe.inference.devices import resolve_engine
from wsipipe.inference.replica import Replica
from wsipipe.model.model_file import load_model
from wsipipe.slides.open import open_slide
from wsipipe.slides.slide import Level, choose_level
from wsipipe.tissue.detect import find_tissue

CORE_PX = 512
"""About the side of the parts that are computed."""
MOST_PARTS = 4
FRACTIONS = (0.75, 0.5, 0.25, 0.125)
"""Margins to try, as shares of the exact one."""


@dataclass(frozen=True)
class MarginShare:
    """What one margin changes."""

    px: int
    """Pixels around a core."""
    cost: float
    """Pixels computed for one that is kept, in cores of 1024 px."""
    share: float
    """Share of the labels that differ from those of exact tiles."""


def margin_shares(model: str, slide: str) -> list[MarginShare]:
    """The share of labels that margins below the reach of a ``model`` change, in the tissue of a ``slide``.

    Returns
    -------
    From wide to narrow; empty if the network takes no tiles with less around their cores.

    Raises
    ------
    ModelError, SlideError
        If the model or the slide cannot be used, or there is no tissue.
    """
    loaded, opened = load_model(model), open_slide(slide)
    sizes, level = loaded.info.receptive, choose_level(opened, loaded.spec.mpp)
    if level.channels != (wanted := loaded.info.network.in_channels):
        raise ChannelError(f"{opened.file} has {level.channels} channels, model {model} takes {wanted}")
    mask, _ = find_tissue(opened, level, halo=0)
    core = sizes.largest_core or round_up(CORE_PX, sizes.stride)
    parts = sorted(boxes(level.shape, core), key=lambda part: -int(np.count_nonzero(mask.over(part))))[:MOST_PARTS]
    if not any(mask.meets(part) for part in parts):
        raise SlideFormatError(f"{opened.file}: no tissue was found, to compare labels in; give another slide")
    engine = resolve_engine("auto", ("cpu",), kind=loaded.info.network.kind)
    tiles = [_tile(level, part, core, sizes.margin // 2) for part in parts]

    replica = Replica(loaded, "cpu", engine=engine, threads=CPU_COUNT)

    def labels(receptive: Receptive) -> np.ndarray:
        cut, replica.receptive = (sizes.margin - receptive.margin) // 2, receptive
        with replica.lane():
            inner = [tile[cut : tile.shape[0] - cut, cut : tile.shape[1] - cut] for tile in tiles]
            return np.stack([replica.predict([tile]).labels[0] for tile in inner])

    exact, found = labels(sizes), []
    half = sizes.margin // 2
    for steps in sorted({max(1, round((1 - fraction) * half / sizes.stride)) for fraction in FRACTIONS}):
        try:
            narrow = sizes.narrowed(half - steps * sizes.stride)
        except GeometryError:
            break
        share = float(np.mean(labels(narrow) != exact))
        found.append(MarginShare(narrow.margin // 2, ((1024 + narrow.margin) / 1024) ** 2, share))
    return found


def _tile(level: Level, part: Box, core: int, half: int) -> np.ndarray:
    """The pixels of a core at the origin of ``part`` and ``half`` px around it, mirrored beyond the level."""
    side = core + 2 * half
    return level.read(part.y0 - half, part.x0 - half, side, side, mirror=True)
