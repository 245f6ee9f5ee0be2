"""Which devices there are, and what ``--device`` means."""

from __future__ import annotations

import re

import torch

from wsipipe.errors import MachineError, UsageError


def resolve_devices(wish: str) -> tuple[str, ...]:
    """The devices that ``wish`` stands for, one replica of the network each.

    ``auto`` is every CUDA device, else Apple's ``mps``, else the CPU; ``cuda`` is every CUDA device; else a
    comma-separated list, in which a device named twice holds two replicas.

    Raises
    ------
    UsageError
        If a name is not one of a device.
    MachineError
        If there is no such device here.
    """
    cuda = tuple(f"cuda:{i}" for i in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()
    mps = ("mps",) if torch.backends.mps.is_available() else ()
    if wish == "auto":
        return cuda or mps or ("cpu",)
    if wish == "cuda" and cuda:
        return cuda
    devices = tuple(name.strip() for name in wish.split(","))
    for name in devices:
        if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
            raise UsageError(f"--device {wish}: {name!r} is not a device; allowed: auto, cpu, mps, cuda, cuda:0,cuda:1")
        if name not in (*cuda, *mps, "cpu"):
            there = ", ".join((*cuda, *mps, "cpu"))
            raise MachineError(
                f"--device {wish}: there is no {name} here; there is: {there} (--device auto takes the best)"
            )
    return devices


def is_cpu(devices: tuple[str, ...]) -> bool:
    """Whether the network runs on the processor that also reads and writes."""
    return set(devices) == {"cpu"}
