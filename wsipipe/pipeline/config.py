"""What a user asks of a run, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsipipe.errors import UsageError
from wsipipe.slides.planes import ALL, Planes
from wsipipe.slides.slide import MAX_UPSAMPLE

FAIL, FILL = "fail", "fill"
"""What tiles can do that can not be decoded."""
LOCAL, SLURM, KUBERNETES = "local", "slurm", "kubernetes"
CLUSTER_KINDS = (LOCAL, SLURM, KUBERNETES)
"""Of clusters that a run starts."""
DEFAULT_MODEL = Path(__file__).parent.parent / "model" / "nuclei.safetensors"


@dataclass(frozen=True)
class RunConfig:
    """The options of `run`; what is None is chosen by memory and by measuring."""

    out: str = "segmentations"
    """Folder of the stores; made if it is not there."""
    model: str | None = None
    """Model; None: the nuclei model that comes with wsipipe."""
    mpp: float | None = None
    """Micrometres per pixel of the slides' finest level, over what the files say."""
    slides_table: str | None = None
    """CSV file of what is said of single slides, over ``mpp`` and over what the files say (`wsipipe.slides.table`)."""
    max_upsample: float = MAX_UPSAMPLE
    """How much a slide that is coarser than the model may be enlarged."""
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


def parse_cluster(text: str) -> tuple[str, int | None]:
    """The kind and the number of workers that ``--cluster`` says: ``local``, ``local:2``, ``slurm:40``.

    Raises
    ------
    UsageError
        If it is not one.
    """
    kind, _, count = text.partition(":")
    if kind not in CLUSTER_KINDS or (count and not (count.isdecimal() and int(count) > 0)):
        raise UsageError(
            f"--cluster {text} is no cluster; allowed: {', '.join(CLUSTER_KINDS)}, or with a number: {LOCAL}:2"
        )
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
