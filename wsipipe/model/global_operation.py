"""The operation because of which a network looks at the whole image, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CONTAINERS = {"Sequential", "ModuleList", "ModuleDict"}


@dataclass(frozen=True)
class GlobalOperation:
    """An operation whose output depends on the whole image everywhere, while its inputs do not.

    >>> print(GlobalOperation("ReduceMean", "node_mean", (("encoder.se", "SqueezeExcite"), ("encoder.se.0", "Mean"))))
    Mean encoder.se.0 in SqueezeExcite encoder.se (ReduceMean, node_mean)
    """

    kind: str
    """The operation, in the words of the file's format."""
    name: str
    """Its name in the file."""
    modules: tuple[tuple[str, str], ...] = ()
    """(path, class) of each module of the network that it is in, the outermost first, as far as the file says."""

    def __str__(self) -> str:
        named = [f"{kind} {path}" for path, kind in self.modules if path and kind not in CONTAINERS]
        words = f"{' in '.join(named[:-3:-1])} ({self.kind}, {self.name})" if named else f"{self.kind} ({self.name})"
        return f"attention of {words}" if "softmax" in self.kind.lower() else words


def spreads(outputs: Sequence[float], inputs: Sequence[float]) -> bool:
    """Whether an operation makes NaN of a whole output, by the shares of NaN in its outputs and in its inputs."""
    return max(outputs, default=0) == 1 and max(inputs, default=1) < 1
