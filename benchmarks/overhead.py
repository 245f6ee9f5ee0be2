"""The cost of everything but the network: `run` without a network, end to end, against reading alone.

    python benchmarks/overhead.py SLIDE [--block N] [--threads N] [--rounds N]

The network is replaced by labels made once: random objects of 16 px and more, which take as long to compress as the
nuclei of a real slide (0.85 and 0.95 ms per megapixel), and are written. Reading alone reads the same blocks with the
same margins in the same number of threads. Both run in this process, in turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partialmethod
from pathlib import Path
from unittest import mock

import numpy as np

import wsipipe
from wsipipe.arrays import Pixels
from wsipipe.geometry.grid import Box
from wsipipe.inference import allocator
from wsipipe.inference.block import memory_of_thread
from wsipipe.inference.replica import Prediction, Replica
from wsipipe.model.spec import default_classes
from wsipipe.pipeline.run_plan import RunPlan, plan_run
from wsipipe.pipeline.setup import resolve
from wsipipe.slides.pixels.mirrored import read_box

WANTED, MOST_PLANNING = 0.7, 0.01


class NoNetwork:
    """Replaces `Replica.predict`: the same labels for each shape of tiles, with objects of 16 px and more."""

    def __init__(self) -> None:
        self.predictions: dict[tuple[int, ...], Prediction] = {}

    def __call__(self, replica: Replica, tiles: list[Pixels]) -> Prediction:
        """Labels (n, y, x), uint8, of the cores of ``tiles``, each (y, x, channel)."""
        height, width = (side - replica.receptive.margin for side in tiles[0].shape[:2])
        shape = len(tiles), height, width
        if shape not in self.predictions:
            objects = np.random.default_rng(0).random((len(tiles), -(-height // 16), -(-width // 16))) < 0.15
            labels = objects.view(np.uint8).repeat(16, 1).repeat(16, 2)[:, :height, :width]
            self.predictions[shape] = Prediction(np.ascontiguousarray(labels), None)
        return self.predictions[shape]


def read_all(run: RunPlan) -> float:
    """Seconds that reading every block takes, in as many threads as the run has."""
    (plan,) = run.planned
    grid, level = plan.grid, plan.level
    half = grid.receptive.margin // 2

    def read(index: tuple[int, int]) -> None:
        box = grid.block_box(index)
        (height, width), y0, x0 = grid.shape, max(0, box.y0 - half), max(0, box.x0 - half)
        box = Box(y0, min(height, box.y1 + half), x0, min(width, box.x1 + half))
        memory = memory_of_thread("pixels", box.shape[0] * box.shape[1] * level.channels)
        read_box(level, box, into=memory.reshape(*box.shape, level.channels))

    started = time.perf_counter()
    with ThreadPoolExecutor(run.threads) as threads:
        list(threads.map(read, grid.indices()))
    return time.perf_counter() - started


def main() -> None:
    """Print both speeds, their ratio, the work per block beside reading and writing, and the time for planning."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide")
    parser.add_argument("--block", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    allocator.settle()
    ratios, own, planning = [], [], []
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Replica, "predict", partialmethod(NoNetwork())):
        model = str(Path(folder) / "none.safetensors")
        network = wsipipe.UNet(base_channels=1, depth=4)
        wsipipe.save_model(model, network, wsipipe.ModelSpec(classes=default_classes(2)))
        for round_ in range(-1, args.rounds):  # the first is a warm-up
            config = wsipipe.RunConfig(
                f"{folder}/{round_}",
                model,
                tile=1024,
                block=args.block,
                threads=args.threads,
                device="cpu",
                tissue="off",
            )
            started = time.perf_counter()
            run = plan_run([args.slide], resolve(config))
            planned = time.perf_counter() - started
            reading = read_all(run)
            slide = wsipipe.run([args.slide], config).slides[0]
            assert slide.status == "done", slide.message
            if round_ >= 0:
                ratios.append(reading / slide.seconds)
                own.append(1e3 * slide.spent.other / slide.blocks)
                planning.append(planned / reading)
                megapixels = slide.pixels / 1e6
                print(
                    f"reading {megapixels / reading:.0f} MP/s   run {megapixels / slide.seconds:.0f} MP/s   "
                    f"{ratios[-1]:.3f}   own {own[-1]:.1f} ms a block   planning {planned * 1e3:.0f} ms",
                    flush=True,
                )
    print(
        f"{Path(args.slide).name}: run without a network / reading alone, median of {args.rounds}: "
        f"{statistics.median(ratios):.3f}; own work {statistics.median(own):.1f} ms a block of {args.block} px; "
        f"planning / reading {statistics.median(planning):.4f}"
    )
    sys.exit(0 if statistics.median(ratios) >= WANTED else 1)


if __name__ == "__main__":
    main()
