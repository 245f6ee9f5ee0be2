"""``wsipipe info``: what a slide is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("slides", nargs=-1, required=True, metavar="SLIDE...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def info(slides: tuple[str, ...], as_json: bool) -> None:
    """Show levels, tiles, codec, resolution and where it was read, vendor, and what is wrong with each SLIDE.

    Exit code: 0 if every slide can be opened, else 1.
    """
    from wsipipe.errors import SlideError
    from wsipipe.slides.find import expand
    from wsipipe.slides.slide import describe, open_slide

    rows: list[dict[str, Any]] = []
    for path in expand(slides):
        try:
            rows.append(describe(open_slide(path)))
        except SlideError as err:
            rows.append({"path": str(path), "error": str(err)})
    click.echo(json.dumps(rows, indent=2) if as_json else "\n".join(map(as_text, rows)))
    click.get_current_context().exit(1 if any("error" in row for row in rows) else 0)


def as_text(row: dict[str, Any]) -> str:
    """A slide in a few lines."""
    if "error" in row:
        return f"{Path(row['path']).name}\n  error: {row['error']}"
    mpp = f"{row['mpp']:.4g} um/px" if row["mpp"] else "none"
    lines = [
        row["path"],
        f"  {row['vendor']}, read by {row['reader']}; micrometres per pixel: {mpp} ({row['mpp_source']})",
    ]
    for level in row["levels"]:
        (height, width), tile = level["shape"], level["tile"]
        lines.append(
            f"  level {level['index']}: {height} x {width} px, 1/{level['downsample']:.4g}, "
            f"{level['channels']} x {level['dtype']}, {level['codec']} in {tile[0]} x {tile[1]}"
        )
    lines += [f"  not used: {name}" for name in row["associated"]]
    lines += [f"  warning: {warning}" for warning in row["warnings"]]
    return "\n".join(lines)
