"""What averaging, probabilities and the uncertainty cost over labels alone, and what averaging changes.

    python benchmarks/averaging.py SLIDE [-m MODEL] [--mpp F] [--engine NAME ...] [--rounds N]

One core computes one tile of the slide's middle, in turn for each kind; the median of the ratios counts. Exits
with 1 if a kind takes more than its passes over the network and `MORE` of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

import numpy as np

import wsipipe
from wsipipe.geometry.grid import Box
from wsipipe.inference.replica import Replica
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.model.model_file import load_model
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.slide import choose_level

CORE_PX, MORE = 512, 0.1
KINDS: dict[str, tuple[int, dict[str, Any]]] = {
    "labels": (1, {}),
    "probabilities": (1, {"probabilities": True}),
    "uncertainty": (1, {"uncertainty": True}),
    "flips": (4, {"tta": "flips"}),
    "all": (8, {"tta": "all"}),
    "all, uncertainty": (8, {"tta": "all", "uncertainty": True}),
}
"""Passes over the network, and the options, of each kind."""


def main() -> None:
    """Print a line for each kind and engine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide")
    parser.add_argument("-m", "--model", default=str(DEFAULT_MODEL))
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--engine", nargs="+", default=["openvino", "torch"])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    model = load_model(args.model)
    level = choose_level(wsipipe.open_slide(args.slide, mpp=args.mpp), model.spec.mpp)
    y0, x0 = ((side - CORE_PX - model.info.receptive.margin) // 2 for side in level.shape)
    side, fits = CORE_PX + model.info.receptive.margin, True
    tile = read_box(level, Box(y0, y0 + side, x0, x0 + side))
    for engine in args.engine:
        replicas = {kind: Replica(model, "cpu", engine=engine, **options) for kind, (_, options) in KINDS.items()}
        seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        labels = {}
        for _ in range(args.rounds + 1):  # the first is a warm-up
            for kind, replica in replicas.items():
                with replica.lane():
                    started = time.process_time()
                    labels[kind] = replica.predict([tile]).labels
                    seconds[kind].append(time.process_time() - started)
        for kind, (passes, _) in KINDS.items():
            times = statistics.median(a / b for a, b in zip(seconds[kind][1:], seconds["labels"][1:], strict=True))
            fits &= times <= passes * (1 + MORE)
            differing = np.count_nonzero(labels[kind] != labels["labels"]) / labels[kind].size
            print(f"{engine}, {kind}: {times:.2f} times as long as labels; {differing:.2%} of the labels differ")
    sys.exit(0 if fits else 1)


if __name__ == "__main__":
    main()
