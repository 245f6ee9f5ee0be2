"""Pairs of a prediction and its labels, matched by name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from wsipipe.errors import StoreError, UsageError
from wsipipe.rasters.pairs import ANNOTATION_SUFFIXES, by_stem, matched, rasters_in, stem
from wsipipe.slides.readers.omezarr.attributes import is_zarr
from wsipipe.store.spec import PARTIAL

ANNOTATIONS = ANNOTATION_SUFFIXES
"""Suffixes of annotation files, in lower case."""
IMAGE = re.compile(r"_(image|img)\.")
"""Part of an image's name that tells it from the labels beside it."""

LABEL = re.compile(r"_(label|mask)s?\.", re.IGNORECASE)
"""Part of the name of labels that tells them from the image beside them."""


def pair(predictions: Path, labels: Path) -> dict[str, tuple[Path, Path]]:
    """(prediction, labels) by the name that they share; two single files are a pair whatever their names.

    Raises
    ------
    UsageError
        If there are no files, one has no partner, or two have the same name.
    StoreError
        If a prediction is not finished.
    """
    found = _files(predictions, ()), _files(labels, ANNOTATIONS)
    if predictions in found[0] and labels in found[1]:
        return {stem(predictions): (predictions, labels)}
    return matched(by_stem(found[0]), by_stem(found[1]), predictions)


def pair_slides(slides: Path, labels: Path) -> dict[str, tuple[Path, Path]]:
    """(slide, labels) by name, as `pair`; a folder may hold both, as ``NAME_image.*`` and ``NAME_label.*``.

    Raises
    ------
    UsageError
        If there are no files, one has no partner, or two have the same name.
    """
    images = [path for path in _files(slides, ()) if not LABEL.search(path.name)]
    truths = [path for path in _files(labels, ANNOTATIONS) if path not in images]
    if slides in images and labels in truths:
        return {stem(slides): (slides, labels)}
    return matched(by_stem(images), by_stem(truths), slides)


def _files(path: Path, more: Sequence[str]) -> list[Path]:
    """The rasters, and files with the suffixes ``more``, that ``path`` is or holds."""
    if path.suffix == PARTIAL or (not os.path.exists(path) and os.path.exists(f"{path}{PARTIAL}")):  # noqa: PTH110
        raise _unfinished(path)
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises without permission
        raise UsageError(f"{path} does not exist; give a label raster, or a folder of them")
    if not path.is_dir() or is_zarr(path):
        return [path]
    found = rasters_in(path)
    for entry in path.glob(f"*{PARTIAL}"):
        raise _unfinished(entry)
    found += [entry for entry in sorted(path.iterdir()) if entry.suffix.lower() in more]
    found = [entry for entry in found if not (more and IMAGE.search(entry.name))]
    if not found:
        raise UsageError(f"folder {path} holds no label rasters; wsipipe looks for .zarr, .tif, .png and the like")
    return found


def _unfinished(path: Path) -> StoreError:
    return StoreError(f"{path} is unfinished; to finish it, start the wsipipe run that began it again")
