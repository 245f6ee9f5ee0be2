"""The memory that there is, that a run will take, and that it took; bytes."""

from __future__ import annotations

import importlib
import resource
import sys
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import psutil
from dask.system import CPU_COUNT
from dask.utils import parse_bytes
from distributed.system import MEMORY_LIMIT  # the least of machine, cgroup and rlimit: what is ours, not the host's

from wsipipe.errors import UsageError
from wsipipe.geometry.grid import Grid
from wsipipe.geometry.scale import stored_side
from wsipipe.inference.devices import OPENVINO, is_cpu, lanes, warm_up
from wsipipe.inference.footprint import FLOAT32, activation_bytes
from wsipipe.inference.pool import PoolSpec
from wsipipe.slides.pixels.mirrored import averaging_bytes
from wsipipe.slides.readers.tiff.reader import TiffReader
from wsipipe.slides.slide import Level

RESERVE = 0.1
"""Share of the memory that a run leaves alone where no limit is given."""
HEAVY = ("torch", "zarr", "tifffile", "imagecodecs", "distributed")
RUNTIME_BYTES = 192 * 2**20
"""What scheduler, codecs, oneDNN, threads' stacks and the allocator's slack add: 120 to 150 MiB where measured."""
OPENVINO_SHARE = 1.5
"""What OpenVINO holds, over image and tensors alive at once: 1.3 to 1.47 for bases of 2 to 64, depths of 1 to 4."""
UINT16 = 2
MOST_KEPT_BYTES = 2**27
"""Of tiles kept for the blocks beside, for each in flight: strips of slides that are up to 20 000 px wide."""
AT_ONCE = 10
"""Pieces of a file that zarr decodes at the same time (its ``async.concurrency``)."""


def default_limit_bytes() -> int:
    """What a run may take where ``--max-memory`` does not say: what is ours, less a reserve."""
    return int(min([MEMORY_LIMIT, *cgroup_limits()]) * (1 - RESERVE))


def cgroup_limits(own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """The limits, bytes, of this process's cgroup and of those around it, such as a batch job's or a service's.

    distributed looks at the root only. A line of ``own`` is ``0::/system.slice/x`` (version 2) or ``4:memory:/slurm/y``
    (version 1): cgroups(7).
    """
    lines = own.read_text().splitlines() if own.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers in ("", "memory"):
            base, name = (root, "memory.max") if not controllers else (root / "memory", "memory.limit_in_bytes")
            group = base / path.lstrip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(base) and (folder / name).is_file():
                    text = (folder / name).read_text().strip()
                    if text.isdecimal():  # else "max"
                        yield int(text)


def default_threads(devices: tuple[str, ...], processes: int = 1) -> int:
    """Blocks in flight in one of ``processes`` here: one is read or written while another computes; for GPUs more."""
    return 2 if is_cpu(devices) else max(2 * len(devices), CPU_COUNT // (2 * processes))


def size_bytes(text: str, option: str) -> int:
    """Bytes from ``4GB``, ``500MB``, ``1.5GiB`` or a plain number, as given with ``option``.

    Raises
    ------
    UsageError
        If it is not a size.
    """
    try:
        return int(parse_bytes(text))
    except (ValueError, OverflowError):
        raise UsageError(f"{option} {text} is not a size; give e.g. 4GB, 500MB or 1.5GiB") from None


def loaded_bytes(engine: str, devices: tuple[str, ...]) -> int:
    """What the process takes now, with every library loaded that a run by ``engine`` on its ``devices`` needs.

    Raises
    ------
    MachineError
        If a device fails.
    """
    for name in (*HEAVY, *([OPENVINO] if engine == OPENVINO else [])):
        importlib.import_module(name)
    warm_up(devices)
    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """The most memory that this program ever held.

    Linux keeps ``ru_maxrss`` when a process becomes another program, so that a child of a large process
    would report its parent's; VmHWM begins anew (proc_pid_status(5)).
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
        if line is not None:
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def block_bytes(level: Level, grid: Grid, *, classes: int, probabilities: bool) -> int:
    """What one block in flight holds at most: its pixels as read, averaged and mirrored, its labels, what is written.

    Parameters
    ----------
    level
        Where it is read from; a file whose tiles or strips are huge is decoded a whole one at a time.
    grid
        Of the blocks.
    classes
        Output channels of the network.
    probabilities
        Whether they are kept.
    """
    pixel = level.channels * np.dtype(level.dtype).itemsize
    height, width = (max(grid.computed_sides(axis)) for axis in (0, 1))
    margin = grid.receptive.margin
    pixels = (height + margin) * (width + margin) * pixel
    labels = height * width
    encoded = 2 * height * width  # labels of all levels, and the shard as it is put together
    averaged = averaging_bytes(level, (height + margin, width + margin))
    met = prod(
        1 if piece >= whole else -(-stored_side(side + margin, level.shrink) // piece) + 1
        for whole, side, piece in zip(level.stored.shape, (height, width), level.tile, strict=True)
    )
    decoded = min(met, AT_ONCE) * level.tile[0] * level.tile[1] * pixel
    kept = kept_bytes(level, grid)
    return 2 * pixels + averaged + labels + encoded + decoded + kept + (4 * classes * labels if probabilities else 0)


def kept_bytes(level: Level, grid: Grid) -> int:
    """What the decoded tiles take that a block shares with one beside it; 0 where that is too much.

    A strip as wide as the slide is shared by all blocks of a row, and decoding it for each would take as many times
    as long. What is not compressed is as well read again, and zarr keeps nothing.
    """
    if grid.blocks[1] == 1 or level.codec == "none" or level.reader != TiffReader.name:
        return 0
    pieces = prod(
        min(-(-stored_side(side, level.shrink) // piece) + 1, -(-whole // piece))
        for side, piece, whole in zip(
            (max(grid.computed_sides(0)) + grid.receptive.margin, grid.receptive.margin),
            level.tile,
            level.stored.shape,
            strict=True,
        )
    )
    need = pieces * level.tile[0] * level.tile[1] * level.channels * np.dtype(level.dtype).itemsize
    return need if need <= MOST_KEPT_BYTES else 0


def weight_bytes(bundle: str, devices: tuple[str, ...], engine: str) -> int:
    """What the weights take: as they are loaded, and once more for each replica on the CPU, for OpenVINO twice."""
    copies = 2 if engine == OPENVINO else 1
    return Path(bundle).stat().st_size * copies * (1 + devices.count("cpu"))


def network_bytes(architecture: dict[str, int], side: int, pool: PoolSpec, devices: tuple[str, ...]) -> int:
    """What replicas of ``pool`` on ``devices`` take of the machine's memory (not a GPU's) for tiles of ``side`` px."""
    values = pool.batch * side * side * architecture["in_channels"]
    pixels = UINT16 * values  # the batch, as it is stacked
    tensors = activation_bytes(architecture, side, pool.batch, probabilities=pool.probabilities)
    if pool.engine == OPENVINO:
        tensors = int(OPENVINO_SHARE * (tensors + FLOAT32 * values))
    return sum(map(lanes, devices)) * pixels + devices.count("cpu") * tensors
