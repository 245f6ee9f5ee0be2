"""The speed of `run`, from a slide on disk to a complete store, over that of the bare network.

    python benchmarks/efficiency.py SLIDE [-m MODEL] [--mpp F] [--device NAME] [--engine NAME]
        [--precision NAME] [--tile N] [--batch N] [--rounds N] [--objects]

The bare network is the same replica on the same tiles, cut and mirrored beforehand and held in memory. Both run
in this process, in turn; only the ratio matters. With ``--objects``, each round has a run with and one without them,
and their ratio is printed, too; exits with 1 if it is more than `WITH_OBJECTS`, or the speed below `WANTED`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue

import wsipipe
from wsipipe.arrays import Pixels
from wsipipe.inference.pool import load_replicas
from wsipipe.inference.replica import Replica
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.pipeline.config import RunConfig
from wsipipe.pipeline.setup import resolve
from wsipipe.pipeline.slide_plan import grid_of
from wsipipe.slides.slide import choose_level

WANTED, WITH_OBJECTS = 0.97, 1.02


def cut_tiles(slide: str, config: RunConfig) -> tuple[list[Pixels], int]:
    """Every tile of the slide as a run cuts it, (y, x, channel), and the number of pixels of the result."""
    setup = resolve(config)
    level = choose_level(wsipipe.open_slide(slide, mpp=config.mpp), setup.model.spec.mpp)
    grid = grid_of(level, setup)
    half = grid.receptive.margin // 2

    def cut(index: tuple[int, int]) -> list[Pixels]:
        box, tiles = grid.block_box(index), []
        for core in grid.cores((grid.computed_sides(0)[index[0]], grid.computed_sides(1)[index[1]])):
            (height, width), (y, x) = core.shape, (box.y0 + core.y0 - half, box.x0 + core.x0 - half)
            tiles.append(level.read(y, x, height + 2 * half, width + 2 * half, mirror=True))
        return tiles

    with ThreadPoolExecutor() as threads:
        tiles = [tile for of_block in threads.map(cut, grid.indices()) for tile in of_block]
    return tiles, level.shape[0] * level.shape[1]


def in_batches(tiles: list[Pixels], batch: int) -> list[list[Pixels]]:
    """``tiles`` grouped by shape, ``batch`` at a time."""
    by_shape: dict[tuple[int, ...], list[Pixels]] = {}
    for tile in tiles:
        by_shape.setdefault(tile.shape, []).append(tile)
    return [alike[i : i + batch] for alike in by_shape.values() for i in range(0, len(alike), batch)]


def bare_seconds(replicas: list[Replica], batches: list[list[Pixels]]) -> float:
    """Seconds that the network takes for ``batches``, in the lanes of a pool.

    Each lane is a thread of its own: a thread that computes has an OpenMP team, and a team left behind by the main
    thread would slow down all the others.
    """
    lanes, left = [replica for replica in replicas for _ in range(replica.lanes)], SimpleQueue[list[Pixels]]()
    for batch in batches:
        left.put(batch)

    def work(replica: Replica) -> None:
        with replica.lane(), suppress(Empty):
            while True:
                replica.predict(left.get_nowait())

    started = time.perf_counter()
    with ThreadPoolExecutor(len(lanes)) as threads:
        list(threads.map(work, lanes))  # raises their errors
    return time.perf_counter() - started


def run_seconds(slide: str, config: RunConfig) -> tuple[float, float]:
    """Seconds that a run takes for ``slide``, and the share of them in which the device was busy."""
    with tempfile.TemporaryDirectory() as out:
        summary = wsipipe.run([slide], replace(config, out=out))
    (found,), account = summary.slides, summary.account()
    assert account is not None, found.message
    return found.seconds, account.busy


def main() -> None:
    """Print both speeds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide")
    parser.add_argument("-m", "--model", default=str(DEFAULT_MODEL))
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--objects", action="store_true", help="compare runs with and without objects, too")
    args = parser.parse_args()
    config = RunConfig(
        model=args.model,
        device=args.device,
        engine=args.engine,
        precision=args.precision,
        mpp=args.mpp,
        tile=args.tile,
        batch=args.batch,
        tissue="off",
    )
    tiles, pixels = cut_tiles(args.slide, config)
    batches, pool = in_batches(tiles, args.batch), resolve(config).pool
    replicas = load_replicas(pool, pool.devices)
    ratios, with_objects = [], []
    for round_ in range(-1, args.rounds):  # the first is a warm-up
        bare = bare_seconds(replicas, batches)
        seconds, busy = run_seconds(args.slide, config)
        more = run_seconds(args.slide, replace(config, objects=True))[0] / seconds if args.objects else 1.0
        if round_ < 0:
            continue
        ratios.append(bare / seconds)
        with_objects.append(more)
        print(
            f"bare {pixels / 1e6 / bare:.3f} MP/s   run {pixels / 1e6 / seconds:.3f} MP/s   {ratios[-1]:.3f}   "
            f"device busy {busy:.3f}" + (f"   with objects {more:.3f}" if args.objects else ""),
            flush=True,
        )
    median, more = statistics.median(ratios), statistics.median(with_objects)
    what = ", ".join([Path(args.slide).name, args.device, pool.engine, pool.precision])
    print(f"{what}: run / bare network, median of {args.rounds}: {median:.3f}")
    if args.objects:
        print(f"{what}: run with objects / run, median of {args.rounds}: {more:.3f}")
    sys.exit(0 if median >= WANTED and more <= WITH_OBJECTS else 1)


if __name__ == "__main__":
    main()
