"""What a night is to do: the tables of a TOML file, checked whole before anything runs.

::

    inbox = ["/scans/*.svs"]    out = "/segmentations"    until = "06:30"
    [run]                       device = "cuda"           as the options of `wsipipe run`
    [cluster]                   kind = "slurm"            workers = 8
    [[slides]]                  match = "*_20x*.tif"      mpp = 0.5
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, cast

from wsipipe.errors import MachineError, ModelError, UsageError
from wsipipe.files import Location, locate
from wsipipe.geometry.grid import Grid, fit_sizes
from wsipipe.inference.devices import TORCH
from wsipipe.model.model_file import read_model_info
from wsipipe.pipeline.config import CLUSTER_KINDS, DEFAULT_MODEL, FAIL, RunConfig
from wsipipe.pipeline.machine import size_bytes
from wsipipe.pipeline.setup import CORE_PX, GPU_BLOCK_PX, Site, check_config
from wsipipe.slides.planes import parse_channels, take_planes
from wsipipe.slides.readers.registry import named
from wsipipe.slides.slide import MAX_UPSAMPLE
from wsipipe.tables import Place, TableError, line_of, parse_table, read_toml
from wsipipe.tissue.mask_file import TISSUE_AUTO, TISSUE_OFF, is_file
from wsipipe.urls import is_url

DURATION_UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class RunTable:
    """Options of `wsipipe run`, under their names there."""

    device: str = "auto"
    engine: str = "auto"
    precision: str = "float32"
    tile: int | None = None
    block: int | None = None
    batch: int | None = None
    threads: int | None = None
    max_memory: str | None = None
    tissue: str = TISSUE_AUTO
    on_bad_tile: str = FAIL
    probabilities: bool = False
    max_upsample: float = MAX_UPSAMPLE
    reader: str | None = None
    channels: str | None = None
    z: int | None = None
    t: int | None = None
    series: int | None = None


@dataclass(frozen=True)
class ClusterTable:
    """Who computes, if not this process."""

    scheduler: str | None = None
    """Address of a dask scheduler that is there."""
    kind: str | None = None
    """What to start: ``local``, ``slurm`` or ``kubernetes``."""
    workers: int | None = None
    adapt: tuple[int, ...] | None = None
    """The least and the most workers."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the cluster is started with."""


OF_SLIDES = ("reader", "channels", "z", "t", "series")
"""Options of a run that the slides of one pattern may have of their own."""


@dataclass(frozen=True)
class SlideTable:
    """What is said of the slides of one pattern; the first that matches counts."""

    match: str
    """Of the file's name, or of its whole path: ``*_20x*.tif``."""
    mpp: float | None = None
    """Micrometres per pixel of level 0, over what the file says."""
    model: str | None = None
    """Another model."""
    reader: str | None = None
    """As in `RunTable`, and over that; the next four, too."""
    channels: str | None = None
    z: int | None = None
    t: int | None = None
    series: int | None = None


@dataclass(frozen=True)
class NightConfig:
    """A night; paths are relative to its file."""

    inbox: tuple[str, ...]
    """Folders, files or patterns of slides, or their URLs. Nothing in them is ever written, moved or deleted."""
    out: str
    """Folder of the stores, or its URL."""
    report: str | None = None
    """Folder of ``report.html``, ``report.json`` and ``history.jsonl``; by default ``reports`` in ``out``."""
    model: str | None = None
    """Model; by default the nuclei model."""
    until: str | None = None
    """When it ends, ``06:30``: no block is begun that would not be done by then."""
    duration: str | None = None
    """Or how long it is, ``8h``."""
    retries: int = 3
    """Nights after which a slide that failed in each of them is set aside."""
    reserve: str = "1GB"
    """What stays free on the disk of ``out``."""
    settle: str = "5m"
    """For how long a file must have been left alone: until then it is still being copied."""
    metrics: str | None = None
    """File for the textfile collector of Prometheus' node exporter."""
    webhook: str | None = None
    """Where the outcome is posted to as JSON."""
    log: str | None = None
    """File to which every event is added, one JSON object a line."""
    run: RunTable = field(default_factory=RunTable)
    cluster: ClusterTable = field(default_factory=ClusterTable)
    slides: tuple[SlideTable, ...] = ()


