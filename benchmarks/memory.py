"""Peak memory of `wsipipe run` on slides of different size: it must not grow with the slide.

    python benchmarks/memory.py SMALL LARGE ... [-m BUNDLE]

Each slide is segmented by a process of its own; printed are megapixels, peak, projection, and the peak over that of
the first slide.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

MOST_GROWTH = 1.1


def segment(slide: str, model: list[str]) -> dict[str, float]:
    """What ``wsipipe run --json`` says of one slide."""
    command = [str(Path(sys.executable).with_name("wsipipe")), "run", slide, "--json", "--device", "cpu", *model]
    with tempfile.TemporaryDirectory() as out:
        done = subprocess.run([*command, "-o", out], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    summary = json.loads(done.stdout)
    (row,) = summary["slides"]
    return {
        "megapixels": row["pixels"] / 1e6,
        "seconds": row["seconds"],
        "peak": summary["peak_bytes"] / 1e6,
        "projected": summary["projected_bytes"] / 1e6,
    }


def main() -> None:
    """Print a line a slide."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides", nargs="+")
    parser.add_argument("-m", "--model")
    args = parser.parse_args()
    first, kept = None, True
    for slide in args.slides:
        row = segment(slide, ["-m", args.model] if args.model else [])
        first = first or row["peak"]
        kept &= row["peak"] <= min(row["projected"], MOST_GROWTH * first)
        print(
            f"{row['megapixels']:9,.0f} MP  peak {row['peak']:6,.0f} MB  projected {row['projected']:6,.0f} MB  "
            f"peak / first {row['peak'] / first:.3f}  {row['megapixels'] / row['seconds']:.2f} MP/s",
            flush=True,
        )
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
