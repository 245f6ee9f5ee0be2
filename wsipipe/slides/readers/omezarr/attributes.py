"""The metadata of an OME-Zarr folder: ``multiscales``, axes, scales and channels."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsipipe.errors import SlideError, SlideFormatError, SlideReadError
from wsipipe.slides.readers.omezarr.zipped import FolderOfZarr, ZippedFolder
from wsipipe.slides.resolution import Resolution, checked, micrometres_in
from wsipipe.urls import Url

VERSIONS = ("0.4", "0.5")
SPATIALDATA = "-dev-spatialdata"
"""End of the versions that SpatialData writes, such as ``0.4-dev-spatialdata``: one of `VERSIONS` with transformations
of its own, into coordinate systems that have names.

Source: https://github.com/scverse/spatialdata/blob/main/src/spatialdata/_io/format.py
"""
METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
"""Files of a Zarr folder that are not chunks."""
MAX_METADATA_BYTES = 2**24
"""A larger document does not describe an image; as Python objects it takes 20 times as much memory."""
MAX_LEVELS = 64
"""More datasets than this are refused: several files are opened for each."""


@dataclass(frozen=True)
class Multiscale:
    """One entry of ``multiscales``, the words as in the specification."""

    axes: str
    """First letters of the axes' names, in the order of the arrays."""
    paths: tuple[str, ...]
    """Paths of the datasets, from fine to coarse."""
    resolution: Resolution
    """Micrometres per pixel of the first dataset."""
    channel_names: tuple[str, ...]
    """Labels of the channels under ``omero``, if all of them have one."""


def is_zarr(path: FolderOfZarr) -> bool:
    """Whether ``path`` is a Zarr folder of either version."""
    names = ("zarr.json", ".zgroup", ".zarray")
    if not isinstance(path, Path):
        return any((path / name).is_file() for name in names)
    return any(os.path.isfile(path / name) for name in names)  # noqa: PTH113 - Path.is_file raises where it may not look


def is_labels(path: FolderOfZarr) -> bool:
    """Whether the Zarr folder says that it holds labels, as the stores of wsipipe do."""
    try:
        return "image-label" in read_attributes(path)
    except SlideError:
        return False


def read_attributes(path: FolderOfZarr) -> dict[str, Any]:
    """The OME attributes of the folder: those under ``ome`` in Zarr 3, all of them in Zarr 2; empty if it has none.

    Raises
    ------
    SlideFormatError
        If they are not a JSON object.
    SlideReadError
        If their document cannot be read.
    """
    name = next((name for name in ("zarr.json", ".zattrs") if (path / name).is_file()), None)
    if name is None:
        return {}
    check_metadata(path, path)
    try:
        document = json.loads((path / name).read_bytes())
        attributes = (document.get("attributes") or {}).get("ome") or {} if name == "zarr.json" else document
    except (ValueError, AttributeError, RecursionError) as err:
        raise SlideReadError(f"{path.name}: {name} cannot be read ({err}); write it again") from err
    if not isinstance(attributes, dict):
        raise SlideFormatError(f"{path.name}: the OME attributes in {name} are not a JSON object")
    return attributes


