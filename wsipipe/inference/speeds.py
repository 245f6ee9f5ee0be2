"""The speed of a device with tiles of each size: measured within seconds, and remembered for the next run.

Only the bare network is measured: the tiles are in memory already, and one thread predicts them. Speeds are pixels a
second through the network, margins included. Averaging passes is no other network: one pass is measured.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any, TypeVar

import numpy as np
import platformdirs
import torch
from dask.system import CPU_COUNT

from wsipipe.arrays import Pixels
from wsipipe.errors import MachineError, OutputError
from wsipipe.files import write_whole
from wsipipe.geometry.network import Receptive, round_up
from wsipipe.geometry.symmetry import TTA_OFF
from wsipipe.inference.devices import COMPILE, TORCH, forget_free_memory, free_bytes, lanes, most_values
from wsipipe.inference.hardware import processor
from wsipipe.inference.pool import PoolSpec, load_replicas
from wsipipe.inference.replica import Replica
from wsipipe.model.model_file import NetworkInfo

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")

Size = tuple[int, int]
"""Side of a tile's core in pixels, and tiles in a batch."""
PROBE_PX = 256
"""Core that is measured first, to know how long the others will take."""
REPEATS = 3
"""Measurements of each size: the first is a warm-up, and the faster of the others counts."""
MOST_SECONDS, MOST_SHARE = 5.0, 0.05
"""Limits of measuring: seconds, and a share of the time that the run will take."""
DEVICE_SHARE = 0.8
"""Share of a GPU's free memory that may be used, by all processes: the allocator's blocks leave gaps, and cuDNN takes
its own."""
PLAIN_PX, PLAIN_MARGINS = 1024, 4
"""The largest core that may be chosen without a measurement: so many pixels, or so many margins."""
WORTH = 1.03
"""A size, or a number of replicas, is chosen over a smaller one if it is faster by more than this factor."""


@dataclass(frozen=True)
class Speeds:
    """Pixels a second through the network on one device, by size."""

    by_size: dict[Size, float]
    """Each size that was measured; 0 if the device cannot compute it."""
    receptive: Receptive
    """The geometry of the network."""
    seconds: float
    """Seconds that measuring took now; 0 if nothing was measured."""

    def of(self, size: Size) -> float:
        """The speed of ``size``; if that was not measured, the speed of the largest size that was."""
        return self.by_size[size if size in self.by_size else max(self.by_size)]

    def best(self, sizes: Sequence[Size]) -> Size:
        """The one of ``sizes`` that computes most of the slide a second; a smaller one if it is about as fast."""
        most = max(PLAIN_PX, PLAIN_MARGINS * self.receptive.margin)
        plain = [(core, batch) for core, batch in sizes if core <= most and batch == 1]
        open_to = [size for size in sizes if size in self.by_size or size in plain] or [min(sizes)]
        of_slide = {(core, n): self.of((core, n)) * (core / (core + self.receptive.margin)) ** 2 for core, n in open_to}
        return min(
            (size for size in open_to if of_slide[size] * WORTH >= max(of_slide.values())),
            key=lambda size: pixels_of(size, self.receptive),
        )


def measure(spec: PoolSpec, receptive: Receptive, sizes: Sequence[Size], dtype: str, *, pixels: int) -> Speeds:
    """Measure the speed of the first device of ``spec`` for ``sizes``, small ones first, as many as time allows.

    Parameters
    ----------
    spec, receptive
        The pool that will compute, and the geometry of its network.
    sizes
        The sizes to choose from.
    dtype
        Dtype of the slide's pixels, such as ``uint8``.
    pixels
        Pixels that the run will compute, without margins; once, however many passes it makes.

    Raises
    ------
    ModelError, MachineError
        As `load_replicas`; and a MachineError if the device cannot compute the first size.
    """
    started, known = time.perf_counter(), recall(spec)
    probe = (round_up(PROBE_PX, receptive.stride), 1)
    left = sorted({probe, *sizes} - known.keys(), key=lambda size: pixels_of(size, receptive))

    def affordable(size: Size, spent: float) -> bool:
        if not known:
            return True
        speed = known[max(known)]
        return is_worth(pixels_of(size, receptive) / speed, spec.passes * pixels / speed, spent=spent)

    def measure_left() -> None:
        (replica,) = load_replicas(replace(spec, tta=TTA_OFF), spec.devices[:1])
        begun = time.perf_counter()
        with replica.lane():
            for size in left:
                if not affordable(size, time.perf_counter() - begun):
                    return
                try:
                    known[size] = speed_of(replica, size, dtype)
                except MachineError as err:
                    if not known:
                        raise
                    LOGGER.debug("cannot compute tiles of %s: %s", size, err)
                    known[size] = 0.0
                    return

    if not left or not affordable(left[0], 0.0):
        return Speeds(known, receptive, 0.0)
    with ThreadPoolExecutor(1, "wsipipe-measure") as thread:  # a lane changes settings of its thread
        thread.submit(measure_left).result()
    forget_free_memory()
    remember(spec, {size: speed for size, speed in known.items() if speed})
    return Speeds(known, receptive, time.perf_counter() - started)


