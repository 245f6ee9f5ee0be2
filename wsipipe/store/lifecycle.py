"""A store from its first document to its name: begun, resumed, published, discarded."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import zarr

from wsipipe.errors import OutputError
from wsipipe.files import Location, locate, make_folder, move_folder, remove_folder, write_whole, zarr_store
from wsipipe.store.content import RESUMES, output_error
from wsipipe.store.documents import documents
from wsipipe.store.spec import (
    PARTIAL,
    REPLACED,
    ROOT,
    TISSUE,
    StoreSpec,
    arrays,
)
from wsipipe.urls import Url


def begin_store(spec: StoreSpec, damaged: Iterable[str] = ()) -> None:
    """Make the unfinished store ready for its blocks: write its metadata, new or again, and clear debris away.

    Parameters
    ----------
    spec
        What the store is to be.
    damaged
        Shards that are not whole, by their path in it; zarr would try to read them before it writes them anew.

    Raises
    ------
    OutputError
        If the disk does not take it.
    """
    write_documents(spec)
    never_renamed = [] if isinstance(spec.partial, Url) else spec.partial.rglob("*" + PARTIAL)
    for torn in (*never_renamed, *(spec.partial / name for name in damaged)):
        torn.unlink(missing_ok=True)


def publish(spec: StoreSpec, run: dict[str, Any]) -> None:
    """Mark the store complete, and give it its final name; a store that had it before goes only then.

    What ``run`` says of the run that finished it, as JSON, stands in its attributes.
    """
    write_documents(spec, run)
    final, replaced = locate(spec.path), Path(spec.path + REPLACED)
    try:
        if isinstance(final, Url):
            remove_folder(final, root=ROOT)
        elif final.exists():
            if replaced.exists():
                shutil.rmtree(replaced)
            final.rename(replaced)
        move_folder(spec.partial, final, root=ROOT)
    except OSError as err:
        raise output_error(final, err) from err
    discard_replaced(spec)


def discard_replaced(spec: StoreSpec) -> None:
    """Remove what is left of a store that was replaced, if a kill just then left anything."""
    if not isinstance(locate(spec.path), Url):  # in a bucket it goes before the new one comes
        shutil.rmtree(spec.path + REPLACED, ignore_errors=True)


def reopen(spec: StoreSpec) -> None:
    """Take a finished store back to unfinished, so that what was found missing in it can be made again."""
    discard_partial(spec)  # at most what a writer left that was killed before its first rename
    try:
        move_folder(locate(spec.path), spec.partial, root=ROOT)
    except OSError as err:
        raise output_error(spec.partial, err) from err


def discard_partial(spec: StoreSpec) -> None:
    """Remove an unfinished store."""
    try:
        remove_folder(spec.partial, root=ROOT)
    except OSError as err:
        raise output_error(spec.partial, err) from err


def arrays_fit(spec: StoreSpec, root: Location) -> bool:
    """Whether every array of the store at ``root`` opens, and has the shape, shards and chunks it should."""
    try:
        for name, shape, chunks, shards in arrays(spec):
            array = zarr.open_array(zarr_store(root / name), mode="r")
            if (array.shape, array.chunks, array.shards) != (shape, chunks, shards):
                return False
        if spec.fingerprint.probabilities:
            zarr.open_group(zarr_store(root / "probabilities"), mode="r")
        if spec.tissue is not None:
            zarr.open_group(zarr_store(root / TISSUE), mode="r")
    except Exception:  # zarr raises all sorts on what is no metadata
        return False
    return True


def write_documents(spec: StoreSpec, run: dict[str, Any] | None = None) -> None:
    """Write every metadata document that is not there in just these bytes, the root's first."""
    blobs = documents(spec, run)
    for name in sorted(blobs, key=lambda name: (name != ROOT, name)):
        path = spec.partial / name
        if not _holds(path, blobs[name]):
            make_folder(path.parent, way_out=RESUMES)
            write_whole(path, blobs[name], way_out=RESUMES, shared=True)


def _holds(path: Location, blob: bytes) -> bool:
    """Whether the file at ``path`` is just ``blob``."""
    try:
        return path.read_bytes() == blob
    except FileNotFoundError:
        return False
    except OSError as err:
        raise OutputError(f"{path} can not be read: {err.strerror or err}; {RESUMES}") from err
