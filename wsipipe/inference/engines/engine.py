"""What every engine does."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Engine(Protocol):
    """A network on one device. One thread calls it at a time, or on a GPU one for each of its lanes."""

    def __call__(self, x: Tensor) -> Tensor:
        """The output (n, class, y, x) for normalised tiles ``x`` (n, channel, y, x), float32.

        It is float32, or of the lower precision in which the engine computes. It may be valid until the next call only.
        """
