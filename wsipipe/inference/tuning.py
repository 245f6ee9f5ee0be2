"""How fast a device computes tiles of each size: measured within seconds, and remembered for the next run.

What is measured is the bare network: tiles that are already in memory, and one thread that has them predicted. Speeds
are in pixels a second of all that goes through the network, margins included.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import platformdirs
import torch

from wsipipe.errors import MachineError, OutputError
from wsipipe.files import write_whole
from wsipipe.geometry.network import Receptive, round_up
from wsipipe.inference.devices import OPENVINO, TORCH, forget_free_memory, lanes
from wsipipe.inference.footprint import activation_bytes
from wsipipe.inference.pool import PoolSpec, load_replicas
from wsipipe.inference.replica import Replica

LOGGER = logging.getLogger(__name__)

Size = tuple[int, int]
"""Side in pixels of a tile's core, and tiles in a batch."""
PROBE_PX = 256
"""The core that is measured first, to know what the others will take."""
PASSES = 3
"""For each size: the first is a warm-up, and of the others the faster one counts."""
MOST_SECONDS, MOST_SHARE = 5.0, 0.05
"""What measuring may take: seconds, and share of what the run is going to take."""
DEVICE_SHARE = 0.8
"""What may be used of a GPU's free memory: the allocator's blocks do not fit seamlessly, and cuDNN takes its own."""
PLAIN_PX = 1024
"""The largest core that is taken unmeasured."""
WORTH = 1.03
"""A size is taken over a smaller one if it is faster by more than that."""


@dataclass(frozen=True)
class Speeds:
    """Pixels a second through the network on one device, by size."""

    by_size: dict[Size, float]
    """0 for one that the device can not compute."""
    receptive: Receptive
    """The sizes of the network."""
    seconds: float
    """What measuring took, now; 0 where all was remembered."""

    def of(self, size: Size) -> float:
        """The speed of ``size``; where that would have taken too long to measure, of the largest that was."""
        return self.by_size[size if size in self.by_size else max(self.by_size)]

    def best(self, sizes: Sequence[Size]) -> Size:
        """Of ``sizes`` that which gives most of the slide a second; a smaller one where that is about as fast."""
        plain = [(core, batch) for core, batch in sizes if core <= PLAIN_PX and batch == 1]
        open_to = [size for size in sizes if size in self.by_size or size in plain] or [min(sizes)]
        kept = {(core, n): self.of((core, n)) * (core / (core + self.receptive.margin)) ** 2 for core, n in open_to}
        return min(
            (size for size in open_to if kept[size] * WORTH >= max(kept.values())),
            key=lambda size: pixels_of(size, self.receptive),
        )


def measure(spec: PoolSpec, receptive: Receptive, sizes: Sequence[Size], dtype: str, *, pixels: int) -> Speeds:
    """The speed of the first device of ``spec`` for ``sizes``, small ones first, as many as there is time for.

    Parameters
    ----------
    spec, receptive
        The pool that is to compute, and the sizes of its network.
    sizes
        To choose from.
    dtype
        Of the slide's pixels.
    pixels
        How many are to be computed in the run, margins not included.

    Raises
    ------
    ModelError, MachineError
        As the pool would.
    """
    started, known = time.perf_counter(), recall(spec)
    probe = (round_up(PROBE_PX, receptive.stride), 1)
    left = sorted({probe, *sizes} - known.keys(), key=lambda size: pixels_of(size, receptive))

    def affordable(size: Size, spent: float) -> bool:
        if not known:
            return True
        speed = known[max(known)]
        return spent + PASSES * pixels_of(size, receptive) / speed <= min(MOST_SECONDS, MOST_SHARE * pixels / speed)

    def measure_left() -> None:
        (replica,) = load_replicas(spec, spec.devices[:1])
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
                    LOGGER.debug("tiles of %s are not to be had: %s", size, err)
                    known[size] = 0.0
                    return

    if not left or not affordable(left[0], 0.0):
        return Speeds(known, receptive, 0.0)
    with ThreadPoolExecutor(1, "wsipipe-measure") as thread:  # a lane's settings stay with its thread
        thread.submit(measure_left).result()
    forget_free_memory()
    remember(spec, {size: speed for size, speed in known.items() if speed})
    return Speeds(known, receptive, time.perf_counter() - started)


def fits_device(spec: PoolSpec, architecture: dict[str, int], size: Size) -> bool:
    """Whether the devices have memory for batches of ``size``; of CPUs and mps, which share the machine's, always."""
    core, batch = size
    side = core + Receptive(architecture["depth"], architecture["convs_per_level"]).margin
    need = activation_bytes(architecture, side, batch, probabilities=spec.probabilities)
    cuda = [device for device in spec.devices if device.startswith("cuda")]
    return all(
        lanes(device) * need * spec.devices.count(device) <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
        for device in cuda
    )


def speed_of(replica: Replica, size: Size, dtype: str) -> float:
    """Pixels a second of ``replica`` for tiles of ``size``; where they do not fit it halves them, as in a run."""
    core, batch = size
    side = core + replica.receptive.margin
    noise = np.random.default_rng(0).integers(0, 256, (side, side, replica.in_channels), np.uint8)
    tiles, seconds = [noise.astype(dtype)] * batch, []
    for _ in range(PASSES):
        started = time.perf_counter()
        replica.predict(tiles)
        seconds.append(time.perf_counter() - started)
    return pixels_of(size, replica.receptive) / min(seconds[1:])


def pixels_of(size: Size, receptive: Receptive) -> int:
    """Pixels that go through the network in one batch."""
    core, batch = size
    return batch * (core + receptive.margin) ** 2


def recall(spec: PoolSpec) -> dict[Size, float]:
    """What was measured before of the first device of ``spec`` and its model; nothing if that can not be read."""
    try:
        rows = json.loads(memory().read_bytes())[key(spec)]
        return {(int(core), int(batch)): float(speed) for core, batch, speed in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def remember(spec: PoolSpec, speeds: dict[Size, float]) -> None:
    """Keep ``speeds`` for the next run; where that can not be written it measures again."""
    path = memory()
    try:
        table = json.loads(path.read_bytes())
    except (OSError, ValueError):
        table = {}
    table[key(spec)] = [[core, batch, round(speed)] for (core, batch), speed in sorted(speeds.items())]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(table, indent=1).encode(), shared=True)
    except (OSError, OutputError) as err:
        LOGGER.debug("speeds are not remembered: %s", err)


def correct(spec: PoolSpec, size: Size, speed: float) -> None:
    """Remember ``speed``, which a run reached, where less was measured: the machine was busy with something else."""
    known = recall(spec)
    if known and speed > known.get(size, speed):
        remember(spec, known | {size: speed})


def memory() -> Path:
    """The file with what was measured on this machine; it may be deleted at any time."""
    return platformdirs.user_cache_path("wsipipe") / "speeds.json"


def key(spec: PoolSpec) -> str:
    """All that the speeds follow from: device, cores, engine, precision, model."""
    device = torch.device(spec.devices[0])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {processor()}"
    library = OPENVINO if spec.engine == OPENVINO else TORCH
    engine = f"{spec.engine} {version(library)} {spec.precision}"
    shared = f"{spec.threads} of {spec.devices.count(spec.devices[0])}"
    return f"{name}, {shared}, {engine}, {'probabilities, ' if spec.probabilities else ''}{spec.sha256}"


def processor() -> str:
    """The processor's name, as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
