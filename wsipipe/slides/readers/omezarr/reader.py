"""OME-Zarr images, versions 0.4 (Zarr 2) and 0.5 (Zarr 3) (https://ngff.openmicroscopy.org)."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.abc.store import RangeByteRequest, Store
from zarr.storage import WrapperStore

from wsipipe.errors import SlideError, SlideFormatError, SlideReadError
from wsipipe.files import Location, files_in, locate, zarr_store
from wsipipe.slides.identity import WINDOWS, folder_identity
from wsipipe.slides.planes import ALL, Planes, choose_channels, choose_one
from wsipipe.slides.resolution import UNITS, Resolution, checked
from wsipipe.slides.slide import Level, Slide, downsample_of
from wsipipe.urls import Url

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

VERSIONS = ("0.4", "0.5")
METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
"""Files of a Zarr folder that are not chunks."""
AXES = ("yx", "yxc", "cyx")
DTYPES = ("uint8", "uint16")
MAX_CHUNK_BYTES = 2**30
"""A chunk that needs more than this once decoded is refused: every block would need it."""
MAX_METADATA_BYTES = 2**24
"""A larger document is no description of an image; as Python's objects one takes 20 times as much."""
MAX_LEVELS = 64
"""More datasets than this are refused: each takes several files to be opened."""
HEAD_BYTES = 18
"""Of a chunk, in which Blosc and Zstandard say how many bytes it decodes to."""
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def is_zarr(path: Location) -> bool:
    """Whether ``path`` is a Zarr folder of either version."""
    names = ("zarr.json", ".zgroup", ".zarray")
    if isinstance(path, Url):
        return any((path / name).is_file() for name in names)
    return any(os.path.isfile(path / name) for name in names)  # noqa: PTH113 - Path.is_file raises where it may not look


def is_labels(path: Location) -> bool:
    """Whether the Zarr folder says that it holds labels, as those that wsipipe writes do."""
    try:
        return "image-label" in _attributes(path)
    except SlideError:
        return False


class WholeChunkStore(WrapperStore[Store]):
    """Chunks that are all there, and that do not say that they decode to more than a chunk.

    Blosc reads as many bytes as the header of a chunk says, through numcodecs and beyond the end of a truncated
    chunk: what comes out is garbage from the memory behind it, without an error. It and Zstandard take as much memory
    as the header says before anybody looks at how large a chunk is.
    """

    codec = "none"
    """The last that encoded a chunk."""
    most_bytes = MAX_CHUNK_BYTES
    """What a chunk may have, encoded or decoded."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """As `Store.get`.

        Raises
        ------
        SlideReadError
            If a chunk is shorter than its header says, or says that it decodes to more than there is room for.
        """
        if byte_range is not None or key.rpartition("/")[2] in METADATA:
            return await super().get(key, prototype, byte_range)
        data = await super().get(key, prototype, RangeByteRequest(0, self.most_bytes + 1))
        if data is None:
            return None
        head = data[:HEAD_BYTES].to_bytes()
        said = max(len(data), decoded_bytes(head, self.codec))
        if said > self.most_bytes:
            raise SlideReadError(
                f"chunk {key} has, or decodes to, {said} bytes or more; a chunk has {self.most_bytes} at most"
            )
        encoded = int.from_bytes(head[12:16], "little") if self.codec == "blosc" else 0
        if self.codec == "blosc" and len(data) < max(encoded, 16):
            raise SlideReadError(f"chunk {key} has {len(data)} of its {max(encoded, 16)} bytes: it was truncated")
        return data


def decoded_bytes(head: bytes, codec: str) -> int:
    """How many bytes a chunk decodes to, by its first `HEAD_BYTES`; 0 where it does not say.

    Sources: https://github.com/Blosc/c-blosc, README_CHUNK_FORMAT; RFC 8878, section 3.1.1.1, of Zstandard.
    """
    if codec == "blosc":
        return int.from_bytes(head[4:8], "little")
    if codec != "zstd" or not head.startswith(ZSTD_MAGIC) or len(head) < 5:
        return 0
    single, wide = head[4] >> 5 & 1, head[4] >> 6
    start = 5 + (1 - single) + (0, 1, 2, 4)[head[4] & 3]
    size = (single, 2, 4, 8)[wide]
    return int.from_bytes(head[start : start + size], "little") + 256 * (size == 2)


@dataclass(frozen=True)
class Multiscale:
    """One entry of ``multiscales``, the words as in the specification."""

    axes: str
    """First letters of the axes' names, in the order of the arrays."""
    paths: tuple[str, ...]
    """Of the datasets, from fine to coarse."""
    resolution: Resolution
    """Micrometres per pixel of the first dataset."""
    channel_names: tuple[str, ...]
    """Under ``omero``, if all of them have one."""


