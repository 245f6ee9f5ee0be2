"""The plan of a run: each slide is opened, named and fitted into the memory. Only headers are read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from wsipipe.arrays import size_text
from wsipipe.errors import MemoryLimitError, OutputError, SlideError, UsageError
from wsipipe.files import Location, Named, locate
from wsipipe.pipeline.fitted_sizes import fit_memory
from wsipipe.pipeline.machine import RUNTIME_BYTES, default_threads, loaded_bytes, megabytes
from wsipipe.pipeline.memory_need import weight_bytes
from wsipipe.pipeline.objects_plan import JOINING_BYTES
from wsipipe.pipeline.setup import Setup, SlideOptions
from wsipipe.pipeline.slide_plan import SKIP, SlidePlan, level_of, plan_slide
from wsipipe.pipeline.store_names import name_stores
from wsipipe.slides.discover import expand, is_whole
from wsipipe.slides.open import open_slide
from wsipipe.slides.planes import Planes
from wsipipe.slides.slide import Level, Slide, with_mpp
from wsipipe.tissue.mask_file import is_file
from wsipipe.urls import Url

MOST_NAMED = 20
"""Rows of a table that a message names."""


@dataclass(frozen=True)
class Refused:
    """A slide that a run does not begin."""

    path: str
    error: str
    """Reason for the refusal."""


@dataclass(frozen=True)
class RunPlan:
    """The plan of a run, slide by slide, in the order of the command."""

    setup: Setup
    slides: tuple[SlidePlan | Refused, ...]
    """In the order of the command."""
    threads: int
    """Blocks in flight in one process."""
    base_bytes: int
    """Memory of a process before its first block."""
    bare: float = 0.0
    """Pixels a second, margins included, of the bare network on one device; 0 until something is measured."""
    measured: bool = False
    """Whether `bare` is that of the tiles of this run, not of smaller ones, because a short run measures no more."""
    unmatched: tuple[str, ...] = ()
    """Slides of the table of slides, as it has them, that are none of this run's."""

    @property
    def measured_bare(self) -> float:
        """The speed `bare` for accounts, which no estimate may enter; 0 if it was not measured."""
        return self.bare if self.measured else 0.0

    @property
    def table_warning(self) -> str:
        """A warning that rows of the table match no slide, so that nobody relies on them; empty if all do."""
        named = ", ".join(self.unmatched[:MOST_NAMED]) + ", ..." * (len(self.unmatched) > MOST_NAMED)
        return f"rows of --slides-table that match no slide of this run: {named}; check their names" if named else ""

    @property
    def planned(self) -> tuple[SlidePlan, ...]:
        """The plans of the slides that are not refused."""
        return tuple(p for p in self.slides if isinstance(p, SlidePlan))

    @property
    def to_do(self) -> tuple[SlidePlan, ...]:
        """The plans of the slides that are segmented or resumed."""
        return tuple(p for p in self.planned if p.action != SKIP)

    @property
    def all_threads(self) -> int:
        """Blocks in flight in all processes."""
        return self.threads * self.setup.site.processes

    @property
    def all_devices(self) -> int:
        """The devices of all processes."""
        return len(self.setup.devices) * self.setup.site.processes

    def outline_bytes(self, plan: SlidePlan) -> int:
        """The most memory for the outline of one object of the slide of ``plan``, if every thread takes as much."""
        return (self.setup.limit_bytes - self.base_bytes - plan.held_bytes) // self.threads - JOINING_BYTES

    def memory_bytes(self, plan: SlidePlan) -> int:
        """The peak of a process while it segments the slide of ``plan``."""
        return self.base_bytes + plan.memory_bytes(self.threads)


def plan_run(slides: Sequence[Named], setup: Setup) -> RunPlan:
    """What `run` would do with ``slides``; it reads headers only, and writes nothing.

    Raises
    ------
    UsageError, OutputError, MachineError
        If nothing can be done for any slide, whatever the slides.
    """
    _check_out(locate(setup.out))
    paths = expand(slides, lambda file: is_whole(*_chosen(file, setup.slides)))
    if is_file(setup.tissue) and len(paths) > 1:
        raise UsageError(f"--tissue {setup.tissue} is the mask of one slide, but {len(paths)} slides are given")
    if setup.roi is not None and setup.roi.is_file and len(paths) > 1:
        raise UsageError(f"--roi {setup.roi.text} is the region of one slide, but {len(paths)} slides are given")
    listed = [_open_listed(path, setup.slides) for path in paths]
    opened = [s for s in listed if isinstance(s, Slide)]
    loaded = setup.site.loaded_bytes
    base = (
        (loaded_bytes(setup.engine, setup.devices) if loaded is None else loaded)
        + RUNTIME_BYTES
        + weight_bytes(setup.model.path, setup.devices, setup.engine)
    )
    setup = fit_memory(setup, [level for s in opened if (level := _level(s, setup))], base)
    stores = name_stores(opened, locate(setup.out))
    plans = [_plan(s, stores[s.path], setup) if isinstance(s, Slide) else s for s in listed]
    threads = setup.asked.threads or default_threads(setup.devices)
    unmatched = tuple(setup.slides.table.unmatched(paths)) if setup.slides.table else ()
    run = _within_memory(RunPlan(setup, tuple(plans), threads, base, unmatched=unmatched))
    if run.to_do:
        _check_writable(locate(setup.out))
    return run