@dataclass(frozen=True)
class Night:
    """A night that was checked."""

    config: NightConfig
    path: Path
    """Of its file."""
    digest: str
    """Of its text (sha256): another one gives slides that were set aside another chance."""
    settle_seconds: float
    reserve_bytes: int

    def place(self, text: str) -> str:
        """A path of the configuration, absolute, or a URL."""
        return text if is_url(text) else str(self.path.parent / text)

    @property
    def report(self) -> Location:
        """Folder of the reports."""
        return locate(self.place(self.config.report or f"{self.config.out.rstrip('/')}/reports"))

    def ends(self, now: float) -> float | None:
        """When it is to end, in seconds since the epoch, if it begins ``now``; None if nothing says so."""
        if self.config.duration is not None:
            return now + seconds_of(self.config.duration)
        if self.config.until is None:
            return None
        hour, minute = clock_of(self.config.until)
        start = datetime.fromtimestamp(now)
        end = start.replace(hour=hour, minute=minute, second=0, microsecond=0)
        return (end if end > start else end + timedelta(days=1)).timestamp()

    def options(self, slide: Location) -> RunConfig:
        """How ``slide`` is to be run."""
        one = next(
            (t for t in self.config.slides if any(fnmatchcase(n, t.match) for n in (slide.name, str(slide)))), None
        )
        return self.run_config(one)

    def run_config(self, slides: SlideTable | None = None) -> RunConfig:
        """How the slides of one table are to be run, or those of none."""
        table, cluster = self.config.run, self.config.cluster
        model = (slides and slides.model) or self.config.model
        count = "" if cluster.workers is None else f":{cluster.workers}"
        given = asdict(table)
        if slides is not None:
            given |= {name: value for name in OF_SLIDES if (value := getattr(slides, name)) is not None}
        limit, planes = given.pop("max_memory"), take_planes(given)
        return RunConfig(
            out=self.place(self.config.out),
            renew=True,
            model=None if model is None else self.place(model),
            mpp=slides.mpp if slides else None,
            planes=planes,
            max_memory_bytes=None if limit is None else size_bytes(limit, "max_memory"),
            scheduler=cluster.scheduler,
            cluster=None if cluster.kind is None else cluster.kind + count,
            adapt=cast(tuple[int, int] | None, cluster.adapt),
            cluster_options=cluster.options,
            **given,
        )


def read_night(path: Path) -> Night:
    """The night that the TOML file at ``path`` describes.

    Raises
    ------
    UsageError
        If it can not be read, or something in it makes no sense; all of it is named, each with its line.
    """
    path = path.absolute()
    document, text = read_toml(path)
    try:
        config: NightConfig = parse_table(NightConfig, document)
        night = Night(config, path, hashlib.sha256(text.encode()).hexdigest(), 0.0, 0)
        problems = list(_problems(night))
    except TableError as err:
        problems = err.problems
    if problems:
        raise UsageError("\n".join(f"{path.name}:{line_of(text, place)}: {message}" for place, message in problems))
    return replace(night, settle_seconds=seconds_of(config.settle), reserve_bytes=_reserve_bytes(config))


def _problems(night: Night) -> Iterator[tuple[Place, str]]:
    """What makes no sense in it."""
    config, run = night.config, night.config.run
    checks: list[tuple[Place, Callable[[], object]]] = [
        (("until",), lambda: config.until is None or clock_of(config.until)),
        (("duration",), lambda: config.duration is None or seconds_of(config.duration)),
        (("settle",), lambda: seconds_of(config.settle)),
        (("reserve",), lambda: _reserve_bytes(config)),
        (("run", "max_memory"), lambda: run.max_memory is None or size_bytes(run.max_memory, "max_memory")),
        (("run", "channels"), lambda: run.channels is None or parse_channels(run.channels)),
        (("run", "tissue"), lambda: _check_tissue(config.run.tissue)),
        (("model",), lambda: config.model is None or read_model_info(night.place(config.model))),
        *(
            (("slides", i, "model"), partial(read_model_info, night.place(one.model)))
            for i, one in enumerate(config.slides)
            if one.model is not None
        ),
        *((("slides", i, "reader"), partial(named, one.reader)) for i, one in enumerate(config.slides)),
        *(
            (("slides", i, "channels"), partial(parse_channels, one.channels))
            for i, one in enumerate(config.slides)
            if one.channels is not None
        ),
    ]
    problems = list(_failing(checks))
    yield from problems
    yield from _cluster_problems(config.cluster)
    if not config.inbox:
        yield ("inbox",), "inbox names no folder, file or pattern"
    for text in config.inbox:
        yield from ((("inbox",), problem) for problem in _inbox_problems(night, text))
    for name in ("metrics", "log"):
        if is_url(getattr(config, name) or ""):
            yield (name,), f"{name} is a file of this machine, not a URL"
    if config.until is not None and config.duration is not None:
        yield ("duration",), "until and duration both say when it ends; give one"
    if config.retries < 1:
        yield ("retries",), f"retries {config.retries} is not 1 or more"
    if config.webhook is not None and not config.webhook.startswith(("http://", "https://")):
        yield ("webhook",), "webhook is no http:// or https:// address"
    for i, one in enumerate(config.slides):
        if one.mpp is not None and not 0 < one.mpp < float("inf"):
            yield ("slides", i, "mpp"), f"[[slides]] mpp {one.mpp} is not a positive number"
    if not problems:
        yield from _failing([(("run",), lambda: _check_run(night.run_config()))])
        size = "block" if config.run.tile is None else "tile"
        models = dict.fromkeys([night.run_config().model, *(night.run_config(one).model for one in config.slides)])
        yield from _failing([(("run", size), partial(_check_sizes, model, config.run)) for model in models])


