"""The slides that a command line names."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from wsipipe.errors import NothingFoundError, SlideError, UsageError
from wsipipe.files import Location, Named, absolute, locate, one_name
from wsipipe.slides.address import image_at
from wsipipe.slides.planes import Planes
from wsipipe.slides.readers.dicom_series import Instance, instance_of, instances_in, series_in
from wsipipe.slides.readers.omezarr.attributes import is_labels, is_zarr
from wsipipe.slides.readers.omezarr.zipped import zarr_folder
from wsipipe.slides.readers.tiff.reader import TiffReader, count_regions
from wsipipe.urls import Url

SLIDE_SUFFIXES = (
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
"""Suffixes of slides in a folder, in lower case; a file that is given by name may have any."""
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
"""Suffixes of pictures, which are slides if they are given by name or pattern: in a folder they may be thumbnails."""
ZIPPED_ZARR = (".ozx", ".zarr.zip")
"""Ends of the names of zipped OME-Zarr; another ``.zip`` in a folder is a slide if it holds one."""
LOOKED_FOR = " ".join((*SLIDE_SUFFIXES, *ZIPPED_ZARR))
"""For messages."""


def expand(paths: Sequence[Named], whole: Callable[[Location], bool] = lambda _: False) -> list[Location]:
    """The slides that ``paths`` name, each once, in the order given.

    A pattern gives the files that match it, sorted; a folder that is not itself an OME-Zarr slide or a DICOM
    series gives the slides in it, sorted. Of the files of a DICOM series the first stands for all; other DICOM files
    beside them, such as annotations, are left out. A plain path that does not exist is kept, so that it is reported as
    one failed slide and the others go on. In a URL only the name, after the last slash, may be a pattern.

    Each scanned region of a Leica SCN is a slide of its own, such as ``case-17.scn#0``, except in a file of which
    ``whole`` says that it is opened as one slide (`is_whole`).

    Raises
    ------
    NothingFoundError
        If a pattern matches nothing, or a folder holds no slide.
    UsageError
        If a folder cannot be listed, or a URL comes with two query strings.
    """
    found: dict[str, Location] = {}
    for text in [paths] if isinstance(paths, str | os.PathLike | Url) else paths:
        for path in _matching(text):
            for slide in _slides_in(path):
                for image in [slide] if whole(slide) else _images_of(slide):
                    _check_query(image, found.setdefault(slide_key(image), image))
    folders = {os.path.dirname(key) for key, slide in found.items() if key != one_name(slide)}  # noqa: PTH120
    return [slide for key, slide in found.items() if _folder_of_object(slide) not in folders]


def _check_query(slide: Location, other: Location) -> None:
    """Raise a UsageError if one URL comes with two query strings."""
    if isinstance(slide, Url) and isinstance(other, Url) and slide.query != other.query:
        raise UsageError(
            f"{slide} is given with two query strings, which do not tell two slides apart; give it once, "
            "or slides of different paths"
        )


def is_whole(reader: str | None, planes: Planes) -> bool:
    """Whether a file is one slide by what the user chose: one of its images, or a reader that shows all in one."""
    return planes.series is not None or reader not in (None, TiffReader.name)


def _images_of(slide: Location) -> list[Location]:
    """``slide`` itself, or the regions of a Leica SCN; a file that cannot be read is refused when it is opened."""
    if isinstance(slide, Url) or slide.suffix.lower() != ".scn":
        return [slide]
    count = count_regions(slide)
    return [image_at(slide, number) for number in range(count)] if count > 1 else [slide]


def slide_key(slide: Location) -> str:
    """The one text that all names of a slide share: of a DICOM series, those of all its files, and of a folder of it.

    It is `one_name`, or the series after its folder.
    """
    name = one_name(slide)
    if isinstance(slide, Url):
        return name
    try:
        if os.path.isdir(slide):  # noqa: PTH112 - Path.is_dir raises where it may not look
            series = [] if is_zarr(slide) else list(series_in(slide))
            return os.path.join(name, series[0]) if len(series) == 1 else name  # noqa: PTH118
        instance = instance_of(slide)
    except OSError:
        return name
    if instance is None or not instance.series or not _is_of_slide(instance):
        return name
    return os.path.join(os.path.realpath(slide.parent), instance.series)  # noqa: PTH118


def _folder_of_object(slide: Location) -> str | None:
    """The folder of a DICOM file that is not of a slide, such as annotations; None for all others."""
    try:
        instance = None if isinstance(slide, Url) else instance_of(slide)
        return None if instance is None or _is_of_slide(instance) else os.path.realpath(instance.path.parent)
    except OSError:
        return None


def _is_of_slide(instance: Instance) -> bool:
    """Whether a DICOM file is a level, or a label or an overview in the series of one."""
    return instance.is_level or (instance.is_slide and instance.series in instances_in(instance.path.parent))


def _matching(given: Named) -> Sequence[Location]:
    """The absolute paths that ``given`` stands for: itself, or those that match it as a pattern."""
    here = locate(given)
    if isinstance(here, Url):
        return _matching_urls(here)
    text = os.fspath(here)
    names = [text]
    # A file may have brackets in its name, which is then not a pattern.
    if glob.has_magic(text) and not os.path.lexists(text):
        names = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not names:
            raise NothingFoundError(f"nothing matches {text}; check the folder and the suffix")
    return [absolute(name) for name in names]


def _matching_urls(url: Url) -> list[Url]:
    if not glob.has_magic(url.name) or url.is_file():
        return [url]
    found = sorted(other for other in _listed(url.parent) if fnmatchcase(other.name, url.name))
    if not found:
        raise NothingFoundError(f"nothing matches {url}; check the folder and the suffix")
    return found


def _listed(folder: Url) -> list[Url]:
    try:
        return list(folder.iterdir())
    except OSError as err:
        raise UsageError(f"folder {folder} cannot be listed: {err.strerror}") from err


def _slides_in(path: Location) -> Sequence[Location]:
    """``path`` itself, or the slides in it if it is an ordinary folder."""
    if isinstance(path, Url):
        return _slides_behind(path)
    if not os.path.isdir(path) or is_zarr(path):  # noqa: PTH112 - Path.is_dir raises where it may not look
        return [path]
    try:
        slides = sorted(entry for entry in path.iterdir() if _looks_like_slide(entry))
        series = series_in(path)
        if len(series) == 1 and not slides:
            return [path]
        slides = sorted(slides + [files[0] for files in series.values()])
    except OSError as err:
        raise UsageError(f"folder {path} cannot be listed: {err.strerror}") from err
    if not slides:
        raise NothingFoundError(
            f"folder {path} holds no slide; wsipipe looks for {LOOKED_FOR} and DICOM{_pictures_in(path)}"
        )
    return slides


def _pictures_in(folder: Path) -> str:
    """How to name the pictures in a folder without slides, to end a message; nothing if it has none."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in PICTURE_SUFFIXES)
    return f"; to take pictures as slides, name them, e.g. '{folder / '*'}{Path(names[0]).suffix}'" if names else ""


