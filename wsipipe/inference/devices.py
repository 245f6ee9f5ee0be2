"""The devices of this machine and the engines that compute on them: what ``--device`` and ``--engine`` mean."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from math import inf

from dask.system import CPU_COUNT  # knows affinity and cgroups; OMP_NUM_THREADS, which dask sets to 1, does not

from wsipipe.errors import MachineError, UsageError
from wsipipe.extras import install
from wsipipe.inference.allocator import expand_segments
from wsipipe.model.file_kind import FileKind

AUTO, TORCH, COMPILE, OPENVINO, ONNXRUNTIME = "auto", "torch", "compile", "openvino", "onnxruntime"
ENGINES = (AUTO, TORCH, COMPILE, OPENVINO, ONNXRUNTIME)
ENGINES_OF = {
    FileKind.SAFETENSORS: (OPENVINO, TORCH, COMPILE),
    FileKind.ONNX: (OPENVINO, ONNXRUNTIME),
    FileKind.PT2: (TORCH, COMPILE),
}
"""The engines that compute each kind of model, the one that ``auto`` prefers first."""
EXTRA_OF = {OPENVINO: "openvino", ONNXRUNTIME: "onnx"}
"""The extra of each of the engines that do not come with wsipipe."""
FLOAT32, TF32, BFLOAT16, FLOAT16 = "float32", "tf32", "bfloat16", "float16"
PRECISIONS = (FLOAT32, TF32, BFLOAT16, FLOAT16)
PRECISIONS_OF = {
    TORCH: PRECISIONS,
    COMPILE: PRECISIONS,
    OPENVINO: (FLOAT32, BFLOAT16),
    ONNXRUNTIME: (FLOAT32,),
}
"""The precisions in which each engine computes; OpenVINO in bfloat16 only where `multiplies_bfloat16`."""
MOST_VALUES = {"cuda": 2**31 - 1, "mps": 2**30 - 1}
"""Values that a tensor may have: kernels of CUDA count them in 32 bits; Metal ends a process whose tensor has 4 GiB."""


def check_names(device: str, engine: str = AUTO, precision: str = FLOAT32) -> None:
    """Raise a UsageError if one is not the name of a device, an engine or a precision; what is here does not matter."""
    for name in _listed(device):
        if device != AUTO and not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
            raise UsageError(
                f"--device {device}: {name!r} is not a device; allowed: auto, cpu, mps, cuda, cuda:0,cuda:1"
            )
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine} is not an engine; allowed: {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision} is not a precision; allowed: {', '.join(PRECISIONS)}")


def _listed(wish: str) -> list[str]:
    return [name.strip() for name in wish.split(",")]


def resolve_devices(wish: str) -> tuple[str, ...]:
    """The devices that ``wish`` stands for, one replica of the network each.

    ``auto`` is every CUDA device, else Apple's ``mps``, else the CPU. Anything else is a comma-separated list, in which
    ``cuda`` is every CUDA device, and a device named twice holds two replicas.

    Raises
    ------
    UsageError
        If a name is not that of a device, or if ``mps`` is named twice.
    MachineError
        If this machine does not have the device.
    """
    import torch  # here, as whoever asks for names and numbers alone does without

    check_names(wish)
    cuda = tuple(f"cuda:{i}" for i in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()
    if cuda:
        expand_segments()  # here, as nobody starts CUDA without a device
    mps = ("mps",) if torch.backends.mps.is_available() else ()
    if wish == AUTO:
        return cuda or mps or ("cpu",)
    devices = tuple(device for name in _listed(wish) for device in (cuda if name == "cuda" and cuda else (name,)))
    for name in devices:
        if name not in (*cuda, *mps, "cpu"):
            there = ", ".join((*cuda, *mps, "cpu"))
            raise MachineError(
                f"--device {wish}: there is no {name} here; available: {there} (--device auto takes the best)"
            )
    if devices.count("mps") > 1:
        raise UsageError(f"--device {wish}: two threads at once crash mps; name it once")
    return devices


def resolve_engine(
    wish: str, devices: tuple[str, ...], precision: str = FLOAT32, kind: FileKind = FileKind.SAFETENSORS
) -> str:
    """The engine for ``devices`` and a network of this ``kind``.

    ``auto`` is the first of its engines that is installed and supports the devices and the precision. In less than
    float32, labels depend on the engine, so there it is the first that supports them, installed or not: what is
    installed shall not decide about labels. ``compile`` is torch with its compiler. ``auto`` never chooses it: it takes
    10 to 70 s for each shape of a batch, on a CPU it gains 5 %, and its fused kernels may round in other places than
    those of torch, which compute the first batches of a shape.

    Raises
    ------
    UsageError
        If the engine or the precision is unknown, or the engine does not support the network, the precision or the
        devices.
    MachineError
        If the engine is not installed, or the CPU does not multiply in the precision.
    """
    check_names(AUTO, wish, precision)
    if precision == TF32 and (others := [device for device in devices if not device.startswith("cuda")]):
        raise UsageError(f"--precision {TF32} is for NVIDIA GPUs, not for {others[0]}; use --precision {FLOAT32}")
    if wish != AUTO:
        if problem := _unfit(wish, devices, precision, kind):
            raise UsageError(f"--engine {wish} {problem}")
        if not is_installed(wish):
            raise MachineError(f"--engine {wish} is not installed; {install(EXTRA_OF[wish])}{_others(wish, kind)}")
        return _able(wish, precision)
    fitting = [engine for engine in ENGINES_OF[kind] if not _unfit(engine, devices, precision, kind)]
    if not fitting:
        raise UsageError(
            f"no engine computes {kind.value} models on {', '.join(devices)} in {precision}; use {FLOAT32}"
        )
    if precision != FLOAT32:
        fitting = fitting[:1]
    if not (there := list(filter(is_installed, fitting))):
        what = f"{kind.value} models" + f" in {precision}" * (precision != FLOAT32)
        neither = "neither is" if len(fitting) > 1 else "it is not"
        raise MachineError(
            f"{what} need {' or '.join(fitting)}, and {neither} installed; {install(EXTRA_OF[fitting[-1]])}"
        )
    return _able(there[0], precision)


def _able(engine: str, precision: str) -> str:
    """``engine``. Raise a MachineError if it would compute in ``precision`` on a CPU that does not multiply in it."""
    if engine == OPENVINO and precision == BFLOAT16 and not multiplies_bfloat16():
        raise MachineError(
            f"--precision {BFLOAT16}: this CPU does not multiply in {BFLOAT16} (it has neither AVX512_BF16 nor AMX); "
            f"use --precision {FLOAT32}, or a newer CPU"
        )
    return engine


@cache
def multiplies_bfloat16() -> bool:
    """Whether OpenVINO is installed, and finds that this CPU multiplies in bfloat16 (AVX512_BF16 or AMX)."""
    if not is_installed(OPENVINO):
        return False
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def check_native(precision: str, devices: tuple[str, ...]) -> None:
    """Raise a MachineError if one of ``devices`` is a GPU without tensor cores for ``precision``, which emulates it."""
    import torch

    for device in devices if precision in (TF32, BFLOAT16) else ():
        if device.startswith("cuda"):
            with torch.cuda.device(device):
                native = torch.cuda.is_bf16_supported(including_emulation=False)  # GPUs have either both or none
            if not native:
                raise MachineError(
                    f"--precision {precision}: {device} has no tensor cores for it; use --precision {FLOAT16} or "
                    f"{FLOAT32}"
                )


def layouts(engine: str, devices: tuple[str, ...], precision: str) -> tuple[bool, ...]:
    """Whether channels may be the last axis in memory: True and False where both are worth measuring.

    That is in float32 on GPUs: their tensor cores, which compute in less, take channels last.
    """
    return (True, False) if engine == TORCH and precision == FLOAT32 and not is_cpu(devices) else (True,)


def alternatives(engine: str, devices: tuple[str, ...], kind: FileKind) -> tuple[str, ...]:
    """``engine``, which ``auto`` chose in float32, and those after it that might be faster with this ``kind``."""
    others = ENGINES_OF[kind][ENGINES_OF[kind].index(engine) + 1 :]
    fit = [e for e in others if e != COMPILE and is_installed(e) and not _unfit(e, devices, FLOAT32, kind)]
    return engine, *fit


def _unfit(engine: str, devices: tuple[str, ...], precision: str, kind: FileKind) -> str:
    """Why ``engine`` cannot compute such models so on ``devices``, and the way out; or nothing."""
    possible = ENGINES_OF[kind]
    if engine not in possible:
        return f"does not compute {kind.value} models; use {' or '.join(possible)}"
    if engine == OPENVINO and not is_cpu(devices):
        return f"computes on CPUs only, not on {', '.join(devices)}; add --device cpu"
    if engine == ONNXRUNTIME and "mps" in devices:
        return "does not compute on mps; add --device cpu"
    if precision not in PRECISIONS_OF[engine]:
        able = [other for other in possible if precision in PRECISIONS_OF[other] and other != COMPILE]
        way_out = f"needs --engine {' or '.join(able)}" if able else "is for other models"
        return f"computes in {' and '.join(PRECISIONS_OF[engine])} only; --precision {precision} {way_out}"
    return ""


def is_installed(engine: str) -> bool:
    """Whether this machine has ``engine``."""
    return engine not in EXTRA_OF or find_spec(engine) is not None


def _others(wish: str, kind: FileKind) -> str:
    """The engines that would do as well."""
    others = [engine for engine in ENGINES_OF[kind] if engine not in (wish, COMPILE) and is_installed(engine)]
    return f", or use --engine {others[0]}" if others else ""


def most_values(device: str) -> float:
    """The most values that a tensor on ``device`` may have."""
    return MOST_VALUES.get(device.partition(":")[0], inf)


def free_bytes(device: str) -> int:
    """The memory of a GPU, ``device``, that is free now; Apple's is a part of the machine's."""
    import torch

    if device == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return torch.cuda.mem_get_info(device)[0]


def identities(devices: tuple[str, ...]) -> frozenset[str]:
    """The GPUs among ``devices``, by names that all processes on this machine share, whatever numbers each has."""
    import torch

    cuda = {device for device in devices if device.startswith("cuda")}
    return frozenset({str(torch.cuda.get_device_properties(device).uuid) for device in cuda} | {"mps"} & set(devices))


def count_in_machine(devices: tuple[str, ...]) -> int:
    """The number of ``devices`` whose memory is the machine's: the CPU, and Apple's GPU."""
    return sum(not device.startswith("cuda") for device in devices)


def value_bytes(engine: str, precision: str) -> int:
    """Bytes of a value in the tensors of a network; torch is counted as if all of them were float32."""
    return 2 if engine == OPENVINO and precision == BFLOAT16 else 4


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
    """Return to the device the GPU memory that torch holds but nobody uses, and pinned memory to the machine.

    torch keeps it for the stream that first used it, and each lane has its own stream. Without this, no lane could use
    the memory that measuring took, and it would not count as free. Pinned memory it keeps for arrays of the same size.
    """
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
        if hasattr(torch.accelerator, "empty_host_cache"):  # not in torch 2.11
            torch.accelerator.empty_host_cache()


def is_cpu(devices: tuple[str, ...]) -> bool:
    """Whether the network runs on the processor that also reads and writes."""
    return set(devices) == {"cpu"}
