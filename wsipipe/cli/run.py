"""``wsipipe run``: segment slides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from wsipipe.cli.run_text import plan_as_json, plan_as_text, summary_as_json, summary_as_text
from wsipipe.cli.slide_options import OBJECT_OPTIONS, READER_OPTIONS, Choice, Number, Option, with_options


def least_and_most(text: str) -> tuple[int, int]:
    """The two whole numbers of ``MIN:MAX``. Raise a click.BadParameter for any other text."""
    least, _, most = text.partition(":")
    if not (least.isdecimal() and most.isdecimal() and int(least) <= int(most) and int(most) > 0):
        raise click.BadParameter(f"{text!r} is not MIN:MAX, such as 1:20")
    return int(least), int(most)


NUMBER_OR_AUTO: dict[str, Any] = {"type": Number(int, auto=True), "default": "auto", "metavar": "N|auto"}

INPUT_OPTIONS: tuple[Option, ...] = (
    click.option(
        "-o", "--out", default="segmentations", show_default=True, metavar="DIR", help="Folder of the results."
    ),
    click.option(
        "-m",
        "--model",
        "model",
        metavar="MODEL",
        help="Model file, nuclei (H&E, 0.5 um/px) or nuclei-int8.  [default: nuclei]",
    ),
    click.option("--mpp", type=Number(float), metavar="F", help="Micrometres per pixel of level 0, over the file's."),
    click.option(
        "--slides-table", metavar="FILE", help="CSV of options per slide: slide, mpp, reader, channels, z, t, series."
    ),
    click.option(
        "--max-upsample",
        type=Number(float),
        default=1.1,
        show_default=True,
        metavar="F",
        help="Largest factor by which a slide coarser than the model may be enlarged.",
    ),
)
COMPUTE_OPTIONS: tuple[Option, ...] = (
    click.option(
        "--block", **NUMBER_OR_AUTO, help="Unit of work and of resuming, px; auto: 4096 (CPU: 2048), or what fits."
    ),
    click.option("--tile", **NUMBER_OR_AUTO, help="Core of a tile, px; auto: the fastest that fits in memory."),
    click.option("--batch", **NUMBER_OR_AUTO, help="Tiles per forward pass; auto: the fastest that fits in memory."),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="auto|cpu|cuda|cuda:0,cuda:1",
        help="Devices that compute.",
    ),
    click.option(
        "--engine",
        type=Choice(["auto", "torch", "compile", "openvino", "onnxruntime"]),
        default="auto",
        show_default=True,
        help="Inference engine; auto: of those installed that compute the model, the fastest.",
    ),
    click.option(
        "--precision",
        type=Choice(["float32", "tf32", "bfloat16", "float16"]),
        default="float32",
        show_default=True,
        help="Precision of convolutions; less than float32 is faster on GPUs and new CPUs, and changes some labels.",
    ),
    click.option(
        "--margin",
        type=Number(int),
        metavar="PX",
        help="Pixels around a tile's core, fewer than the network looks at; labels are approximate then.",
    ),
    click.option(
        "--tta",
        type=Choice(["off", "flips", "all"]),
        default="off",
        show_default=True,
        help="Average the probabilities over flips (4 times the network's time), or over all 8 symmetries (8 times).",
    ),
    click.option(
        "--threads", **NUMBER_OR_AUTO, help="Blocks in flight; auto: 2 on a CPU, more for GPUs, if they fit in memory."
    ),
    click.option("--max-memory", metavar="SIZE", help="Ceiling, e.g. 4GB.  [default: 90% of what the cgroup allows]"),
)
RESULT_OPTIONS: tuple[Option, ...] = (
    click.option(
        "--tissue",
        default="auto",
        show_default=True,
        metavar="auto|off|FILE",
        help="auto: segment tissue only; off: everything; FILE: what a mask covers.",
    ),
    click.option(
        "--on-bad-tile",
        type=Choice(["fail", "fill"]),
        default="fail",
        show_default=True,
        help="Tiles that cannot be decoded: fail their slide, or set the pixels that depend on them to label 0.",
    ),
    click.option(
        "--any-stain", is_flag=True, help="Do not refuse fluorescence for models of stained tissue, or vice versa."
    ),
    click.option("--probabilities", is_flag=True, help="Also write the probability of each class, as round(255 p)."),
    click.option(
        "--uncertainty", is_flag=True, help="Also write how undecided the network is: 0 certain, 255 undecided."
    ),
    click.option("--overwrite", is_flag=True, help="Replace existing results, once the new ones are complete."),
    click.option("--objects", is_flag=True, help="Also outline, measure and count objects, as `wsipipe objects` does."),
)
CLUSTER_OPTIONS: tuple[Option, ...] = (
    click.option(
        "--scheduler", metavar="ADDRESS", help="Compute on the workers of this dask scheduler: tcp://host:8786."
    ),
    click.option("--cluster", metavar="KIND[:N]", help="Start N workers: local, slurm or kubernetes."),
    click.option(
        "--adapt", type=least_and_most, metavar="MIN:MAX", help="Between MIN and MAX workers, as the work requires."
    ),
    click.option("--cluster-config", metavar="FILE", help="TOML: arguments of the cluster (queue, walltime, ...)."),
)


@click.command()
@click.argument("slides", nargs=-1, required=True, metavar="SLIDE...")
@with_options(INPUT_OPTIONS)
@with_options(READER_OPTIONS)
@with_options(COMPUTE_OPTIONS)
@with_options(RESULT_OPTIONS)
@with_options(OBJECT_OPTIONS)
@with_options(CLUSTER_OPTIONS)
@click.option("--dry-run", is_flag=True, help="Read headers only, and print what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
def run(
    slides: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    reader: str | None,
    max_memory: str | None,
    scheduler: str | None,
    cluster: str | None,
    adapt: tuple[int, int] | None,
    cluster_config: str | None,
    **options: Any,
) -> None:  # the rest are fields of RunConfig, under the same names
    """Segment SLIDE... (files, folders, patterns) into DIR/<slide's name>.zarr.

    Finished slides are skipped, unfinished ones are resumed. With --objects (and --instances), finished ones that lack
    theirs get them. Exit code: 0 all done, 1 some slides failed, 2 usage, 3 the environment (no device, no memory, no
    space), 130 interrupted: the same command resumes.
    """
    from wsipipe.cli.progress import show_run
    from wsipipe.cli.streams import stderr_problem
    from wsipipe.pipeline.config import ClusterConfig, RunConfig, parse_cluster
    from wsipipe.pipeline.machine import size_bytes
    from wsipipe.pipeline.run import run as run_slides
    from wsipipe.pipeline.run_plan import plan_run
    from wsipipe.pipeline.setup import resolve
    from wsipipe.slides.planes import take_planes
    from wsipipe.tables import read_toml

    limit = None if max_memory is None else size_bytes(max_memory, "--max-memory")
    kind, workers = (None, None) if cluster is None else parse_cluster(cluster)
    started_with = {} if cluster_config is None else read_toml(Path(cluster_config))[0]
    config = RunConfig(
        reader=reader,
        planes=take_planes(options),
        max_memory_bytes=limit,
        cluster=ClusterConfig(scheduler, kind, workers, adapt, started_with),
        **options,
    )
    if dry_run:
        plan = plan_run(slides, resolve(config))
        click.echo(json.dumps(plan_as_json(plan), indent=2) if as_json else plan_as_text(plan))
        return
    with show_run() as listener:
        summary = run_slides(slides, config, listener)
    untold = stderr_problem()
    if as_json:
        click.echo(json.dumps(summary_as_json(summary) | {"untold": untold}, indent=2))
    else:
        click.echo("\n".join(filter(None, (summary_as_text(summary), untold))))
    if summary.stopped:
        click.echo(f"wsipipe: {summary.stopped}", err=True)
    click.get_current_context().exit(summary.exit_code)