def best_replicas(spec: PoolSpec, size: Size, dtype: str, *, pixels: int, alone: float, most: int) -> tuple[int, float]:
    """How many replicas, 1, 2, 4 and so on, share the cores of a CPU best, and pixels a second of each of them.

    Parameters
    ----------
    spec
        The pool, with one replica on the CPU.
    size, dtype
        The tiles that they will compute, and the dtype of the slide's pixels.
    pixels
        Pixels that the run will compute, without margins.
    alone
        Pixels a second of that one replica, which has all cores.
    most
        The most replicas that there is memory for. Each has a core at least.

    Raises
    ------
    ModelError
        As `load_replicas`.
    """
    count, speed = 1, alone
    while 2 * count <= min(most, CPU_COUNT):
        pool = replace(spec, device=",".join(["cpu"] * 2 * count), tta=TTA_OFF)
        name = f"{key(pool)}, together"
        together = next(iter(recall_rows(name)), None)
        if not isinstance(together, int | float):
            seconds = 2 * pixels_of(size, spec.receptive) / speed  # of a batch, by replicas of half as many cores
            if not is_worth(seconds, spec.passes * pixels / (speed * count)):
                break
            try:
                replicas = load_replicas(pool, pool.devices)
                tiles = noise(replicas[0], size, dtype)
                together = speed_together(replicas, tiles, seconds=(REPEATS - 1) * seconds)
            except MachineError as err:  # as with sizes: fewer compute
                LOGGER.debug("cannot compute with %s replicas: %s", 2 * count, err)
                break
            remember_rows(name, [round(together)])
        if together < WORTH * speed * count:
            break
        count, speed = 2 * count, together / (2 * count)
    return count, speed


def speed_together(replicas: Sequence[Replica], tiles: list[Pixels], *, seconds: float) -> float:
    """Pixels a second, margins included, of all ``replicas`` together, each of which predicts in a thread of its own.

    They begin together once all are warm, and each ends with the first batch that ends after the time: none computes
    alone for longer than a batch takes. The first error ends all of them.

    Parameters
    ----------
    replicas
        Those that compute; one that is named several times computes in as many lanes.
    tiles
        The batch that each predicts again and again: (core + margin, core + margin, channel), uint8 or uint16.
    seconds
        Time to measure for, after a warm-up.

    Raises
    ------
    ModelError, MachineError
        As `Replica.predict`.
    """
    together = Barrier(len(replicas))

    def batches_a_second(replica: Replica) -> float:
        try:
            with replica.lane():
                replica.predict(tiles)
                together.wait()
                started, took, count = time.perf_counter(), 0.0, 0
                while count == 0 or took < seconds:
                    if together.broken:
                        raise BrokenBarrierError
                    replica.predict(tiles)
                    took, count = time.perf_counter() - started, count + 1
            return count / took
        except BaseException:
            together.abort()
            raise

    with ThreadPoolExecutor(len(replicas), "wsipipe-measure") as threads:
        rates = [threads.submit(batches_a_second, replica) for replica in replicas]
    errors = [error for rate in rates if (error := rate.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, BrokenBarrierError)):  # those are of the others
        raise error
    pixels: int = sum(tile.shape[0] * tile.shape[1] for tile in tiles)
    return pixels * sum(rate.result() for rate in rates)


