"""Pairs of an image and its labels, matched by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from wsipipe.errors import UsageError
from wsipipe.slides.discover import PICTURE_SUFFIXES, SLIDE_SUFFIXES

RASTER_SUFFIXES = (*PICTURE_SUFFIXES, *SLIDE_SUFFIXES)
"""Suffixes of files of pixels, in lower case."""
ANNOTATION_SUFFIXES = (".geojson", ".json", ".xml")
"""Suffixes of files of annotations, in lower case."""
IMAGE_FOLDERS, LABEL_FOLDERS = ("image", "images"), ("label", "labels", "mask", "masks", "annotations")
ROLE = re.compile(r"_(image|img|label|labels|mask|masks)$", re.IGNORECASE)
IMAGE_ROLES = ("image", "img")
NOT_READ = (".bmp", ".gif", ".webp", ".jp2", ".npy", ".npz", ".mat", ".h5", ".dcm", ".czi", ".vsi")
"""Suffixes of other image files, which are not read here, in lower case."""


def pairs_in(folder: Path) -> dict[str, tuple[Path, Path]]:
    """(image, labels) by name, in the order of the names.

    A folder holds ``NAME_image.*`` and ``NAME_label.*``, or the folders ``image`` and ``label`` with one ``NAME.*``
    each. Labels are rasters or annotations.

    Raises
    ------
    UsageError
        If there are no pairs, a file has no partner, or two have the same name.
    """
    images, labels = (
        [path for name in names if (folder / name).is_dir() for path in rasters_in(folder / name, more)]
        for names, more in ((IMAGE_FOLDERS, ()), (LABEL_FOLDERS, ANNOTATION_SUFFIXES))
    )
    if not images and not labels:
        marked = [(path, ROLE.search(_bare(path))) for path in rasters_in(folder, ANNOTATION_SUFFIXES)]
        images = [path for path, role in marked if role and role[1].lower() in IMAGE_ROLES]
        labels = [path for path, role in marked if role and role[1].lower() not in IMAGE_ROLES]
    if not images and not labels:
        raise UsageError(
            f"folder {folder} holds no training images; wsipipe looks for NAME_image.* with NAME_label.*, "
            f"or image/NAME.* with label/NAME.* ({' '.join(RASTER_SUFFIXES)}){_not_read_in(folder)}"
        )
    return matched(by_stem(images), by_stem(labels), folder)


def stem(path: Path) -> str:
    """The name that an image and its labels share: without suffixes, and without ``_image`` or ``_label``."""
    name = path.name
    while Path(name).suffix.lower() in (*RASTER_SUFFIXES, *ANNOTATION_SUFFIXES, ".ome", ".partial"):
        name = Path(name).stem
    return ROLE.sub("", name)


def rasters_in(folder: Path, more: tuple[str, ...] = ()) -> list[Path]:
    """The files in ``folder`` that hold pixels, judging by their names, or have one of the suffixes ``more``, sorted.

    Raises
    ------
    UsageError
        If the folder cannot be listed.
    """
    try:
        known = (*RASTER_SUFFIXES, *more)
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in known and not p.name.startswith("."))
    except OSError as err:
        raise UsageError(f"folder {folder} cannot be listed: {err.strerror or err}") from err


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """``paths`` by their `stem`, sorted.

    Raises
    ------
    UsageError
        If two have the same stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(paths):
        other = found.setdefault(stem(path), path)
        if other != path:
            raise UsageError(f"{other} and {path.name} share the name {stem(path)!r}; move one of them away")
    return found


def matched(first: dict[str, Path], second: dict[str, Path], folder: Path) -> dict[str, tuple[Path, Path]]:
    """The two files of each stem.

    Raises
    ------
    UsageError
        If one has no partner; the message names the first of them.
    """
    if alone := sorted(set(first) ^ set(second)):
        path = first.get(alone[0]) or second[alone[0]]
        raise UsageError(
            f"{path} has no partner of the same name ({len(alone)} of {len(set(first) | set(second))} have none, "
            f"under {folder}); add it, or move the file away{_not_read_in(folder)}"
        )
    return {name: (first[name], second[name]) for name in sorted(first)}


def _bare(path: Path) -> str:
    """The file's name without suffixes."""
    name = path.name
    while Path(name).suffix.lower() in (*RASTER_SUFFIXES, *ANNOTATION_SUFFIXES, ".ome"):
        name = Path(name).stem
    return name


def _not_read_in(folder: Path) -> str:
    """A hint for messages if ``folder``, or one within it, has images that are not read; else empty."""
    places = [folder, *(folder / name for name in (*IMAGE_FOLDERS, *LABEL_FOLDERS))]
    files = (file for place in places if place.is_dir() for file in place.iterdir())
    names = sorted(file.name for file in files if file.suffix.lower() in NOT_READ)
    return f"; {names[0]} is in an unsupported format; convert it to PNG or TIFF" if names else ""
