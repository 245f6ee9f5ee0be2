"""The classes that predictions and labels have: as the predictions name them, as the user does, or by their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsipipe.errors import UsageError
from wsipipe.evaluation.blockwise import READ_BLOCK_PX
from wsipipe.geometry.grid import Box, boxes
from wsipipe.objects.numbers import MAX_CLASSES
from wsipipe.rasters.label_raster import LabelRaster
from wsipipe.store.image_label import parse_image_label, read_attributes

Values = npt.NDArray[np.int32]
"""Values of pixels."""

NO_VALUES = np.zeros(0, np.int32)


@dataclass(frozen=True)
class Classes:
    """The classes besides the background."""

    names: tuple[str, ...]
    """Names in the order of the ids, from 1."""
    values: tuple[int, ...]
    """The value of each in the pixels of the predictions, and of the labels unless they are mapped."""


ONE_CLASS = Classes(("object",), (1,))
"""The classes of predictions that are instances."""


def stored_classes(path: Path) -> Classes | None:
    """The classes that the image-label at ``path`` names, whoever wrote it; None if it names none.

    Raises
    ------
    DamagedStoreError
        If its attributes cannot be read.
    """
    named = {value: name for name, value, _ in parse_image_label(read_attributes(path)).classes}
    return Classes(tuple(named[value] for value in sorted(named)), tuple(sorted(named))) if named else None


def common_classes(predictions: Sequence[Path]) -> Classes | None:
    """The classes that all predictions name; None if none does.

    Raises
    ------
    UsageError
        If they differ.
    """
    first = stored_classes(predictions[0])
    for path in predictions[1:]:
        if (other := stored_classes(path)) != first:
            names = [", ".join(classes.names) if classes else "no classes" for classes in (first, other)]
            raise UsageError(
                f"{predictions[0].name} names {names[0]}, but {path.name} names {names[1]}; evaluate them separately"
            )
    return first


def name_classes(classes: Classes | None, meant: Mapping[int, int | str]) -> tuple[Classes | None, dict[int, int]]:
    """The classes, and the values of the labels that stand for others, where a user says what values mean.

    Parameters
    ----------
    classes
        The classes that the predictions name; None if they name none. Then the names that the user gives are the
        classes: the first value that has a name is that of the predictions, others are values of the labels for it.
    meant
        What values mean: another value, or the name of a class.

    Raises
    ------
    UsageError
        If there is no class of such a name or value.
    """
    names = {value: name for value, name in meant.items() if isinstance(name, str)}
    mapped = {value: other for value, other in meant.items() if isinstance(other, int)}
    if classes is not None and (foreign := set(mapped.values()) - {0, *classes.values}):
        allowed = ", ".join(f"{value} ({name})" for value, name in zip(classes.values, classes.names, strict=True))
        raise UsageError(f"--map: no class has the value {min(foreign)}; allowed: 0 and {allowed}")
    if not names:
        return classes, mapped
    if classes is ONE_CLASS and len(set(names.values())) == 1:
        classes = replace(ONE_CLASS, names=tuple(set(names.values())))
    if classes is None:
        first = {name: value for value, name in reversed(names.items())}
        ordered = sorted(first.items(), key=lambda one: one[1])
        classes = Classes(tuple(name for name, _ in ordered), tuple(value for _, value in ordered))
    values = dict(zip(classes.names, classes.values, strict=True))
    if unknown := [name for name in names.values() if name not in values]:
        raise UsageError(f"--map: no class is called {unknown[0]!r}; the predictions have {', '.join(classes.names)}")
    return classes, mapped | {value: values[name] for value, name in names.items()}


def read_values(raster: LabelRaster, box: Box, mapped: Mapping[int, int]) -> Values:
    """The pixels of ``box``, int32 (y, x), with the values that are ``mapped`` replaced.

    Raises
    ------
    SlideReadError
        If they cannot be read.
    """
    values = raster.read(box)
    if not mapped:
        return values
    out = values.copy()
    for value, meant in mapped.items():
        out[values == value] = meant
    return out


def found_classes(
    rasters: Sequence[LabelRaster],
    labels: Sequence[LabelRaster],
    mapped: Mapping[int, int],
) -> Classes:
    """The classes as the values that occur, if nobody names any; every raster is read once for that.

    Parameters
    ----------
    rasters
        The predictions.
    labels
        The labels whose values are classes.
    mapped
        Values of the labels that stand for others.

    Raises
    ------
    UsageError
        If there are too many values, or predictions and labels have no value in common.
    """
    predicted, truth = NO_VALUES, NO_VALUES
    for raster in rasters:
        predicted = np.union1d(predicted, distinct_values(raster, {}, "--predictions-are"))
    for raster in labels:
        truth = np.union1d(truth, distinct_values(raster, mapped, "--labels-are"))
    if predicted.size and truth.size and not np.intersect1d(predicted, truth).size:
        raise UsageError(
            f"predictions have the values {_listed(predicted)}, and labels {_listed(truth)}, with none in common; "
            f"say which is which, e.g. --map {truth[0]}={predicted[0]}, or give --labels-are instances"
        )
    values = np.union1d(predicted, truth).tolist() or [1]
    return Classes(tuple(map(str, values)), tuple(values))


def distinct_values(raster: LabelRaster, mapped: Mapping[int, int], option: str) -> Values:
    """The values of a raster but 0, ascending, (values,), int32.

    Raises
    ------
    UsageError
        If there are more than `MAX_CLASSES`.
    """
    found: Values = NO_VALUES
    for box in boxes(raster.shape, READ_BLOCK_PX):
        found = np.union1d(found, read_values(raster, box, mapped))
        if np.count_nonzero(found) > MAX_CLASSES:
            raise UsageError(
                f"{raster.name} has more than {MAX_CLASSES} values, the maximum number of classes; if they "
                f"are object ids, give {option} instances"
            )
    return np.setdiff1d(found, [0]).astype(np.int32)


def _listed(values: Values) -> str:
    return ", ".join(map(str, values[:5].tolist())) + (", ..." if len(values) > 5 else "")
