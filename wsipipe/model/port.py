"""An input or output of a network, as its file declares it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wsipipe.errors import ModelError


@dataclass(frozen=True)
class Port:
    """An input or output of a network."""

    name: str
    """The name by which it is asked for."""
    dtype: str
    """The type of its elements, by numpy's name: ``float32``."""
    shape: tuple[int | None, ...]
    """The length of each axis; None where it is free."""

    def __str__(self) -> str:
        """As people read it: ``image float32 (*, 3, *, *)``."""
        lengths = ", ".join("*" if length is None else str(length) for length in self.shape)
        return f"{self.name} {self.dtype} ({lengths})"


def check_one_input(what: str, inputs: Sequence[Port]) -> None:
    """Refuse a network that takes anything but one tensor; the message begins with ``what``.

    Raises
    ------
    ModelError
        If it has no input, or several.
    """
    if len(inputs) != 1:
        declared = "; ".join(map(str, inputs)) or "none"
        raise ModelError(
            f"{what} has {len(inputs)} inputs ({declared}), and networks here take one, images (n, channel, y, x); "
            "wrap it in a torch.nn.Module whose forward fills in the others, and export that"
        )
