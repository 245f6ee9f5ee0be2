"""The usual alternatives to wsipipe, with the same weights on the same slide: throughput and peak memory.

    pip install monai
    python benchmarks/alternatives.py SLIDE [-m MODEL] [--mpp F] [--tile N] [--rounds N] [--int8 FILE]

`monai` is MONAI's `sliding_window_inference` over the slide read whole; `dask` is a plain `map_overlap` over the pixels
of tifffile's Zarr store. Both get the overlap-tile geometry for free: windows at whole cores, margins of the right
width, mirrored borders, weights in channels_last; without that they are slower, or have seams. Each way runs in its own
process, in turn; only the ratios matter. Labels are compared with those of wsipipe with torch. wsipipe also runs in
bfloat16, where the CPU multiplies in it, and with ``--int8``, a quantised model.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import zarr
from torch import Tensor
from torch.nn import functional

import wsipipe
from wsipipe.geometry.network import round_up
from wsipipe.inference.devices import BFLOAT16, FLOAT32, multiplies_bfloat16, threads_per_replica
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.model.forward import Normalise, core_of, label_values, winner
from wsipipe.pipeline.machine import peak_bytes
from wsipipe.slides.slide import Level, choose_level

Labels = npt.NDArray[np.uint8]
CHUNK = 512


def wsipipe_by(
    engine: str, precision: str = FLOAT32, *, quantised: bool = False
) -> Callable[[argparse.Namespace, Path], None]:
    """`wsipipe run` with ``engine`` in ``precision``, with the model or the quantised one."""

    def way(args: argparse.Namespace, out: Path) -> None:
        config = wsipipe.RunConfig(
            str(out),
            args.int8 if quantised else args.model,
            mpp=args.mpp,
            tile=args.tile,
            device="cpu",
            engine=engine,
            precision=precision,
            threads=2,
            tissue="off",
        )
        (slide,) = wsipipe.run([args.slide], config).slides
        assert slide.status == "done", slide.message

    return way


class Network:
    """The network of the model, as both alternatives use it."""

    def __init__(self, args: argparse.Namespace) -> None:
        model = wsipipe.load_model(args.model)
        self.level: Level = choose_level(wsipipe.open_slide(args.slide, mpp=args.mpp), model.spec.mpp)
        self.receptive = model.info.receptive
        self.logits = model.network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.normalise = Normalise(model.spec, torch.device("cpu"))
        self.head = model.info.network.head
        self.values = label_values(model.spec, self.head, torch.device("cpu"))
        self.to_grid = [round_up(side, self.receptive.stride) - side for side in self.level.shape]

    def labels(self, logits: Tensor) -> Labels:
        """The label of each pixel, (y, x), uint8, from ``logits`` (1, class, y, x), float32."""
        found: Labels = self.values[winner(logits, self.head)][0].numpy()
        return found


@torch.inference_mode()
def by_monai(args: argparse.Namespace, out: Path) -> None:
    """Segment the whole slide as one tensor, with a window that slides over it."""
    from monai.inferers import sliding_window_inference

    network = Network(args)
    half, halo = network.receptive.margin // 2, network.receptive.halo
    pads = [(half, half + more) for more in network.to_grid]
    image = np.pad(np.asarray(network.level.array[:]), [*pads, (0, 0)], mode="symmetric")
    window = min(args.tile + 2 * half, *(side - side % network.receptive.stride for side in image.shape[:2]))
    centre = torch.zeros(window, window)
    centre[half:-half, half:-half] = 1
    logits = sliding_window_inference(
        network.normalise.pixels(image[None]),
        window,
        1,
        lambda tile: functional.pad(network.logits(tile), [halo] * 4),
        overlap=(2 * half - 0.5) / window,  # half a pixel less, because it rounds the step down
        roi_weight_map=centre,
    )
    height, width = network.level.shape
    labels = network.labels(logits[:, :, half : half + height, half : half + width])
    zarr.create_array(out / "labels", data=labels, chunks=(CHUNK, CHUNK))


def by_dask(args: argparse.Namespace, out: Path) -> None:
    """Segment the pixels block by block with `map_overlap`, in dask's threads."""
    import dask
    import dask.array as da
    import tifffile

    network = Network(args)
    half = network.receptive.margin // 2

    @torch.inference_mode()
    def segment(tile: npt.NDArray[Any]) -> Labels:
        return network.labels(core_of(network.logits(network.normalise.pixels(tile[None])), network.receptive))

    threads = threads_per_replica(("cpu",))
    with (
        tifffile.imread(args.slide, aszarr=True, level=network.level.index) as store,
        dask.config.set(scheduler="threads", num_workers=threads),
    ):
        pixels = da.from_zarr(zarr.open_array(store, mode="r"), chunks=(args.tile, args.tile, -1))
        pads = [(0, more) for more in network.to_grid]
        padded = da.pad(pixels, [*pads, (0, 0)], mode="symmetric").rechunk((args.tile, args.tile, -1))
        labels = da.map_overlap(
            segment,
            padded,
            depth={0: half, 1: half, 2: 0},
            boundary={0: "reflect", 1: "reflect", 2: "none"},
            trim=False,
            drop_axis=2,
            chunks=padded.chunks[:2],
            dtype=np.uint8,
            meta=np.empty((0, 0), np.uint8),
        )
        height, width = network.level.shape
        labels[:height, :width].rechunk(args.tile).to_zarr(out / "labels")


