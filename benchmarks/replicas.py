"""One replica of the network with all cores, or several with a share of them each: pixels a second of all together.

    python benchmarks/replicas.py [-m MODEL] [--tile N] [--replicas 1 2 4] [--rounds N]
    taskset -c 0 python benchmarks/replicas.py --replicas 1

Tiles are in memory already, and each replica predicts them in a thread of its own, as in a run with
``--device cpu,cpu``. All numbers of replicas take turns; only the ratios matter.
"""

from __future__ import annotations

import argparse
import statistics

import wsipipe
from wsipipe.inference import allocator
from wsipipe.inference.pool import load_replicas
from wsipipe.inference.speeds import noise, speed_together
from wsipipe.pipeline.setup import resolve


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
    tiles = noise(next(iter(pools.values()))[0], (args.tile, 1), "uint8")
    speeds: dict[int, list[float]] = {count: [] for count in pools}
    for round_ in range(-1, args.rounds):  # the first is a warm-up
        for count, replicas in pools.items():
            speed = speed_together(replicas, tiles, seconds=2.0) / 1e6
            if round_ >= 0:
                speeds[count].append(speed)
    for count, found in speeds.items():
        ratio = statistics.median(a / b for a, b in zip(found, next(iter(speeds.values())), strict=True))
        print(f"{count} replicas: {statistics.median(found):.2f} MP/s, median ratio of {args.rounds} {ratio:.3f}")


if __name__ == "__main__":
    main()
