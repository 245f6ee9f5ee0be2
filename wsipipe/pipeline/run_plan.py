"""What a run would do, over all its slides: each is opened, named, and fitted into the memory; headers only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsipipe.errors import MemoryLimitError, OutputError, SlideError, UsageError
from wsipipe.files import Location, Named, locate
from wsipipe.pipeline.config import RunConfig
from wsipipe.pipeline.fitted_sizes import fit_memory
from wsipipe.pipeline.machine import default_threads, loaded_bytes, megabytes
from wsipipe.pipeline.memory_need import RUNTIME_BYTES, weight_bytes
from wsipipe.pipeline.setup import Setup, Site, check_config
from wsipipe.pipeline.slide_plan import SKIP, SlidePlan, level_of, plan_slide
from wsipipe.pipeline.store_names import name_stores
from wsipipe.slides.discover import expand
from wsipipe.slides.open import open_slide
from wsipipe.slides.slide import Level, Slide, with_mpp
from wsipipe.slides.table import SlidesTable, read_slides_table
from wsipipe.tissue.mask_file import is_file
from wsipipe.urls import Url


@dataclass(frozen=True)
class Refused:
    """A slide that a run would not begin."""

    path: str
    error: str


@dataclass(frozen=True)
class RunPlan:
    """What a run would do, slide by slide, in the order of the command."""

    setup: Setup
    slides: tuple[SlidePlan | Refused, ...]
    threads: int
    """Blocks in flight in one process."""
    base_bytes: int
    """What a process takes before the first block."""
    bare: float = 0.0
    """Pixels a second, margins included, of the bare network on one device; 0 until it is measured."""

    @property
    def planned(self) -> tuple[SlidePlan, ...]:
        """The slides that are not refused."""
        return tuple(p for p in self.slides if isinstance(p, SlidePlan))

    @property
    def to_do(self) -> tuple[SlidePlan, ...]:
        """The slides that are to be computed."""
        return tuple(p for p in self.planned if p.action != SKIP)

    @property
    def all_threads(self) -> int:
        """Blocks in flight in all processes."""
        return self.threads * self.setup.site.processes

    @property
    def all_devices(self) -> int:
        """Devices of all processes."""
        return len(self.setup.devices) * self.setup.site.processes

    def memory_bytes(self, plan: SlidePlan) -> int:
        """The most that a process will take while it segments the slide of ``plan``."""
        return self.base_bytes + plan.memory_bytes(self.threads)


def plan_run(slides: Sequence[Named], config: RunConfig, site: Site | None = None) -> RunPlan:
    """What `run` would do at ``site``, by default in this process: reads headers only, writes nothing.

    Raises
    ------
    UsageError, ModelError, MachineError
        If nothing can be done for any slide, whatever the slides.
    """
    setup = check_config(config, site)
    _check_out(locate(config.out))
    table = None if config.slides_table is None else read_slides_table(Path(config.slides_table))
    paths_of_slides = expand(slides)
    if is_file(config.tissue) and len(paths_of_slides) > 1:
        raise UsageError(f"--tissue {config.tissue} is the mask of one slide; {len(paths_of_slides)} are given")
    looked = [_open_listed(path, config, table) for path in paths_of_slides]
    opened = [s for s in looked if isinstance(s, Slide)]
    loaded = loaded_bytes(setup.engine, setup.devices if site is None else ())
    base = loaded + RUNTIME_BYTES + weight_bytes(setup.model.path, setup.devices, setup.engine)
    setup = fit_memory(setup, [level for s in opened if (level := _level(s, setup))], base)
    paths = name_stores(opened, locate(config.out))
    plans = [_plan(s, paths[s.path], setup) if isinstance(s, Slide) else s for s in looked]
    return _within_memory(RunPlan(setup, tuple(plans), config.threads or default_threads(setup.devices), base))


def _check_out(out: Location) -> None:
    """Raise an OutputError unless ``out`` is a folder that can be written, or can be made one."""
    if isinstance(out, Url):
        _check_bucket(out)
        return
    there = next(folder for folder in (out, *out.absolute().parents) if os.path.lexists(folder))
    if os.path.isfile(there):  # noqa: PTH113 - Path.is_file raises where os.path says no
        raise OutputError(f"-o {out}: {there} is a file, not a folder; give another -o")
    if not os.access(there, os.W_OK):
        raise OutputError(f"-o {out}: no permission to write in {there}; give another -o")


def _check_bucket(out: Url) -> None:
    """Raise an OutputError unless ``out`` is in a bucket that can be reached."""
    if not out.lists:
        raise OutputError(f"-o {out}: a web server takes no results; give a folder, or a bucket: s3://bucket/folder")
    try:
        out.is_dir()
    except OSError as err:
        raise OutputError(f"-o {out}: {err.strerror}; see that there is such a bucket, and who one is there") from err


def _open_listed(path: Location, config: RunConfig, table: SlidesTable | None) -> Slide | Refused:
    try:
        if table is None:
            return open_slide(path, mpp=config.mpp, reader=config.reader, planes=config.planes)
        row = table.row(path)
        slide = open_slide(path, mpp=config.mpp, reader=row.reader or config.reader, planes=row.planes(config.planes))
        return slide if row.mpp is None else with_mpp(slide, row.mpp, f"given in {table.name}")
    except SlideError as err:
        return Refused(str(path), str(err))
    except Exception as err:  # a fault of wsipipe or of a library, and of one slide only
        return Refused(str(path), f"{path.name}: unexpected {type(err).__name__}: {err}")


def _level(slide: Slide, setup: Setup) -> Level | None:
    """The level that is segmented; None if there is no such level, which the slide's plan reports."""
    try:
        return level_of(slide, setup)
    except SlideError:
        return None


def _plan(slide: Slide, store: str, setup: Setup) -> SlidePlan | Refused:
    try:
        return plan_slide(slide, store, setup)
    except (SlideError, OutputError) as err:  # a store that may not be read stops its own slide only
        return Refused(slide.path, str(err))


def _within_memory(run: RunPlan) -> RunPlan:
    """The run with as many blocks in flight as the memory takes, and without the slides it does not take.

    Raises
    ------
    UsageError, MemoryLimitError
        If no slide fits: the limit was given, or is what there is.
    """
    limit, at_least = run.setup.limit_bytes, replace(run, threads=run.setup.config.threads or 1)
    need = {p.store.path: at_least.memory_bytes(p) for p in run.to_do}
    if need and min(need.values()) > limit:
        given = run.setup.config.max_memory_bytes is not None
        message = (
            f"{'--max-memory' if given else 'the memory there is,'} {megabytes(limit)} is less than one block needs; "
            f"the smallest that works here: --max-memory {megabytes(min(need.values()), up=True)} "
            "(less with a smaller --block, --tile, --batch or --threads)"
        )
        raise UsageError(message) if given else MemoryLimitError(message)
    slides = tuple(
        _refuse_large(p, need.get(p.store.path, 0), limit) if isinstance(p, SlidePlan) else p for p in run.slides
    )
    run = replace(run, slides=slides)
    while run.threads > at_least.threads and any(run.memory_bytes(p) > limit for p in run.to_do):
        run = replace(run, threads=run.threads - 1)
    return run


def _refuse_large(plan: SlidePlan, need: int, limit: int) -> SlidePlan | Refused:
    if need <= limit:
        return plan
    return Refused(
        plan.slide.path,
        f"{plan.slide.file} needs {megabytes(need, up=True)} of memory, allowed are {megabytes(limit)}: it is stored "
        f"in pieces of {plan.level.tile[0]} x {plan.level.tile[1]} px; raise --max-memory, or convert it to tiles",
    )