def _slides_behind(url: Url) -> list[Url]:
    """Like `_slides_in`; a URL that cannot be reached is kept, to be reported as a slide that cannot be opened."""
    if _has_slide_name(url) or _has_zip_name(url) or not url.lists:
        return [url]
    try:
        if url.is_file() or is_zarr(url) or not url.is_dir():
            return [url]
    except OSError:
        return [url]
    slides = sorted(
        other
        for other in _listed(url)
        if (_has_slide_name(other) and not (other.suffix.lower() == ".zarr" and is_labels(other)))
        or (_has_zip_name(other) and _holds_slide(other))
    )
    if not slides:
        raise NothingFoundError(f"folder {url} holds no slide; wsipipe looks for {LOOKED_FOR}")
    return slides


def _has_slide_name(path: Location) -> bool:
    """Whether the suffix is that of a slide, and the file is not hidden."""
    return not path.name.startswith(".") and path.suffix.lower() in SLIDE_SUFFIXES


def _has_zip_name(path: Location) -> bool:
    """Whether the suffix is that of a zip file, and the file is not hidden."""
    return not path.name.startswith(".") and path.suffix.lower() in (".ozx", ".zip")


def _holds_slide(path: Location) -> bool:
    """Whether a zip file holds an OME-Zarr without labels; one that cannot be read, by its name."""
    named = path.name.lower().endswith(ZIPPED_ZARR)
    try:
        folder = zarr_folder(path)
        return (named or is_zarr(folder)) and not is_labels(folder)
    except (SlideError, OSError):
        return named


def _looks_like_slide(path: Path) -> bool:
    """Whether it is a file with the name of a slide, an OME-Zarr without labels, or a folder of DICOM."""
    if _has_zip_name(path):
        return _holds_slide(path)
    if not _has_slide_name(path):
        return not path.name.startswith(".") and _is_series(path)
    return is_zarr(path) and not is_labels(path) if os.path.isdir(path) else True  # noqa: PTH112


def _is_series(path: Path) -> bool:
    """Whether it is a folder that holds exactly one DICOM series, and can be listed."""
    try:
        return path.is_dir() and not is_zarr(path) and len(series_in(path)) == 1
    except OSError:
        return False