class OmeZarrReader:
    """Opens OME-Zarr folders."""

    name = "ome-zarr"
    why = "it is a Zarr folder"

    def recognises(self, path: Location) -> bool:
        """Whether it is a Zarr folder."""
        return is_zarr(path)

    def open(self, path: Location, planes: Planes = ALL) -> Slide:
        """See `Reader.open`."""
        attributes = _attributes(path)
        if "image-label" in attributes:
            raise SlideFormatError(f"{path.name} holds labels, such as wsipipe writes, not the pixels of a slide")
        images = _images_in(path, attributes)
        if images:
            number = choose_one(path.name, "series", planes.series, images)
            return self.open(path / images[number], replace(planes, series=None))
        multiscale = _multiscale(path, attributes)
        arrays = [open_dataset(path, dataset) for dataset in multiscale.paths]
        for dataset, array in zip(multiscale.paths, arrays, strict=True):
            _check_array(path, dataset, array, multiscale.axes)
        warnings = [
            warning
            for dataset, array in zip(multiscale.paths, arrays, strict=True)
            for warning in _missing_chunks(path, dataset, array)
        ]
        identity = zarr_identity(path, multiscale.paths)
        shapes = [_shape(array, multiscale.axes) for array in arrays]
        if shapes != sorted(set(shapes), reverse=True):
            raise SlideFormatError(f"{path.name}: its levels do not become smaller: {shapes}")
        chosen = _choose_planes(path, arrays[0], multiscale, planes)
        levels = tuple(
            _level(path, index, identity, array, multiscale, arrays[0], chosen) for index, array in enumerate(arrays)
        )
        return Slide(
            path=str(path),
            name=_stem(path),
            reader=self.name,
            vendor="ome-zarr",
            levels=levels,
            mpp=multiscale.resolution.mpp,
            mpp_source=multiscale.resolution.source,
            identity=identity,
            associated=(),
            warnings=(*warnings, *multiscale.resolution.warnings),
            readings=multiscale.resolution.readings,
            channel_names=multiscale.channel_names,
        )

    def open_array(self, level: Level) -> zarr.Array[Any]:
        """See `Reader.open_array`."""
        path = locate(level.path)
        multiscale = _multiscale(path, _attributes(path))
        if level.index >= len(multiscale.paths):
            raise SlideReadError(f"{path.name} has lost levels since it was opened; start again")
        array = open_dataset(path, multiscale.paths[level.index])
        _check_array(path, multiscale.paths[level.index], array, multiscale.axes)
        if zarr_identity(path, multiscale.paths) != level.identity:
            raise SlideReadError(f"{path.name} is not what it was when it was opened; start again")
        return array


def _attributes(path: Location) -> dict[str, Any]:
    """The OME attributes of the folder: those under ``ome`` in Zarr 3, all of them in Zarr 2."""
    name = next((name for name in ("zarr.json", ".zattrs") if (path / name).is_file()), None)
    if name is None:
        raise SlideFormatError(f"{path.name} is a Zarr folder without OME attributes; give the folder of the image")
    _check_metadata(path, path)
    try:
        document = json.loads((path / name).read_bytes())
        attributes = document.get("attributes", {}).get("ome", {}) if name == "zarr.json" else document
    except (ValueError, AttributeError, RecursionError) as err:
        raise SlideReadError(f"{path.name}: {name} can not be read ({err}); write it again") from err
    if not isinstance(attributes, dict):
        raise SlideFormatError(f"{path.name}: the OME attributes in {name} are not an object")
    return attributes


