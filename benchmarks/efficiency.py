"""How much of the bare network's speed `run` reaches: from a slide on disk to a complete store.

    python benchmarks/efficiency.py SLIDE [-m BUNDLE] [--mpp F] [--engine NAME] [--tile N] [--rounds N]

The bare network is the same replica on the same tiles, cut and mirrored beforehand and held in memory. Both run
in this process, in turn; what counts is the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import wsipipe
from wsipipe.geometry.mirror import mirror
from wsipipe.inference import allocator
from wsipipe.inference.devices import threads_per_replica
from wsipipe.inference.replica import Pixels, Replica
from wsipipe.pipeline.config import DEFAULT_BUNDLE, RunConfig, check_config
from wsipipe.pipeline.plan import grid_of
from wsipipe.slides.reading import read_mirrored
from wsipipe.slides.slide import choose_level

WANTED = 0.97


def cut_tiles(slide: str, config: RunConfig) -> tuple[list[Pixels], int]:
    """Every tile of the slide, as a run cuts them, and how many pixels they give."""
    setup = check_config(config)
    level = choose_level(wsipipe.open_slide(slide, mpp=config.mpp), setup.bundle.spec.mpp)
    grid = grid_of(level, setup)
    half, tiles = grid.receptive.margin // 2, []
    for index in grid.indices():
        box = grid.block_box(index)
        for core in grid.cores((grid.computed_sides(0)[index[0]], grid.computed_sides(1)[index[1]])):
            rows = mirror(np.arange(box.y0 + core.y0 - half, box.y0 + core.y1 + half), level.shape[0])
            cols = mirror(np.arange(box.x0 + core.x0 - half, box.x0 + core.x1 + half), level.shape[1])
            tiles.append(read_mirrored(level, rows, cols))
    return tiles, level.shape[0] * level.shape[1]


def in_thread(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes in a thread of its own.

    Each thread that computes has an OpenMP team; one left behind by the main thread would slow down all others.
    """

    def timed() -> None:
        torch.set_num_threads(threads_per_replica(("cpu",)))
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)

    seconds: list[float] = []
    thread = threading.Thread(target=timed)
    thread.start()
    thread.join()
    return seconds[0]


def main() -> None:
    """Print both speeds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide")
    parser.add_argument("-m", "--model", default=str(DEFAULT_BUNDLE))
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    config = RunConfig(bundle=args.model, device="cpu", engine=args.engine, mpp=args.mpp, tile=args.tile, tissue="off")
    allocator.settle()
    tiles, pixels = cut_tiles(args.slide, config)
    setup = check_config(config)
    threads = threads_per_replica(setup.devices)
    replica = Replica(wsipipe.load_bundle(args.model), "cpu", engine=setup.engine, threads=threads)
    ratios = []
    for round_ in range(-1, args.rounds):  # the first is a warm-up
        bare = in_thread(lambda: [replica.predict([tile]) for tile in tiles])
        with tempfile.TemporaryDirectory() as out:
            (slide,) = wsipipe.run([args.slide], replace(config, out=out)).slides
        if round_ < 0:
            continue
        ratios.append(bare / slide.seconds)
        print(f"bare {pixels / 1e6 / bare:.3f} MP/s   run {pixels / 1e6 / slide.seconds:.3f} MP/s   {ratios[-1]:.3f}")
    median = statistics.median(ratios)
    print(f"{Path(args.slide).name}, {setup.engine}: run / bare network, median of {args.rounds}: {median:.3f}")
    sys.exit(0 if median >= WANTED else 1)


if __name__ == "__main__":
    main()