def fits_device(spec: PoolSpec, network: NetworkInfo, size: Size) -> bool:
    """Whether each GPU takes batches of ``size``: a tensor that many values, and its memory those of all processes.

    A CPU's memory is the machine's, which is planned elsewhere.
    """
    core, batch = size
    side = core + network.receptive.margin
    need, values = spec.tensor_bytes(network, side, batch), network.values_per_pixel * batch * side * side
    return all(
        values <= most_values(gpu)
        and lanes(gpu) * need * spec.devices.count(gpu) * spec.per_gpu <= DEVICE_SHARE * free_bytes(gpu)
        for gpu in set(spec.devices) - {"cpu"}
    )


def speed_of(replica: Replica, size: Size, dtype: str) -> float:
    """Pixels a second of ``replica`` for tiles of ``size``; tiles that do not fit are halved, as in a run."""
    tiles = noise(replica, size, dtype)
    _, seconds = fastest(lambda: replica.predict(tiles))
    return pixels_of(size, replica.receptive) / seconds


def noise(replica: Replica, size: Size, dtype: str) -> list[Pixels]:
    """A batch of ``size`` for ``replica``: the same noise in each tile (y, x, channel), 0 to 255 in ``dtype``."""
    core, batch = size
    side = core + replica.receptive.margin
    tile = np.random.default_rng(0).integers(0, 256, (side, side, replica.in_channels), np.uint8)
    return [tile.astype(dtype)] * batch


def fastest(compute: Callable[[], T]) -> tuple[T, float]:
    """What ``compute`` returns, and the fewest seconds that it takes once it is warm."""
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        found = compute()
        seconds.append(time.perf_counter() - started)
    return found, min(seconds[1:])


def is_worth(seconds: float, run_seconds: float, *, spent: float = 0.0) -> bool:
    """Whether to measure what takes ``seconds`` each time, ``spent`` of them already, for a run of ``run_seconds``."""
    return spent + REPEATS * seconds <= min(MOST_SECONDS, MOST_SHARE * run_seconds)


def pixels_of(size: Size, receptive: Receptive) -> int:
    """Pixels that go through the network in one pass of a batch."""
    core, batch = size
    return batch * (core + receptive.margin) ** 2


def recall(spec: PoolSpec) -> dict[Size, float]:
    """The speeds remembered for the first device of ``spec`` and its model; empty if they cannot be read."""
    try:
        return {(int(core), int(batch)): float(speed) for core, batch, speed in recall_rows(key(spec))}
    except (ValueError, TypeError):
        return {}


def remember(spec: PoolSpec, speeds: dict[Size, float]) -> None:
    """Save ``speeds`` for the next run."""
    remember_rows(key(spec), [[core, batch, round(speed)] for (core, batch), speed in sorted(speeds.items())])


def recall_rows(name: str) -> list[Any]:
    """What was remembered under ``name``; empty if it cannot be read."""
    try:
        rows = json.loads(speeds_file().read_bytes())[name]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):  # RuntimeError: without a home
        return []
    return rows if isinstance(rows, list) else []


def remember_rows(name: str, rows: list[Any]) -> None:
    """Save ``rows`` under ``name`` for the next run; if they cannot be written, it measures again."""
    try:
        path = speeds_file()
    except RuntimeError:  # without a home
        return
    try:
        table = dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        table = {}
    table[name] = rows
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(table, indent=1).encode(), shared=True)
    except (OSError, OutputError) as err:
        LOGGER.debug("could not save the measured speeds: %s", err)


def correct(spec: PoolSpec, size: Size, speed: float) -> None:
    """Remember the ``speed`` of a run if less was measured, because the machine was busy with something else then."""
    known = recall(spec)
    if known and speed > known.get(size, speed):
        remember(spec, known | {size: speed})


def speeds_file() -> Path:
    """The file of the speeds measured on this machine; it may be deleted at any time.

    Raises
    ------
    RuntimeError
        If the user has no home.
    """
    return platformdirs.user_cache_path("wsipipe") / "speeds.json"


def key(spec: PoolSpec) -> str:
    """Everything that speeds depend on: device, cores, engine, precision, what is asked for, model."""
    device = torch.device(spec.devices[0])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {processor()}"
    library = import_module(TORCH if spec.engine == COMPILE else spec.engine)  # onnxruntime is in several packages
    engine = f"{spec.engine} {library.__version__} {spec.precision}"
    shared = f"{spec.threads} of {spec.devices.count(spec.devices[0])}"
    more = ["probabilities"] * spec.probabilities + ["uncertainty"] * spec.uncertainty
    more += ["channels first"] * (not spec.channels_last)
    return ", ".join([name, shared, engine, *more, spec.sha256])
