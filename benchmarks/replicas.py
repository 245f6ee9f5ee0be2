"""One replica of the network with all cores, or several with a share of them each: pixels a second of all together.

    python benchmarks/replicas.py [-m MODEL] [--tile N] [--replicas 1 2 4] [--rounds N]
    taskset -c 0 python benchmarks/replicas.py --replicas 1

Tiles are in memory already, and each replica predicts them in a thread of its own, as in a run with
``--device cpu,cpu``. All numbers of replicas take turns; only the ratios matter.
"""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np

import wsipipe
from wsipipe.inference import allocator
from wsipipe.inference.pool import load_replicas
from wsipipe.inference.replica import Replica
from wsipipe.pipeline.setup import resolve


def megapixels_a_second(replicas: list[Replica], core: int, seconds: float) -> float:
    """Megapixels a second, margins included, that ``replicas`` compute at once in about that many ``seconds``."""
    side = core + replicas[0].receptive.margin
    tile = np.random.default_rng(0).integers(0, 256, (side, side, replicas[0].in_channels), np.uint8)

    together = Barrier(len(replicas))

    def compute(replica: Replica) -> float:
        with replica.lane():
            replica.predict([tile])  # a warm-up
            together.wait()
            started, count = time.perf_counter(), 0
            while (took := time.perf_counter() - started) < seconds or count == 0:
                replica.predict([tile])
                count += 1
        return count / took

    with ThreadPoolExecutor(len(replicas)) as threads:
        return sum(threads.map(compute, replicas)) * side**2 / 1e6


def main() -> None:
    """Print the speed of each number of replicas, and its median ratio to that of one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-m", "--model", default=None)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    allocator.settle()
    pools = {}
    for count in args.replicas:
        device = ",".join(["cpu"] * count)
        pool = resolve(wsipipe.RunConfig("unused", args.model, device=device, engine=args.engine)).pool
        pools[count] = load_replicas(pool, pool.devices)
    speeds: dict[int, list[float]] = {count: [] for count in pools}
    for round_ in range(-1, args.rounds):  # the first is a warm-up
        for count, replicas in pools.items():
            speed = megapixels_a_second(replicas, args.tile, 2.0)
            if round_ >= 0:
                speeds[count].append(speed)
    for count, found in speeds.items():
        ratio = statistics.median(a / b for a, b in zip(found, next(iter(speeds.values())), strict=True))
        print(f"{count} replicas: {statistics.median(found):.2f} MP/s, median ratio of {args.rounds} {ratio:.3f}")


if __name__ == "__main__":
    main()
