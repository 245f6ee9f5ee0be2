"""Labels that differ from those of torch in float32, by engine and by precision.

    python benchmarks/precision.py SLIDE [-m MODEL] [--mpp F] [--device NAME] [--of ENGINE:PRECISION ...]

Compared runs differ in tiles, blocks and batches, which must change nothing. In float32 no label may differ.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import zarr

import wsipipe

COMPARED = ("torch:float32", "openvino:float32", "torch:bfloat16", "torch:float16")


def labels_of(slide: str, config: wsipipe.RunConfig) -> npt.NDArray[np.uint8]:
    """The labels (y, x), uint8, that `run` writes."""
    (outcome,) = wsipipe.run([slide], config).slides
    assert outcome.status == "done", outcome.message
    return np.asarray(zarr.open_array(Path(str(outcome.store)) / "0", mode="r")[:])


def main() -> None:
    """Print a line for each engine and precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide")
    parser.add_argument("-m", "--model")
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--of", nargs="+", default=COMPARED)
    args = parser.parse_args()
    exact = True
    with tempfile.TemporaryDirectory() as folder:
        common = {"model": args.model, "mpp": args.mpp, "device": args.device, "tissue": "off"}
        plain = wsipipe.RunConfig(f"{folder}/plain", engine="torch", tile=512, block=2048, **common)
        expected = labels_of(args.slide, plain)
        for i, name in enumerate(args.of):
            engine, precision = name.split(":")
            started = time.perf_counter()
            config = wsipipe.RunConfig(
                f"{folder}/{i}", engine=engine, precision=precision, tile=1024, block=1024, **common
            )
            differing = int((labels_of(args.slide, config) != expected).sum())
            seconds = time.perf_counter() - started
            exact &= precision != "float32" or not differing
            print(
                f"{args.device}, {name:20} {differing:9,} of {expected.size:,} labels differ "
                f"({differing / expected.size:.1e}), {expected.size / 1e6 / seconds:.2f} MP/s",
                flush=True,
            )
    sys.exit(0 if exact else 1)


if __name__ == "__main__":
    main()
