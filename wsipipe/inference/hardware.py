"""What the devices of this machine are called, and why one that it has does not compute."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from dask.system import CPU_COUNT

from wsipipe.inference.devices import AUTO, is_cpu

NVIDIA_DRIVER = Path("/proc/driver/nvidia")
"""The folder of a Linux kernel with NVIDIA's driver."""
INSTALL = "https://pytorch.org/get-started/locally"


def names_of(devices: tuple[str, ...]) -> tuple[str, ...]:
    """The ``devices`` with the names of their hardware, such as ``cuda:0, cuda:1 (NVIDIA H200)``."""
    import torch

    found: dict[str, list[str]] = {}
    for device in dict.fromkeys(devices):
        name = torch.cuda.get_device_name(device) if device.startswith("cuda") else processor()
        cores = f", {CPU_COUNT} cores" if device == "cpu" else ""
        found.setdefault(name + cores, []).append(device)
    return tuple(f"{', '.join(alike)} ({name})" for name, alike in found.items())


def unused_gpu(wish: str, devices: tuple[str, ...]) -> str:
    """Why ``--device auto`` took the CPU on a machine with a GPU, and what to do; empty if it did not, or has none."""
    import torch

    if wish != AUTO or not is_cpu(devices) or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return ""
    sign = NVIDIA_DRIVER if NVIDIA_DRIVER.exists() else shutil.which("nvidia-smi")
    if sign is None:
        return ""
    reason = (
        f"CUDA {torch.version.cuda} of PyTorch {torch.__version__} does not find it; its driver may be too old, or the "
        "container was started without it"
        if torch.version.cuda
        else f"PyTorch {torch.__version__} is built for CPUs only; install one with CUDA: {INSTALL}"
    )
    return f"the CPU computes, though this machine seems to have an NVIDIA GPU ({sign}): {reason}"


def processor() -> str:
    """The processor's name, as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
