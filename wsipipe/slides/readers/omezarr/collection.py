"""The images of a Zarr folder that holds several: as bioformats2raw and SpatialData make them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from wsipipe.errors import SlideFormatError, SlideReadError
from wsipipe.files import Location
from wsipipe.slides.readers.omezarr.attributes import is_zarr, read_attributes
from wsipipe.slides.readers.omezarr.zipped import FolderOfZarr
from wsipipe.urls import Url

SERIES_FOLDER = "OME"
"""The folder of bioformats2raw whose attributes list the images (https://ngff.openmicroscopy.org/0.5/#bf2raw)."""
IMAGES_FOLDER = "images"
"""The folder of SpatialData in which each folder is an image."""
ZARR_NAME = re.compile(r"(.+?)(\.ome)?(\.zarr|\.zarr\.zip|\.ozx|\.zip)", re.IGNORECASE)
"""Name of a Zarr folder, or of one in a zip file, and of the slide in it."""


def images_in(path: FolderOfZarr, attributes: Mapping[str, Any]) -> list[str]:
    """Paths of the images within a collection, in its order; nothing if ``path`` is an image itself.

    They are those that bioformats2raw lists; else the folders 0, 1 and so on; else those of SpatialData.

    Raises
    ------
    SlideFormatError
        If the list is not one of folders within ``path``.
    SlideReadError
        If a folder that it lists is missing.
    """
    if "multiscales" in attributes:
        return []
    listed = _listed(path)
    if listed:
        return listed
    numbered = list(itertools.takewhile(lambda name: is_zarr(path / name), map(str, itertools.count())))
    return numbered or _of_spatialdata(path)


def name_of(path: Location, image: str) -> str:
    """The slide's name: that of its Zarr folder or zip file, then the path to an ``image`` within a collection."""
    parts = (*PurePosixPath(str(path)).parts, *filter(None, image.split("/")))
    found = [(number, match[1]) for number, part in enumerate(parts) if (match := ZARR_NAME.fullmatch(part))]
    if not found:
        return "-".join(filter(None, [path.name, image.replace("/", "-")]))
    number, name = found[-1]
    return "-".join([name, *(part for part in parts[number + 1 :] if part != IMAGES_FOLDER)])


def _listed(path: FolderOfZarr) -> list[str]:
    """The images that bioformats2raw lists under ``series``."""
    folder = path / SERIES_FOLDER
    series = read_attributes(folder).get("series") if is_zarr(folder) else None
    if series is None:
        return []
    if not isinstance(series, list) or not all(isinstance(name, str) for name in series):
        raise SlideFormatError(f"{path.name}: series in its folder {SERIES_FOLDER} is not a list of folders")
    for name in series:
        if {"", ".", ".."} & set(name.split("/")):
            raise SlideFormatError(f"{path.name}: its series {name!r} is outside its folder")
        if not is_zarr(path / name):
            raise SlideReadError(f"{path.name} is half-written: its series {name!r} is missing; write it again")
    return series


def _of_spatialdata(path: FolderOfZarr) -> list[str]:
    """The images of SpatialData, of a store or its folder of them, sorted; none on a web server."""
    within = "" if path.name == IMAGES_FOLDER else f"{IMAGES_FOLDER}/"
    folder = path / IMAGES_FOLDER if within else path
    if not is_zarr(folder) or (isinstance(folder, Url) and not folder.lists):
        return []
    return sorted(f"{within}{image.name}" for image in folder.iterdir() if is_zarr(image))
