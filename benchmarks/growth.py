"""Time per megapixel and peak memory of `wsipipe run` on slides of different sizes: neither may grow with the slide.

    python benchmarks/growth.py SMALL LARGE ... [-m MODEL] [--max-memory SIZE] [--device cpu cpu,cpu ...]

Each slide is segmented in its own process, on each of the devices; a device named twice holds two replicas. Time and
peak are also printed as ratios to the first line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from wsipipe.pipeline.machine import size_bytes

MOST_GROWTH = 1.1


def segment(slide: str, options: list[str]) -> dict[str, float]:
    """Megapixels, seconds, and peak and projected bytes of one slide, from ``wsipipe run --json``."""
    command = [str(Path(sys.executable).with_name("wsipipe")), "run", slide, "--json", "--tissue", "off", *options]
    with tempfile.TemporaryDirectory() as out:
        done = subprocess.run([*command, "-o", out], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    summary = json.loads(done.stdout)
    (row,) = summary["slides"]
    return {
        "megapixels": row["pixels"] / 1e6,
        "seconds": row["seconds"],
        "peak": summary["peak_bytes"],
        "projected": summary["projected_bytes"],
    }


def main() -> None:
    """Print a line for each device and slide."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides", nargs="+")
    parser.add_argument("-m", "--model")
    parser.add_argument("--mpp")
    parser.add_argument("--max-memory")
    parser.add_argument("--device", nargs="+", default=["cpu"])
    args = parser.parse_args()
    given = {"--model": args.model, "--mpp": args.mpp, "--max-memory": args.max_memory}
    options = [word for name, value in given.items() if value for word in (name, value)]
    limit = size_bytes(args.max_memory, "--max-memory") if args.max_memory else float("inf")
    kept, slow = True, 0.0
    for device in args.device:
        first = 0.0
        for slide in args.slides:
            row = segment(slide, [*options, "--device", device])
            first, slow = first or row["peak"], slow or row["seconds"] / row["megapixels"]
            kept &= row["peak"] <= min(row["projected"], MOST_GROWTH * first, limit)
            print(
                f"{device:16}{row['megapixels']:7,.0f} MP  peak {row['peak'] / 1e6:6,.0f} MB  "
                f"projected {row['projected'] / 1e6:6,.0f} MB  peak / first {row['peak'] / first:.3f}  "
                f"{row['megapixels'] / row['seconds']:6.2f} MP/s  "
                f"time per MP / first {row['seconds'] / row['megapixels'] / slow:.3f}",
                flush=True,
            )
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
