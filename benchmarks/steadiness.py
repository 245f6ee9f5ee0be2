"""Labels that change when the same tissue moves by a few pixels.

    python benchmarks/steadiness.py SLIDE... -m MODEL [--mpp F] [--tile 572] [--places 8]

MODEL is one of wsipipe's own U-Nets. Each place is a tile of SLIDE, at the model's resolution, spread over the slide;
the tile is predicted as it is, and moved down and to the right. Prints, for each distance, the pixels that get another
label, and the Dice coefficient of both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from wsipipe.arrays import Pixels
from wsipipe.geometry.grid import Box
from wsipipe.geometry.mirror import Indices
from wsipipe.model.forward import ReadPixels
from wsipipe.model.model_file import read_model_info
from wsipipe.model.unet_file import UNetInfo, load_unet
from wsipipe.rasters.image import raster_of
from wsipipe.slides.open import open_slide
from wsipipe.slides.slide import Level, choose_level
from wsipipe.training.steadiness import steadiness
from wsipipe.training.truth import bounding

CORNER_PX = 64
"""Tiles begin at multiples of this, a multiple of any stride."""


def main() -> None:
    """Measure all slides together, and print a line per distance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("-m", "--model", required=True, type=Path)
    parser.add_argument("--mpp", type=float, help="micrometres per pixel of slides that do not say it")
    parser.add_argument("--tile", type=int, default=572, help="side of a tile, px")
    parser.add_argument("--places", type=int, default=8, help="tiles per slide")
    args = parser.parse_args()
    info = read_model_info(args.model)
    assert isinstance(info.network, UNetInfo), f"{args.model} is not one of wsipipe's own U-Nets"
    network = load_unet(args.model, info.network).eval()
    levels = [choose_level(open_slide(slide, mpp=args.mpp), info.spec.mpp) for slide in args.slides]
    places = [place for level in levels for place in places_of(level, args.tile, args.places)]
    print(f"{len(places)} tiles of {args.tile} px\npx moved   labels that differ   Dice")
    for px, found in steadiness(network, info.spec, places).items():
        print(f"{px:>8}   {found['differs']:18.2%}   {found['dice']:.3f}", flush=True)


def places_of(level: Level, tile: int, count: int) -> list[tuple[ReadPixels, Box, tuple[int, int]]]:
    """Up to ``count`` tiles of a level, spread evenly, each with what reads it and the level's shape."""
    raster, (height, width) = raster_of(level), level.shape
    down = max(1, round(np.sqrt(count * height / width)))
    across = max(1, count // down)
    corners = {
        tuple(
            int(max(0, side - tile) * (k + 0.5) / n) // CORNER_PX * CORNER_PX
            for k, n, side in zip(at, (down, across), level.shape, strict=True)
        )
        for at in np.ndindex(down, across)
    }

    def read(rows: Indices, cols: Indices) -> Pixels:
        box, ys, xs = bounding(rows, cols)
        return raster.read(box)[ys[:, None], xs]

    boxes = [Box(y, min(y + tile, height), x, min(x + tile, width)) for y, x in sorted(corners)]
    return [(read, box, level.shape) for box in boxes]


if __name__ == "__main__":
    main()
