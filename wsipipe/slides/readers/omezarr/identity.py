"""The identity of an OME-Zarr image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from math import prod

import numpy as np
import zarr

from wsipipe.files import Location, zarr_store
from wsipipe.slides.identity import WINDOWS, file_identity, folder_identity
from wsipipe.slides.readers.omezarr.attributes import METADATA
from wsipipe.slides.readers.omezarr.chunks import chunk_files, pieces_of
from wsipipe.slides.readers.omezarr.zipped import FolderOfZarr, ZippedFolder
from wsipipe.urls import Url


def zarr_identity(path: FolderOfZarr, datasets: tuple[str, ...]) -> str:
    """The `folder_identity` of the image, of its metadata and of the chunks of its ``datasets``, or of a zip file."""
    if isinstance(path, ZippedFolder):
        return file_identity(path.path)
    sizes = [(f"{dataset}/{name}", size) for dataset in datasets for name, size in _sizes(path / dataset)]
    return folder_identity(path, _documents(path, datasets), sizes)


def parts_of(path: FolderOfZarr, datasets: tuple[str, ...]) -> tuple[str, ...]:
    """See `Slide.parts`: the metadata documents of the image and the folders of its arrays."""
    if isinstance(path, ZippedFolder):
        return ()
    documents = (path / name for name in METADATA if (path / name).is_file())
    return tuple(map(str, (*documents, *(path / dataset for dataset in datasets))))


def _documents(path: Location, datasets: tuple[str, ...]) -> Iterator[bytes]:
    """The metadata documents of the image and its arrays."""
    for folder in (path, *(path / dataset for dataset in datasets)):
        for name in METADATA:
            if (folder / name).is_file():
                yield (folder / name).read_bytes()


def _sizes(folder: Location) -> Iterator[tuple[str, int]]:
    """Like `chunk_files`; on a web server, which cannot list them, of some that are evenly spaced in the array."""
    if not isinstance(folder, Url) or folder.lists:
        yield from chunk_files(folder)
        return
    array = zarr.open_array(zarr_store(folder), mode="r")
    pieces = pieces_of(array)
    for number in sorted({(prod(pieces) - 1) * i // (WINDOWS - 1) for i in range(WINDOWS)}):
        name = array.metadata.encode_chunk_key(tuple(map(int, np.unravel_index(number, pieces))))
        with suppress(FileNotFoundError):
            yield name, int((folder / name).head()["size"])
