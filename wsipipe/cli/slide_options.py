"""Groups of options that commands share: how slides are read, and what is an object."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

Command = Callable[..., None]
Option = Callable[[Command], Command]


class Choice(click.Choice[str]):
    """Names to choose from, for help and completion; others go on to `RunConfig`, which says the same in Python."""

    def convert(self, value: Any, *_: Any) -> Any:
        """The text as it is."""
        return value


class Number(click.ParamType[Any]):
    """A number, or with ``auto`` None for that word; other text goes on to `RunConfig`, as with `Choice`."""

    name = "number"

    def __init__(self, kind: type[int] | type[float], *, auto: bool = False) -> None:
        self._kind, self._auto = kind, auto

    def convert(self, value: Any, *_: Any) -> Any:
        """The number if ``value`` is the text of one."""
        if self._auto and value == "auto":
            return None
        with suppress(ValueError):
            return self._kind(value)
        return value


READER_OPTIONS: tuple[Option, ...] = (
    click.option(
        "--reader",
        metavar="NAME",
        help="tiff, ome-zarr, dicom, picture or openslide.  [default: the first that reads it right]",
    ),
    click.option("--channels", metavar="A,B", help="Channels to read: numbers from 0, or names.  [default: all]"),
    click.option("--z", type=int, metavar="N", help="Focal plane of a stack, from 0."),
    click.option("--t", type=int, metavar="N", help="Time point of a time series, from 0."),
    click.option("--series", type=int, metavar="N", help="Image of a file that holds several, from 0."),
)

OBJECT_OPTIONS: tuple[Option, ...] = (
    click.option(
        "--min-area",
        "min_area_um2",
        type=float,
        metavar="UM2",
        help="Area below which objects are left out, um2 (px without a resolution).  [default: the model's]",
    ),
    click.option("--split", is_flag=True, help="Part objects where they are narrow: nuclei that touch."),
    click.option(
        "--instances", is_flag=True, help="Also write the id of each pixel's object into the store, as OME-Zarr."
    ),
)


def with_options(options: tuple[Option, ...]) -> Option:
    """A decorator that adds ``options`` to a command, in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add
