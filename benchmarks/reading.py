"""Reading alone, against imagecodecs decoding the same tiles in the same number of threads.

    python benchmarks/reading.py SLIDE [--block N] [--threads 1 2] [--rounds N]

SLIDE is a TIFF of JPEG tiles. The bare decoder gets the bytes of each tile by `os.pread`, hands them to imagecodecs and
drops the pixels; reading also checks that the tiles are whole, and assembles them into blocks with their margins: as a
run does, into memory that is used again; by `Level.read`; by `Level.array`; and by that array as zarr itself reads it,
through its event loop. All take the same blocks, in turn, in this process; only the median ratios matter.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import imagecodecs
import numpy as np
import zarr

import wsipipe
from wsipipe.geometry.grid import Box
from wsipipe.inference import allocator
from wsipipe.inference.block import memory_of_thread
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.pixels.tile_store import TileStore
from wsipipe.slides.slide import Level

WANTED = 0.8
MARGIN = 188
JPEG = 7


def decode_bare(level: Level, box: Box) -> None:
    """Decode every tile that ``box`` meets, and drop the pixels."""
    store = level.array.store
    assert isinstance(store, TileStore)
    page, (height, width) = store.image.pages[0], level.tile
    colours = {"colorspace": "RGB", "outcolorspace": "RGB"} if page.photometric == 2 else {}  # as they are stored
    for i, j in product(range(box.y0 // height, -(-box.y1 // height)), range(box.x0 // width, -(-box.x1 // width))):
        number = i * page.chunked[1] + j
        data = store.file.read(int(page.dataoffsets[number]), int(page.databytecounts[number]))
        imagecodecs.jpeg8_decode(data, tables=page.jpegtables, **colours)


def read(level: Level, box: Box) -> None:
    """Read ``box`` as a run does."""
    height, width = box.shape
    memory = memory_of_thread("pixels", height * width * level.channels)
    read_box(level, box, into=memory.reshape(height, width, level.channels))


def read_level(level: Level, box: Box) -> None:
    """Read ``box`` as users do."""
    level.read(box.y0, box.x0, *box.shape)


def read_array(level: Level, box: Box) -> None:
    """Read ``box`` as dask does."""
    level.array[box.slices]


def read_by_zarr(level: Level, box: Box) -> None:
    """Read ``box`` through zarr's event loop."""
    zarr.Array(level.array.async_array)[box.slices]


WAYS = {"a run": read, "level.read": read_level, "level.array": read_array, "zarr's loop": read_by_zarr}
"""Ways to read, by name; the first is what `WANTED` is asked of."""


def seconds(work: Callable[[Level, Box], None], level: Level, boxes: list[Box], pool: ThreadPoolExecutor) -> float:
    """Seconds that ``work`` takes for all ``boxes``, shared among the threads of ``pool``."""
    started = time.perf_counter()
    list(pool.map(lambda box: work(level, box), boxes))
    return time.perf_counter() - started


def main() -> None:
    """Print both speeds and their ratio, for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide")
    parser.add_argument("--block", type=int, default=4096)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    allocator.settle()
    level = wsipipe.open_slide(args.slide).levels[0]
    assert isinstance(level.array.store, TileStore)
    assert level.array.store.image.pages[0].compression == JPEG, "not a slide of JPEG tiles"
    side = args.block + MARGIN
    starts = [range(0, length - side, args.block) for length in level.shape]
    boxes = [Box(y, y + side, x, x + side) for y, x in product(*starts)]
    np.random.default_rng(0).shuffle(boxes)  # type: ignore[arg-type]
    medians = []
    for threads in args.threads:
        speeds: dict[str, list[float]] = {name: [] for name in ("imagecodecs", *WAYS)}
        with ThreadPoolExecutor(threads) as pool:
            for round_ in range(-1, args.rounds):  # the first is a warm-up
                some = [boxes[(round_ * threads + k) % len(boxes)] for k in range(threads)]
                for name, work in {"imagecodecs": decode_bare, **WAYS}.items():
                    took = seconds(work, level, some, pool)
                    if round_ >= 0:
                        speeds[name].append(side**2 * threads / 1e6 / took)
        for name, of_way in speeds.items():
            ratios = [ours / bare for ours, bare in zip(of_way, speeds["imagecodecs"], strict=True)]
            low, median, high = statistics.quantiles(ratios, n=4)
            medians += [median] * (name == next(iter(WAYS)))
            print(
                f"{threads} threads: {name:11} {statistics.median(of_way):4.0f} MP/s, median ratio of {args.rounds} "
                f"{median:.3f} (quartiles {low:.3f} and {high:.3f})"
            )
    sys.exit(0 if min(medians) >= WANTED else 1)


if __name__ == "__main__":
    main()
