"""The attributes of an OME-Zarr image-label, whoever wrote it: classes, colours, levels, downsample.

Source: https://ngff.openmicroscopy.org/0.5/#labels-md
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from wsipipe.errors import DamagedStoreError
from wsipipe.files import Location
from wsipipe.palette import class_color
from wsipipe.store.spec import ROOT

ZARR_2_ATTRIBUTES = ".zattrs"
"""The document with the attributes of a folder of Zarr 2."""


@dataclass(frozen=True)
class ImageLabel:
    """The attributes of an image-label. All of them are optional: one that is missing or malformed has its default."""

    classes: tuple[tuple[str, int, str], ...] = ()
    """(name, label, #rrggbb) of each class that has a name, but the background; a missing colour is of the palette."""
    levels: int = 0
    """Number of levels of the first multiscale."""
    downsample: float = 1.0
    """Pixels of the slide's finest level that one pixel of the finest level of labels spans, along a side."""


def read_attributes(folder: Location) -> dict[str, Any]:
    """The attributes of a Zarr folder of either version, those under ``ome`` at the top; empty for anything else.

    Raises
    ------
    DamagedStoreError
        If they cannot be read.
    """
    file = folder / ROOT
    try:
        names = (name for name in (ROOT, ZARR_2_ATTRIBUTES) if (folder / name).is_file())
        if (name := next(names, None)) is None:
            return {}
        file = folder / name
        document = json.loads(file.read_bytes())
        found = document.get("attributes", {}) if name == ROOT else document
        return dict(found) | dict(found.get("ome", {}))
    except (OSError, ValueError, TypeError, AttributeError) as err:
        raise DamagedStoreError(f"{file} cannot be read ({err}); write the store again") from err


def parse_image_label(attributes: Mapping[str, Any]) -> ImageLabel:
    """The image-label that has these ``attributes``, as `read_attributes` returns them."""
    label = attributes.get("image-label")
    names = {row["label-value"]: str(row["class"]) for row in _rows(label, "properties") if "class" in row}
    colors = {row["label-value"]: _color(row.get("rgba")) for row in _rows(label, "colors")}
    return ImageLabel(
        classes=tuple((name, value, colors.get(value) or class_color(value)) for value, name in names.items() if value),
        levels=_levels(attributes),
        downsample=_downsample(attributes),
    )


def _rows(label: Any, key: str) -> Iterator[dict[str, Any]]:
    """The objects in the list ``key`` of ``image-label`` that are about an integer."""
    rows = label.get(key) if isinstance(label, dict) else None
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and isinstance(row.get("label-value"), int):
            yield row


def _color(rgba: Any) -> str:
    """#rrggbb; empty if ``rgba`` is not a colour."""
    try:
        rgb = bytes(rgba[:3])
    except (TypeError, ValueError):
        return ""
    return f"#{rgb.hex()}" if len(rgb) == 3 else ""


def _levels(attributes: Mapping[str, Any]) -> int:
    try:
        return len(attributes["multiscales"][0]["datasets"])
    except (LookupError, TypeError):
        return 0


def _downsample(attributes: Mapping[str, Any]) -> float:
    """The downsample by the scale and translation of the finest level; 1 where these are missing.

    A store of wsipipe puts pixel (0, 0) of the slide at the origin, so that the centre of its own first pixel is at
    ``(downsample - 1) / 2`` pixels of the slide.
    """
    try:
        transforms = attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"]
        found = {transform["type"]: transform[transform["type"]][-1] for transform in transforms}
        return round(1 / (1 - 2 * float(found["translation"]) / float(found["scale"])), 6)
    except (LookupError, TypeError, ValueError, ZeroDivisionError):
        return 1.0
