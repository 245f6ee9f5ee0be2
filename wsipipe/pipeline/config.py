"""What a user asks of a run, and what that comes to on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsipipe.errors import UsageError
from wsipipe.inference.devices import is_cpu, resolve_devices, resolve_engine
from wsipipe.inference.pool import PoolSpec
from wsipipe.model.bundle import BundleInfo, read_bundle_info
from wsipipe.pipeline.machine import default_limit_bytes

CORE_PX, BLOCK_PX, CPU_BLOCK_PX = 1024, 4096, 2048
"""What is taken where there is memory for it."""
DEFAULT_BUNDLE = Path(__file__).parent.parent / "model" / "nuclei.safetensors"


@dataclass(frozen=True)
class RunConfig:
    """The options of `run`; what is None is chosen by memory and by measuring."""

    out: str = "segmentations"
    """Folder of the stores; made if it is not there."""
    bundle: str | None = None
    """Model bundle; None: the nuclei model that comes with wsipipe."""
    mpp: float | None = None
    """Micrometres per pixel of the slides' finest level, over what the files say."""
    block: int | None = None
    """Side in pixels of the unit of work, of writing and of resume."""
    tile: int | None = None
    """Side in pixels of a tile's core."""
    batch: int | None = None
    """Tiles that go through the network at once."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, or a list such as ``cuda:0,cuda:1``."""
    engine: str = "auto"
    """What computes there: ``torch``, or on CPUs ``openvino``, which is taken where it is installed."""
    precision: str = "float32"
    """What convolutions compute in: ``bfloat16`` and ``float16`` are faster on GPUs, and change some labels."""
    threads: int | None = None
    """Blocks in flight: read, decoded and written at the same time."""
    max_memory_bytes: int | None = None
    """The most memory that this process may take; None: what the cgroup or the machine has, less a reserve."""
    probabilities: bool = False
    """Also write the probability of each class."""
    overwrite: bool = False
    """Replace stores that are there, once the new one is complete."""


@dataclass(frozen=True)
class Setup:
    """A configuration that was checked against this machine."""

    config: RunConfig
    bundle: BundleInfo
    devices: tuple[str, ...]
    engine: str
    limit_bytes: int
    preferred_sizes: tuple[int, int]
    """(core, block) in pixels where the user says nothing."""
    batch: int

    @property
    def pool(self) -> PoolSpec:
        """The worker pool that every process of the run makes."""
        return PoolSpec(
            bundle=self.bundle.path,
            sha256=self.bundle.sha256,
            devices=self.devices,
            engine=self.engine,
            precision=self.config.precision,
            batch=self.batch,
            probabilities=self.config.probabilities,
        )


def check_config(config: RunConfig) -> Setup:
    """``config`` with its bundle read, its devices found and its numbers checked.

    Raises
    ------
    UsageError
        If a number is out of range.
    BundleError
        If the bundle can not be used.
    MachineError
        If a device is not there.
    """
    for option in ("mpp", "batch", "threads"):
        value = getattr(config, option)
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{option} {value} makes no sense; it is a positive number")
    bundle = read_bundle_info(config.bundle or DEFAULT_BUNDLE)
    limit = default_limit_bytes() if config.max_memory_bytes is None else config.max_memory_bytes
    devices = resolve_devices(config.device)
    return Setup(
        config=config,
        bundle=bundle,
        devices=devices,
        engine=resolve_engine(config.engine, devices, config.precision),
        limit_bytes=limit,
        preferred_sizes=(CORE_PX, CPU_BLOCK_PX if is_cpu(devices) else BLOCK_PX),
        batch=config.batch or 1,
    )
