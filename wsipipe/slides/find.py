"""Which slides a command line means."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from wsipipe.errors import UsageError
from wsipipe.slides.dicom import series_in
from wsipipe.slides.omezarr import is_labels, is_zarr

SUFFIXES = (
    ".svs",
    ".svslide",
    ".tif",
    ".tiff",
    ".ndpi",
    ".scn",
    ".bif",
    ".btf",
    ".tf2",
    ".tf8",
    ".qptiff",
    ".mrxs",
    ".vms",
    ".vmu",
    ".czi",
    ".zarr",
)
"""What a slide in a folder may be called, in lower case; a file that is named itself may be called anything."""


def expand(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The slides that ``paths`` name, each once, in the order given.

    A pattern gives the files that match it, sorted; a folder that is not itself an OME-Zarr slide or a DICOM
    series gives the slides in it, sorted, of DICOM files one a series. A plain path that does not exist is kept,
    so that it is reported as one failed slide and the others go on.

    Raises
    ------
    UsageError
        If a pattern matches nothing, or a folder holds no slide or can not be listed.
    """
    found: dict[str, Path] = {}
    for text in [paths] if isinstance(paths, str | os.PathLike) else paths:
        for path in _matching(os.fspath(text)):
            for slide in _slides_in(path):
                found.setdefault(os.path.realpath(slide), slide)
    return list(found.values())


def _matching(text: str) -> list[Path]:
    """The paths that ``text`` stands for, absolute: itself, or what matches it as a pattern."""
    names = [text]
    # A file may have brackets in its name, and then it is no pattern.
    if glob.has_magic(text) and not os.path.lexists(text):
        names = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not names:
            raise UsageError(f"nothing matches {text}; check the folder and the suffix")
    return [Path(os.path.abspath(name)) for name in names]  # noqa: PTH100 - Path.absolute keeps ".."


def _slides_in(path: Path) -> list[Path]:
    """``path`` itself, or if it is an ordinary folder the slides in it."""
    if not os.path.isdir(path) or is_zarr(path):  # noqa: PTH112 - Path.is_dir raises where it may not look
        return [path]
    try:
        slides = sorted(entry for entry in path.iterdir() if _looks_like_slide(entry))
        series = series_in(path)
        if len(series) == 1 and not slides:
            return [path]
        slides = sorted(slides + [files[0] for files in series.values()])
    except OSError as err:
        raise UsageError(f"folder {path} can not be listed: {err.strerror}") from err
    if not slides:
        raise UsageError(f"folder {path} holds no slide; wsipipe looks for {' '.join(SUFFIXES)} and DICOM")
    return slides


def _looks_like_slide(path: Path) -> bool:
    """Whether it is a file that is named as slides are, an OME-Zarr folder, not one of labels, or one of DICOM."""
    if path.name.startswith("."):
        return False
    if path.suffix.lower() not in SUFFIXES:
        return _is_series(path)
    return is_zarr(path) and not is_labels(path) if os.path.isdir(path) else True  # noqa: PTH112


def _is_series(path: Path) -> bool:
    """Whether it is a folder that holds one DICOM series, and may be looked into."""
    try:
        return path.is_dir() and not is_zarr(path) and len(series_in(path)) == 1
    except OSError:
        return False
