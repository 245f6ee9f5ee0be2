"""The options that a user gives a run, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cache
from types import NoneType
from typing import Any, get_args, get_type_hints

import numpy as np

from wsipipe.errors import UsageError
from wsipipe.geometry.symmetry import SYMMETRIES, TTA_OFF
from wsipipe.inference.devices import check_names
from wsipipe.model.file_kind import FileKind
from wsipipe.slides.planes import ALL, Planes
from wsipipe.slides.slide import MAX_UPSAMPLE
from wsipipe.tables import parse_value

FAIL, FILL = "fail", "fill"
"""What a tile that cannot be decoded does: it fails its slide, or the pixels that depend on it become label 0."""
LOCAL, SLURM, KUBERNETES = "local", "slurm", "kubernetes"
CLUSTER_KINDS = (LOCAL, SLURM, KUBERNETES)
"""Clusters that a run can start."""
OPTION_OF_FIELD = {
    "scheduler": "--scheduler",
    "kind": "--cluster",
    "workers": "--cluster",
    "adapt": "--adapt",
    "options": "--cluster-config",
    "min_area_um2": "--min-area",
    "max_memory_bytes": "max_memory_bytes",
    "planes": "planes",
    "cluster": "cluster",
}
"""The names, in messages, of fields of `ClusterConfig`, and of those of `RunConfig` that are not options of `run`."""


@dataclass(frozen=True)
class ClusterConfig:
    """Who computes, if not this process: the workers of a scheduler that is running, or of a cluster to start."""

    scheduler: str | None = None
    """Address of a dask scheduler that is running, ``tcp://host:8786``."""
    kind: str | None = None
    """The cluster to start: ``local``, ``slurm`` or ``kubernetes``."""
    workers: int | None = None
    """Number of workers to start."""
    adapt: tuple[int, ...] | None = None
    """``[least, most]`` workers; their number follows the work."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the cluster's class in dask-jobqueue or dask-kubernetes."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Each field that cannot be used, and why."""
        if self.kind is not None and self.kind not in CLUSTER_KINDS:
            yield "kind", f"{self.kind!r} is unknown; choose {LOCAL}, {SLURM} or {KUBERNETES}"
        if self.scheduler is not None and self.kind is not None:
            yield "kind", f"starts a cluster, but the scheduler {self.scheduler} already has one; give one of the two"
        if self.scheduler is not None and "@" in self.scheduler:
            yield "scheduler", "has a password, which dask would not send; use tls:// with certificates"
        way_out = f"choose its kind: {SLURM}, or another" if self.scheduler is None else "remove it, or the scheduler"
        for name in ("workers", "adapt"):
            if getattr(self, name) and self.kind is None:
                yield name, f"applies to a cluster that the run starts; {way_out}"
        if self.options and self.kind not in (SLURM, KUBERNETES):
            yield "options", f"applies to the kinds {SLURM} and {KUBERNETES}; choose one of them"
        if self.adapt is not None and not (
            len(self.adapt) == 2 and 0 <= self.adapt[0] <= self.adapt[1] and self.adapt[1] > 0
        ):
            yield "adapt", f"must be [least, most] workers, not {list(self.adapt)}"
        if self.workers is not None and self.workers < 1:
            yield "workers", f"must be 1 worker or more, not {self.workers}"


@dataclass(frozen=True)
class ComputeRequest:
    """What a run asks of each process that computes."""

    device: str
    """``auto``, ``cpu``, ``cuda``, ``mps``, or a list such as ``cuda:0,cuda:1``."""
    engine: str
    """``auto``, ``torch``, ``compile``, ``openvino`` or ``onnxruntime``."""
    precision: str
    """``float32``, ``tf32``, ``bfloat16`` or ``float16``."""
    max_memory_bytes: int | None
    """The most memory that it may take; None: what the cgroup or the machine has, less a reserve."""
    kind: FileKind
    """The kind of the model's file."""


