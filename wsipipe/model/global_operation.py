"""The operation because of which a network looks at the whole image, in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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


def spreads(output: npt.NDArray[np.generic], inputs: Iterable[npt.NDArray[np.generic]]) -> bool:
    """Whether NaN is everywhere in ``output``, though in some places only of the ``inputs``."""
    if not (output.size and is_nan(output).all()):
        return False
    shares = [float(is_nan(one).mean()) for one in inputs if one.size]
    return max(shares, default=0) < 1


def is_nan(values: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Where ``values`` are NaN; nowhere if they are not floating-point numbers."""
    if not np.issubdtype(values.dtype, np.floating):
        return np.zeros(values.shape, bool)
    found: npt.NDArray[np.bool_] = np.isnan(values)
    return found
