"""The memory of this machine: how much is available, and how much this process takes; bytes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
from dask.system import CPU_COUNT
from dask.utils import parse_bytes
from distributed.system import MEMORY_LIMIT  # the least of machine, cgroup and rlimit: ours, not the host's

from wsipipe.errors import UsageError
from wsipipe.inference.devices import OPENVINO, is_cpu, warm_up

RESERVE = 0.1
"""Share of the memory that a run leaves unused if no limit is given."""
RUNTIME_BYTES = 192 * 2**20
"""Bytes of scheduler, codecs, oneDNN, thread stacks and the allocator's slack: 120 to 150 MiB, as measured."""
BLOCKS_PER_REPLICA = 2
"""Blocks in flight that keep a replica of the network busy, however few tiles they have."""
HEAVY = ("torch", "zarr", "tifffile", "imagecodecs", "distributed")
"""Libraries whose code takes considerable memory."""


def default_limit_bytes() -> int:
    """The default of ``--max-memory``: the available memory, less a reserve."""
    return int(min([MEMORY_LIMIT, *cgroup_limits()]) * (1 - RESERVE))


def cgroup_limits(own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """The limits, bytes, of this process's cgroup and of those that contain it, such as a batch job's or a service's.

    distributed reads the root only. A line of ``own`` is ``0::/system.slice/x`` (version 2) or ``4:memory:/slurm/y``
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
    """Blocks in flight in one of ``processes`` here: for each replica, one computes while another is read or written.

    A block has one tile at least, so that no replica waits. GPUs, which are faster, get more.
    """
    two_each = BLOCKS_PER_REPLICA * len(devices)
    return two_each if is_cpu(devices) else max(two_each, CPU_COUNT // (2 * processes))


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
    """The memory of this process once it has loaded every library that a run by ``engine`` on ``devices`` needs.

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
    """The peak memory of this program.

    Linux keeps ``ru_maxrss`` when a process becomes another program, so the child of a large process would report its
    parent's peak; VmHWM starts anew (proc_pid_status(5)).
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
        if line is not None:
            return int(line.split()[1]) * 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def megabytes(count: int, *, up: bool = False) -> str:
    """``count`` bytes as ``--max-memory`` takes it, in whole megabytes, rounded down or up."""
    return f"{-(-count // 10**6) if up else count // 10**6}MB"