def _multiscale(path: Location, attributes: Mapping[str, Any]) -> Multiscale:
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
        version = str(attributes.get("version", one.get("version", VERSIONS[0])))
        if version not in VERSIONS:
            raise SlideFormatError(f"{path.name} is OME-Zarr {version}; wsipipe reads {' and '.join(VERSIONS)}")
        axes = [dict(axis) for axis in one["axes"]]
        paths = tuple(str(dataset["path"]) for dataset in one["datasets"])
        letters = "".join(str(axis["name"])[:1].lower() for axis in axes)
        if not paths:
            raise SlideFormatError(f"{path.name}: its multiscales list no datasets")
        if len(paths) > MAX_LEVELS:
            raise SlideFormatError(f"{path.name}: its multiscales list {len(paths)} datasets; allowed are {MAX_LEVELS}")
        names = tuple(str(channel.get("label", "")) for channel in attributes.get("omero", {}).get("channels", ()))
        return Multiscale(letters, paths, zarr_resolution(one, axes, letters), names if all(names) else ())
    except SlideError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as err:
        raise SlideFormatError(
            f"{path.name}: its multiscales do not follow the OME-Zarr specification ({type(err).__name__}: {err})"
        ) from err


def _images_in(path: Location, attributes: Mapping[str, Any]) -> list[str]:
    """The folders of the images of a collection, as bioformats2raw makes it; nothing if ``path`` is an image itself."""
    if "multiscales" in attributes:
        return []
    return list(itertools.takewhile(lambda name: is_zarr(path / name), map(str, itertools.count())))


def _choose_planes(path: Location, array: zarr.Array[Any], multiscale: Multiscale, planes: Planes) -> Planes:
    """What is chosen of the axes c, z and t.

    Raises
    ------
    PlaneError
        If there are several times or focal planes and nobody said which, or what was asked for is not there.
    """
    sizes = dict(zip(multiscale.axes, array.shape, strict=True))
    choose_one(path.name, "series", planes.series, ["0"])
    z, t = (
        choose_one(path.name, axis, getattr(planes, axis), [str(i) for i in range(sizes.get(axis, 1))]) for axis in "zt"
    )
    channels = choose_channels(path.name, planes.channels, multiscale.channel_names, sizes.get("c", 1))
    return Planes(channels, z if sizes.get("z", 1) > 1 else None, t if sizes.get("t", 1) > 1 else None)


def _hint(attributes: Mapping[str, Any]) -> str:
    """Where the image may be, if the folder is of a kind that holds several."""
    return "; it is a plate, so give one of its images" if "plate" in attributes else ""


def zarr_resolution(multiscale: Mapping[str, Any], axes: list[dict[str, Any]], letters: str) -> Resolution:
    """Micrometres per pixel: the scale of the first dataset times that of the whole, in the units of the axes."""
    scales = [
        transform["scale"]
        for holder in (multiscale["datasets"][0], multiscale)
        for transform in holder.get("coordinateTransformations", [])
        if transform.get("type") == "scale"
    ]
    if not scales:
        return Resolution(None, "no scale in multiscales")
    sizes = []
    for letter in "yx":
        index = letters.index(letter)
        unit = axes[index].get("unit")
        if unit is None or unit not in UNITS:
            return Resolution(None, f"axis {letter} has " + ("no unit" if unit is None else f"the unit {unit!r}"))
        sizes.append(float(np.prod([float(scale[index]) for scale in scales])) * UNITS[unit])
    return checked(sizes[0], sizes[1], "scale in multiscales")


def open_dataset(path: Location, dataset: str) -> zarr.Array[Any]:
    """The array of ``dataset``, read-only, whose chunks are checked to be whole where the codec does not."""
    if not _is_within(path, dataset):
        raise SlideFormatError(f"{path.name}: dataset {dataset!r} is outside its folder")
    folder = path / dataset
    if not is_zarr(folder):
        raise SlideReadError(f"{path.name} is half-written: there is no array {dataset}; write it again")
    _check_metadata(path, folder)
    try:
        array = zarr.open_array(zarr_store(folder), mode="r")
        if min(array.shards or array.chunks) < 1:
            raise ValueError(f"its chunks are of {array.shards or array.chunks} px")
        if array.shards is not None:  # a shard has a checksum of its own
            return array
        store = WholeChunkStore(zarr_store(folder))
        store.codec = codec_names(array)[-1]
        pixels = prod(array.chunks) * array.dtype.itemsize
        # What can not be compressed becomes a little longer, and a filter may make each sample 8 bytes.
        store.most_bytes = pixels * (8 if array.filters else 1) + pixels // 8 + 1024
        return zarr.open_array(store, mode="r")
    except Exception as err:  # zarr raises all sorts on damaged metadata
        raise SlideReadError(f"{path.name}: array {dataset} can not be opened ({type(err).__name__}: {err})") from err


def codec_names(array: zarr.Array[Any]) -> list[str]:
    """The compressors of its chunks, the last applied last."""
    return [type(codec).__name__.removesuffix("Codec").lower() for codec in array.compressors] or ["none"]


