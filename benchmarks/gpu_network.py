"""The bare network on a GPU: sections of `gpu.py`, and what all of them are given."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
import zarr
from roofline import H200, work_of
from sections import Row

import wsipipe
from wsipipe.arrays import Pixels
from wsipipe.inference.devices import COMPILE, TORCH, forget_free_memory, lanes, resolve_devices
from wsipipe.inference.engines.torch import CompiledNetwork
from wsipipe.inference.replica import Replica
from wsipipe.inference.speeds import fits_device, speed_together
from wsipipe.model.forward import Normalise, winner
from wsipipe.model.model_file import Model
from wsipipe.pipeline.config import RunConfig
from wsipipe.pipeline.setup import resolve
from wsipipe.slides.slide import choose_level

PRECISIONS = ("float32", "tf32", "bfloat16")
LAYOUTS = {"channels last": True, "channels first": False}


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    sizes: tuple[tuple[int, int], ...] = ((1024, 1), (1024, 4), (2048, 1), (2048, 4), (512, 16), (4096, 1), (1024, 16))
    """Cores of tiles, px, and tiles in a batch."""
    seconds: float = 0.4
    """That each speed is measured for."""
    core: int = 256
    """Side in pixels of what is compared with float64, and of patches to train with."""
    compiled: tuple[int, int] = (1024, 4)
    """Core and batch of what is compiled."""
    shapes: int = 8
    """Shapes that a lane has not met before."""
    megabytes: tuple[int, ...] = (4, 64)
    """Sizes of copies."""
    steps: int = 40
    """Of a training; half of them before it is stopped."""
    batch: int = 8
    """Patches of a step."""
    workers: int | None = None
    """Processes that make patches; None: as a training chooses."""
    threads: int = 32
    """That decode, at most."""


QUICK = Scale(
    ((32, 2),), 0.0, core=32, compiled=(32, 2), shapes=2, megabytes=(1,), steps=2, batch=1, workers=0, threads=1
)


@dataclass(frozen=True)
class Given:
    """What a section is given."""

    slide: str
    model: str
    mpp: float | None
    device: str
    """``cuda:0``, or ``cpu``."""
    scale: Scale
    folder: Path
    """For its files; all sections share it."""
    deadline: float = 0.0
    """When its time is up, by `time.monotonic`."""

    def load(self) -> Model:
        """The model, in this process."""
        return wsipipe.load_model(self.model)

    def config(self, out: str, **options: Any) -> RunConfig:
        """A run of everything in the slide, with automatic sizes."""
        return RunConfig(
            str(self.folder / out), self.model, self.mpp, device=self.device, engine="torch", tissue="off", **options
        )

    def labels(self, out: str) -> Any:
        """The labels (y, x), uint8, that a run wrote into ``out``; None if there is none."""
        stores = sorted((self.folder / out).glob("*.zarr"))
        return zarr.open_array(stores[0] / "0", mode="r")[:] if stores else None

    def middle(self, side: int) -> Pixels:
        """The ``side`` px in the middle of what is segmented of the slide, (y, x, channel)."""
        level = choose_level(wsipipe.open_slide(self.slide, mpp=self.mpp), self.load().spec.mpp)
        y, x = ((length - side) // 2 for length in level.shape)
        return level.read(y, x, side, side, mirror=True)


def speed(given: Given, pixels_per_second: float, core: int, precision: str) -> Row:
    """The columns of a speed: megapixels of result a second, and the limit on paper."""
    limit, _ = work_of(given.load().info.network.architecture, core).limit(H200, precision)
    return {"mps": pixels_per_second / 1e6, "h200_mps": limit / 1e6}


def replica_of(model: Model, device: str, precision: str = "float32", **options: Any) -> Replica:
    """A replica as that of a run."""
    resolve_devices(device)  # settles torch's allocator, or says that there is no such device
    return Replica(model, device, precision=precision, **options)


def accuracy(given: Given) -> Iterator[Row]:
    """Logits against those of float64 on the CPU, by precision and layout."""
    model = given.load()
    tile = given.middle(given.scale.core + model.info.receptive.margin)
    x = Normalise(model.spec, torch.device("cpu")).pixels(tile[None])
    with torch.inference_mode():
        exact = deepcopy(model.network).double()(x.double())
        for precision, (layout, last) in product(PRECISIONS, LAYOUTS.items()):
            replica = replica_of(model, given.device, precision, channels_last=last)
            logits = replica.network(x.to(given.device)).double().cpu()
            off = (logits - exact).abs() / exact.std()
            differing = winner(logits, replica.head) != winner(exact, replica.head)
            yield {
                "what": f"{precision}, {layout}",
                "largest_error": float(off.max()),
                "mean_error": float(off.mean()),
                "labels_differ": float(differing.double().mean()),
            }


def speeds(given: Given) -> Iterator[Row]:
    """The bare network by size, precision, layout and lanes."""
    model = given.load()
    margin, pool = model.info.receptive.margin, resolve(given.config("none")).pool
    for core, batch in given.scale.sizes:
        if not fits_device(pool, model.info.network, (core, batch)):
            yield {"what": f"{core} px x {batch}", "skipped": "it does not fit the device"}
            continue
        tiles, expected = [given.middle(core + margin)] * batch, None
        for precision, (layout, last) in product(PRECISIONS, LAYOUTS.items()):
            replica = replica_of(model, given.device, precision, channels_last=last)
            labels = replica.predict(tiles[:1]).labels
            expected = labels if expected is None else expected
            for count in (1, 2):
                forget_free_memory()
                pixels = speed_together([replica] * count, tiles, seconds=given.scale.seconds)
                yield {
                    "what": f"{core} px x {batch}, {precision}, {layout}, lanes: {count}",
                    **speed(given, pixels * (core / (core + margin)) ** 2, core, precision),
                    "labels_differ": float((labels != expected).mean()),
                    "device_held_gb": torch.cuda.memory_reserved(given.device) / 1e9,
                }


def compiled(given: Given) -> Iterator[Row]:
    """The network compiled by torch, against torch as it is, with as many lanes as in a run."""
    model, (core, batch) = given.load(), given.scale.compiled
    margin, count = model.info.receptive.margin, lanes(given.device)
    tiles = [given.middle(core + margin)] * batch
    for precision in ("float32", "bfloat16"):
        eager, replica = (replica_of(model, given.device, precision, engine=engine) for engine in (TORCH, COMPILE))
        for _ in range(CompiledNetwork.OFTEN + 1):  # the last of them compiles
            started = time.perf_counter()
            labels = replica.predict(tiles).labels
        seconds, expected = time.perf_counter() - started, eager.predict(tiles).labels
        plain, pixels = (speed_together([one] * count, tiles, seconds=given.scale.seconds) for one in (eager, replica))
        yield {
            "what": f"{core} px x {batch}, {precision}, compiled",
            **speed(given, pixels * (core / (core + margin)) ** 2, core, precision),
            "of_eager": pixels / plain,
            "labels_differ": float((labels != expected).mean()),
            "compile_seconds": seconds,
        }


def shapes(given: Given) -> Iterator[Row]:
    """The cost of a shape that a lane has not met: cuDNN plans its convolutions."""
    model, scale = given.load(), given.scale
    receptive = model.info.receptive
    largest = given.middle(scale.core + scale.shapes * receptive.stride + receptive.margin)
    sides = [len(largest) - number * receptive.stride for number in range(scale.shapes)]
    kinds = {f"{scale.shapes} sides of tiles": [[largest[:side, :side]] for side in sides]}
    kinds[f"batches of 1 to {scale.shapes}"] = [[largest] * number for number in range(1, scale.shapes + 1)]

    def milliseconds(replica: Replica, batches: list[list[Pixels]]) -> list[tuple[float, float]]:
        """Of each batch, the first time and the least of three others."""
        taken: list[tuple[float, float]] = []
        with replica.lane():
            for tiles in batches:
                times = []
                for _ in range(4):
                    started = time.perf_counter()
                    replica.predict(tiles)
                    times.append(1e3 * (time.perf_counter() - started))
                taken.append((times[0], min(times[1:])))
        return taken

    for precision, (kind, batches) in product(("float32", "bfloat16"), kinds.items()):
        replica = replica_of(model, given.device, precision)
        for lane in ("first", "second"):
            with ThreadPoolExecutor(1) as thread:
                taken = thread.submit(milliseconds, replica, batches).result()
            first, again = (statistics.median(times) for times in zip(*taken, strict=True))
            yield {"what": f"{precision}, {kind}, {lane} lane", "first_ms": first, "again_ms": again}


def copies(given: Given) -> Iterator[Row]:
    """Copies from pinned and from pageable memory, and the pinned memory that torch holds."""
    on_gpu = given.device != "cpu"
    for megabytes, pinned in product(given.scale.megabytes, (True, False)):
        here = torch.zeros(megabytes * 2**20, dtype=torch.uint8, pin_memory=pinned and on_gpu)
        there = here.to(given.device, copy=True)
        for way, source, target in (("to", here, there), ("from", there, here)):
            times = []
            for _ in range(10):
                started = time.perf_counter()
                target.copy_(source, non_blocking=True)
                if on_gpu:
                    torch.cuda.synchronize(given.device)
                times.append(time.perf_counter() - started)
            what = f"{megabytes} MiB {way} the device, {'pinned' if pinned else 'pageable'}"
            yield {"what": what, "gb_per_second": here.nbytes / min(times) / 1e9}
    model = given.load()
    tiles = [given.middle(given.scale.core + model.info.receptive.margin)] * 3
    before = torch.cuda.host_memory_stats().get("allocated_bytes.current", 0)
    replica_of(model, given.device).predict(tiles)
    held = torch.cuda.host_memory_stats().get("allocated_bytes.current", 0) - before
    asked = sum(tile.nbytes + given.scale.core**2 for tile in tiles)
    yield {"what": "pinned memory of a batch of 3", "asked_mb": asked / 1e6, "held_mb": held / 1e6}
