"""The speed of `run` in each precision and by each engine, and the labels and objects that it changes.

    python benchmarks/precision.py SLIDE [-m MODEL] [--mpp F] [--device NAME] [--tile N] [--rounds N]
        [--of ENGINE:PRECISION ...] [--int8 FILE] [--untrained]

The first of ``--of`` is what the others are compared with, ``auto:float32`` unless told. Each run is a process of its
own, from the file to the complete store; the runs of a round follow each other, and ratios are medians over the
rounds. ``--int8`` is a quantised model, which runs in float32. A first round, which is not timed, has other tiles and
blocks: they must change no label. An object vanishes if no other has an intersection over union above 0.5 with it, and
appears likewise; those below the model's least area do not count. Exits with 1 if tiles change a label, if labels of
the same precision differ, if more memory is taken than projected, or if `PROMISED` is not kept. A network that is
``--untrained`` hardly prefers any class, so that of it only the speed counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import zarr

from wsipipe.evaluation.blockwise import ArrayPlane, Labelled, compare
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.model.model_file import read_model_info
from wsipipe.quantization.agreement import count_alone

PROMISED = {"bfloat16": (1.8, 1e-3, 5e-3)}
"""By precision: the least speed over float32, and the largest shares of labels and of objects that may differ."""
OTHER_SIZES = ("--tile", "512", "--block", "1024")

Labels = npt.NDArray[np.uint8]


@dataclass
class Way:
    """One way to compute the labels, and what was measured of it."""

    name: str
    precision: str
    options: list[str]
    labels: Labels | None = None
    seconds: list[float] = field(default_factory=list)
    of_projected: float = 0.0
    """The largest peak of memory over the projection."""

    def run(self, slide: str, more: list[str]) -> tuple[Labels, float]:
        """The labels (y, x) of ``slide``, and the seconds from the first block to the complete store."""
        command = [str(Path(sys.executable).with_name("wsipipe")), "run", slide, "--json", "--tissue", "off"]
        with tempfile.TemporaryDirectory() as out:
            done = subprocess.run([*command, *self.options, *more, "-o", out], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            summary = json.loads(done.stdout)
            (row,) = summary["slides"]
            labels = np.asarray(zarr.open_array(Path(row["store"]) / "0", mode="r")[:])
        self.of_projected = max(self.of_projected, summary["peak_bytes"] / summary["projected_bytes"])
        return labels, row["seconds"]


def objects_that_differ(labels: Labels, expected: Labels, classes: int, least_px: float) -> float:
    """Objects of at least ``least_px`` that appear or vanish, over the mean number of both; class by class."""
    planes = [ArrayPlane(name, Labelled(values)) for name, values in (("labels", labels), ("expected", expected))]
    overlap, lone, count = compare(*planes, classes, needs={"overlap"}).overlap, 0, 0
    assert overlap is not None
    for class_ in range(1, classes + 1):
        pairs = overlap.of_class(class_).pairs
        for areas, objects in ((pairs.predicted_area, pairs.predicted), (pairs.truth_area, pairs.truth)):
            count += int((areas >= least_px).sum())
            lone += count_alone(areas, objects[pairs.partners], least_px)
    return 2 * lone / max(count, 1)


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide")
    parser.add_argument("-m", "--model", default=str(DEFAULT_MODEL))
    parser.add_argument("--mpp")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tile")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--of", nargs="+", default=["auto:float32", "auto:bfloat16"])
    parser.add_argument("--int8", metavar="FILE")
    parser.add_argument("--untrained", action="store_true", help="labels and objects may differ")
    args = parser.parse_args()
    common = ["--device", args.device, *(["--mpp", args.mpp] if args.mpp else [])]
    asked = [(name, args.model, *name.split(":")) for name in args.of]
    asked += [("int8", args.int8, "auto", "float32")] if args.int8 else []
    ways = [
        Way(name, precision, ["-m", model, "--engine", engine, "--precision", precision, *common])
        for name, model, engine, precision in asked
    ]
    info, kept = read_model_info(args.model), True
    for way in ways:
        way.labels, _ = way.run(args.slide, list(OTHER_SIZES))
    for _ in range(args.rounds):
        for way in ways:
            labels, seconds = way.run(args.slide, ["--tile", args.tile] if args.tile else [])
            way.seconds.append(seconds)
            if (changed := int((labels != way.labels).sum())) > 0:
                print(f"{way.name}: {changed:,} labels depend on tiles and blocks")
                kept = False
    first, mpp = ways[0], float(args.mpp or info.spec.mpp or 1)
    least_px = (info.spec.min_area_um2 or 0) / mpp**2
    assert first.labels is not None
    for way in ways:
        assert way.labels is not None
        speed = statistics.median(a / b for a, b in zip(first.seconds, way.seconds, strict=True))
        differing = float((way.labels != first.labels).mean())
        objects = objects_that_differ(way.labels, first.labels, max(c.label for c in info.spec.classes), least_px)
        fastest, most_labels, most_objects = PROMISED.get(way.precision, (0.0, 1.0, 1.0))
        if way.precision == first.precision and way.name != "int8":
            most_labels = 0.0
        alike = differing <= most_labels and objects <= most_objects
        kept &= speed >= fastest and way.of_projected <= 1 and (alike or (args.untrained and most_labels > 0))
        print(
            f"{way.name:20}{first.labels.size / 1e6 / statistics.median(way.seconds):7.2f} MP/s ({speed:.2f})   "
            f"labels {differing:.4%}   objects {objects:.3%}   peak / projected {way.of_projected:.2f}",
            flush=True,
        )
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
