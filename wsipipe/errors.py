"""Every error that wsipipe raises on purpose.

A message says what, where: got, allowed; do. It names the file and the way out, for example

    case-17.tif has no micrometres per pixel (no ResolutionUnit tag); give --mpp, e.g. --mpp 0.25

Each class is also the builtin that it refines, so that code which knows nothing of wsipipe can catch it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsipipe.redaction import without_secrets


class WsipipeError(Exception):
    """The root of the tree: whatever derives from it is reported as one line, without a traceback.

    Its message loses the secrets of URLs, also of those that a library quotes.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(without_secrets(arg) if isinstance(arg, str) else arg for arg in args))


class UsageError(WsipipeError, ValueError):
    """An option, a size, or a combination of them that is not possible (exit code 2)."""


class NothingFoundError(UsageError):
    """A pattern that matches nothing, or a folder without slides; a nightly run takes it for an empty inbox."""


class GeometryError(UsageError):
    """A side, core, block or margin that the network or the store cannot have."""


class ModelError(WsipipeError, ValueError):
    """A model that is missing, truncated, foreign, newer than this wsipipe, or inconsistent."""


class NoFiniteReachError(ModelError):
    """A network of which no tiles equal the whole: it looks at all of the image, or commutes with no shift."""


class SlideError(WsipipeError):
    """Something is wrong with one slide; the run continues with the others (exit code 1)."""


class SlideFormatError(SlideError, ValueError):
    """The file is not a slide that wsipipe reads, or it holds more than one image to choose from."""


class PlaneError(SlideFormatError):
    """The file holds several planes or images and none was chosen, or lacks the one that was chosen."""


class SlideReadError(SlideError, OSError):
    """The file cannot be opened, or some of its pixels cannot be read or decoded."""

    tiles: tuple[str, ...] = ()
    """One message per tile, if several tiles could not be read."""


class TruncatedError(SlideReadError):
    """The file ends before its pixels do: the whole file is bad, not just a tile."""


class ResolutionError(SlideError, ValueError):
    """The slide's micrometres per pixel are missing, implausible, or differ from the model's."""


class ChannelError(SlideError, ValueError):
    """Slide and model do not agree on the channels."""


class LabelError(SlideError, ValueError):
    """The labels or annotations of an image cannot be used to train or evaluate a network."""


class StoreError(SlideError):
    """A label store cannot be used as it is."""


class FingerprintError(StoreError, ValueError):
    """The existing store was made from another slide, other weights or other options."""


class DamagedStoreError(StoreError, OSError):
    """The metadata of a store cannot be read, and wsipipe does not guess them."""


class OutlineError(SlideError, ValueError):
    """An object whose outline has more corners than may be in memory at once."""


class TrainingError(WsipipeError, RuntimeError):
    """A training run that cannot continue, for example because its loss is no longer a number (exit code 1)."""


class MachineError(WsipipeError, RuntimeError):
    """The environment lacks something: the device, the scheduler, space or memory (exit code 3)."""


class OutputError(MachineError, OSError):
    """The output folder cannot be written: no space, no permission, or a file of that name."""

    # Of two builtin bases Python would take RuntimeError's; an OSError made by it cannot be sent to another process.
    if not TYPE_CHECKING:
        __new__ = OSError.__new__

    _cause = 0

    @property
    def cause(self) -> int:
        """The ``errno`` of the OSError that it was raised from, here or in another process; 0 if there is none."""
        return self._cause or getattr(self.__cause__, "errno", None) or 0

    def __reduce__(self) -> tuple[Any, ...]:
        """What pickle stores, which leaves out the cause of an exception."""
        return type(self), self.args, {**self.__dict__, "_cause": self.cause}


class MemoryLimitError(MachineError, MemoryError):
    """A request that does not fit into the memory that it may use."""
