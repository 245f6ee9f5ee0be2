"""The settings of a run, resolved once, here; nobody reads its `RunConfig` again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsipipe.errors import UsageError
from wsipipe.files import locate
from wsipipe.geometry.network import Receptive
from wsipipe.geometry.symmetry import TTA_OFF
from wsipipe.inference.comparison import Compare
from wsipipe.inference.devices import FLOAT32, check_native, is_cpu, resolve_devices, resolve_engine
from wsipipe.inference.hardware import names_of, unused_gpu
from wsipipe.inference.pool import PoolSpec
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.model.file_kind import FileKind
from wsipipe.model.model_file import ModelInfo, read_model_info
from wsipipe.model.network import LABELS, SIGMOID, SOFTMAX
from wsipipe.pipeline.config import FILL, ComputeRequest, RunConfig, check_cluster
from wsipipe.pipeline.machine import default_limit_bytes
from wsipipe.pipeline.objects_plan import ObjectsRequest
from wsipipe.rasters.region import RegionRequest, parse_region
from wsipipe.slides.planes import Planes
from wsipipe.slides.readers.registry import named
from wsipipe.slides.table import SlidesTable, read_slides_table
from wsipipe.tissue.mask_file import tissue_identity
from wsipipe.urls import Url

CORE_PX, GPU_BLOCK_PX, CPU_BLOCK_PX = 1024, 4096, 2048
"""Default sizes, where there is memory for them."""


@dataclass(frozen=True)
class Site:
    """Where blocks are computed: processes that are alike, or the least of what each of them has."""

    device: str
    """The value of ``--device`` for one process."""
    devices: tuple[str, ...]
    """The devices of one process."""
    engine: str
    """Inference engine."""
    limit_bytes: int
    """The most memory that one process may take."""
    processes: int = 1
    """Number of processes."""
    per_machine: int = 1
    """Number of processes that share a machine."""
    per_gpu: int = 1
    """Number of processes that share a GPU."""
    loaded_bytes: int | None = None
    """The memory of one process with all libraries, before it loads a model; None: not measured yet."""
    threads: int | None = None
    """Blocks in flight in one process, where it was started with a number of threads."""
    names: tuple[str, ...] = ()
    """The devices of one process, with the names of their hardware."""
    fallback: str = ""
    """Why the CPU computes on a machine that has a GPU, and what to do; empty if it has none, or if it computes."""


@dataclass(frozen=True)
class Asked:
    """Sizes and engine as the user fixed them; None, or ``auto``, where memory and measurements choose."""

    tile: int | None
    block: int | None
    batch: int | None
    threads: int | None
    engine: str
    memory: bool
    """Whether a memory limit was given."""


@dataclass(frozen=True)
class SlideOptions:
    """Options for opening slides."""

    mpp: float | None
    """Micrometres per pixel of level 0, instead of those in the file."""
    reader: str | None
    """Name of the reader; None: the first that reads the slide."""
    planes: Planes
    """The planes to read."""
    table: SlidesTable | None
    """Options of single slides, which take precedence."""


@dataclass(frozen=True)
class Setup:
    """A run, resolved: what was asked for, as this machine or its workers can do it."""

    out: str
    """Folder of the stores, as it was given."""
    model: ModelInfo
    receptive: Receptive
    """The sizes of its tiles."""
    slides: SlideOptions
    max_upsample: float
    """Largest factor by which a slide coarser than the model may be enlarged."""
    site: Site
    asked: Asked
    engine: str
    """Inference engine, one that the site has."""
    precision: str
    """Precision of convolutions."""
    tta: str
    """The symmetries over which probabilities are averaged: ``off``, ``flips`` or ``all``."""
    preferred_sizes: tuple[int, int]
    """(core, block) in pixels where the user fixed none."""
    batch: int
    """Tiles per forward pass."""
    tissue: str
    """Where to segment: ``auto``, ``off``, or the path of a mask."""
    tissue_identity: str
    """Identity of the tissue mask, as in the fingerprint."""
    roi: RegionRequest | None
    """The region to segment; None: the whole slide."""
    on_bad_tile: str
    """``fail`` or ``fill``."""
    any_stain: bool
    """Whether to segment slides of another stain than the model's."""
    probabilities: bool
    uncertainty: bool
    objects: ObjectsRequest | None
    """What is asked for of objects; None: nothing."""
    overwrite: bool
    renew: bool
    channels_last: bool = True
    """Whether the channels of a pixel lie together in memory, within the network."""

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices of one process."""
        return self.site.devices

    @property
    def approximate(self) -> bool:
        """Whether labels depend on the tiles, because these are smaller than the network looks."""
        return not self.model.network.exact or self.receptive != self.model.receptive

    @property
    def labels_by_engine(self) -> bool:
        """Whether each engine has its own labels: in less than float32, where each rounds in other places."""
        return self.precision != FLOAT32 or self.model.quantized

    @property
    def compare(self) -> Compare:
        """Which blocks are computed again from other tiles, and compared."""
        if self.approximate:
            return Compare.SAMPLE
        return Compare.NEVER if self.model.network.kind == FileKind.SAFETENSORS else Compare.ONCE

    @property
    def limit_bytes(self) -> int:
        """The most memory that one process may take."""
        return self.site.limit_bytes

    @property
    def fills(self) -> bool:
        """Whether tiles that cannot be decoded leave label 0 behind, instead of failing their slide."""
        return self.on_bad_tile == FILL

    @property
    def pool(self) -> PoolSpec:
        """The worker pool that each process of the run creates."""
        return PoolSpec(
            model=self.model.path,
            sha256=self.model.sha256,
            device=self.site.device,
            engine=self.engine,
            precision=self.precision,
            batch=self.batch,
            probabilities=self.probabilities,
            receptive=self.receptive,
            processes=self.site.per_machine,
            per_gpu=self.site.per_gpu,
            tta=self.tta,
            uncertainty=self.uncertainty,
            channels_last=self.channels_last,
        )


def resolve(config: RunConfig, site: Site | None = None) -> Setup:
    """Check ``config``, read its model and its table of slides, and find its devices.

    Parameters
    ----------
    config
        What was asked for.
    site
        Where blocks are computed; None: in this process.

    Raises
    ------
    UsageError
        If there is no such cluster or reader, a file that it names cannot be read, or the model has no probabilities
        and they are asked for.
    ModelError
        If the model cannot be used.
    MachineError
        If a device is missing.
    """
    if config.cluster is not None:
        check_cluster(config.cluster)
    named(config.reader)
    model = read_model_info(config.model or DEFAULT_MODEL)
    _check_probabilities(config, model)
    site = site or site_of_this_process(compute_request(config, model))
    return Setup(
        out=config.out,
        model=model,
        receptive=model.receptive if config.margin is None else model.receptive.narrowed(config.margin),
        slides=SlideOptions(
            config.mpp,
            config.reader,
            config.planes,
            None if config.slides_table is None else read_slides_table(Path(config.slides_table)),
        ),
        max_upsample=config.max_upsample,
        site=site,
        asked=Asked(
            config.tile,
            config.block,
            config.batch,
            site.threads or config.threads,
            config.engine,
            memory=config.max_memory_bytes is not None,
        ),
        engine=site.engine,
        precision=config.precision,
        tta=config.tta,
        preferred_sizes=(CORE_PX, CPU_BLOCK_PX if is_cpu(site.devices) else GPU_BLOCK_PX),
        batch=config.batch or 1,
        tissue=config.tissue,
        tissue_identity=tissue_identity(config.tissue),
        roi=None if config.roi is None else parse_region(config.roi),
        on_bad_tile=config.on_bad_tile,
        any_stain=config.any_stain,
        probabilities=config.probabilities,
        uncertainty=config.uncertainty,
        objects=_objects(config),
        overwrite=config.overwrite,
        renew=config.renew,
    )


def _check_probabilities(config: RunConfig, model: ModelInfo) -> None:
    """Raise a UsageError if an option needs probabilities, and the model has none."""
    asked = {
        "--probabilities": config.probabilities,
        "--uncertainty": config.uncertainty,
        f"--tta {config.tta}": config.tta != TTA_OFF,
    }
    if model.network.head.kind == LABELS and (options := [option for option, wanted in asked.items() if wanted]):
        raise UsageError(
            f"{' and '.join(options)}: model {model.spec.name!r} gives the number of a class, not probabilities; "
            f"remove the option, or import the network without its argmax, with the head {SOFTMAX} or {SIGMOID}"
        )


def _objects(config: RunConfig) -> ObjectsRequest | None:
    """What is asked for of objects."""
    if not config.objects:
        return None
    if isinstance(locate(config.out), Url):
        raise UsageError(
            f"-o {config.out}: objects are measured in stores on a disk; give a folder, or run without --objects, copy "
            "the stores, and measure them with wsipipe objects"
        )
    return ObjectsRequest(config.min_area_um2, split=config.split, instances=config.instances)


def compute_request(config: RunConfig, model: ModelInfo) -> ComputeRequest:
    """What ``config`` asks of each process that computes with ``model``.

    Raises
    ------
    UsageError
        If the model is quantised, and a precision is asked for.
    """
    if model.quantized and config.precision != FLOAT32:
        raise UsageError(
            f"--precision {config.precision}: model {model.spec.name!r} is quantised, and computes in a precision "
            "of its own; leave --precision out"
        )
    return ComputeRequest(
        config.device, config.engine, config.precision, config.max_memory_bytes, kind=model.network.kind
    )


def site_of_this_process(request: ComputeRequest) -> Site:
    """The `Site` that is this process, for ``request``.

    Raises
    ------
    UsageError, MachineError
        If there is no such device or engine here, or the device does not multiply in the precision.
    """
    devices = resolve_devices(request.device)
    limit = default_limit_bytes() if request.max_memory_bytes is None else request.max_memory_bytes
    engine = resolve_engine(request.engine, devices, request.precision, request.kind)
    check_native(request.precision, devices)
    fallback = unused_gpu(request.device, devices)
    return Site(request.device, devices, engine, limit, names=names_of(devices), fallback=fallback)
