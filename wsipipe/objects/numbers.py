"""Numbers of objects: ``id << 8 | class``; equal ids of different classes are different objects; 0 is no object."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
"""Numbers of objects, or numbers of pixels."""
Integers = npt.NDArray[np.integer[Any] | np.bool_]
"""Labels of any integer dtype, or a mask."""

CLASS_BITS = 8
MAX_CLASSES = 2**CLASS_BITS - 1
"""The maximum number of classes besides the background."""


def number_objects(classes: Integers, ids: Integers) -> Counts:
    """The object that each pixel belongs to, int64, in the shape (...) of both; 0 where the class or the id is 0."""
    numbers: Counts = ids.astype(np.int64) << CLASS_BITS | classes
    numbers[(classes == 0) | (ids == 0)] = 0
    return numbers


def class_of(objects: Counts) -> Counts:
    """The class of each object number, of any shape (...), int64."""
    classes: Counts = objects & MAX_CLASSES
    return classes
