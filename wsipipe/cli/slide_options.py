"""Options that commands share: how slides are read, what is an object, and which devices there are."""

from __future__ import annotations

from collections.abc import Callable

from wsipipe.cli.command import in_section

Command = Callable[..., None]
Option = Callable[[Command], Command]

DEVICES = "auto|cpu|cuda|cuda:0,cuda:1|mps"
"""Values of ``--device``."""

slides_option, objects_option = in_section("Slides"), in_section("Objects")

READER_OPTIONS: tuple[Option, ...] = (
    slides_option(
        "--reader",
        metavar="NAME",
        help="tiff, ome-zarr, dicom, picture or openslide.  [default: the first that reads it right]",
    ),
    slides_option("--channels", metavar="A,B", help="Channels to read: numbers from 0, or names.  [default: all]"),
    slides_option("--z", type=int, metavar="N", help="Focal plane of a stack, from 0."),
    slides_option("--t", type=int, metavar="N", help="Time point of a time series, from 0."),
    slides_option("--series", type=int, metavar="N", help="Image of a file that holds several, from 0."),
)

OBJECT_OPTIONS: tuple[Option, ...] = (
    objects_option(
        "--min-area",
        "min_area_um2",
        type=float,
        metavar="UM2",
        help="Area below which objects are left out, um2 (px without a resolution).  [default: the model's]",
    ),
    objects_option("--split", is_flag=True, help="Part objects where they are narrow: nuclei that touch."),
    objects_option(
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
