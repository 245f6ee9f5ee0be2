"""The configuration of a night: the tables of a TOML file, all of which is checked before anything runs.

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
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from wsipipe.errors import MachineError, ModelError, UsageError
from wsipipe.files import Location, locate, one_name
from wsipipe.geometry.grid import Grid, fit_sizes
from wsipipe.inference.devices import TORCH
from wsipipe.model.built_in import BUILT_IN, DEFAULT_MODEL
from wsipipe.model.model_file import read_model_info
from wsipipe.nightly.failures import size_and_change
from wsipipe.nightly.options import OF_SLIDES, RunTable, SlideTable
from wsipipe.nightly.remedies import RUN, SLIDES, in_night
from wsipipe.pipeline.config import ClusterConfig, RunConfig
from wsipipe.pipeline.machine import size_bytes
from wsipipe.pipeline.setup import CORE_PX, GPU_BLOCK_PX, Site, resolve
from wsipipe.rasters.region import is_region_file, parse_region
from wsipipe.slides.address import file_of
from wsipipe.slides.planes import parse_channels, take_planes
from wsipipe.slides.readers.registry import named
from wsipipe.tables import Place, TableError, line_of, parse_table, read_toml
from wsipipe.tissue.mask_file import TISSUE_AUTO, TISSUE_OFF, is_file
from wsipipe.urls import is_url

REQUIRED = ("inbox", "out")
CLOCK = 'until must be a time of day in quotes: until = "06:00"'
DURATION_UNITS = {"s": 1, "m": 60, "h": 3600}


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
    """Path of the model, or the name of one that comes with wsipipe; by default ``nuclei``."""
    until: str | None = None
    """Time of day when it ends, ``06:30``: it begins no block that would not be done by then."""
    duration: str | float | None = None
    """Its length, ``8h``, or seconds as a number, instead of ``until``."""
    retries: int = 3
    """Number of nights after which a slide that failed in each of them is set aside."""
    reserve: str = "1GB"
    """Space that stays free on the disk of ``out``."""
    settle: str | float = "5m"
    """Time for which a file must not have changed, as for ``duration``; until then it counts as still being copied."""
    metrics: str | None = None
    """File for the textfile collector of Prometheus' node exporter."""
    webhook: str | None = None
    """Address to which the outcome is posted as JSON."""
    log: str | None = None
    """File to which every event is appended, one JSON object a line."""
    run: RunTable = field(default_factory=RunTable)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    slides: tuple[SlideTable, ...] = ()


@dataclass(frozen=True)
class Night:
    """A night that was checked."""

    config: NightConfig
    path: Path
    """Path of its file."""
    text: str
    settle_seconds: float
    reserve_bytes: int

    def digest(self, options: RunConfig) -> str:
        """sha256 of its text, and of size and change of the files of model and region that a run with ``options`` has.

        When it changes, slides of that run that were set aside get another chance.
        """
        files = [size_and_change(Path(name)) for name in (options.model, options.roi) if name and not is_url(name)]
        return hashlib.sha256(f"{self.text}{files}".encode()).hexdigest()

    def line(self, *place: str | int) -> str:
        """Where its file has the key at ``place``, for messages: ``night.toml:2``."""
        return f"{self.path.name}:{line_of(self.text, place)}"

    def place(self, text: str) -> str:
        """A path in the configuration as an absolute path, or a URL."""
        return text if is_url(text) else str(self.path.parent / text)

    def model(self, text: str) -> str:
        """A model in the configuration: one that comes with wsipipe by its name, any other as `place` says."""
        return text if text in BUILT_IN else self.place(text)

    def region(self, text: str) -> str:
        """A region in the configuration: a file as `place` says, lengths as they are."""
        return self.place(text) if is_region_file(text) else text

    @property
    def report(self) -> Location:
        """Folder of the reports."""
        return locate(self.place(self.config.report or f"{self.config.out.rstrip('/')}/reports"))

    def ends(self, now: float) -> float | None:
        """Its end, in seconds since the epoch, if it begins ``now``; None if it has none."""
        if self.config.duration is not None:
            return now + seconds_of(self.config.duration)
        if self.config.until is None:
            return None
        hour, minute = clock_of(self.config.until)
        start = datetime.fromtimestamp(now)
        end = start.replace(hour=hour, minute=minute, second=0, microsecond=0)
        return (end if end > start else end + timedelta(days=1)).timestamp()

    def options(self, slide: Location) -> RunConfig:
        """The options of a run over ``slide``."""
        return self.run_config(next((one for one in self.config.slides if matches(one.match, slide)), None))

    def run_config(self, slides: SlideTable | None = None) -> RunConfig:
        """The options of a run over the slides of one table, or of none."""
        table = self.config.run
        model = (slides and slides.model) or self.config.model
        given = asdict(table)
        if slides is not None:
            given |= {name: value for name in OF_SLIDES if (value := getattr(slides, name)) is not None}
        limit, min_area, planes = given.pop("max_memory"), given.pop("min_area"), take_planes(given)
        roi = given.pop("roi")
        return RunConfig(
            out=self.place(self.config.out),
            renew=True,
            model=None if model is None else self.model(model),
            mpp=slides.mpp if slides else None,
            planes=planes,
            max_memory_bytes=None if limit is None else size_bytes(limit, "max_memory"),
            min_area_um2=min_area,
            roi=None if roi is None else self.region(roi),
            cluster=self.config.cluster,
            **given,
        )


