"""An input or output of a network, as its file declares it."""

from __future__ import annotations

from dataclasses import dataclass


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
