"""What a run that was asked for comes to on this machine, or on its workers."""

from __future__ import annotations

from dataclasses import dataclass

from wsipipe.errors import UsageError
from wsipipe.inference.devices import is_cpu, resolve_devices, resolve_engine
from wsipipe.inference.pool import PoolSpec
from wsipipe.model.model_file import ModelInfo, read_model_info
from wsipipe.pipeline.config import DEFAULT_MODEL, FAIL, FILL, RunConfig, check_cluster
from wsipipe.pipeline.machine import default_limit_bytes
from wsipipe.slides.readers.registry import named
from wsipipe.tissue.mask_file import tissue_identity

CORE_PX, GPU_BLOCK_PX, CPU_BLOCK_PX = 1024, 4096, 2048
"""What is taken where there is memory for it."""


@dataclass(frozen=True)
class Site:
    """Where blocks are computed: processes that are alike, or the least of what each of them has."""

    devices: tuple[str, ...]
    """Of one process."""
    engine: str
    """What computes there."""
    limit_bytes: int
    """The most memory that one process may take."""
    processes: int = 1
    """How many there are."""
    per_machine: int = 1
    """How many of them share a machine."""


@dataclass(frozen=True)
class Setup:
    """A configuration that was checked against this machine."""

    config: RunConfig
    model: ModelInfo
    site: Site
    engine: str
    """What computes, of what the site has."""
    preferred_sizes: tuple[int, int]
    """(core, block) in pixels where the user says nothing."""
    batch: int
    tissue: str
    """What decides the tissue mask, as the fingerprint says it."""

    @property
    def devices(self) -> tuple[str, ...]:
        """Of one process."""
        return self.site.devices

    @property
    def limit_bytes(self) -> int:
        """The most memory that one process may take."""
        return self.site.limit_bytes

    @property
    def pool(self) -> PoolSpec:
        """The worker pool that each process of the run makes."""
        return PoolSpec(
            model=self.model.path,
            sha256=self.model.sha256,
            device=self.config.device,
            engine=self.engine,
            precision=self.config.precision,
            batch=self.batch,
            probabilities=self.config.probabilities,
            processes=self.site.per_machine,
        )


def check_config(config: RunConfig, site: Site | None = None) -> Setup:
    """``config`` with its model read, its devices found and its numbers checked.

    Parameters
    ----------
    config
        What was asked for.
    site
        Where it is to be computed; None: in this process.

    Raises
    ------
    UsageError
        If a number is out of range, or there is no such cluster or reader.
    ModelError
        If the model can not be used.
    MachineError
        If a device is not there.
    """
    for option in ("mpp", "batch", "threads"):
        value = getattr(config, option)
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{option} {value} makes no sense; it is a positive number")
    if not 1 <= config.max_upsample < float("inf"):
        raise UsageError(f"--max-upsample {config.max_upsample} makes no sense; it is 1 (never enlarged) or more")
    if config.on_bad_tile not in (FAIL, FILL):
        raise UsageError(f"--on-bad-tile {config.on_bad_tile} makes no sense; allowed: {FAIL}, {FILL}")
    check_cluster(config)
    named(config.reader)
    model = read_model_info(config.model or DEFAULT_MODEL)
    site = site or site_of_this_process(config)
    return Setup(
        config=config,
        model=model,
        site=site,
        engine=site.engine,
        preferred_sizes=(CORE_PX, CPU_BLOCK_PX if is_cpu(site.devices) else GPU_BLOCK_PX),
        batch=config.batch or 1,
        tissue=tissue_identity(config.tissue),
    )


def site_of_this_process(config: RunConfig) -> Site:
    """What this process has of what ``config`` asks for.

    Raises
    ------
    UsageError, MachineError
        If there is no such device or engine here.
    """
    devices = resolve_devices(config.device)
    limit = default_limit_bytes() if config.max_memory_bytes is None else config.max_memory_bytes
    return Site(devices, resolve_engine(config.engine, devices, config.precision), limit)