def matches(pattern: str, slide: Location) -> bool:
    """Whether ``slide`` is one of those of the table ``[[slides]]`` with this pattern."""
    names = (name for one in (slide, file_of(slide)[0]) for name in (one.name, str(one)))
    return any(fnmatchcase(name, pattern) for name in names)


def read_night(path: Path) -> Night:
    """The night that the TOML file at ``path`` describes.

    Raises
    ------
    UsageError
        If it cannot be read, or has values that cannot be used; all of them are named, each with its line.
    """
    path = path.absolute()
    document, text = read_toml(path)
    config, problems = _parse(document)
    night = Night(config, path, text, 0.0, 0)
    for find in (_problems, _run_problems, _size_problems):
        known = {place for place, _ in problems} | {(name,) for name in REQUIRED if name not in document}
        problems += [(place, message) for place, message in find(night, known) if place not in known]
    if problems:
        raise UsageError("\n".join(f"{night.line(*place)}: {message}" for place, message in problems))
    return replace(night, settle_seconds=seconds_of(config.settle), reserve_bytes=_reserve_bytes(config))


def _parse(document: dict[str, Any]) -> tuple[NightConfig, list[tuple[Place, str]]]:
    """The configuration in ``document``, without what has the wrong name or type, and that."""
    try:
        return parse_table(NightConfig, document), []
    except TableError as err:
        return err.usable(), [(place, CLOCK if place == ("until",) else message) for place, message in err.problems]


def _problems(night: Night, _: Container[Place]) -> Iterator[tuple[Place, str]]:
    """The values that cannot be used, and why."""
    config, run = night.config, night.config.run
    checks: list[tuple[Place, Callable[[], object]]] = [
        (("until",), lambda: config.until is None or clock_of(config.until)),
        (("duration",), lambda: config.duration is None or seconds_of(config.duration)),
        (("settle",), lambda: seconds_of(config.settle)),
        (("reserve",), lambda: _reserve_bytes(config)),
        (("run", "max_memory"), lambda: run.max_memory is None or size_bytes(run.max_memory, "max_memory")),
        (("run", "channels"), lambda: run.channels is None or parse_channels(run.channels)),
        (("run", "tissue"), lambda: _check_tissue(config.run.tissue)),
        (("run", "roi"), lambda: _check_region(config.run.roi)),
        (("model",), lambda: config.model is None or read_model_info(night.model(config.model))),
        *(
            (("slides", i, "model"), partial(read_model_info, night.model(one.model)))
            for i, one in enumerate(config.slides)
            if one.model is not None
        ),
        *((("slides", i, "reader"), partial(named, one.reader)) for i, one in enumerate(config.slides)),
        *(
            (("slides", i, "roi"), partial(parse_region, night.region(one.roi)))
            for i, one in enumerate(config.slides)
            if one.roi is not None
        ),
        *(
            (("slides", i, "channels"), partial(parse_channels, one.channels))
            for i, one in enumerate(config.slides)
            if one.channels is not None
        ),
    ]
    yield from _failing(checks)
    for name, problem in config.cluster.problems():
        yield ("cluster", name), f"[cluster] {name} {problem}"
    if not config.inbox:
        yield ("inbox",), "inbox must name a folder, a file or a pattern"
    for text in config.inbox:
        yield from ((("inbox",), problem) for problem in _inbox_problems(night, text))
        yield from _within(night, text)
    for name in ("metrics", "log"):
        if is_url(getattr(config, name) or ""):
            yield (name,), f"{name} must be a file on this machine, not a URL"
    if config.until is not None and config.duration is not None:
        yield ("duration",), "until and duration both set the end; give one of them"
    if config.retries < 1:
        yield ("retries",), f"retries must be 1 or more, not {config.retries}"
    if config.webhook is not None and not config.webhook.startswith(("http://", "https://")):
        yield ("webhook",), "webhook must be an http:// or https:// address"
    for i, one in enumerate(config.slides):
        if one.mpp is not None and not 0 < one.mpp < float("inf"):
            yield ("slides", i, "mpp"), f"[[slides]] mpp must be a positive number, not {one.mpp}"


def _run_problems(night: Night, known: Container[Place]) -> Iterator[tuple[Place, str]]:
    """The options that a run refuses, each under the first key without which the run says something else."""
    if ("model",) in known:
        night = replace(night, config=replace(night.config, model=None))
    while message := _refusal(night):
        others = {one.name: _without(night, one.name) for one in fields(RunTable)}
        guilty = next((name for name, other in others.items() if other != night and _refusal(other) != message), None)
        yield ("run",) if guilty is None else ("run", guilty), message
        if guilty is None:
            return
        night = others[guilty]


def _without(night: Night, key: str) -> Night:
    """The night without one ``key`` of its table ``[run]``."""
    default: dict[str, Any] = {key: getattr(RunTable(), key)}
    return replace(night, config=replace(night.config, run=replace(night.config.run, **default)))


