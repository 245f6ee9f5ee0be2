"""What a user asks of a run, and what that comes to on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsipipe.errors import UsageError
from wsipipe.inference.devices import is_cpu, resolve_devices, resolve_engine
from wsipipe.inference.pool import PoolSpec
from wsipipe.model.bundle import BundleInfo, read_bundle_info
from wsipipe.pipeline.machine import default_limit_bytes
from wsipipe.slides.planes import ALL, Planes
from wsipipe.slides.readers.registry import named
from wsipipe.slides.slide import MAX_UPSAMPLE
from wsipipe.tissue.mask_file import tissue_identity

CORE_PX, BLOCK_PX, CPU_BLOCK_PX = 1024, 4096, 2048
"""What is taken where there is memory for it."""
FAIL, FILL = "fail", "fill"
"""What tiles can do that can not be decoded."""
LOCAL, SLURM, KUBERNETES = "local", "slurm", "kubernetes"
KINDS = (LOCAL, SLURM, KUBERNETES)
"""Of clusters that a run starts."""
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
    slides_table: str | None = None
    """CSV file of what is said of single slides, over ``mpp`` and over what the files say (`wsipipe.slides.table`)."""
    max_upsample: float = MAX_UPSAMPLE
    """How much a slide that is coarser than the bundle may be enlarged."""
    reader: str | None = None
    """Name of the reader of slides; None: the first that reads each right."""
    planes: Planes = ALL
    """Which planes are wanted of slides that have several."""
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
    tissue: str = "auto"
    """Where to look: in the tissue that is found (``auto``), everywhere (``off``), or the path of a mask."""
    on_bad_tile: str = FAIL
    """What becomes of tiles that can not be decoded: ``fail`` their slide, or ``fill`` what they reach with label 0."""
    probabilities: bool = False
    """Also write the probability of each class."""
    overwrite: bool = False
    """Replace stores that are there, once the new one is complete."""
    renew: bool = False
    """Replace those of another file, other weights or other options, and keep the others: what a night does."""
    scheduler: str | None = None
    """Address of a dask scheduler whose workers compute, ``tcp://host:8786``."""
    cluster: str | None = None
    """Workers to start for this run: ``local``, ``slurm`` or ``kubernetes``, with ``:N`` how many."""
    adapt: tuple[int, int] | None = None
    """How few and how many workers there are to be, as there is work."""
    cluster_options: Mapping[str, Any] = field(default_factory=dict)
    """What the cluster is started with, as its class in dask-jobqueue or dask-kubernetes takes it."""

    @property
    def on_cluster(self) -> bool:
        """Whether other processes compute than this one."""
        return self.scheduler is not None or self.cluster is not None


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
    bundle: BundleInfo
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
            bundle=self.bundle.path,
            sha256=self.bundle.sha256,
            device=self.config.device,
            engine=self.engine,
            precision=self.config.precision,
            batch=self.batch,
            probabilities=self.config.probabilities,
            processes=self.site.per_machine,
        )


def check_config(config: RunConfig, site: Site | None = None) -> Setup:
    """``config`` with its bundle read, its devices found and its numbers checked.

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
    BundleError
        If the bundle can not be used.
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
    bundle = read_bundle_info(config.bundle or DEFAULT_BUNDLE)
    site = site or this_process(config)
    return Setup(
        config=config,
        bundle=bundle,
        site=site,
        engine=site.engine,
        preferred_sizes=(CORE_PX, CPU_BLOCK_PX if is_cpu(site.devices) else BLOCK_PX),
        batch=config.batch or 1,
        tissue=tissue_identity(config.tissue),
    )


def parse_cluster(text: str) -> tuple[str, int | None]:
    """The kind and the number of workers that ``--cluster`` says: ``local``, ``local:2``, ``slurm:40``.

    Raises
    ------
    UsageError
        If it is not one.
    """
    kind, _, count = text.partition(":")
    if kind not in KINDS or (count and not (count.isdecimal() and int(count) > 0)):
        raise UsageError(f"--cluster {text} is no cluster; allowed: {', '.join(KINDS)}, or with a number: {LOCAL}:2")
    return kind, int(count) if count else None


def check_cluster(config: RunConfig) -> None:
    """Raise a UsageError unless what ``config`` says of a cluster makes sense, and all of it is of use."""
    if config.scheduler is not None and (config.cluster is not None or config.adapt is not None):
        raise UsageError("--scheduler names a cluster that is there; --cluster and --adapt start one: give one only")
    kind = None if config.cluster is None else parse_cluster(config.cluster)[0]
    if config.adapt is not None and kind is None:
        raise UsageError(f"--adapt is for a cluster that is started; add --cluster {SLURM}, or another")
    if config.cluster_options and kind not in (SLURM, KUBERNETES):
        raise UsageError(f"--cluster-config is for --cluster {SLURM} and {KUBERNETES}; add one of them")


def this_process(config: RunConfig) -> Site:
    """What this process has of what ``config`` asks for.

    Raises
    ------
    UsageError, MachineError
        If there is no such device or engine here.
    """
    devices = resolve_devices(config.device)
    limit = default_limit_bytes() if config.max_memory_bytes is None else config.max_memory_bytes
    return Site(devices, resolve_engine(config.engine, devices, config.precision), limit)
