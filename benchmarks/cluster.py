"""The gain of two workers over one, and the cost of handing a block to a worker.

    python benchmarks/cluster.py scaling SLIDE [-m MODEL] [--mpp F] [--rounds N]
    python benchmarks/cluster.py overhead SLIDE [--sleep SECONDS] [--workers N...]

Scaling: plain ``dask worker`` processes of one thread, each bound to its own core; one, then two, on the same slide.
The limit of the machine is printed beside it: the bare network in two processes at once over one.
Overhead: workers that sleep instead of computing, all in this process; the time a block takes beyond its sleep, and the
blocks a second that one scheduler and one client can keep going.
"""

from __future__ import annotations

import argparse
import json
import logging
import operator
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from distributed import Client, Scheduler, SpecCluster, Worker

import wsipipe
from wsipipe.events import Spent
from wsipipe.inference.block import PredictedBlock
from wsipipe.inference.replica import Prediction
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.pipeline import block_tasks, slide_job
from wsipipe.pipeline.cluster.settings import OTHER_PROCESSES, QUIET, own_settings
from wsipipe.pipeline.dispatcher import Dispatcher
from wsipipe.pipeline.run_plan import plan_run
from wsipipe.pipeline.setup import resolve

WANTED = 1.8


@contextmanager
def workers_on_cores(count: int) -> Iterator[str]:
    """Start a scheduler with ``count`` workers, each bound to a core, and yield its address."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scheduler.json"
        cores = sorted(os.sched_getaffinity(0))
        programs = [["dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]]
        programs += [
            ["dask_worker", "--nthreads", "1", "--no-dashboard", "--local-directory", f"{folder}/{i}"]
            for i in range(count)
        ]
        started = []
        try:
            for i, (program, *options) in enumerate(programs):
                command = [sys.executable, "-m", f"distributed.cli.{program}", *options, "--scheduler-file", str(file)]
                bound = ["taskset", "-c", str(cores[(i - 1) % len(cores)])] if i else []
                started.append(
                    subprocess.Popen(
                        [*bound, *command],
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        start_new_session=True,
                    )
                )
            while not file.exists() or not file.read_text():
                time.sleep(0.1)
            address = json.loads(file.read_text())["address"]
            with Client(address) as client:
                client.wait_for_workers(count, timeout=60)
            yield address
        finally:
            for process in started:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def bare(count: int, seconds: float = 8.0) -> float:
    """Tiles per second of the bare network in ``count`` processes, each bound to a core."""
    cores = sorted(os.sched_getaffinity(0))
    command = [sys.executable, "-c", BARE.format(model=str(DEFAULT_MODEL), seconds=seconds)]
    started = [
        subprocess.Popen(["taskset", "-c", str(cores[i % len(cores)]), *command], stdout=subprocess.PIPE)
        for i in range(count)
    ]
    return sum(float(process.communicate()[0]) for process in started)


BARE = """
import time, numpy, torch, wsipipe
from wsipipe.inference.replica import Replica
replica, tile = Replica(wsipipe.load_model({model!r}), "cpu", threads=1), numpy.full((700, 700, 3), 99, numpy.uint8)
with replica.lane():
    replica.predict([tile])
    started, tiles = time.perf_counter(), 0
    while time.perf_counter() - started < {seconds}:
        replica.predict([tile])
        tiles += 1
    print(tiles / (time.perf_counter() - started))
"""


def scaling(args: argparse.Namespace) -> bool:
    """Print the speed of one and of two workers; return whether the ratio is `WANTED` or more."""
    ratios, ceilings = [], []
    for _ in range(args.rounds):
        ceilings.append(bare(2) / bare(1))
        speeds = []
        for count in (1, 2):
            with workers_on_cores(count) as address, tempfile.TemporaryDirectory() as out:
                config = wsipipe.RunConfig(
                    out,
                    args.model,
                    mpp=args.mpp,
                    tile=512,
                    block=512,
                    engine="torch",
                    device="cpu",
                    cluster=wsipipe.ClusterConfig(address),
                    tissue="off",
                )
                summary = wsipipe.run([args.slide], config)
            assert not summary.exit_code, summary
            speeds.append(summary.slides[0].pixels / 1e6 / summary.computing_seconds)
        ratios.append(speeds[1] / speeds[0])
        print(
            f"one worker {speeds[0]:.3f} MP/s   two workers {speeds[1]:.3f} MP/s   {ratios[-1]:.2f}   "
            f"two bare networks over one {ceilings[-1]:.2f}",
            flush=True,
        )
    median = statistics.median(ratios)
    print(
        f"{Path(args.slide).name}: two workers / one worker, median of {args.rounds}: {median:.2f}; "
        f"relative to two bare networks over one: {statistics.median(map(operator.truediv, ratios, ceilings)):.2f}"
    )
    return median >= WANTED


def simulated(count: int) -> SpecCluster:
    """A cluster of ``count`` workers in this process; the workers of a `LocalCluster` would share one thread."""
    workers = {
        i: {"cls": Worker, "options": {"nthreads": 1, "memory_limit": 0, "executor": ThreadPoolExecutor(1)}}
        for i in range(count)
    }
    scheduler = {"cls": Scheduler, "options": {"protocol": "inproc://", "dashboard": False}}
    return SpecCluster(workers, scheduler, silence_logs=logging.CRITICAL)


def overhead(args: argparse.Namespace) -> bool:
    """Print, for each number of workers, the time that a block takes beyond its sleep."""
    labels = np.zeros((1, 1), np.uint8)
    slept = PredictedBlock(Prediction(labels, None), 1, 0, False, Spent())

    def sleeps(*_: Any) -> PredictedBlock:
        time.sleep(args.sleep)
        return slept

    def no_more(slide: slide_job.SlideJob) -> Iterator[list[Any]]:
        slide.stage = slide_job.Stage.DONE
        yield []

    for count in args.workers:
        with tempfile.TemporaryDirectory() as out, own_settings(QUIET | OTHER_PROCESSES):
            config = wsipipe.RunConfig(out, device="cpu", block=4096, mpp=args.mpp, tissue="off")
            run = plan_run([args.slide], resolve(config))
            with (
                simulated(count) as cluster,
                Client(cluster) as client,
                mock.patch.object(block_tasks, "predict_block", sleeps),
                mock.patch.object(block_tasks.content, "write_block"),
                mock.patch.object(slide_job.SlideJob, "_finish", no_more),
            ):
                blocks = run.to_do[0].grid.count
                cpu, started = time.process_time(), time.perf_counter()
                Dispatcher(run, client, lambda _: None, lambda count=count: count).run()
                taken, cpu = time.perf_counter() - started, time.process_time() - cpu
        ideal = -(-blocks // count) * args.sleep
        print(
            f"{count:3} workers, {blocks} blocks of {args.sleep:g} s: {taken:6.2f} s, ideal {ideal:6.2f} s; "
            f"{1e3 * (taken - ideal) * count / blocks:5.1f} ms of a worker's time a block, "
            f"{1e3 * cpu / blocks:4.1f} ms of processor time, {blocks / taken:6.1f} blocks a second",
            flush=True,
        )
    return True


def main() -> None:
    """Run the benchmark that the first argument names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["scaling", "overhead"])
    parser.add_argument("slide")
    parser.add_argument("-m", "--model", default=str(DEFAULT_MODEL))
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sleep", type=float, default=1.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64])
    args = parser.parse_args()
    sys.exit(0 if {"scaling": scaling, "overhead": overhead}[args.what](args) else 1)


if __name__ == "__main__":
    main()
