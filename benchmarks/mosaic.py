"""A slide as large as a benchmark wants, made of the pixels of a small one: one level of JPEG tiles.

    python benchmarks/mosaic.py SLIDE OUT [--mpp F] [--side 40000] [--tile 240]

The middle of SLIDE's finest level, up to 16 tiles wide and high, is repeated, mirrored at its edges.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import tifffile

import wsipipe
from wsipipe.arrays import Pixels
from wsipipe.geometry.mirror import mirror
from wsipipe.slides.pixels.mirrored import read_mirrored
from wsipipe.slides.slide import Level

MOST_TILES = 16
"""Tiles of what is repeated, along each axis."""


def tiles_of(level: Level, side: int, tile: int) -> Iterator[Pixels]:
    """The tiles (y, x, channel), uint8, of a slide of ``side`` px, row by row."""
    counts = [max(1, min(MOST_TILES, length // tile)) for length in level.shape]
    rows, cols = (
        mirror(np.arange(count * tile) + (length - count * tile) // 2, length)
        for length, count in zip(level.shape, counts, strict=True)
    )
    middle = read_mirrored(level, rows, cols)

    def stretch(number: int, count: int) -> slice:
        """The pixels of tile ``number`` among those of ``count`` tiles, there and back again."""
        first = int(mirror(np.array(number), count)) * tile
        there = slice(first, first + tile)
        return there if number // count % 2 == 0 else slice(there.stop - 1, first - 1 if first else None, -1)

    places = [[stretch(number, count) for number in range(-(-side // tile))] for count in counts]
    for ys, xs in product(*places):
        yield np.ascontiguousarray(middle[ys, xs])


def main() -> None:
    """Write the slide."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide")
    parser.add_argument("out", type=Path)
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--side", type=int, default=40000)
    parser.add_argument("--tile", type=int, default=240)
    args = parser.parse_args()
    slide = wsipipe.open_slide(args.slide, mpp=args.mpp)
    assert slide.mpp is not None, "the slide does not say its resolution: --mpp"
    tifffile.imwrite(
        args.out,
        tiles_of(slide.levels[0], args.side, args.tile),
        shape=(args.side, args.side, 3),
        dtype=np.uint8,
        tile=(args.tile, args.tile),
        photometric="rgb",
        compression="jpeg",
        compressionargs={"level": 85},
        maxworkers=os.cpu_count(),
        resolution=(1e4 / slide.mpp, 1e4 / slide.mpp),
        resolutionunit="CENTIMETER",
        metadata=None,
    )


if __name__ == "__main__":
    main()
