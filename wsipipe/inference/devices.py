"""The devices of this machine and the engines that compute on them: what ``--device`` and ``--engine`` mean."""

from __future__ import annotations

import re
from importlib.util import find_spec

from dask.system import CPU_COUNT  # knows affinity and cgroups; OMP_NUM_THREADS, which dask sets to 1, does not

from wsipipe.errors import MachineError, UsageError

AUTO, TORCH, COMPILE, OPENVINO = "auto", "torch", "compile", "openvino"
ENGINES = (AUTO, TORCH, COMPILE, OPENVINO)
FLOAT32, BFLOAT16, FLOAT16 = "float32", "bfloat16", "float16"
PRECISIONS = (FLOAT32, BFLOAT16, FLOAT16)


def resolve_devices(wish: str) -> tuple[str, ...]:
    """The devices that ``wish`` stands for, one replica of the network each.

    ``auto`` is every CUDA device, else Apple's ``mps``, else the CPU. ``cuda`` is every CUDA device. Anything else is
    a comma-separated list, in which a device named twice holds two replicas.

    Raises
    ------
    UsageError
        If a name is not that of a device, or if ``mps`` is named twice.
    MachineError
        If this machine does not have the device.
    """
    import torch  # here, as whoever asks for names and numbers alone does without

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
                f"--device {wish}: there is no {name} here; available: {there} (--device auto takes the best)"
            )
    if devices.count("mps") > 1:
        raise UsageError(f"--device {wish}: two threads at once crash mps; name it once")
    return devices


def resolve_engine(wish: str, devices: tuple[str, ...], precision: str = FLOAT32) -> str:
    """The engine for ``devices``; ``auto`` is ``openvino`` for float32 on CPUs if it is installed, else ``torch``.

    ``compile`` is torch with its compiler. ``auto`` never chooses it: on a CPU it gains 5 %, and takes 10 to 70 s for
    each shape of a tile.

    Raises
    ------
    UsageError
        If the engine or the precision is unknown, or the engine does not support the precision or the devices.
    MachineError
        If the engine is not installed.
    """
    if wish not in ENGINES:
        raise UsageError(f"--engine {wish} is not an engine; allowed: {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision} is not a precision; allowed: {', '.join(PRECISIONS)}")
    installed = find_spec(OPENVINO) is not None
    if wish == AUTO:
        return OPENVINO if installed and is_cpu(devices) and precision == FLOAT32 else TORCH
    if wish == OPENVINO and not is_cpu(devices):
        raise UsageError(f"--engine {OPENVINO} computes on CPUs only, not on {', '.join(devices)}; add --device cpu")
    if wish == OPENVINO and precision != FLOAT32:
        raise UsageError(
            f"--engine {OPENVINO} computes in {FLOAT32} only; --precision {precision} needs --engine {TORCH}"
        )
    if wish == OPENVINO and not installed:
        raise MachineError(f"--engine {OPENVINO} is not installed; pip install openvino, or use --engine {TORCH}")
    return wish


def lanes(device: str) -> int:
    """The number of threads that keep ``device`` busy: on a GPU, one copies its tiles while the other computes."""
    return 2 if device.startswith("cuda") else 1


def threads_per_replica(devices: tuple[str, ...], processes: int = 1) -> int:
    """CPU cores for each replica: the replicas of all ``processes`` on this machine share its cores evenly."""
    return max(1, CPU_COUNT // max(1, devices.count("cpu") * processes))


def warm_up(devices: tuple[str, ...]) -> None:
    """Compute something on each GPU of ``devices``: this loads its driver and libraries, a GB of this machine's memory.

    Raises
    ------
    MachineError
        If a GPU fails.
    """
    import torch

    for device in devices:
        if device.startswith("cuda"):
            try:
                ones = torch.ones(1, 1, 3, 3, device=device)
                torch.nn.functional.conv2d(ones, ones).item()
            except RuntimeError as err:
                raise MachineError(f"device {device} failed: {err}; use another --device") from err


def forget_free_memory() -> None:
    """Return to the device the GPU memory that torch holds but nobody uses.

    torch keeps it for the stream that first used it, and each lane has its own stream. Without this, no lane could use
    the memory that measuring took, and it would not count as free.
    """
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def is_cpu(devices: tuple[str, ...]) -> bool:
    """Whether the network runs on the processor that also reads and writes."""
    return set(devices) == {"cpu"}
