"""Reading every codec and layout, one row of blocks after the other, against decoding the whole image once.

    python benchmarks/layouts.py SLIDE [MORE ...] [--block N] [--threads N] [--rounds N]

The pixels of SLIDE, repeated nine times, are written to a temporary folder in each codec, as strips and as tiles of
240 px (JPEG 2000: 256); MORE are read as they are. Blocks are read with their margins, and tiles are cached, as in a
run; "whole" is tifffile's `asarray` in the same number of threads. The ratio of a compressed file may not fall off a
cliff: decoding a strip as wide as the slide for each block would divide it by the number of blocks in a row.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tifffile

import wsipipe
from wsipipe.geometry.grid import Grid
from wsipipe.geometry.mirror import mirror
from wsipipe.geometry.network import UNetSizes
from wsipipe.inference import allocator
from wsipipe.inference.block import memory_of_thread
from wsipipe.pipeline.memory_need import kept_bytes
from wsipipe.slides.opened import LEVELS
from wsipipe.slides.pixels.mirrored import read_mirrored
from wsipipe.slides.pixels.tile_cache import Keep
from wsipipe.slides.slide import Level

CLIFF = 0.25
PAPER = UNetSizes(depth=4, convs=2).receptive
CODECS = ("jpeg", "jpeg2000", "deflate", "lzw", "zstd", None)


def written(slide: str, folder: Path) -> Iterator[Path]:
    """Write the same pixels in each codec and layout, and yield the files."""
    level = wsipipe.open_slide(slide).levels[0]
    pixels = np.tile(np.asarray(level.array[:1920, :1920]), (3, 3, 1))
    for codec in CODECS:
        side = 256 if codec == "jpeg2000" else 240
        layouts: dict[str, dict[str, object]] = {"tiles": {"tile": (side, side)}, "strips": {"rowsperstrip": 32}}
        if codec == "jpeg2000":
            del layouts["strips"]  # nobody writes these
        if codec in (None, "deflate"):
            layouts["one strip"] = {"rowsperstrip": len(pixels)}
        for layout, options in layouts.items():
            path = folder / f"{codec or 'none'}, {layout}.tif"
            tifffile.imwrite(path, pixels, photometric="rgb", compression=codec, metadata=None, **options)  # type: ignore[arg-type]
            yield path


def read_blocks(level: Level, block: int, threads: int) -> float:
    """Seconds that reading every block takes, margins included."""
    grid = Grid(level.shape, PAPER, block, block)
    keep, half = Keep(PAPER.margin, threads * kept_bytes(level, grid)), PAPER.margin // 2

    def read(index: tuple[int, int]) -> None:
        box = grid.block_box(index)
        rows = mirror(np.arange(box.y0 - half, box.y1 + half), level.shape[0])
        cols = mirror(np.arange(box.x0 - half, box.x1 + half), level.shape[1])
        count = len(rows) * len(cols) * level.channels * np.dtype(level.dtype).itemsize
        read_mirrored(level, rows, cols, memory=memory_of_thread("pixels", count), keep=keep)

    LEVELS.clear()  # so that nothing of the round before is cached
    level.array  # noqa: B018 - opened before the clock starts
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, grid.indices()))
    return time.perf_counter() - started


def decode_whole(path: Path, threads: int) -> float:
    """Seconds that tifffile takes for the whole image."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.series[0].levels[0].pages[0]
        started = time.perf_counter()
        page.asarray(maxworkers=threads)
        return time.perf_counter() - started


def main() -> None:
    """Print a line for each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide")
    parser.add_argument("more", nargs="*", type=Path)
    parser.add_argument("--block", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    allocator.settle()
    compressed = [1.0]
    with tempfile.TemporaryDirectory() as folder:
        for path in [*written(args.slide, Path(folder)), *args.more]:
            level = wsipipe.open_slide(path).levels[0]
            megapixels = level.shape[0] * level.shape[1] / 1e6
            times = [
                (decode_whole(path, args.threads), read_blocks(level, args.block, args.threads))
                for _ in range(args.rounds)
            ]
            ratio = statistics.median(whole / ours for whole, ours in times)
            if level.codec != "none":  # else pixels are copied at the speed of memory, with no decoder to compare
                compressed.append(ratio)
            whole, ours = (statistics.median(of) for of in zip(*times, strict=True))
            print(
                f"{path.stem:26}{megapixels:6.1f} MP  whole {megapixels / whole:7.1f} MP/s  "
                f"blocks {megapixels / ours:7.1f} MP/s  {ratio:.2f}",
                flush=True,
            )
    sys.exit(0 if min(compressed) >= CLIFF else 1)


if __name__ == "__main__":
    main()