def parse_multiscale(path: FolderOfZarr, attributes: Mapping[str, Any]) -> Multiscale:
    """The one multiscale image of the folder.

    Raises
    ------
    SlideFormatError
        If there is none, or more than one, or it does not follow the specification.
    """
    multiscales = attributes.get("multiscales")
    if not isinstance(multiscales, list) or len(multiscales) != 1:
        count = len(multiscales) if isinstance(multiscales, list) else "no"
        hint = _hint(attributes)
        raise SlideFormatError(f"{path.name} is a Zarr folder with {count} multiscales; wsipipe reads one{hint}")
    one = multiscales[0]
    try:
        version = str(attributes.get("version") or one.get("version") or VERSIONS[0])
        if version not in VERSIONS and not version.endswith(SPATIALDATA):
            raise SlideFormatError(
                f"{path.name} is OME-Zarr {version}; wsipipe reads {' and '.join(VERSIONS)}; write it as one of them"
            )
        axes = [dict(axis) for axis in one["axes"]]
        paths = tuple(str(dataset["path"]) for dataset in one["datasets"])
        letters = "".join(str(axis["name"])[:1].lower() for axis in axes)
        if not paths:
            raise SlideFormatError(f"{path.name}: its multiscales list no datasets")
        if len(paths) > MAX_LEVELS:
            raise SlideFormatError(
                f"{path.name}: its multiscales list {len(paths)} datasets; at most {MAX_LEVELS} are allowed"
            )
        channels = (attributes.get("omero") or {}).get("channels") or ()
        labels = [channel.get("label") for channel in channels]
        names = tuple("" if label is None else str(label) for label in labels)
        return Multiscale(letters, paths, zarr_resolution(one, axes, letters), names if all(names) else ())
    except SlideError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as err:
        raise SlideFormatError(
            f"{path.name}: its multiscales do not follow the OME-Zarr specification ({type(err).__name__}: {err})"
        ) from err


def zarr_resolution(multiscale: Mapping[str, Any], axes: list[dict[str, Any]], letters: str) -> Resolution:
    """Micrometres per pixel: the scale of the first dataset times that of the whole, in the units of the axes.

    A scale into a coordinate system that it names, as SpatialData has them, does not lead to these units.
    """
    scales = [
        transform["scale"]
        for holder in (multiscale["datasets"][0], multiscale)
        for transform in holder.get("coordinateTransformations") or ()
        if transform.get("type") == "scale" and "output" not in transform
    ]
    if not scales:
        return Resolution(None, "no scale in multiscales")
    sizes = []
    for letter in "yx":
        index = letters.index(letter)
        unit = axes[index].get("unit")
        size = None if unit is None else micrometres_in(str(unit))
        if size is None:
            return Resolution(None, f"axis {letter} has " + ("no unit" if unit is None else f"the unit {unit!r}"))
        sizes.append(float(np.prod([float(scale[index]) for scale in scales])) * size)
    return checked(sizes[0], sizes[1], "scale in multiscales")


def zarr_corner(multiscale: Mapping[str, Any], axes: list[dict[str, Any]], letters: str) -> tuple[float, float] | None:
    """(y, x) of the upper left corner of the first dataset in micrometres; None if that is not said in units of length.

    A translation is that of the centre of the first pixel, 0 if there is none.
    """
    corner = []
    for letter in "yx":
        index = letters.index(letter)
        size = micrometres_in(str(axes[index].get("unit")))
        if size is None:
            return None
        place = -0.5  # in pixels of the array
        for holder in (multiscale["datasets"][0], multiscale):
            for transform in holder.get("coordinateTransformations") or ():
                kind = transform.get("type")
                if kind == "identity":
                    continue
                if kind not in ("scale", "translation") or kind not in transform or "output" in transform:
                    return None
                number = float(transform[kind][index])
                place = place * number if kind == "scale" else place + number
        corner.append(place * size)
    return corner[0], corner[1]


def check_metadata(path: FolderOfZarr, folder: FolderOfZarr) -> None:
    """Refuse metadata documents that would take unbounded memory; behind a URL their sizes are not asked for.

    Raises
    ------
    SlideFormatError
        If a document is too large; the message names it.
    """
    if isinstance(folder, Url):
        return
    for file in (folder / name for name in METADATA if (folder / name).is_file()):
        size = file.size if isinstance(file, ZippedFolder) else file.stat().st_size
        if size > MAX_METADATA_BYTES:
            raise SlideFormatError(
                f"{path.name}: {file.name} of {folder.name} has {size} bytes; wsipipe reads up to {MAX_METADATA_BYTES}"
            )


def _hint(attributes: Mapping[str, Any]) -> str:
    """Where the image may be, to end a message."""
    return f"; {'it is a plate, so ' * ('plate' in attributes)}give the folder of one image"
