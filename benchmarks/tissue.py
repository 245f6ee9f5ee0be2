"""The glass that the tissue mask saves computing, and the labelled pixels that it loses.

    python benchmarks/tissue.py SLIDE [--mpp F] [-m MODEL] [--tile N] [--block N]
    python benchmarks/tissue.py SLIDE --lost [--mpp F] [-m MODEL]

The first prints the share of the glass that does not go through the network. It needs a slide whose glass is known: the
tiles that lie at the same place in the file as the first tile. The second runs the network everywhere, and prints how
many labelled pixels lie outside the tissue mask.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr

import wsipipe
from wsipipe.geometry.grid import Box, Grid
from wsipipe.inference.block import cores_met
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.model.model_file import ModelInfo, read_model_info
from wsipipe.slides.readers.tiff.store import TiffStore
from wsipipe.slides.slide import Level, choose_level
from wsipipe.tissue.detect import find_tissue
from wsipipe.tissue.mask import TissueMask
from wsipipe.tissue.searched import searched_in


def glass_of(level: Level) -> np.ndarray:
    """Whether each tile of ``level`` is glass, (rows, columns), bool."""
    store = level.array.store
    assert isinstance(store, TiffStore)
    page = store.image.pages[0]
    places = np.reshape(page.dataoffsets, page.chunked[:2])
    return places == places[0, 0]


def not_computed(level: Level, grid: Grid, mask: TissueMask) -> float:
    """The share of the glass that lies outside every computed core."""
    glass, (height, width) = glass_of(level), level.tile
    computed = np.zeros(tuple(-(-side // 16) for side in level.shape), bool)  # every core begins and ends on 16 px
    for index in grid.indices():
        box = grid.block_box(index)
        sides = grid.computed_sides(0)[index[0]], grid.computed_sides(1)[index[1]]
        for core in cores_met(list(grid.cores(sides)), grid, searched_in(box, mask, None)):
            at = core.moved(box.y0, box.x0)
            computed[at.y0 // 16 : -(-at.y1 // 16), at.x0 // 16 : -(-at.x1 // 16)] = True
    rows, cols = (np.arange(n) * 16 // side for n, side in zip(computed.shape, (height, width), strict=True))
    is_glass = glass[rows][:, cols]
    return float((is_glass & ~computed).sum() / is_glass.sum())


def lost(slide: str, mpp: float | None, model: ModelInfo, mask: TissueMask) -> tuple[int, int]:
    """The number of labelled pixels outside ``mask``, and of all labelled pixels."""
    with tempfile.TemporaryDirectory() as out:
        (done,) = wsipipe.run([slide], wsipipe.RunConfig(out=out, model=model.path, mpp=mpp, tissue="off")).slides
        labels = np.asarray(zarr.open_array(Path(str(done.store)) / "0", mode="r")[...])
    every = int(np.count_nonzero(labels))
    mask.clear_outside(labels, Box(0, labels.shape[0], 0, labels.shape[1]))
    return every - int(np.count_nonzero(labels)), every


def main() -> None:
    """Print the share of glass that is saved, or of labelled pixels that is lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide")
    parser.add_argument("-m", "--model", default=str(DEFAULT_MODEL))
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--block", type=int, default=4096)
    parser.add_argument("--lost", action="store_true")
    args = parser.parse_args()
    model = read_model_info(args.model)
    slide = wsipipe.open_slide(args.slide, mpp=args.mpp)
    level = choose_level(slide, model.spec.mpp)
    started = time.perf_counter()
    mask, how = find_tissue(slide, level, halo=model.receptive.halo)
    name, seconds = Path(args.slide).name, time.perf_counter() - started
    print(f"{name}: tissue covers {mask.share:.1%} ({how}), found in {seconds:.1f} s")
    if args.lost:
        out, every = lost(args.slide, args.mpp, model, mask)
        print(f"{name}: {out} of {every} labelled pixels are outside the mask: {out / every:.3%}")
    else:
        share = not_computed(level, Grid(level.shape, model.receptive, args.tile, args.block), mask)
        print(f"{name}, tiles of {args.tile} px: {share:.1%} of the glass is not computed")


if __name__ == "__main__":
    main()
