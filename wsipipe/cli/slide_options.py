"""The options that say how slides are read, of every command that opens some."""

from __future__ import annotations

from collections.abc import Callable

import click

Command = Callable[..., None]
OPTIONS = (
    click.option("--reader", metavar="NAME", help="tiff, ome-zarr, dicom, openslide.  [default: what reads it right]"),
    click.option(
        "--channels", metavar="A,B", help="Of a slide that has several: numbers from 0, or names.  [default: all]"
    ),
    click.option("--z", type=int, metavar="N", help="Focal plane, of a stack, from 0."),
    click.option("--t", type=int, metavar="N", help="Time, of a series, from 0."),
    click.option("--series", type=int, metavar="N", help="Image, of a file that holds several, from 0."),
)


def reader_options(command: Command) -> Command:
    """Add them to ``command``."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command