def _check_metadata(path: Location, folder: Location) -> None:
    """Refuse documents so large that reading them takes memory without bounds; behind a URL they are not asked for.

    Raises
    ------
    SlideFormatError
        Naming the document.
    """
    if isinstance(folder, Url):
        return
    for file in (folder / name for name in METADATA):
        size = file.stat().st_size if file.is_file() else 0
        if size > MAX_METADATA_BYTES:
            raise SlideFormatError(
                f"{path.name}: {file.name} of {folder.name} has {size} bytes; wsipipe reads up to {MAX_METADATA_BYTES}"
            )


def _is_within(path: Location, dataset: str) -> bool:
    """Whether the folder of ``dataset`` is one of those in ``path``."""
    if isinstance(path, Url):
        return not {"", ".", ".."} & set(dataset.split("/"))
    return (path / dataset).resolve().is_relative_to(path.resolve())


def _check_array(path: Location, dataset: str, array: zarr.Array[Any], axes: str) -> None:
    """Refuse what has other axes than y, x, channels, z and t."""
    if len(axes) != array.ndim:
        raise SlideFormatError(f"{path.name}: array {dataset} of shape {array.shape} has not the axes {axes}")
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
    """The axes that are pixels; the others have length 1."""
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
    """What is said of one level."""
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
        planes=planes,
    )


def _missing_chunks(path: Location, dataset: str, array: zarr.Array[Any]) -> Iterator[str]:
    """A warning, if some chunks of ``dataset`` have no file: that is allowed, and it is what a broken copy looks like.

    Raises
    ------
    SlideReadError
        If none has.
    """
    there, total = count_pieces(path, dataset, array)
    if not there:
        raise SlideReadError(f"{path.name} is half-written: {dataset} has no chunks; write it again")
    if there < total:
        yield f"{total - there} of {total} chunks of {dataset} have no file, and read as {array.fill_value}"


def count_pieces(path: Location, dataset: str, array: zarr.Array[Any]) -> tuple[int, int]:
    """How many shards, or chunks, of the array of ``dataset`` have a file, and how many it has room for."""
    total = prod(_pieces(array))
    if isinstance(path, Url) and not path.lists:
        return total, total
    return sum(1 for _ in _chunks(path / dataset)), total


def _pieces(array: zarr.Array[Any]) -> tuple[int, ...]:
    """How many shards, or chunks, it has room for along each axis."""
    pieces = array.shards or array.chunks
    return tuple(-(-size // piece) for size, piece in zip(array.shape, pieces, strict=True))


def zarr_identity(path: Location, datasets: tuple[str, ...]) -> str:
    """What tells this image from another."""
    sizes = [(f"{dataset}/{name}", size) for dataset in datasets for name, size in _sizes(path / dataset)]
    return folder_identity(path, _documents(path, datasets), sizes)


def _sizes(folder: Location) -> Iterator[tuple[str, int]]:
    """As `_chunks`; of a web server, which does not list, of some that lie evenly in the array."""
    if not isinstance(folder, Url) or folder.lists:
        yield from _chunks(folder)
        return
    array = zarr.open_array(zarr_store(folder), mode="r")
    pieces = _pieces(array)
    for number in sorted({(prod(pieces) - 1) * i // (WINDOWS - 1) for i in range(WINDOWS)}):
        name = array.metadata.encode_chunk_key(tuple(map(int, np.unravel_index(number, pieces))))
        with suppress(FileNotFoundError):
            yield name, int((folder / name).head()["size"])


def _chunks(folder: Location) -> Iterator[tuple[str, int]]:
    """Relative path and size of every chunk file of an array."""
    return ((name, size) for name, size in files_in(folder) if name.rpartition("/")[2] not in METADATA)


def _documents(path: Location, datasets: tuple[str, ...]) -> Iterator[bytes]:
    """The metadata documents of the image and its arrays."""
    for folder in (path, *(path / dataset for dataset in datasets)):
        for name in METADATA:
            if (folder / name).is_file():
                yield (folder / name).read_bytes()


def _stem(path: Location) -> str:
    """The folder's name without ``.zarr`` and ``.ome.zarr``; of a numbered image, after that of its collection."""
    if path.suffix == "" and path.parent.suffix == ".zarr":
        return f"{_stem(path.parent)}-{path.name}"
    stem = path.stem if path.suffix == ".zarr" else path.name
    return stem[:-4] if stem.lower().endswith(".ome") else stem
