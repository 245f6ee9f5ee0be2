"""OME-Zarr images, versions 0.4 (Zarr 2) and 0.5 (Zarr 3) (https://ngff.openmicroscopy.org)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import zarr

from wsipipe.errors import SlideFormatError, SlideReadError
from wsipipe.files import Location, locate
from wsipipe.slides.planes import ALL, Planes, choose_channels, choose_one
from wsipipe.slides.readers.omezarr.attributes import Multiscale, is_zarr, parse_multiscale, read_attributes
from wsipipe.slides.readers.omezarr.chunks import MAX_CHUNK_BYTES, codec_names, missing_chunks, open_dataset
from wsipipe.slides.readers.omezarr.collection import images_in, name_of
from wsipipe.slides.readers.omezarr.identity import documents_of, zarr_identity
from wsipipe.slides.slide import Level, Slide, downsample_of

AXES = ("yx", "yxc", "cyx")
DTYPES = ("uint8", "uint16")


class OmeZarrReader:
    """Opens OME-Zarr folders."""

    name = "ome-zarr"
    why = "it is a Zarr folder"

    def recognises(self, path: Location) -> bool:
        """Whether ``path`` is a Zarr folder."""
        return is_zarr(path)

    def open(self, path: Location, planes: Planes = ALL) -> Slide:
        """See `Reader.open`; raises a SlideError as it says there."""
        attributes = read_attributes(path)
        if "image-label" in attributes:
            raise SlideFormatError(f"{path.name} holds labels, such as wsipipe writes, not the pixels of a slide")
        images = images_in(path, attributes)
        if images:
            number = choose_one(path.name, "series", planes.series, images)
            return self.open(path / images[number], replace(planes, series=None))
        multiscale = parse_multiscale(path, attributes)
        arrays = [open_dataset(path, dataset) for dataset in multiscale.paths]
        for dataset, array in zip(multiscale.paths, arrays, strict=True):
            _check_array(path, dataset, array, multiscale.axes)
        warnings = [
            warning
            for dataset, array in zip(multiscale.paths, arrays, strict=True)
            for warning in missing_chunks(path, dataset, array)
        ]
        identity = zarr_identity(path, multiscale.paths)
        shapes = [_shape(array, multiscale.axes) for array in arrays]
        if shapes != sorted(set(shapes), reverse=True):
            raise SlideFormatError(f"{path.name}: its levels do not decrease in size: {shapes}")
        chosen = _choose_planes(path, arrays[0], multiscale, planes)
        levels = tuple(
            _level(path, index, identity, array, multiscale, arrays[0], chosen) for index, array in enumerate(arrays)
        )
        return Slide(
            path=str(path),
            name=name_of(path),
            reader=self.name,
            vendor="ome-zarr",
            levels=levels,
            mpp=multiscale.resolution.mpp,
            mpp_source=multiscale.resolution.source,
            identity=identity,
            parts=(*documents_of(path), *(str(path / dataset) for dataset in multiscale.paths)),
            associated=(),
            warnings=(*warnings, *multiscale.resolution.warnings),
            readings=multiscale.resolution.readings,
            channel_names=multiscale.channel_names,
        )


@dataclass(frozen=True)
class OmeZarrLevel:
    """One dataset of an OME-Zarr image; all fields as in `Level`."""

    path: str
    identity: str
    index: int

    def open(self) -> zarr.Array[Any]:
        """See `Source.open`; raises a SlideError as it says there."""
        path = locate(self.path)
        multiscale = parse_multiscale(path, read_attributes(path))
        if self.index >= len(multiscale.paths):
            raise SlideReadError(f"{path.name} has lost levels since it was opened; start again")
        array = open_dataset(path, multiscale.paths[self.index])
        _check_array(path, multiscale.paths[self.index], array, multiscale.axes)
        if zarr_identity(path, multiscale.paths) != self.identity:
            raise SlideReadError(f"{path.name} has changed since it was opened; start again")
        return array


def _choose_planes(path: Location, array: zarr.Array[Any], multiscale: Multiscale, planes: Planes) -> Planes:
    """The planes that are chosen along the axes c, z and t.

    Raises
    ------
    PlaneError
        If there are several times or focal planes and ``planes`` does not say which, or names one that does not exist.
    """
    sizes = dict(zip(multiscale.axes, array.shape, strict=True))
    choose_one(path.name, "series", planes.series, ["0"])
    z, t = (
        choose_one(path.name, axis, getattr(planes, axis), [str(i) for i in range(sizes.get(axis, 1))]) for axis in "zt"
    )
    channels = choose_channels(path.name, planes.channels, multiscale.channel_names, sizes.get("c", 1))
    return Planes(channels, z if sizes.get("z", 1) > 1 else None, t if sizes.get("t", 1) > 1 else None)


def _check_array(path: Location, dataset: str, array: zarr.Array[Any], axes: str) -> None:
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
        raise SlideFormatError(f"{path.name}: array {dataset} is {array.dtype}; wsipipe reads {' and '.join(DTYPES)}")
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
    path: Location,
    index: int,
    identity: str,
    array: zarr.Array[Any],
    multiscale: Multiscale,
    finest: zarr.Array[Any],
    planes: Planes,
) -> Level:
    """The level whose pixels are those of ``array``."""
    axes, mpp = multiscale.axes, multiscale.resolution.mpp
    shape, largest = _shape(array, axes), _shape(finest, axes)
    channels = array.shape[axes.index("c")] if "c" in axes else 1
    downsample = downsample_of(largest, shape)
    return Level(
        path=str(path),
        reader=OmeZarrReader.name,
        index=index,
        identity=identity,
        shape=shape,
        downsample=downsample,
        mpp=None if mpp is None else mpp * downsample,
        axes=_kept(axes),
        channels=channels if planes.channels is None else len(planes.channels),
        dtype=array.dtype.name,
        tile=(array.chunks[axes.index("y")], array.chunks[axes.index("x")]),
        codec=", ".join(codec_names(array)),
        stored_axes=axes,
        source=OmeZarrLevel(str(path), identity, index),
        planes=planes,
    )
