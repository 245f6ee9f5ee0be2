"""Opening a slide: by the first reader that recognises its file and reads it correctly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from wsipipe.errors import PlaneError, SlideError, SlideFormatError, SlideReadError, UsageError
from wsipipe.extras import install
from wsipipe.files import Location, Named, absolute, files_in, locate
from wsipipe.slides.address import file_of
from wsipipe.slides.byte_source import open_source
from wsipipe.slides.identity import files_state
from wsipipe.slides.opened import AsSeen
from wsipipe.slides.planes import ALL, Planes
from wsipipe.slides.readers.openslide import missing_files
from wsipipe.slides.readers.reader import Reader
from wsipipe.slides.readers.registry import extra_for, named
from wsipipe.slides.slide import Slide, check_sides, with_mpp

GENERIC_TIFF = "generic-tiff"
"""OpenSlide's vendor of a TIFF file that is not a scanner's."""


def open_slide(path: Named, *, mpp: float | None = None, reader: str | None = None, planes: Planes = ALL) -> Slide:
    """Open a slide; only its description, and one tile as a test, are read.

    Parameters
    ----------
    path
        A TIFF file of any kind, an OME-Zarr folder, also zipped, a PNG or JPEG, or the URL of one of these; a DICOM
        file or series; or a slide of another kind that OpenSlide reads. ``FILE#N`` is image N, from 0, of a file that
        holds several.
    mpp
        Micrometres per pixel of level 0, instead of those in the file.
    reader
        Name of the reader to use; None: the first that knows the file and reads it right.
    planes
        Which planes to read of a file that holds several.

    Raises
    ------
    SlideFormatError
        If it is not a slide, or not one that wsipipe reads.
    SlideReadError
        If it cannot be opened, or is damaged.
    PlaneError
        If it holds several planes and ``planes`` does not say which, or names one that does not exist.
    UsageError
        If ``mpp`` is not a positive number, or there is no such ``reader``.
    """
    if mpp is not None and not 0 < mpp < float("inf"):
        raise UsageError(f"--mpp {mpp} is not a positive number of micrometres per pixel, such as 0.25")
    readers = named(reader)
    path = absolute(path)
    file, number = file_of(path)
    try:
        if number is not None:
            return _open_image(path, file, number, mpp=mpp, reader=reader, planes=planes)
        if isinstance(path, Path) and path.stat() and not (path.is_file() or path.is_dir()):
            raise SlideFormatError(f"{path.name} is neither a file nor a folder; a pipe or device cannot be a slide")
        slide = _as_seen(_open(path, readers, planes))
        return slide if mpp is None else with_mpp(slide, mpp)
    except SlideError:
        raise
    except OSError as err:
        raise SlideReadError(f"{path.name} cannot be opened: {err.strerror or err} ({path})") from err


def _open_image(
    path: Location, file: Location, number: int, *, mpp: float | None, reader: str | None, planes: Planes
) -> Slide:
    """The slide at ``path``, which is image ``number`` of ``file``; errors as of `open_slide`."""
    if planes.series not in (None, number):
        raise PlaneError(f"{path.name} is image {number}; --series {planes.series} is another, so leave it out")
    slide = open_slide(file, mpp=mpp, reader=reader, planes=replace(planes, series=number))
    return replace(slide, path=str(path), name=f"{slide.name}-series{number}")


def _open(path: Location, readers: Sequence[Reader], planes: Planes) -> Slide:
    """The slide, opened by the first of ``readers`` that recognises it and reads it correctly."""
    refusal: SlideError | None = None
    for reader in readers:
        if not reader.recognises(path):
            continue
        try:
            slide = reader.open(path, planes)
        except SlideError as err:
            # Where planes must be chosen another reader would choose for itself, and damage stays damage.
            if refusal is None and (isinstance(err, PlaneError) or not isinstance(err, SlideFormatError)):
                raise
            refusal = refusal or err
            continue
        check_sides(slide.file, [level.shape for level in slide.levels])
        if refusal is None:
            return replace(slide, why=reader.why if len(readers) > 1 else "asked for")
        # OpenSlide reads any tiled TIFF as the first images in it, whatever else it holds.
        if slide.vendor != GENERIC_TIFF:
            return replace(slide, why=f"{reader.why}; {readers[0].name}: {refusal}")
    if refusal is not None:
        raise refusal
    missing = missing_files(path)
    raise SlideFormatError(f"{path.name} {missing or f'{_what_it_is(path)}; {_what_is_read(path, readers)}'}")


def _as_seen(slide: Slide) -> Slide:
    """``slide`` with the state of its files, which its levels are opened in."""
    state = files_state(locate(slide.path), slide.parts)
    levels = tuple(replace(level, source=AsSeen(level.source, state)) for level in slide.levels)
    return replace(slide, state=state, levels=levels)


def _what_it_is(path: Location) -> str:
    """Why no reader recognises the file, to follow its name."""
    if path.is_dir():
        return "is a folder that is neither an OME-Zarr image nor a DICOM series"
    start = open_source(path).read(0, 16)
    return f"is not a slide (its first bytes are {start!r})" if start else "is empty (0 bytes)"


def _what_is_read(path: Location, readers: Sequence[Reader]) -> str:
    """Which files are read, or how to read this one."""
    extra = extra_for(path)
    if extra is not None:
        return f"the extra {extra} may read it: {install(extra)}"
    if len(readers) == 1:
        return f"reader {readers[0].name} does not recognise it"
    return "wsipipe reads TIFF of many kinds, OME-Zarr folders, also zipped, DICOM, PNG, JPEG, and what OpenSlide reads"


def describe(slide: Slide) -> dict[str, Any]:
    """All that is known about a slide, as plain JSON types."""
    names = ("index", "shape", "downsample", "mpp", "axes", "channels", "dtype", "tile", "codec")
    document = asdict(slide) | {"planes": str(slide.levels[0].planes)}
    levels = [{name: level[name] for name in names} for level in document.pop("levels")]
    del document["parts"], document["state"]
    return _plain(document | {"bytes": _bytes_of(locate(slide.levels[0].path)), "levels": levels})  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    """``value`` in JSON's types: tuples become lists, and numbers that are not finite become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _bytes_of(path: Location) -> int:
    """Size of a file, or of all files of a folder."""
    return open_source(path).size if path.is_file() else sum(size for _, size in files_in(path))
