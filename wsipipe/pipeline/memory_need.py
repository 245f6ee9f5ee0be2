"""The memory that a block, a task that looks for tissue, and a network take; bytes."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from wsipipe.geometry.grid import Grid
from wsipipe.geometry.scale import stored_side
from wsipipe.inference.devices import OPENVINO, count_in_machine, lanes
from wsipipe.inference.pool import PoolSpec
from wsipipe.model.model_file import NetworkInfo
from wsipipe.pipeline.objects_plan import (
    INSTANCE_BYTES,
    JOINING_BYTES,
    OUTLINE_BYTES,
    RUN_BLOCK_PX,
    block_side,
    measuring_bytes,
)
from wsipipe.pipeline.setup import Setup
from wsipipe.slides.pixels.mirrored import averaging_bytes
from wsipipe.slides.readers.picture import PictureReader
from wsipipe.slides.readers.tiff.reader import TiffReader
from wsipipe.slides.slide import Level
from wsipipe.tissue.detect import find_bytes
from wsipipe.tissue.mask_file import TISSUE_OFF

UINT16 = 2
"""Bytes of a sample."""
MOST_KEPT_BYTES = 2**27
"""Most bytes of tiles kept for the next block, for each block in flight: strips of slides up to 20 000 px wide."""
REGION_BYTES = 3
"""A region as drawn into a block, bytes a pixel: one polygon, all of them, and which bad tiles they meet."""
AT_ONCE = 10
"""Pieces of a file that zarr decodes at a time (its ``async.concurrency``)."""


def block_bytes(level: Level, grid: Grid, *, shares: int) -> int:
    """The most that one block in flight holds: pixels as read, averaged and mirrored, labels, and shards to write.

    Parameters
    ----------
    level
        The level that is read; huge tiles or strips are decoded whole, one at a time.
    grid
        The blocks.
    shares
        Values that are written beside the label of a pixel: probabilities of classes, and the uncertainty.
    """
    pixel = level.channels * np.dtype(level.dtype).itemsize
    height, width = (max(grid.computed_sides(axis)) for axis in (0, 1))
    margin = grid.receptive.margin
    pixels = (height + margin) * (width + margin) * pixel
    labels = height * width
    encoded = 2 * height * width  # labels of all levels, and the shard being assembled
    averaged = averaging_bytes(level, (height + margin, width + margin))
    met = prod(
        1 if piece >= whole else -(-stored_side(side + margin, level.shrink) // piece) + 1
        for whole, side, piece in zip(level.stored.shape, (height, width), level.tile, strict=True)
    )
    decoded = min(met, AT_ONCE) * level.tile[0] * level.tile[1] * pixel
    kept = kept_bytes(level, grid)
    return 2 * pixels + averaged + labels + encoded + decoded + kept + 4 * shares * labels


def kept_bytes(level: Level, grid: Grid) -> int:
    """The memory of the decoded tiles that a block shares with the next; 0 if that is too much, and they are not kept.

    All blocks of a row share a strip as wide as the slide; decoding it for each of them would take that many times as
    long. Uncompressed pixels can just as well be read again, and tiles read through zarr are not kept.
    """
    if grid.blocks[1] == 1 or level.codec == "none" or level.reader != TiffReader.name:
        return 0
    pieces = prod(
        min(-(-stored_side(side, level.shrink) // piece) + 1, -(-whole // piece))
        for side, piece, whole in zip(
            (max(grid.computed_sides(0)) + grid.receptive.margin, grid.receptive.margin),
            level.tile,
            level.stored.shape,
            strict=True,
        )
    )
    need = pieces * level.tile[0] * level.tile[1] * level.channels * np.dtype(level.dtype).itemsize
    return need if need <= MOST_KEPT_BYTES else 0


def decoded_bytes(level: Level) -> int:
    """The memory of a file that can only be decoded whole, however many blocks are in flight; 0 for all others.

    One such picture stays decoded, and decoding the next takes another, with its alpha channel, and its encoded bytes.
    """
    if level.reader != PictureReader.name:
        return 0
    return 3 * prod(level.stored.shape) * level.channels * np.dtype(level.dtype).itemsize


def weight_bytes(model: str, devices: tuple[str, ...], engine: str) -> int:
    """The memory of the weights: as loaded, and again for each replica in the machine's; twice that for OpenVINO."""
    copies = 2 if engine == OPENVINO else 1
    return Path(model).stat().st_size * copies * (1 + count_in_machine(devices))


def network_bytes(network: NetworkInfo, side: int, pool: PoolSpec, devices: tuple[str, ...]) -> int:
    """The machine's memory (not a GPU's) that replicas of ``pool`` on ``devices`` take for tiles of ``side`` px."""
    pixels = UINT16 * pool.batch * side * side * network.in_channels  # the stacked batch
    here = count_in_machine(devices)
    cuda = sum(lanes(device) for device in devices) - here
    return here * (pixels + pool.tensor_bytes(network, side, pool.batch)) + cuda * pinned_bytes(network, side, pool)


def pinned_bytes(network: NetworkInfo, side: int, pool: PoolSpec) -> int:
    """The pinned memory of one lane of a GPU, for batches of tiles of ``side`` px.

    torch rounds each array up to a power of two, and keeps it for the next of that size (``CachingHostAllocator.h``).
    Smaller batches, and the smaller tiles at the edges of slides, take at most as much again.
    """
    cores = pool.batch * (side - pool.receptive.margin) ** 2
    pixels = UINT16 * pool.batch * side * side * network.in_channels
    arrays = [pixels, cores, cores * network.classes * pool.probabilities, cores * pool.uncertainty]
    return 2 * sum(1 << (count - 1).bit_length() for count in arrays if count)


def tissue_need(level: Level, setup: Setup) -> int:
    """The most bytes that a task which finds the tissue of ``level`` holds."""
    return 0 if setup.tissue == TISSUE_OFF else find_bytes(level)


def block_need(level: Level, grid: Grid, setup: Setup) -> int:
    """The most bytes that one block of ``level`` holds, or joining the objects of all blocks, or filling in ids."""
    classes, probabilities = setup.model.network.classes, setup.probabilities
    need = block_bytes(level, grid, shares=classes * probabilities + setup.uncertainty)
    need += REGION_BYTES * grid.block**2 * (setup.roi is not None)
    if setup.objects is not None:
        side = block_side(grid.block, RUN_BLOCK_PX)
        need += measuring_bytes(level, side, classes=classes, probabilities=probabilities)
        need = max(need, JOINING_BYTES + OUTLINE_BYTES, setup.objects.instances * INSTANCE_BYTES * grid.block**2)
    return need


def network_need(grid: Grid, setup: Setup) -> int:
    """The most bytes of this machine's memory that the replicas hold."""
    side = min(grid.core, max(*grid.computed_sides(0), *grid.computed_sides(1))) + grid.receptive.margin
    return network_bytes(setup.model.network, side, setup.pool, setup.devices)
