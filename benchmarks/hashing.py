"""The cost of hashing a slide, which is done beside its blocks, as a share of the threads' time that segmenting takes.

python benchmarks/hashing.py SLIDE [--block N]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time

import wsipipe
from wsipipe.files import locate
from wsipipe.slides.identity import files_sha256

WANTED, ROUNDS = 0.01, 3


def hashing(slide: str) -> float:
    """Seconds that hashing the files of ``slide`` takes, which are in the page cache: the median of `ROUNDS`."""
    opened, seconds = wsipipe.open_slide(slide), []
    for number in range(ROUNDS):
        begun = time.perf_counter()
        files_sha256(locate(opened.path), opened.parts, f"round {number}")
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def main() -> int:
    """Compare; 1 if hashing takes more than `WANTED` of segmenting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide")
    parser.add_argument("--block", type=int)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        summary = wsipipe.run([given.slide], wsipipe.RunConfig(out=out, block=given.block))
    (slide,) = summary.slides
    seconds = hashing(given.slide)
    share = seconds / (slide.seconds * summary.threads)
    print(
        f"hashing {seconds:.3f} s, segmenting {slide.seconds:.1f} s in {summary.threads} threads: "
        f"{share:.3%} of their time, {WANTED:.0%} at most"
    )
    return int(slide.status != "done" or share > WANTED)


if __name__ == "__main__":
    sys.exit(main())