WAYS = {
    "wsipipe, torch": wsipipe_by("torch"),
    "wsipipe": wsipipe_by("auto"),
    "wsipipe, bfloat16": wsipipe_by("auto", BFLOAT16),
    "wsipipe, int8": wsipipe_by("auto", quantised=True),
    "monai": by_monai,
    "dask": by_dask,
}
IMPORTED = {"monai": ["monai.inferers"], "dask": ["dask.array", "tifffile"]}


def one_way(name: str, args: argparse.Namespace) -> None:
    """Run one way in this process, and print its seconds and peak memory; imports are not counted."""
    for library in IMPORTED.get(name, ()):
        importlib.import_module(library)
    started = time.perf_counter()
    WAYS[name](args, Path(args.out))
    print(json.dumps({"seconds": time.perf_counter() - started, "peak": peak_bytes()}))


def labels_in(out: Path) -> Labels:
    """The labels (y, x), uint8, that a way wrote into ``out``."""
    written = out / "labels"
    store = written if written.exists() else next(out.glob("*.zarr")) / "0"
    return np.asarray(zarr.open_array(store, mode="r")[:])


def measured(name: str, folder: Path) -> tuple[dict[str, float], Labels]:
    """Seconds and peak bytes of one way, run in its own process, and its labels (y, x), uint8."""
    threads = "1" if name == "dask" else str(threads_per_replica(("cpu",)))  # dask's threads share the cores
    command = [sys.executable, *sys.argv, "--way", name, "--out", str(folder)]
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": threads},
    )
    return json.loads(done.stdout.splitlines()[-1]), labels_in(folder)


def main() -> None:
    """Print a line for each way: throughput and peak memory, also as ratios to wsipipe with torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide")
    parser.add_argument("-m", "--model", default=str(DEFAULT_MODEL))
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--int8", metavar="FILE", help="the same network, quantised")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        one_way(args.way, args)
        return
    left_out = ["wsipipe, bfloat16"] * (not multiplies_bfloat16()) + ["wsipipe, int8"] * (not args.int8)
    ways = [name for name in WAYS if name not in left_out]
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    expected: Labels | None = None
    differing = dict.fromkeys(ways, 0)
    for _ in range(args.rounds):
        for name in ways:
            with tempfile.TemporaryDirectory() as folder:
                row, labels = measured(name, Path(folder))
            expected = labels if expected is None else expected
            differing[name] = max(differing[name], int((labels != expected).sum()))
            rows[name].append(row)
    assert expected is not None
    first = ways[0]
    for name, ours in rows.items():
        seconds, peak = (statistics.median(row[what] for row in ours) for what in ("seconds", "peak"))
        speed, memory = (
            statistics.median(f(a[what], b[what]) for a, b in zip(ours, rows[first], strict=True))
            for what, f in (("seconds", lambda a, b: b / a), ("peak", lambda a, b: a / b))
        )
        print(
            f"{name:18}{expected.size / 1e6 / seconds:7.2f} MP/s ({speed:.2f})   peak {peak / 1e6:6,.0f} MB "
            f"({memory:.2f})   {differing[name]:,} of {expected.size:,} labels differ"
        )


if __name__ == "__main__":
    main()
