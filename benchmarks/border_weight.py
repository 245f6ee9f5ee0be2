"""Touching objects that are merged, with the border weight and without: the same trainings with w0 as configured and 0.

    python benchmarks/border_weight.py workflows/border_weight.toml --data FOLDER [--seeds 3]

The configuration's paths are relative to FOLDER. Prints a line per training, and mean and range of each w0.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from wsipipe.events import TrainingDone, TrainingEvent
from wsipipe.training.config import TrainConfig, load_config
from wsipipe.training.train import train

SHOWN = ("merged_per_100", "split_per_100", "f1", "dice", "pixel_error")


def main() -> None:
    """Train with both weights and all seeds, and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    config = load_config(args.config)
    print("w0    seed  " + "  ".join(f"{name:>14}" for name in SHOWN))
    for w0 in (config.weights.w0, 0.0):
        rows = []
        for seed in range(args.seeds):
            scores = scores_of(with_weight(config, w0, seed), args.data)
            rows.append([scores[name] for name in SHOWN])
            print(f"{w0:<5g} {seed:<4}  " + "  ".join(f"{v:14.4g}" for v in rows[-1]), flush=True)
        for name, values in (("mean", np.mean(rows, 0)), ("min", np.min(rows, 0)), ("max", np.max(rows, 0))):
            print(f"{w0:<5g} {name:<4}  " + "  ".join(f"{v:14.4g}" for v in values), flush=True)


def with_weight(config: TrainConfig, w0: float, seed: int) -> TrainConfig:
    """``config`` with another border weight and seed."""
    return replace(config, weights=replace(config.weights, w0=w0), loop=replace(config.loop, seed=seed))


def scores_of(config: TrainConfig, data: Path) -> dict[str, float]:
    """The scores on the test images after a training."""
    done: list[TrainingDone] = []

    def listener(event: TrainingEvent) -> None:
        if isinstance(event, TrainingDone):
            done.append(event)

    with TemporaryDirectory() as folder:
        train(config, Path(folder) / "model.safetensors", roots=[data], device="cpu", listener=listener)
    return done[0].scores


if __name__ == "__main__":
    main()
