"""What a model says of itself: its classes, resolution, normalisation, licence and training."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from wsipipe.errors import ModelError
from wsipipe.palette import class_color

BACKGROUND = 0
"""The label of background, and of pixels that were not segmented."""
INT8_RECORD = "int8"
"""Key in the training record of a model in int8: what it was calibrated on, and how it agrees with float32."""
MOST_LABEL = 255
"""The largest label."""
UNNAMED = "unnamed"
"""The name of a model that nobody named."""
OWN_MEAN, OWN_STD = (0.5,), (0.25,)
"""How the pixels of wsipipe's own networks are normalised where nobody said it: about as slides are."""


@dataclass(frozen=True)
class LabelClass:
    """The meaning of one output channel of the network."""

    name: str
    """The name that viewers show."""
    label: int
    """The value of its pixels in the label array, 1 to 255; 0 for the background channel."""
    color: str
    """The colour in which viewers draw it, ``#rrggbb``."""


@dataclass(frozen=True)
class ModelSpec:
    """Description of a model's weights.

    Raises
    ------
    ModelError
        If a value is out of range, or two classes share a label.
    """

    classes: tuple[LabelClass, ...]
    """One per output channel of the network."""
    mpp: float | None = None
    """Micrometres per pixel it was trained at; None: any, and level 0 is used."""
    mean: tuple[float, ...] = ()
    """Subtracted from each channel, as a share of the pixel type's full scale; one value serves all channels. Only for
    a `UNet` may mean and std be left out: it is saved with 0.5 and 0.25."""
    std: tuple[float, ...] = ()
    """Divisor of each channel after that, as a share of full scale; one value serves all channels."""
    name: str = UNNAMED
    """The name that people call it by."""
    licence: str = "not stated"
    """Licence of the weights."""
    training: dict[str, Any] = field(default_factory=dict)
    """Record of its training: data, settings, scores. Plain JSON."""
    min_area_um2: float = 0.0
    """Area in square micrometres below which what it finds is not an object."""

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise ModelError(f"model {self.name!r} {problem}")

    def _problems(self) -> Iterator[str]:
        """Its problems, basic ones first; later checks rely on earlier ones."""
        texts = [self.name, self.licence, *(text for c in self.classes for text in (c.name, c.color))]
        labels, colors = [c.label for c in self.classes], [c.color for c in self.classes]
        if not all(isinstance(text, str) for text in texts):
            yield f"has names that are not text: {texts}"
        if not isinstance(self.training, dict):
            yield f"has a training record that is not a table: {self.training!r}"
        if not labels:
            yield "has no classes"
        if not all(type(label) is int and 0 <= label <= MOST_LABEL for label in labels):
            yield f"has labels that are not whole numbers from 0 to {MOST_LABEL}: {labels}"
        if len(set(labels)) < len(labels):
            yield f"has two classes with the same label: {labels}"
        if labels == [BACKGROUND]:
            yield f"has only a background, label {BACKGROUND}"
        if not all(re.fullmatch("#[0-9a-fA-F]{6}", color) for color in colors):
            yield f"has colours that are not #rrggbb: {colors}"
        if self.mpp is not None and not 0 < self.mpp < math.inf:
            yield f"has {self.mpp} micrometres per pixel, which is not a positive number"
        if not 0 <= self.min_area_um2 < math.inf:
            yield f"has a smallest object of {self.min_area_um2} um2, which is not 0 or more"
        if not all(0 < value < math.inf for value in self.std):
            yield f"has standard deviations that are not positive numbers: {self.std}"
        if not all(map(math.isfinite, self.mean)):
            yield f"has means that are not finite numbers: {self.mean}"


def default_classes(channels: int) -> tuple[LabelClass, ...]:
    """Background and ``class 1``, ``class 2`` ...; for one sigmoid channel ``class 1`` alone."""
    named = [LabelClass(f"class {i}", i, class_color(i)) for i in range(1, max(channels, 2))]
    return tuple(named) if channels == 1 else (LabelClass("background", BACKGROUND, "#000000"), *named)
