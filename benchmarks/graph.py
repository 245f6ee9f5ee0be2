"""The task graph of a slide of 100 000 x 100 000 px: tasks per block, and seconds to build it.

    python benchmarks/graph.py SLIDE [-m MODEL]

SLIDE has that size; none of its pixels is read. A plain `map_overlap` over its pixels is built for comparison.
"""

from __future__ import annotations

import argparse
import time

import dask.array as da
import numpy as np

import wsipipe
from wsipipe.geometry.grid import Grid
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.pipeline.graph import map_blocks
from wsipipe.pipeline.setup import CORE_PX


def main() -> None:
    """Print a line for each block size and each kind of graph."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide")
    parser.add_argument("-m", "--model", default=str(DEFAULT_MODEL))
    args = parser.parse_args()
    model = wsipipe.load_model(args.model).info
    shape = wsipipe.open_slide(args.slide, mpp=model.spec.mpp).levels[0].shape
    for block in (1024, 2048, 4096):
        started = time.perf_counter()
        grid = Grid(shape, model.receptive, min(CORE_PX, block), block)
        chunks = tuple(grid.block_sides(axis) for axis in (0, 1))
        blocks = map_blocks(print, None, grid, chunks=chunks, dtype=np.uint8, meta=np.empty((0, 0), np.uint8))
        report(f"coordinates, blocks of {block} px", blocks, time.perf_counter() - started)
        started = time.perf_counter()
        pixels = da.zeros((*shape, 3), chunks=(block, block, 3), dtype=np.uint8)
        plain = da.map_overlap(
            lambda tile: tile[..., 0],
            pixels,
            depth={0: 94, 1: 94, 2: 0},
            boundary="reflect",
            drop_axis=2,
            dtype=np.uint8,
        )
        report(f"pixels,      blocks of {block} px", plain, time.perf_counter() - started)


def report(name: str, array: da.Array, seconds: float) -> None:
    """Print the number of tasks of ``array``, and the seconds it took to build."""
    tasks = len(dict(array.__dask_graph__()))
    print(f"{name}: {tasks:7,} tasks, {tasks / array.npartitions:5.2f} a block, built in {seconds:.2f} s", flush=True)


if __name__ == "__main__":
    main()