def _inbox_problems(night: Night, text: str) -> Iterator[str]:
    """Why nothing can be found in an inbox."""
    plain = text if not glob.has_magic(text) else re.split(r"[*?\[]", text)[0].rpartition("/")[0]
    try:
        root = locate(night.place(plain))
        if not (root.exists() if isinstance(root, Path) else root.is_dir() or not root.lists or root.is_file()):
            yield f"inbox {text}: there is no {root}"
    except UsageError as err:
        yield str(err)
    except OSError as err:
        yield f"inbox {text} can not be reached: {err.strerror or err}"


def _failing(checks: Iterable[tuple[Place, Callable[[], object]]]) -> Iterator[tuple[Place, str]]:
    """What those of ``checks`` say that fail; that the machine is not as it should be is no fault of a file."""
    for place, check in checks:
        try:
            check()
        except MachineError:
            continue
        except (UsageError, ModelError) as err:
            yield place, str(err)


def _cluster_problems(cluster: ClusterTable) -> Iterator[tuple[Place, str]]:
    if cluster.kind is not None and cluster.kind not in CLUSTER_KINDS:
        yield ("cluster", "kind"), f"[cluster] kind {cluster.kind!r} is no cluster; allowed: {', '.join(CLUSTER_KINDS)}"
    if cluster.kind is not None and cluster.scheduler is not None:
        yield ("cluster", "kind"), "[cluster] scheduler is one that is there, kind starts one; give one"
    for name in ("workers", "adapt", "options"):
        if getattr(cluster, name) and cluster.kind is None:
            yield ("cluster", name), f"[cluster] {name} is for a cluster that is started; add kind"
    if cluster.adapt is not None and not (
        len(cluster.adapt) == 2 and 0 <= cluster.adapt[0] <= cluster.adapt[1] and cluster.adapt[1] > 0
    ):
        yield ("cluster", "adapt"), f"[cluster] adapt {list(cluster.adapt)} is not [least, most]"
    if cluster.workers is not None and cluster.workers < 1:
        yield ("cluster", "workers"), f"[cluster] workers {cluster.workers} is not 1 or more"


def _check_run(config: RunConfig) -> None:
    """Raise what a run would say of the rest; what workers elsewhere have is not known yet."""
    site = Site(("cpu",), TORCH, 0) if config.on_cluster else None
    check_config(replace(config, scheduler=None, cluster=None, adapt=None, cluster_options={}), site)


def _check_tissue(tissue: str) -> None:
    """Raise a UsageError if it is a file: a mask is of one slide."""
    if is_file(tissue):
        raise UsageError(f"[run] tissue {tissue!r} is neither {TISSUE_AUTO!r} nor {TISSUE_OFF!r}")


def _check_sizes(model: str | None, table: RunTable) -> None:
    """Raise a GeometryError unless the network of the model ``model`` can have the sizes of ``table``."""
    receptive = read_model_info(model or DEFAULT_MODEL).receptive
    Grid((1, 1), receptive, *fit_sizes(receptive, table.tile, table.block, preferred=(CORE_PX, GPU_BLOCK_PX)))


def _reserve_bytes(config: NightConfig) -> int:
    reserve = size_bytes(config.reserve, "reserve")
    if reserve < 0:
        raise UsageError(f"reserve {config.reserve} is less than nothing")
    return reserve


def clock_of(text: str) -> tuple[int, int]:
    """Hour and minute of ``06:30``; a UsageError if it is no time of the day."""
    match = re.fullmatch(r"(\d{1,2}):(\d{2})", text)
    if not match or int(match[1]) > 23 or int(match[2]) > 59:
        raise UsageError(f"until {text!r} is no time of the day, such as 06:30")
    return int(match[1]), int(match[2])


def seconds_of(text: str) -> float:
    """Seconds in ``8h``, ``90m`` or ``1h30m``; a UsageError if it is no duration."""
    if not re.fullmatch(r"(\d+[smh])+", text):
        raise UsageError(f"{text!r} is no duration, such as 8h, 90m or 1h30m")
    return float(sum(int(number) * DURATION_UNITS[unit] for number, unit in re.findall(r"(\d+)([smh])", text)))