@dataclass(frozen=True)
class RunConfig:
    """The options of `run`; None where memory and measurements choose.

    Raises
    ------
    UsageError
        If a value is of another type or out of range, or a name is unknown: what the command line says of it, too.
    """

    out: str = "segmentations"
    """Folder of the stores; created if it does not exist."""
    model: str | None = None
    """Path of the model, or the name of one that comes with wsipipe; None: ``nuclei``."""
    mpp: float | None = None
    """Micrometres per pixel of the slides' finest level, instead of those in the files."""
    slides_table: str | None = None
    """CSV file of per-slide options, which take precedence over these (`wsipipe.slides.table`)."""
    max_upsample: float = MAX_UPSAMPLE
    """Largest factor by which a slide coarser than the model may be enlarged."""
    reader: str | None = None
    """Name of the reader of slides; None: the first that reads each slide."""
    planes: Planes = ALL
    """The planes to read of slides that have several."""
    block: int | None = None
    """Side in pixels of the unit of work, of writing and of resume."""
    tile: int | None = None
    """Side in pixels of a tile's core."""
    batch: int | None = None
    """Tiles per forward pass."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``mps``, or a list such as ``cuda:0,cuda:1``."""
    engine: str = "auto"
    """Inference engine: ``auto``, ``torch``, ``compile``, ``onnxruntime``, or on CPUs ``openvino``."""
    precision: str = "float32"
    """Precision of convolutions: ``bfloat16`` and ``float16`` are faster on GPUs, and change some labels; ``bfloat16``
    on CPUs that multiply in it, too; ``tf32``, on NVIDIA's GPUs, changes fewer."""
    margin: int | None = None
    """Pixels around a tile's core, fewer than the network looks at, for approximate labels; None: as many."""
    tta: str = TTA_OFF
    """Test-time averaging over ``flips`` (4 passes) or ``all`` symmetries (8 passes), or ``off``."""
    threads: int | None = None
    """Blocks in flight: read, decoded and written at the same time."""
    max_memory_bytes: int | None = None
    """The most memory that this process may take; None: what the cgroup or the machine has, less a reserve."""
    tissue: str = "auto"
    """Where to segment: in the tissue that is found (``auto``), everywhere (``off``), or in a mask (its path)."""
    roi: str | None = None
    """Region to segment: ``x,y,width,height`` in pixels of level 0, or with units (``250um,500um,1mm,1mm``), or a file
    of annotations; None: the whole slide. It is segmented where it is tissue."""
    on_bad_tile: str = FAIL
    """What a tile that cannot be decoded does: ``fail`` its slide, or ``fill`` what depends on it with label 0."""
    any_stain: bool = False
    """Segment fluorescence with models of stained tissue, and the other way round, instead of refusing it."""
    probabilities: bool = False
    """Also write the probability of each class."""
    uncertainty: bool = False
    """Also write how undecided the network is: the entropy of the probabilities."""
    objects: bool = False
    """Also find and measure the objects, as ``wsipipe objects`` does."""
    min_area_um2: float | None = None
    """With ``objects``: area in square micrometres below which they are left out; None: what the model says."""
    split: bool = False
    """With ``objects``: part them where they are narrow."""
    instances: bool = False
    """With ``objects``: also write the id of each pixel's object into the store."""
    overwrite: bool = False
    """Replace existing stores, once the new one is complete."""
    renew: bool = False
    """Replace stores of another file, other weights or other options, and keep the others, as nights do."""
    cluster: ClusterConfig | None = None
    """Who computes; None, as an empty one becomes: this process."""

    def __post_init__(self) -> None:
        for one in fields(self):
            object.__setattr__(self, one.name, _as_declared(one.name, getattr(self, one.name)))
        if self.cluster == ClusterConfig():
            object.__setattr__(self, "cluster", None)
        check_names(self.device, self.engine, self.precision)
        for problem in self._problems():
            raise UsageError(problem)

    def _problems(self) -> Iterator[str]:
        """What cannot be, whatever the model and the machine are."""
        for name in ("mpp", "batch", "threads"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                yield f"--{name} must be a positive number, not {value}"
        if not 1 <= self.max_upsample < float("inf"):
            yield f"--max-upsample must be 1 (never enlarge) or more, not {self.max_upsample}"
        if self.tta not in SYMMETRIES:
            yield f"--tta {self.tta!r} is unknown; choose {', '.join(SYMMETRIES)}"
        if self.on_bad_tile not in (FAIL, FILL):
            yield f"--on-bad-tile must be {FAIL} or {FILL}, not {self.on_bad_tile}"
        of_objects = {"min-area": self.min_area_um2 is not None, "split": self.split, "instances": self.instances}
        for option in [option for option, given in of_objects.items() if given and not self.objects]:
            yield f"--{option} is about objects, which are not asked for; add --objects"


def _as_declared(name: str, value: Any) -> Any:
    """``value`` as the field ``name`` of `RunConfig` is declared: paths as text, numbers of numpy as Python's.

    Raises
    ------
    UsageError
        If it is of another type.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif isinstance(value, np.generic):
        value = value.item()
    kind = _kinds()[name]
    try:
        return parse_value(kind, value, OPTION_OF_FIELD.get(name, f"--{name.replace('_', '-')}"))
    except UsageError as err:
        raise UsageError(f"{err}, or leave it out" if NoneType in get_args(kind) else str(err)) from None


@cache
def _kinds() -> dict[str, Any]:
    return get_type_hints(RunConfig)


def parse_cluster(text: str) -> tuple[str, int | None]:
    """The kind and the number of workers in ``local``, ``local:2`` or ``slurm:40``, as ``--cluster`` takes them.

    Raises
    ------
    UsageError
        If it is none of these.
    """
    kind, _, count = text.partition(":")
    if kind not in CLUSTER_KINDS or (count and not (count.isdecimal() and int(count) > 0)):
        raise UsageError(
            f"--cluster {text!r} is unknown; choose {LOCAL}, {SLURM} or {KUBERNETES}, "
            f"optionally with a count ({LOCAL}:2)"
        )
    return kind, int(count) if count else None


def check_cluster(cluster: ClusterConfig) -> None:
    """Raise a UsageError, with the option to change, for the first problem of ``cluster``."""
    for name, problem in cluster.problems():
        option = OPTION_OF_FIELD[name]
        raise UsageError(f"{option} {problem}" + ("" if option == "--cluster" else " (--cluster KIND)"))