def _check_out(out: Location) -> None:
    """Raise an OutputError unless ``out`` is a folder, or a bucket that can be reached, or can be created."""
    if isinstance(out, Url):
        _check_bucket(out)
        return
    there = next(folder for folder in (out, *out.absolute().parents) if os.path.lexists(folder))
    if os.path.isfile(there):  # noqa: PTH113 - Path.is_file raises where os.path says no
        raise OutputError(f"-o {out}: {there} is a file, not a folder; give another -o")


def _check_writable(out: Location) -> None:
    """Raise an OutputError unless ``out`` can be written to, or can be created."""
    if isinstance(out, Url):
        return
    there = next(folder for folder in (out, *out.absolute().parents) if os.path.lexists(folder))
    if not os.access(there, os.W_OK):
        raise OutputError(f"-o {out}: no permission to write in {there}; give another -o")


def _check_bucket(out: Url) -> None:
    """Raise an OutputError unless ``out`` is in a bucket that can be reached."""
    if not out.lists:
        raise OutputError(
            f"-o {out}: results cannot be written to a web server; give a folder, or a bucket: s3://bucket/folder"
        )
    try:
        out.is_dir()
    except OSError as err:
        raise OutputError(
            f"-o {out}: {err.strerror}; check that the bucket exists and that the credentials are set"
        ) from err


def _chosen(path: Location, options: SlideOptions) -> tuple[str | None, Planes]:
    """The reader and the planes that the user chose for one slide."""
    if options.table is None:
        return options.reader, options.planes
    row = options.table.row(path)
    return row.reader or options.reader, row.planes(options.planes)


def _open_listed(path: Location, options: SlideOptions) -> Slide | Refused:
    table = options.table
    reader, planes = _chosen(path, options)
    try:
        if table is None:
            return open_slide(path, mpp=options.mpp, reader=reader, planes=planes)
        row = table.row(path)
        slide = open_slide(path, mpp=options.mpp, reader=reader, planes=planes)
        return slide if row.mpp is None else with_mpp(slide, row.mpp, f"given in {table.name}")
    except SlideError as err:
        return Refused(str(path), str(err))
    except Exception as err:  # a fault of wsipipe or of a library, and of one slide only
        return Refused(str(path), f"{path.name}: unexpected {type(err).__name__}: {err}")


def _level(slide: Slide, setup: Setup) -> Level | None:
    """The level to segment; None if there is none, which the slide's plan reports."""
    try:
        return level_of(slide, setup)
    except SlideError:
        return None


def _plan(slide: Slide, store: str, setup: Setup) -> SlidePlan | Refused:
    try:
        return plan_slide(slide, store, setup)
    except (SlideError, OutputError) as err:  # a store that cannot be read stops its own slide only
        return Refused(slide.path, str(err))


def _within_memory(run: RunPlan) -> RunPlan:
    """The run with as many blocks in flight as fit into the memory, and without the slides that do not fit.

    Raises
    ------
    UsageError, MemoryLimitError
        If no slide fits: the limit was given, or is what there is.
    """
    limit, at_least = run.setup.limit_bytes, replace(run, threads=run.setup.asked.threads or 1)
    need = {p.store.path: at_least.memory_bytes(p) for p in run.to_do}
    if need and min(need.values()) > limit:
        given = run.setup.asked.memory
        message = (
            f"{'--max-memory' if given else 'the available memory,'} {megabytes(limit)} is less than one block needs; "
            f"the smallest that works here: --max-memory {megabytes(min(need.values()), up=True)} "
            "(smaller values of --block, --tile, --batch or --threads need less)"
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
        f"{plan.slide.file} needs {megabytes(need, up=True)} of memory, "
        f"but only {megabytes(limit)} are allowed: it is stored "
        f"in pieces of {size_text(plan.level.tile)}; raise --max-memory, or convert it to tiles",
    )
