"""Reading blocks of a shrunk level, against reading the same pixels of the file unshrunk.

    python benchmarks/shrinking.py SLIDE [--shrink R] [--block N] [--threads 1 2] [--rounds N]

Both read the same blocks with their margins, in turn, in this process; only the median ratio matters. Megapixels are
those of the file.
"""

from __future__ import annotations

import argparse
import statistics
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
from reading import MARGIN, read, seconds

import wsipipe
from wsipipe.geometry.grid import Box
from wsipipe.inference import allocator
from wsipipe.slides.pixels.averaging import means
from wsipipe.slides.slide import Level


def of_stored(level: Level, box: Box) -> Box:
    """The pixels in the file from which those of ``box`` are averaged."""
    (y0, y1), (x0, x1) = (
        means(start, stop, level.shrink, side).stored
        for start, stop, side in zip((box.y0, box.x0), (box.y1, box.x1), level.stored.shape, strict=True)
    )
    return Box(y0, y1, x0, x1)


def main() -> None:
    """Print both speeds and their ratio, for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide")
    parser.add_argument("--shrink", type=float, default=2.0145)
    parser.add_argument("--block", type=int, default=4096)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    allocator.settle()
    stored = wsipipe.open_slide(args.slide).levels[0]
    level = stored.shrunk(args.shrink)
    side = args.block + MARGIN
    boxes = [Box(y, y + side, x, x + side) for y, x in product(*(range(0, n - side, args.block) for n in level.shape))]
    np.random.default_rng(0).shuffle(boxes)  # type: ignore[arg-type]
    for threads in args.threads:
        ratios, speeds = [], []
        with ThreadPoolExecutor(threads) as pool:
            for round_ in range(-1, args.rounds):  # the first is a warm-up
                some = [boxes[(round_ * threads + k) % len(boxes)] for k in range(threads)]
                same = [of_stored(level, box) for box in some]
                plain, shrunk = seconds(read, stored, same, pool), seconds(read, level, some, pool)
                if round_ >= 0:
                    ratios.append(plain / shrunk)
                    megapixels = sum(box.shape[0] * box.shape[1] for box in same) / 1e6
                    speeds.append((megapixels / plain, megapixels / shrunk))
        low, _, high = statistics.quantiles(ratios, n=4)
        plain, shrunk = (statistics.median(of) for of in zip(*speeds, strict=True))
        print(
            f"{threads} threads: as it is {plain:.0f} MP/s, shrunk by {args.shrink:g} {shrunk:.0f} MP/s, "
            f"median ratio of {args.rounds} {statistics.median(ratios):.3f} (quartiles {low:.3f} and {high:.3f})"
        )


if __name__ == "__main__":
    main()
