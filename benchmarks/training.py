"""The speed of a training over that of its network alone, in each precision.

    python benchmarks/training.py CONFIG.toml --data FOLDER [--steps 40] [--rounds 3] [--precision P...]

Both train the network of CONFIG on the same batches with the same threads: the training makes its patches meanwhile,
in the processes that it takes by default; the bare network has them in memory before its time begins. Start,
validation and checkpoints are in neither. Prints the patches a second of both, the ratio (median of the rounds, which
take turns), and the gain over the first precision.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

from wsipipe.inference.devices import resolve_devices
from wsipipe.training.config import load_config
from wsipipe.training.patches import batches
from wsipipe.training.replicas import spare_processes, threads_of, torch_threads
from wsipipe.training.setup import TrainingSetup, prepare_training
from wsipipe.training.trainer import Trainer

WARM_UP = 4
"""Steps before the time begins: torch plans, and the processes that make patches start."""


def main() -> None:
    """Measure each precision, and print a line for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    config, device = load_config(args.config), resolve_devices(args.device)[0]
    first = 0.0
    with tempfile.TemporaryDirectory() as folder, torch_threads(threads_of(config, (device,))):
        setup = prepare_training(config, Path(folder) / "model.safetensors", [args.data, args.config.parent])
        for precision in args.precision:
            loop = replace(config.loop, precision=precision, steps=10**6, minutes=None)
            mine = replace(setup, config=replace(config, loop=loop))
            trained, alone = zip(*(measure(mine, device, args.steps) for _ in range(args.rounds)), strict=True)
            ratios = sorted(one / other for one, other in zip(trained, alone, strict=True))
            speed = statistics.median(trained)
            first = first or speed
            print(
                f"{precision}: {speed:.2f} patches/s in a training, {statistics.median(alone):.2f} of the network "
                f"alone: {statistics.median(ratios):.3f}, from {ratios[0]:.3f}; {speed / first:.2f} times",
                flush=True,
            )


def measure(setup: TrainingSetup, device: str, steps: int) -> tuple[float, float]:
    """Patches a second of the training, and of its network alone."""
    workers = spare_processes((device,))
    return speed_of(setup, device, steps, workers), speed_of(setup, device, steps, None)


def speed_of(setup: TrainingSetup, device: str, steps: int, workers: int | None) -> float:
    """Patches a second of ``steps`` steps; the patches are made by ``workers``, or without any, before they begin."""
    trainer = Trainer(setup, device)
    made = batches(setup.maker, trainer._numbers(), workers or 0)
    if workers is None:
        made = iter(list(islice(made, steps + WARM_UP)))
    started = 0.0
    for number, batch in enumerate(islice(made, steps + WARM_UP)):
        trainer._attempt(batch, number / (steps + WARM_UP), time.monotonic(), lambda _: None)
        started = time.monotonic() if number == WARM_UP - 1 else started
    return steps * setup.config.optimizer.batch / (time.monotonic() - started)


if __name__ == "__main__":
    main()
