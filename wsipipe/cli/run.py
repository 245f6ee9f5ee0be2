"""``wsipipe run``: segment slides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsipipe.cli.command import PATH, Command, in_section
from wsipipe.cli.json_text import echo_json
from wsipipe.cli.run_text import end_of, plan_as_json, plan_as_text, summary_as_json, summary_as_text
from wsipipe.cli.run_values import Choice, Number
from wsipipe.cli.slide_options import DEVICES, OBJECT_OPTIONS, READER_OPTIONS, Option, with_options
from wsipipe.cli.verbosity import VERBOSITY_OPTIONS, verbosity


def least_and_most(text: str) -> tuple[int, int]:
    """The two whole numbers of ``MIN:MAX``. Raise a click.BadParameter for any other text."""
    least, _, most = text.partition(":")
    if not (least.isdecimal() and most.isdecimal() and int(least) <= int(most) and int(most) > 0):
        raise click.BadParameter(f"{text!r} is not MIN:MAX, such as 1:20")
    return int(least), int(most)


NUMBER_OR_AUTO: dict[str, Any] = {"type": Number(int, auto=True), "default": "auto", "metavar": "N|auto"}


_files, _slides, _where = in_section("Input and output"), in_section("Slides"), in_section("Where to segment")
_objects, _sizes = in_section("Objects"), in_section("Sizes and devices")
_labels, _workers = in_section("Speed against accuracy"), in_section("Clusters")

FILE_OPTIONS: tuple[Option, ...] = (
    _files(
        "-o",
        "--out",
        default="segmentations",
        show_default=True,
        type=PATH,
        metavar="DIR",
        help="Folder of the results.",
    ),
    _files(
        "-m",
        "--model",
        "model",
        type=PATH,
        metavar="MODEL",
        help="Model file, nuclei (H&E, 0.5 um/px) or nuclei-int8.  [default: nuclei]",
    ),
    _files("--probabilities", is_flag=True, help="Also write the probability of each class, as round(255 p)."),
    _files("--uncertainty", is_flag=True, help="Also write how undecided the network is: 0 certain, 255 undecided."),
    _files("--overwrite", is_flag=True, help="Replace existing results, once the new ones are complete."),
    _files("--dry-run", is_flag=True, help="Read headers only, and print what would be done."),
    _files("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table."),
)
SLIDE_OPTIONS: tuple[Option, ...] = (
    _slides("--mpp", type=Number(float), metavar="F", help="Micrometres per pixel of level 0; overrides the file."),
    _slides(
        "--slides-table",
        type=PATH,
        metavar="FILE",
        help="CSV of options per slide: slide, mpp, reader, channels, z, t, series.",
    ),
    _slides(
        "--max-upsample",
        type=Number(float),
        default=1.1,
        show_default=True,
        metavar="F",
        help="Largest factor by which a slide coarser than the model may be enlarged.",
    ),
    *READER_OPTIONS,
    _slides(
        "--on-bad-tile",
        type=Choice(["fail", "fill"]),
        default="fail",
        show_default=True,
        help="Tiles that cannot be decoded: fail their slide, or set the pixels that depend on them to label 0.",
    ),
    _slides(
        "--any-stain", is_flag=True, help="Do not refuse fluorescence for models of stained tissue, or vice versa."
    ),
)
WHERE_OPTIONS: tuple[Option, ...] = (
    _where(
        "--tissue",
        default="auto",
        show_default=True,
        type=PATH,
        metavar="auto|off|FILE",
        help="auto: segment tissue only; off: everything; FILE: what a mask covers.",
    ),
    _where(
        "--roi",
        type=PATH,
        metavar="X,Y,W,H|FILE",
        help="Segment only this region: px of level 0, or with units (250um,500um,1mm,1mm), or FILE of annotations.",
    ),
)
RUN_OBJECT_OPTIONS: tuple[Option, ...] = (
    _objects("--objects", is_flag=True, help="Also outline, measure and count objects, as `wsipipe objects` does."),
    *OBJECT_OPTIONS,
)
SIZE_OPTIONS: tuple[Option, ...] = (
    _sizes(
        "--device", default="auto", show_default=True, metavar=DEVICES, help="Devices that compute; auto: the fastest."
    ),
    _sizes(
        "--engine",
        type=Choice(["auto", "torch", "compile", "openvino", "onnxruntime"]),
        default="auto",
        show_default=True,
        help="Inference engine; auto: of those installed that compute the model, the fastest.",
    ),
    _sizes("--block", **NUMBER_OR_AUTO, help="Unit of work and of resuming, px; auto: 4096 (CPU: 2048), or what fits."),
    _sizes("--tile", **NUMBER_OR_AUTO, help="Core of a tile, px; auto: the fastest that fits in memory."),
    _sizes("--batch", **NUMBER_OR_AUTO, help="Tiles per forward pass; auto: the fastest that fits in memory."),
    _sizes(
        "--threads", **NUMBER_OR_AUTO, help="Blocks in flight; auto: 2 on a CPU, more for GPUs, if they fit in memory."
    ),
    _sizes("--max-memory", metavar="SIZE", help="Ceiling, e.g. 4GB.  [default: 90% of what the cgroup allows]"),
)
ACCURACY_OPTIONS: tuple[Option, ...] = (
    _labels(
        "--precision",
        type=Choice(["float32", "tf32", "bfloat16", "float16"]),
        default="float32",
        show_default=True,
        help="Precision of convolutions; less than float32 is faster on GPUs and new CPUs, and changes some labels.",
    ),
    _labels(
        "--margin",
        type=Number(int),
        metavar="PX",
        help="Pixels around a tile's core, fewer than the network looks at; labels are approximate then.",
    ),
    _labels(
        "--tta",
        type=Choice(["off", "flips", "all"]),
        default="off",
        show_default=True,
        help="Average the probabilities over flips (4 times the network's time), or over all 8 symmetries (8 times).",
    ),
)
CLUSTER_OPTIONS: tuple[Option, ...] = (
    _workers("--scheduler", metavar="ADDRESS", help="Compute on the workers of this dask scheduler: tcp://host:8786."),
    _workers("--cluster", metavar="KIND[:N]", help="Start N workers: local, slurm or kubernetes."),
    _workers(
        "--adapt", type=least_and_most, metavar="MIN:MAX", help="Between MIN and MAX workers, as the work requires."
    ),
    _workers(
        "--cluster-config", type=PATH, metavar="FILE", help="TOML: arguments of the cluster (queue, walltime, ...)."
    ),
)
OPTIONS: tuple[Option, ...] = (
    *FILE_OPTIONS,
    *SLIDE_OPTIONS,
    *WHERE_OPTIONS,
    *RUN_OBJECT_OPTIONS,
    *SIZE_OPTIONS,
    *ACCURACY_OPTIONS,
    *CLUSTER_OPTIONS,
    *VERBOSITY_OPTIONS,
)
EXAMPLES = (
    ("wsipipe run case-17.svs", "into segmentations/case-17.zarr"),
    ("wsipipe run slides/ -o out --objects", "a folder; nuclei are counted, too"),
    ("wsipipe run 'a/*.svs' -m my.safetensors", "slides that match, your own model"),
    ("wsipipe run slides/ --dry-run", "what would be done"),
    ("wsipipe run scan.tif --mpp 0.25", "a file that lacks its resolution"),
    ("wsipipe run slides/ --device cuda:0", "one GPU of several"),
    ("wsipipe run slides/ --cluster slurm:4", "four workers, as jobs of Slurm"),
)


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("slides", nargs=-1, required=True, type=PATH, metavar="SLIDE...")
@with_options(OPTIONS)
def run(
    slides: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
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

    level = verbosity(verbose, quiet)
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
        if as_json:
            echo_json(plan_as_json(plan))
        else:
            click.echo(plan_as_text(plan))
        return
    with show_run(level) as listener:
        summary = run_slides(slides, config, listener)
    untold = stderr_problem()
    if as_json:
        echo_json(summary_as_json(summary) | {"untold": untold})
    elif text := "\n".join(filter(None, (summary_as_text(summary, level, told=not untold), untold))):
        click.echo(text)
    if summary.stopped:
        click.echo(f"wsipipe: {end_of(summary)}", err=True)
    click.get_current_context().exit(summary.exit_code)
