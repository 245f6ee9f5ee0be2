"""OME-Zarr images, versions 0.4 (Zarr 2) and 0.5 (Zarr 3) (https://ngff.openmicroscopy.org)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import zarr

from wsipipe.errors import SlideFormatError, SlideReadError
from wsipipe.files import Location, locate
from wsipipe.slides.planes import ALL, Planes, choose_channels, choose_one
from wsipipe.slides.readers.omezarr.attributes import Multiscale, is_zarr, parse_multiscale, read_attributes
from wsipipe.slides.readers.omezarr.chunks import (
    MAX_CHUNK_BYTES,
    codec_names,
    missing_chunks,
    open_dataset,
    pieces_there,
)
from wsipipe.slides.readers.omezarr.collection import images_in, name_of
from wsipipe.slides.readers.omezarr.identity import parts_of, zarr_identity
from wsipipe.slides.readers.omezarr.zipped import UNZIP, FolderOfZarr, ZippedFolder, is_zip, zarr_folder
from wsipipe.slides.readers.sparse import lacks_pieces
from wsipipe.slides.slide import Level, Slide, check_sides, downsample_of, is_shrunk

AXES = ("yx", "yxc", "cyx")
DTYPES = ("uint8", "uint16")


class OmeZarrReader:
    """Opens OME-Zarr folders, also within a zip file."""

    name = "ome-zarr"
    why = "it is a Zarr folder"

    def recognises(self, path: Location) -> bool:
        """Whether ``path`` is a Zarr folder or a zip file."""
        return is_zarr(path) or is_zip(path)

    def open(self, path: Location, planes: Planes = ALL) -> Slide:
        """See `Reader.open`; raises a SlideError as it says there."""
        folder = zarr_folder(path)
        if isinstance(folder, ZippedFolder) and not is_zarr(folder):
            raise SlideFormatError(f"{path.name} is a zip file without one OME-Zarr at its root; {UNZIP}")
        attributes = read_attributes(folder)
        if "image-label" in attributes:
            raise SlideFormatError(f"{path.name} holds labels, such as wsipipe writes, not the pixels of a slide")
        images = images_in(folder, attributes)
        if not images:
            choose_one(path.name, "series", planes.series, ["0"])
            return _open_image(path, "", folder, replace(planes, series=None))
        number = choose_one(path.name, "series", planes.series, images)
        if isinstance(folder, ZippedFolder):  # an image in it has no path of its own
            return _open_image(path, images[number], folder / images[number], planes)
        return self.open(path / images[number], replace(planes, series=None))


@dataclass(frozen=True)
class OmeZarrLevel:
    """One dataset of an OME-Zarr image; ``path`` and ``identity`` as in `Level`."""

    path: str
    identity: str
    number: int
    """Place of the dataset in the list of ``multiscales``."""
    inner: str = ""
    """Path of the image within a zip file, if that holds several."""

    def open(self) -> zarr.Array[Any]:
        """See `Source.open`; raises a SlideError as it says there."""
        path = zarr_folder(locate(self.path))
        path = path / self.inner if self.inner else path
        multiscale = parse_multiscale(path, read_attributes(path))
        if self.number >= len(multiscale.paths):
            raise SlideReadError(f"{path.name} has lost levels since it was opened; start again")
        array = open_dataset(path, multiscale.paths[self.number])
        _check_array(path, multiscale.paths[self.number], array, multiscale.axes)
        if zarr_identity(path, multiscale.paths) != self.identity:
            raise SlideReadError(f"{path.name} has changed since it was opened; start again")
        return array


def _open_image(path: Location, inner: str, folder: FolderOfZarr, planes: Planes) -> Slide:
    """The slide at ``path`` whose image is in ``folder``, which in a zip file of several images is the ``inner`` one.

    Raises
    ------
    SlideError
        As `Reader.open`.
    """
    multiscale = parse_multiscale(folder, read_attributes(folder))
    arrays = [open_dataset(folder, dataset) for dataset in multiscale.paths]
    for dataset, array in zip(multiscale.paths, arrays, strict=True):
        _check_array(folder, dataset, array, multiscale.axes)
    shapes = [_shape(array, multiscale.axes) for array in arrays]
    check_sides(path.name, shapes)
    missing = [
        list(missing_chunks(folder, dataset, array)) for dataset, array in zip(multiscale.paths, arrays, strict=True)
    ]
    identity = zarr_identity(folder, multiscale.paths)
    if shapes != sorted(set(shapes), reverse=True):
        raise SlideFormatError(f"{path.name}: its levels do not decrease in size: {shapes}")
    chosen = _choose_planes(folder, arrays[0], multiscale, planes)
    left_out = _left_out(folder, multiscale, arrays, [bool(warnings) for warnings in missing])
    kept = [number for number in range(len(arrays)) if number not in left_out]
    sources = [OmeZarrLevel(str(path), identity, number, inner) for number in kept]
    levels = tuple(
        _level(source, index, multiscale, (arrays[source.number], arrays[0]), chosen)
        for index, source in enumerate(sources)
    )
    return Slide(
        path=str(path),
        name=name_of(path, inner),
        reader=OmeZarrReader.name,
        vendor="ome-zarr",
        levels=levels,
        mpp=multiscale.resolution.mpp,
        mpp_source=multiscale.resolution.source,
        identity=identity,
        parts=parts_of(folder, multiscale.paths),
        associated=(),
        warnings=(*itertools.chain(*missing), *left_out.values(), *multiscale.resolution.warnings),
        readings=multiscale.resolution.readings,
        channel_names=multiscale.channel_names,
    )


def _left_out(
    folder: FolderOfZarr, multiscale: Multiscale, arrays: list[zarr.Array[Any]], sparse: list[bool]
) -> dict[int, str]:
    """The levels that do not show what the finest shows, by their numbers, each with a warning that it is left out.

    Where chunks are is asked only for those that are ``sparse``: behind a URL it takes a while.
    """
    found: dict[int, str] = {}
    axes, finest, finer = multiscale.axes, arrays[0], 0
    for number, (dataset, array) in enumerate(zip(multiscale.paths, arrays, strict=True)):
        sizes = zip(axes, array.shape, finest.shape, strict=True)
        planes = [f"{axis} {size}" for axis, size, of in sizes if axis not in "yx" and size != of]
        why = None
        if planes:
            why = f"it has {', '.join(planes)}, and the finest another number"
        elif not is_shrunk(_shape(finest, axes), _shape(array, axes)):
            why = "its sides are not in the ratio of the finest level's"
        elif number and sparse[number]:
            pieces = [pieces_there(folder, multiscale.paths[i], arrays[i], axes) for i in (number, finer)]
            if pieces[0] and pieces[1] and lacks_pieces(pieces[0], pieces[1]):
                why = "some of its chunks have no file, finer ones have"
        if why is None:
            finer = number
        else:
            found[number] = f"level {dataset} is left out: {why}"
    return found


def _choose_planes(path: FolderOfZarr, array: zarr.Array[Any], multiscale: Multiscale, planes: Planes) -> Planes:
    """The planes that are chosen along the axes c, z and t, and the image of a zip file.

    Raises
    ------
    PlaneError
        If there are several times or focal planes and ``planes`` does not say which, or names one that does not exist.
    """
    sizes = dict(zip(multiscale.axes, array.shape, strict=True))
    z, t = (
        choose_one(path.name, axis, getattr(planes, axis), [str(i) for i in range(sizes.get(axis, 1))]) for axis in "zt"
    )
    channels = choose_channels(path.name, planes.channels, multiscale.channel_names, sizes.get("c", 1))
    several = {axis for axis, size in sizes.items() if size > 1}
    return Planes(channels, z if "z" in several else None, t if "t" in several else None, planes.series)


def _check_array(path: FolderOfZarr, dataset: str, array: zarr.Array[Any], axes: str) -> None:
    """Refuse an array with other axes than y, x, channels, z and t, or another dtype, or an absurd shape.

    Raises
    ------
    SlideFormatError
        If it is such; the message names the array.
    """
    if len(axes) != array.ndim:
        raise SlideFormatError(
            f"{path.name}: array {dataset} has shape {array.shape}, which does not match its axes {axes}"
        )
    sizes = list(zip(axes, array.shape, strict=True))
    stacked = [size for axis, size in sizes if axis not in "cyxzt" and size != 1]
    if stacked or _kept(axes) not in AXES:
        named = ", ".join(f"{axis} {size}" for axis, size in sizes)
        raise SlideFormatError(
            f"{path.name}: array {dataset} has the axes {named}; wsipipe reads {', '.join(AXES)}, with z and t before"
        )
    if array.dtype.name not in DTYPES:
        raise SlideFormatError(
            f"{path.name}: array {dataset} is {array.dtype}; wsipipe reads {' and '.join(DTYPES)}; write it as one"
        )
    chunk_bytes = prod(array.chunks) * array.dtype.itemsize
    if min(array.shape) < 1 or chunk_bytes > MAX_CHUNK_BYTES:
        raise SlideFormatError(
            f"{path.name}: array {dataset} has the shape {array.shape} in chunks of {chunk_bytes} bytes; "
            f"wsipipe reads at least 1 px, in chunks of up to {MAX_CHUNK_BYTES} bytes"
        )


def _kept(axes: str) -> str:
    """The axes that become pixels; of the others one plane is read."""
    return "".join(axis for axis in axes if axis in "cyx")


def _shape(array: zarr.Array[Any], axes: str) -> tuple[int, int]:
    """(height, width) of the array."""
    return array.shape[axes.index("y")], array.shape[axes.index("x")]


def _level(
    source: OmeZarrLevel,
    index: int,
    multiscale: Multiscale,
    arrays: tuple[zarr.Array[Any], zarr.Array[Any]],
    planes: Planes,
) -> Level:
    """Level ``index``, at ``source``; ``arrays`` are its own and that of the finest level."""
    axes, mpp = multiscale.axes, multiscale.resolution.mpp
    array, finest = arrays
    shape, largest = _shape(array, axes), _shape(finest, axes)
    channels = array.shape[axes.index("c")] if "c" in axes else 1
    downsample = downsample_of(largest, shape)
    return Level(
        path=source.path,
        reader=OmeZarrReader.name,
        index=index,
        identity=source.identity,
        shape=shape,
        downsample=downsample,
        mpp=None if mpp is None else mpp * downsample,
        axes=_kept(axes),
        channels=channels if planes.channels is None else len(planes.channels),
        dtype=array.dtype.name,
        tile=(array.chunks[axes.index("y")], array.chunks[axes.index("x")]),
        codec=", ".join(codec_names(array)),
        stored_axes=axes,
        source=source,
        planes=planes,
    )
