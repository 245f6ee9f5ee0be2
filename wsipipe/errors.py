"""Every error that wsipipe raises on purpose.

A message says what, where: got, allowed; do. It names the file and the way out, for example

    case-17.tif has no micrometres per pixel (no ResolutionUnit tag); give --mpp, e.g. --mpp 0.25

Each class is also the builtin that it refines, so that code which knows nothing of wsipipe can catch it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING


class WsipipeError(Exception):
    """The root of the tree: whatever derives from it is reported as one line, without a traceback."""


class UsageError(WsipipeError, ValueError):
    """What was asked for is not possible: an option, a size, a combination of them (exit code 2)."""


class NothingFoundError(UsageError):
    """A pattern that nothing matches, or a folder without a slide: for who looks every night, no fault."""


class GeometryError(UsageError):
    """A side, core, block or margin that the network or the store can not have."""


class ModelError(WsipipeError, ValueError):
    """A model that is missing, truncated, foreign, newer than this wsipipe, or inconsistent."""


class SlideError(WsipipeError):
    """Something is wrong with one slide; the others of the run go on (exit code 1)."""


class SlideFormatError(SlideError, ValueError):
    """The file is not a slide that wsipipe reads, or it holds more than one image to choose from."""


class PlaneError(SlideFormatError):
    """The file holds several planes or images and nobody said which, or not the one that was asked for."""


class SlideReadError(SlideError, OSError):
    """The file can not be opened, or pixels of it can not be read or decoded."""

    tiles: tuple[str, ...] = ()
    """What it says of each tile, if it is of several."""


class TruncatedError(SlideReadError):
    """The file ends before what it is to hold does: not a tile is bad, the file is."""


class ResolutionError(SlideError, ValueError):
    """The slide's micrometres per pixel are missing, implausible, or not those of the model."""


class ChannelError(SlideError, ValueError):
    """Slide and model do not agree on the channels."""


class LabelError(SlideError, ValueError):
    """The labels or annotations of an image are not what a network can be trained on or measured by."""


class StoreError(SlideError):
    """A label store can not be used as it is."""


class FingerprintError(StoreError, ValueError):
    """The store that is there was made from another slide, other weights or other options."""


class DamagedStoreError(StoreError, OSError):
    """The metadata of a store can not be read, and guessing what they said is not an option."""


class TrainingError(WsipipeError, RuntimeError):
    """A training that can not go on, such as one whose loss is no number any more (exit code 1)."""


class MachineError(WsipipeError, RuntimeError):
    """The environment can not do it: no such device, no scheduler, no space, no memory (exit code 3)."""


class OutputError(MachineError, OSError):
    """The output folder can not be written: no space, no permission, or a file of that name."""

    # Of two builtin bases Python would take RuntimeError's, and an OSError made so can not cross a process.
    if not TYPE_CHECKING:
        __new__ = OSError.__new__


class MemoryLimitError(MachineError, MemoryError):
    """What was asked for does not fit into the memory that it may use."""
