"""``wsipipe objects``: the objects in finished results, measured and counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import click

from wsipipe.cli.command import PATH, Command
from wsipipe.cli.exit_codes import EXIT_FAILED
from wsipipe.cli.json_text import echo_json
from wsipipe.cli.run_text import class_count_as_text
from wsipipe.cli.slide_options import OBJECT_OPTIONS, Option, with_options
from wsipipe.cli.verbosity import VERBOSITY_OPTIONS, verbosity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wsipipe.files import Location
    from wsipipe.pipeline.objects_plan import ObjectsRequest
    from wsipipe.pipeline.objects_store import StoreObjects
    from wsipipe.report.progress import Row

MEASURE_OPTIONS: tuple[Option, ...] = (
    *OBJECT_OPTIONS,
    click.option(
        "--connectivity",
        type=click.Choice(["4", "8"]),
        default="8",
        show_default=True,
        help="Pixels that touch at a corner belong together (8), or not (4).",
    ),
)


@dataclass(frozen=True)
class Measured:
    """The blocks of a store whose objects are measured."""

    store: str
    done: int
    blocks: int


@click.command(
    cls=Command,
    examples=(
        ("wsipipe objects segmentations/", "all results of a folder"),
        ("wsipipe objects out/a.zarr --split --instances", "nuclei that touch are parted; ids as well"),
    ),
)
@click.argument("out", nargs=-1, required=True, type=PATH, metavar="OUT|STORE...")
@with_options(MEASURE_OPTIONS)
@click.option(
    "--slide",
    default="auto",
    show_default=True,
    type=PATH,
    metavar="auto|off|FILE",
    help="Where to measure intensities; auto: the slide that the store names; off: shapes only.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Blocks that are measured at a time; as many as cores.")
@click.option("--max-memory", metavar="SIZE", help="Ceiling, e.g. 4GB.  [default: 90% of what the cgroup allows]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@with_options(VERBOSITY_OPTIONS)
def objects(
    out: tuple[str, ...],
    min_area_um2: float | None,
    connectivity: str,
    split: bool,
    slide: str,
    instances: bool,
    threads: int | None,
    max_memory: str | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Measure and count the objects in each OUT, a folder of results or one store.

    An object is a connected component of one class. The table is STORE/objects/objects.parquet (GeoParquet); stores
    that have it already are skipped, and if it is killed, the same command goes on.
    Exit code: 0 all done, 1 some stores failed, 2 usage, 3 the environment (no memory, no space), 130 interrupted.
    """
    from dask.system import CPU_COUNT

    from wsipipe.cli.progress import show_events, tenth_line
    from wsipipe.errors import UsageError
    from wsipipe.inference import allocator
    from wsipipe.pipeline.machine import default_limit_bytes, size_bytes
    from wsipipe.pipeline.objects_plan import SLIDE_AUTO, SLIDE_OFF, ObjectsRequest
    from wsipipe.report.run_line import Verbosity
    from wsipipe.store.check import stores_named

    level = verbosity(verbose, quiet)
    limit = default_limit_bytes() if max_memory is None else size_bytes(max_memory, "--max-memory")
    request = ObjectsRequest(min_area_um2, int(connectivity), split, slide, instances)
    stores = stores_named(out)
    if slide not in (SLIDE_AUTO, SLIDE_OFF) and len(stores) > 1:
        raise UsageError(f"--slide {slide} is the slide of one store, but {len(stores)} are given")
    allocator.reuse()
    found: list[StoreObjects] = []
    failed: dict[str, str] = {}

    def milestone(event: Measured) -> str | None:
        return tenth_line(event.store, event.done, event.blocks)

    with show_events(lambda _: None, milestone=milestone, view=_Progress(), verbosity=level) as listener:
        for store in stores:
            one = _objects_of(store, request, threads or CPU_COUNT, limit, listener, failed)
            found += one
            if not as_json and not (one and level == Verbosity.QUIET):
                click.echo("\n".join(map(_as_text, one)) or f"{store}: FAILED: {failed[str(store)]}")
    if as_json:
        errors = [{"store": store, "error": error} for store, error in failed.items()]
        echo_json({"stores": [asdict(one) for one in found], "failed": errors})
    elif level != Verbosity.QUIET:
        click.echo(f"{len(stores)} stores, {len(failed)} failed")
    click.get_current_context().exit(EXIT_FAILED if failed else 0)


def _objects_of(
    store: Location,
    request: ObjectsRequest,
    threads: int,
    limit_bytes: int,
    listener: Callable[[Measured], None],
    failed: dict[str, str],
) -> list[StoreObjects]:
    """The objects of one store; none if that fails, with the reason in ``failed``. Errors of the machine are raised."""
    from wsipipe.errors import SlideError, StoreError
    from wsipipe.leases.leases import holding
    from wsipipe.pipeline.instances import make_instances
    from wsipipe.pipeline.objects_plan import plan_objects
    from wsipipe.pipeline.objects_store import make_objects

    def progress(done: int, blocks: int) -> None:
        if lease.lost and not lease.regain():  # the process was suspended, and another one has begun
            raise StoreError(f"another process took over {store}; once that has ended, the same command resumes")
        listener(Measured(store.name, done, blocks))

    try:
        with holding(store) as lease:
            plan = plan_objects(store, request)
            made = make_objects(plan, threads, limit_bytes, progress)
            wanted = plan.instances
            ids = make_instances(store, wanted=wanted, threads=threads, limit_bytes=limit_bytes, progress=progress)
        return [replace(made, instances=None if ids is None else str(ids))]
    except SlideError as err:
        failed[str(store)] = str(err)
        return []


class _Progress:
    """A row for the store that is measured."""

    def __init__(self) -> None:
        self._last: Measured | None = None

    def hear(self, event: Measured) -> None:
        self._last = event

    def rows(self) -> Sequence[Row]:
        from wsipipe.report.progress import Row
        from wsipipe.report.words import shown_lines

        one = self._last
        if one is None:
            return []
        return [Row(shown_lines([one.store]), one.done / one.blocks, f"{one.done} of {one.blocks} blocks")]


def _as_text(found: StoreObjects) -> str:
    """A line for the store, and one for each class."""
    count = sum(one.objects for one in found.classes)
    left_out = f" ({found.small:,} smaller ones left out)" if found.small else ""
    lines = [f"{found.store}: {count:,} objects{left_out}{'' if found.made else ', as before'} -> {found.table}"]
    if found.instances:
        lines.append(f"    instances -> {found.instances}")
    if found.warning:
        lines.append(f"    warning: shapes only, because {found.warning}; --slide FILE names it")
    return "\n".join([*lines, *map(class_count_as_text, found.classes)])
