"""What wsipipe does on a GPU: one command of a few minutes, one table.

    python benchmarks/gpu.py SLIDE [-m MODEL] [--mpp F] [--device NAME] [--minutes 8] [-o gpu.json] [--quick]

It needs wsipipe, a GPU, and a slide, best a large one (`mosaic.py`). Rows are printed as they come and written to the
file of ``-o``, so that an interrupted benchmark keeps what it has; what is worth most comes first. What fails is a row
with an ``error``; the rest goes on (`sections.py`), and the exit code is 1. Beside a speed stands ``h200_mps``, the
limit of an H200 SXM on paper (`roofline.py`), whatever the device. ``--quick`` takes tiny sizes; with ``--device cpu``
the CPU stands in for the GPU, which shows only that every section works.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import cycle, islice, product
from pathlib import Path

import numpy as np
import tifffile
import torch
from dask.system import CPU_COUNT
from gpu_network import QUICK, Given, Scale, accuracy, compiled, copies, replica_of, shapes, speed, speeds
from reading import JPEG, decode_bare, read
from reading import seconds as reading_seconds
from safetensors.torch import load_file
from sections import FORK, Row, measure

import wsipipe
from wsipipe.events import Event, SizesChosen, StepDone, TrainingEvent
from wsipipe.geometry.grid import Box
from wsipipe.inference import allocator
from wsipipe.inference.devices import lanes
from wsipipe.inference.hardware import processor
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.pipeline.run import run
from wsipipe.pipeline.setup import resolve
from wsipipe.slides.pixels.tile_store import TileStore
from wsipipe.training.config import LoopConfig, NetworkConfig, OptimizerConfig, PatchConfig, TrainConfig, WeightConfig
from wsipipe.training.data_config import DataConfig
from wsipipe.training.train import train


def machine(given: Given) -> Iterator[Row]:
    """What this is measured on."""
    cuda = torch.cuda.mem_get_info(given.device) if given.device != "cpu" else (0, 0)
    yield {
        "what": f"wsipipe {wsipipe.__version__}, {processor()}",
        "cores": CPU_COUNT,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "free_gb": cuda[0] / 1e9,
        "gb": cuda[1] / 1e9,
    }


def run_in(precision: str, given: Given) -> Iterator[Row]:
    """A run with automatic sizes."""
    chosen: list[SizesChosen] = []

    def listen(event: Event) -> None:
        if isinstance(event, SizesChosen):
            chosen.append(event)
            if torch.cuda.is_initialized():
                torch.cuda.reset_peak_memory_stats(given.device)  # without that of measuring

    config = given.config(precision, precision=precision)
    summary = run([given.slide], config, listen)
    (found,), account = summary.slides, summary.account()
    if account is None:
        raise RuntimeError(summary.stopped or found.message)
    setup, (sizes,) = resolve(config), chosen
    side = sizes.tile + setup.receptive.margin
    projected = lanes(given.device) * setup.pool.tensor_bytes(setup.model.network, side, sizes.batch)
    expected = None if precision == "float32" else given.labels("float32")
    yield {
        "what": f"tiles of {sizes.tile} px, {sizes.batch} at a time, {summary.threads} threads",
        **speed(given, found.pixels / found.seconds, sizes.tile, precision),
        "busy": account.busy,
        "of_bare": account.of_bare,
        "bottleneck": account.bottleneck,
        "host_peak_gb": summary.peak_bytes / 1e9,
        "of_projected": summary.peak_bytes / summary.projected_bytes,
        "device_peak_gb": torch.cuda.max_memory_allocated(given.device) / 1e9,
        "device_of_projected": torch.cuda.max_memory_allocated(given.device) / projected,
        "device_held_gb": torch.cuda.max_memory_reserved(given.device) / 1e9,
        **({} if expected is None else {"labels_differ": float((given.labels(precision) != expected).mean())}),
    }


def tests(given: Given) -> Iterator[Row]:
    """``pytest -m gpu``, where the tests are beside."""
    folder = Path(__file__).parent.parent / "tests"
    files = [str(path) for path in sorted(folder.rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    if not files:
        yield {"what": "pytest -m gpu", "skipped": f"no tests in {folder}"}
        return
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-p", "no:cacheprovider", *files]
    seconds = max(1.0, given.deadline - time.monotonic() - 2)
    try:
        done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as err:
        yield {"what": "pytest -m gpu", "error": f"not done after {seconds:.0f} s: {(err.stdout or b'')[-200:]!r}"}
        return
    lines = (done.stdout or done.stderr).splitlines()
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|error|skipped)", lines[-1])}
    row: Row = {"what": "pytest -m gpu", **counts}
    if done.returncode:
        row["error"] = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), lines[-1])
    yield row


class StoppedError(Exception):
    """Raised by a listener to stop a training."""


def training(given: Given) -> Iterator[Row]:
    """A training on the device, and one that is stopped halfway and resumed."""
    model, scale, folder = given.load(), given.scale, given.folder / "fields"
    half, side = model.info.receptive.margin // 2, 2 * scale.core
    pixels = given.middle(2 * side + 2 * half)
    objects = (replica_of(model, given.device).predict([pixels]).labels[0] > 0).astype(np.uint8)
    image = pixels[half:-half, half:-half]
    folder.mkdir()
    for name, part in enumerate(product((slice(side), slice(side, None)), repeat=2)):
        tifffile.imwrite(folder / f"{name}_image.tif", image[part], photometric="rgb")
        tifffile.imwrite(folder / f"{name}_label.tif", objects[part])
    sizes = model.info.network.architecture
    config = TrainConfig(
        DataConfig(".", labels_are="components", validation=("3",)),
        network=NetworkConfig(sizes["base_channels"], sizes["depth"], sizes["convs_per_level"]),
        patches=PatchConfig(scale.core),
        weights=WeightConfig(balance=False, w0=0.0),
        optimizer=OptimizerConfig(batch=scale.batch),
        loop=LoopConfig(
            steps=scale.steps,
            validate_every=scale.steps,
            checkpoint_every=scale.steps // 2,
            workers=scale.workers,
        ),
    )
    done: list[StepDone] = []

    def stop(event: TrainingEvent) -> None:
        if isinstance(event, StepDone) and event.step == scale.steps // 2 + 1:
            raise StoppedError

    def count(event: TrainingEvent) -> None:
        if isinstance(event, StepDone):
            done.append(event)

    whole, resumed = folder / "whole.safetensors", folder / "resumed.safetensors"
    train(config, whole, roots=[folder], device=given.device, listener=count)
    with suppress(StoppedError):
        train(config, resumed, roots=[folder], device=given.device, listener=stop)
    train(config, resumed, roots=[folder], device=given.device, resume=True)
    one, other = load_file(whole), load_file(resumed)
    first, last = done[scale.steps // 4], done[-1]
    yield {
        "what": f"{scale.steps} steps of {scale.batch} patches of {scale.core} px, stopped halfway and resumed",
        "patches_per_second": scale.batch * (last.step - first.step) / (last.seconds - first.seconds),
        "equal": whole.read_bytes() == resumed.read_bytes(),
        "largest_difference": max(float((one[name] - other[name]).abs().max()) for name in one),
    }


def uuid_of(device: str) -> str:
    """The name by which ``CUDA_VISIBLE_DEVICES`` knows ``device``; nothing for a CPU."""
    return "" if device == "cpu" else f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def segment(given: Given, uuid: str, out: str) -> float:
    """Pixels a second of a run in this process, which sees only the GPU of ``uuid``."""
    if uuid:
        os.environ["CUDA_VISIBLE_DEVICES"] = uuid
    (found,) = run([given.slide], replace(given, device="cuda:0" if uuid else "cpu").config(out)).slides
    if not found.computed:
        raise RuntimeError(found.message)
    return found.pixels / found.seconds


def two_processes(given: Given) -> Iterator[Row]:
    """Two processes on one GPU, which they know by its UUID."""
    with ProcessPoolExecutor(1, FORK) as one:
        uuid = one.submit(uuid_of, given.device).result()
    with ProcessPoolExecutor(2, FORK) as both:
        alone = both.submit(segment, given, uuid, "alone").result()
        together = [both.submit(segment, given, uuid, f"together-{i}") for i in range(2)]
        rates = [future.result() for future in together]
    expected = given.labels("alone")
    yield {
        "what": f"two runs at once on {uuid or 'the CPU'}",
        "alone_mps": alone / 1e6,
        "mps": sum(rates) / 1e6,
        "of_alone": sum(rates) / alone,
        "labels_differ": max(float((given.labels(f"together-{i}") != expected).mean()) for i in range(2)),
    }


def decoding(given: Given) -> Iterator[Row]:
    """JPEG tiles, decoded alone and read as by a run, by threads."""
    level = wsipipe.open_slide(given.slide).levels[0]
    store = level.array.store
    if not isinstance(store, TileStore) or level.codec != "jpeg":
        yield {"what": "decoding", "skipped": f"{given.slide} is not a TIFF of JPEG tiles"}
        return
    assert store.image.pages[0].compression == JPEG
    allocator.settle()
    side = min(2048, *level.shape)
    corners = list(product(*(range(0, length - side + 1, side) for length in level.shape)))
    boxes = cycle(Box(y, y + side, x, x + side) for y, x in np.random.default_rng(0).permutation(corners).tolist())
    for count in (count for count in (1, 2, 4, 8, 16, 32) if count <= min(CPU_COUNT, given.scale.threads)):
        with ThreadPoolExecutor(count) as pool:
            some = list(islice(boxes, 8 * count))
            bare, ours = (
                len(some) * side**2 / reading_seconds(do, level, some, pool) / 1e6 for do in (decode_bare, read)
            )
        yield {"what": f"{count} threads", "imagecodecs_mps": bare, "reading_mps": ours, "of_imagecodecs": ours / bare}


SECTIONS: dict[str, Callable[[Given], Iterator[Row]]] = {
    "machine": machine,
    "run in float32": partial(run_in, "float32"),
    "run in bfloat16": partial(run_in, "bfloat16"),
    "accuracy": accuracy,
    "speeds": speeds,
    "shapes": shapes,
    "copies": copies,
    "tests": tests,
    "training": training,
    "compile": compiled,
    "two processes": two_processes,
    "decoding": decoding,
}
"""In order of value."""


def with_device(section: Callable[[Given], Iterator[Row]], given: Given, deadline: float) -> Iterator[Row]:
    """The rows of ``section``, with the device; it is asked for late, as what is forked after that cannot use CUDA."""
    for row in section(replace(given, deadline=deadline)):
        device = processor() if given.device == "cpu" else torch.cuda.get_device_name(given.device)
        yield {**row, "torch": torch.__version__, "device": device}


def main() -> None:
    """Print and write the rows of all sections."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide")
    parser.add_argument("-m", "--model", default=str(DEFAULT_MODEL), help="a U-Net of wsipipe's")
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--device", default="cuda", help="one GPU, or cpu")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("-o", "--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    args = parser.parse_args()
    device = "cuda:0" if args.device == "cuda" else args.device
    scale = QUICK if args.quick else Scale()
    with tempfile.TemporaryDirectory() as folder:
        given = Given(args.slide, args.model, args.mpp, device, scale, Path(folder))
        sections = {name: partial(with_device, section, given) for name, section in SECTIONS.items()}
        rows = measure(sections, args.minutes, args.out)
    sys.exit(any("error" in row for row in rows))


if __name__ == "__main__":
    main()
