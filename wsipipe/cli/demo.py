"""``wsipipe demo``: wsipipe at work, without a slide of your own."""

from __future__ import annotations

from pathlib import Path

import click

from wsipipe.cli.command import PATH, Command
from wsipipe.cli.slide_options import with_options
from wsipipe.cli.verbosity import VERBOSITY_OPTIONS, verbosity


@click.command(cls=Command)
@click.argument("folder", default="wsipipe-demo", type=PATH, metavar="[DIR]")
@with_options(VERBOSITY_OPTIONS)
def demo(folder: str, verbose: bool, quiet: bool) -> None:
    """Draw a slide into DIR, segment it, and write a picture of both, side by side.

    A second run skips the slide, which is segmented already, and only draws the picture again.
    """
    from wsipipe.cli.progress import show_run
    from wsipipe.cli.run_text import summary_as_text
    from wsipipe.demo import write_picture, write_slide
    from wsipipe.errors import OutputError
    from wsipipe.pipeline.config import RunConfig
    from wsipipe.pipeline.run import run
    from wsipipe.report.run_line import Verbosity
    from wsipipe.slides.open import open_slide

    level, out = verbosity(verbose, quiet), Path(folder)
    slide, picture = out / "demo-slide.tif", out / "demo.png"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not slide.exists():
            unfinished = slide.with_suffix(".partial")
            write_slide(unfinished)
            unfinished.rename(slide)
    except OSError as err:
        raise OutputError(f"{out} cannot be written: {err.strerror}; give another DIR") from err
    with show_run(level) as listener:
        summary = run([str(slide)], RunConfig(out=str(out / "segmentations")), listener)
    if text := summary_as_text(summary, level):
        click.echo(text)
    (outcome,) = summary.slides
    if outcome.store is not None and not summary.exit_code:
        try:
            write_picture(picture, open_slide(slide), Path(outcome.store))
        except OSError as err:
            raise OutputError(f"{picture} cannot be written: {err.strerror}") from err
        if level != Verbosity.QUIET:
            click.echo(f"slide and result side by side: {picture}")
    click.get_current_context().exit(summary.exit_code)
