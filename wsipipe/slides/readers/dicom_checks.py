"""Checks that the instances of a DICOM series are the levels of one slide, before wsidicom makes tables of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from wsipipe.arrays import size_text
from wsipipe.errors import SlideFormatError, SlideReadError
from wsipipe.slides.readers.dicom_frames import COPY_SERIES_AGAIN
from wsipipe.slides.readers.dicom_series import instance_of
from wsipipe.slides.readers.sparse import check_count, check_share
from wsipipe.slides.slide import check_sides, is_shrunk

OWN_FOLDER = "move the files of the wanted one into a folder of its own"


def check_levels(path: Path, files: Sequence[Path], levels: Sequence[Sequence[Any]]) -> None:
    """Refuse ``levels``, the instances of each size from fine to coarse, that are not those of one slide.

    Raises
    ------
    SlideError
        If a level is of another pyramid, holds a plane twice, lacks frames or has too many tiles; the message names
        the series at ``path``, and where possible its ``files``.
    """
    pyramids = {str(_dataset(one).get("PyramidUID", "")) for level in levels for one in level}
    if len(pyramids) > 1:
        raise SlideFormatError(
            f"{path.name}: its series holds {len(pyramids)} pyramids (PyramidUID); wsipipe reads one; {OWN_FOLDER}"
        )
    for level in levels:
        _check_tiles(path, level)
        _check_planes(path, files, level)
    finest = levels[0][0].size
    for level in levels:
        size = level[0].size
        if not is_shrunk((finest.height, finest.width), (size.height, size.width)):
            raise SlideFormatError(
                f"{path.name}: {_size(size)} is not a level of {_size(finest)}, "
                f"though both are of one series; {OWN_FOLDER}"
            )


def _check_tiles(path: Path, instances: Sequence[Any]) -> None:
    """Refuse a level of too many tiles, or of too few frames for them.

    Raises
    ------
    SlideError
        If it is such a level; the message names the file.
    """
    size, tile = instances[0].size, instances[0].tile_size
    check_sides(path.name, [(size.height, size.width)])
    tiles, of = -(-size.height // tile.height) * -(-size.width // tile.width), _size(size)
    frames = sum(dataset.frame_count for instance in instances for dataset in instance.datasets)
    check_share(path.name, frames, tiles, of, way_out=COPY_SERIES_AGAIN)
    check_count(path.name, tiles, of)
    for instance in instances:
        # wsidicom takes one tile for the whole, if there is only one.
        height, width = (int(_dataset(instance).get(f"TotalPixelMatrix{side}", 0)) for side in ("Rows", "Columns"))
        if (height, width) != (size.height, size.width):
            raise SlideReadError(
                f"{path.name} is half-written: its single tile is {size_text((height, width))}; {COPY_SERIES_AGAIN}"
            )


def _check_planes(path: Path, files: Sequence[Path], instances: Sequence[Any]) -> None:
    """Refuse a level with two images of one plane.

    Raises
    ------
    SlideReadError
        If it is such a level; the message names the files.
    """
    of_plane: dict[tuple[str, float], Any] = {}
    for instance in instances:
        for plane in ((str(name), float(z)) for name in instance.optical_paths for z in instance.focal_planes):
            other = of_plane.setdefault(plane, instance)
            if other is not instance:
                uids = {str(dataset.uids.instance) for each in (other, instance) for dataset in each.datasets}
                names = [file.name for file in files if (one := instance_of(file)) and one.uid in uids]
                raise SlideReadError(
                    f"{path.name}: {' and '.join(names)} both show all of one plane of "
                    f"{_size(instance.size)}, and wsipipe reads one; {OWN_FOLDER}"
                )


def missing_frames(levels: Sequence[Sequence[Any]]) -> Iterator[str]:
    """Warnings of levels with fewer frames than tiles: scanners leave out glass, and a broken copy looks the same."""
    for level in levels:
        size, tile = level[0].size, level[0].tile_size
        planes = sum(len(list(one.optical_paths)) * len(list(one.focal_planes)) for one in level)
        tiles = -(-size.height // tile.height) * -(-size.width // tile.width) * planes
        frames = sum(dataset.frame_count for one in level for dataset in one.datasets)
        if frames < tiles:
            yield (f"{tiles - frames} of {tiles} tiles of {_size(size)} have no frame, and read as background")


def _size(size: Any) -> str:
    return size_text((size.height, size.width))


def pixels_of(file: Path) -> str:
    """What the header of a DICOM file says about the kind of its pixels, in words, for a message."""
    kind = ("PhotometricInterpretation", "PlanarConfiguration", "BitsStored", "PixelRepresentation", "ImageType")
    try:
        header = import_module("pydicom").dcmread(file, stop_before_pixels=True, specific_tags=list(kind))
        syntax = header.file_meta.TransferSyntaxUID.name
    except Exception as err:  # pydicom raises all sorts on damaged files
        return f"{file.name} has no header that can be read: {type(err).__name__}"
    return ", ".join([f"{name} {header.get(name, 'missing')}" for name in kind] + [f"transfer syntax {syntax}"])


def _dataset(instance: Any) -> Any:
    """The header of an instance, as pydicom has it."""
    return instance.dataset.as_dataset()