def _refusal(night: Night) -> str:
    """Why a run with the options of ``night`` is refused; empty if it is not. Devices of workers are not known yet."""

    def check() -> None:
        config = night.run_config()
        resolve(replace(config, cluster=None), Site("cpu", ("cpu",), TORCH, 0) if config.cluster else None)

    return next((message for _, message in _failing([((), check)])), "")


def _size_problems(night: Night, known: Container[Place]) -> Iterator[tuple[Place, str]]:
    """Sizes of tiles and blocks that do not suit one of the models."""
    config = night.config
    size = "block" if config.run.tile is None else "tile"
    models = [config.model] if ("model",) not in known else []
    models += [one.model for i, one in enumerate(config.slides) if one.model and ("slides", i, "model") not in known]
    paths = [model and night.model(model) for model in dict.fromkeys(models)]
    yield from _failing([(("run", size), partial(_check_sizes, path, config.run)) for path in paths])


def _inbox_problems(night: Night, text: str) -> Iterator[str]:
    """Why an inbox cannot be searched."""
    plain = text if not glob.has_magic(text) else re.split(r"[*?\[]", text)[0].rpartition("/")[0]
    try:
        root = locate(night.place(plain))
        if not (root.exists() if isinstance(root, Path) else root.is_dir() or not root.lists or root.is_file()):
            yield f"inbox {text}: {root} does not exist"
    except UsageError as err:
        yield str(err)
    except OSError as err:
        yield f"inbox {text} cannot be reached: {err.strerror or err}"


def _within(night: Night, text: str) -> Iterator[tuple[Place, str]]:
    """The keys of what a night writes that lie within the inbox ``text``, or within a folder that matches it."""
    inbox = _name(night, text)
    for key in ("out", "report", "metrics", "log"):
        name = _name(night, getattr(night.config, key) or "")
        folders = [name, *map(str, PurePath(name).parents)] if name else []
        if any(folder == inbox or fnmatchcase(folder, inbox) for folder in folders):
            yield (key,), f"{key} lies within the inbox {text}; choose a folder outside it"


def _name(night: Night, text: str) -> str:
    """The one name of a folder or pattern in the configuration; empty if it has none."""
    try:
        return str(PurePath(one_name(locate(night.place(text))))) if text else ""
    except (UsageError, OSError):
        return ""


def _failing(checks: Iterable[tuple[Place, Callable[[], object]]]) -> Iterator[tuple[Place, str]]:
    """The messages of the checks that fail; errors of the machine are not the file's fault, and are skipped."""
    for place, check in checks:
        try:
            check()
        except MachineError:
            continue
        except (UsageError, ModelError) as err:
            yield place, in_night(str(err), SLIDES if place[:1] == ("slides",) else RUN)


def _check_tissue(tissue: str) -> None:
    """Raise a UsageError if it is a file: a mask belongs to one slide."""
    if is_file(tissue):
        raise UsageError(f"[run] tissue must be {TISSUE_AUTO!r} or {TISSUE_OFF!r}, not {tissue!r}")


def _check_region(text: str | None) -> None:
    """Raise a UsageError if it is no region, or a file: that belongs to one slide."""
    if text is not None and is_region_file(text):
        raise UsageError(f"[run] roi {text} is the region of one slide; give it in a table [[slides]] that matches it")
    if text is not None:
        parse_region(text)


def _check_sizes(model: str | None, table: RunTable) -> None:
    """Raise a GeometryError unless the sizes of ``table`` suit the network of ``model``."""
    receptive = read_model_info(model or DEFAULT_MODEL).receptive
    Grid((1, 1), receptive, *fit_sizes(receptive, table.tile, table.block, preferred=(CORE_PX, GPU_BLOCK_PX)))


def _reserve_bytes(config: NightConfig) -> int:
    reserve = size_bytes(config.reserve, "reserve")
    if reserve < 0:
        raise UsageError(f"reserve must not be negative (got {config.reserve})")
    return reserve


def clock_of(text: str) -> tuple[int, int]:
    """Hour and minute of ``06:30``. Raises a UsageError for anything that is not a time of day."""
    match = re.fullmatch(r"(\d{1,2}):(\d{2})", text)
    if not match or int(match[1]) > 23 or int(match[2]) > 59:
        raise UsageError(f"until must be a time of day such as 06:30, not {text!r}")
    return int(match[1]), int(match[2])


def seconds_of(text: str | float) -> float:
    """Seconds in ``8h``, ``90m``, ``1h30m``, or a number of them. Raises a UsageError for any other value."""
    if isinstance(text, float):
        if not 0 <= text < float("inf"):
            raise UsageError(f"{text:g} is not a duration: give seconds as a number from 0, or 8h, 90m or 1h30m")
        return text
    if not re.fullmatch(r"(\d+[smh])+", text):
        raise UsageError(f"{text!r} is not a duration such as 8h, 90m or 1h30m, or seconds as a number")
    return float(sum(int(number) * DURATION_UNITS[unit] for number, unit in re.findall(r"(\d+)([smh])", text)))
