"""``wsipipe info``: levels, format and resolution of slides."""

from __future__ import annotations

from typing import Any

import click

from wsipipe.cli.command import PATH, Command
from wsipipe.cli.exit_codes import EXIT_FAILED
from wsipipe.cli.json_text import echo_json
from wsipipe.cli.slide_options import READER_OPTIONS, with_options


@click.command(
    cls=Command,
    examples=(
        ("wsipipe info case-17.svs", "levels, format, resolution"),
        ("wsipipe info slides/ --json", "for other programs"),
    ),
)
@click.argument("slides", nargs=-1, required=True, type=PATH, metavar="SLIDE...")
@with_options(READER_OPTIONS)
@click.option("--pixels", is_flag=True, help="Compare the pixels that all readers of the slide return.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def info(slides: tuple[str, ...], reader: str | None, pixels: bool, as_json: bool, **options: Any) -> None:
    """Show each SLIDE's levels, tiles, codec, vendor, resolution and its source, and warnings.

    With --pixels every reader reads five regions of each level, and the largest difference of a sample is shown.
    Exit code: 0 if every slide can be opened, else 1.
    """
    from wsipipe.errors import SlideError
    from wsipipe.slides.compare import compare_readers
    from wsipipe.slides.discover import expand, is_whole
    from wsipipe.slides.open import describe, open_slide
    from wsipipe.slides.planes import take_planes

    planes = take_planes(options)
    rows: list[dict[str, Any]] = []
    for path in expand(slides, lambda _: is_whole(reader, planes)):
        try:
            row = describe(open_slide(path, reader=reader, planes=planes))
        except SlideError as err:
            row = {"path": str(path), "error": str(err)}
        rows.append(row | ({"pixels": compare_readers(path, planes)} if pixels else {}))
    if as_json:
        echo_json(rows)
    else:
        click.echo("\n".join(map(slide_as_text, rows)))
    click.get_current_context().exit(EXIT_FAILED if any("error" in row for row in rows) else 0)


def slide_as_text(row: dict[str, Any]) -> str:
    """The description of a slide, or the error, in a few lines."""
    from wsipipe.report.words import shown_lines

    return shown_lines([*_lines(row), *(f"  pixels: {line}" for line in row.get("pixels", ()))])


def _lines(row: dict[str, Any]) -> list[str]:
    from wsipipe.arrays import size_text  # it brings numpy

    if "error" in row:
        return [row["path"], f"  error: {row['error']}"]
    mpp = f"{row['mpp']:.4g} um/px" if row["mpp"] else "none"
    lines = [
        row["path"],
        f"  {row['vendor']}, read by {row['reader']} ({row['why']}); "
        f"micrometres per pixel: {mpp} ({row['mpp_source']})",
    ]
    for level in row["levels"]:
        (height, width), tile = level["shape"], level["tile"]
        lines.append(
            f"  level {level['index']}: {size_text((height, width))}, 1/{level['downsample']:.4g}, "
            f"{level['channels']} x {level['dtype']}, {level['codec']} in tiles {size_text(tile)}"
        )
    if row["channel_names"]:
        lines.append(f"  channels: {', '.join(row['channel_names'])}")
    if row["planes"]:
        lines.append(f"  read: {row['planes']}")
    if row["bounds"]:
        y, x, height, width = row["bounds"]
        lines.append(f"  scanned: {size_text((height, width))}, from column {x}, row {y}")
    lines += [f"  not used: {name}" for name in row["associated"]]
    return lines + [f"  warning: {warning}" for warning in row["warnings"]]
