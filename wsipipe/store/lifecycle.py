"""The life of a store, from its first document to its final name: begun, resumed, published, reopened, discarded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import zarr

from wsipipe.errors import DamagedStoreError, OutputError
from wsipipe.files import (
    RESUMES,
    Location,
    locate,
    make_folder,
    move_folder,
    remove_entry,
    remove_folder,
    write_whole,
    zarr_store,
)
from wsipipe.store.documents import documents
from wsipipe.store.spec import (
    OBJECTS,
    PARTIAL,
    REPLACED,
    ROOT,
    TISSUE,
    StoreSpec,
    arrays,
)
from wsipipe.urls import Url


def begin_store(spec: StoreSpec, damaged: Iterable[str] = ()) -> None:
    """Make the unfinished store ready for its blocks: write its metadata, unless they are there, and remove debris.

    Parameters
    ----------
    spec
        The plan of the store.
    damaged
        Paths, within the store, of the shards that are not whole. They are removed, to be made again.

    Raises
    ------
    OutputError
        If the disk does not take it.
    """
    make_folder(spec.partial, way_out=RESUMES)
    write_documents(spec)
    never_renamed = [] if isinstance(spec.partial, Url) else spec.partial.rglob("*" + PARTIAL)
    for torn in (*never_renamed, *(spec.partial / name for name in damaged)):
        torn.unlink(missing_ok=True)


def publish(spec: StoreSpec, run: dict[str, Any]) -> None:
    """Mark the store complete, and give it its final name; an older store of that name is removed only then.

    ``run``, the statistics of the run that finished it, goes into its attributes.

    Raises
    ------
    OutputError
        If the disk does not take it.
    """
    write_documents(spec, run)
    final, replaced = locate(spec.path), Path(spec.path + REPLACED)
    try:
        if isinstance(final, Url):
            remove_folder(final, root=ROOT)
        elif os.path.lexists(final):
            remove_entry(replaced)
            final.rename(replaced)
        move_folder(spec.partial, final, root=ROOT)
    except OSError as err:
        raise _output_error(final, err) from err
    discard_replaced(spec)


def discard_replaced(spec: StoreSpec) -> None:
    """Remove what is left of a store that was replaced, if the run was killed in that moment."""
    if not isinstance(locate(spec.path), Url):  # in a bucket it is removed before the new one is copied
        with suppress(OSError):
            remove_entry(Path(spec.path + REPLACED))


def reopen(spec: StoreSpec) -> None:
    """Turn a finished store back into an unfinished one, so that its missing parts can be made again.

    Raises
    ------
    OutputError
        If it cannot be moved.
    """
    discard_partial(spec)  # at most the debris of a writer that was killed before its first rename
    try:
        move_folder(locate(spec.path), spec.partial, root=ROOT)
    except OSError as err:
        raise _output_error(spec.partial, err) from err


def discard_partial(spec: StoreSpec) -> None:
    """Remove an unfinished store.

    Raises
    ------
    OutputError
        If it cannot be removed.
    """
    try:
        remove_folder(spec.partial, root=ROOT)
    except OSError as err:
        raise _output_error(spec.partial, err) from err


def arrays_fit(spec: StoreSpec, root: Location) -> bool:
    """Whether every array of the store at ``root`` opens, and has the planned shape, shards and chunks."""
    try:
        for name, shape, chunks, shards in arrays(spec):
            array = zarr.open_array(zarr_store(root / name), mode="r")
            if (array.shape, array.chunks, array.shards) != (shape, chunks, shards):
                return False
        asked = spec.fingerprint
        groups = {
            "probabilities": asked.probabilities,
            "uncertainty": asked.uncertainty,
            TISSUE: spec.tissue is not None,
        }
        for group in filter(groups.get, groups):
            zarr.open_group(zarr_store(root / group), mode="r")
    except Exception:  # zarr may raise anything on damaged metadata
        return False
    return True


def write_documents(spec: StoreSpec, run: dict[str, Any] | None = None) -> None:
    """Write every metadata document, the root's first; those that are there in the same bytes are left alone.

    The counts of objects that the root has stay there.

    Raises
    ------
    OutputError
        If the disk does not take it.
    """
    blobs = documents(spec, run, _noted_objects(spec.partial / ROOT))
    for name in sorted(blobs, key=lambda name: (name != ROOT, name)):
        path = spec.partial / name
        if not _holds(path, blobs[name]):
            make_folder(path.parent, way_out=RESUMES, within=spec.partial)
            write_whole(path, blobs[name], way_out=RESUMES, shared=True)


def note_seen(spec: StoreSpec) -> None:
    """Write into the unfinished store what was seen of its slide; nothing if there is no such store any more.

    Raises
    ------
    OutputError
        If the disk does not take it.
    """
    if (spec.partial / ROOT).is_file():
        write_documents(spec)


def note_objects(store: Path, objects: dict[str, Any]) -> None:
    """Write what was found of objects into the attributes of a store, and make its folder of objects a Zarr group.

    Raises
    ------
    DamagedStoreError
        If its attributes cannot be read.
    OutputError
        If the disk does not take it.
    """
    root = store / ROOT
    try:
        document = json.loads(root.read_bytes())
        document["attributes"]["wsipipe"]["objects"] = objects
    except (OSError, ValueError, LookupError, TypeError) as err:
        raise DamagedStoreError(f"{root} cannot be read ({err}); segment the slide again") from err
    group = {"attributes": {}, "zarr_format": 3, "node_type": "group"}
    for path, content in ((store / OBJECTS / ROOT, group), (root, document)):
        blob = json.dumps(content, indent=2).encode()
        if not _holds(path, blob):
            write_whole(path, blob, way_out=RESUMES, shared=True)


def _noted_objects(root: Location) -> dict[str, Any] | None:
    """What `note_objects` wrote into the document at ``root``; None if it did not, or that is damaged."""
    try:
        return dict(json.loads(_content(root) or b"")["attributes"]["wsipipe"]["objects"])
    except (ValueError, LookupError, TypeError):
        return None


def _holds(path: Location, blob: bytes) -> bool:
    """Whether the content of the file at ``path`` is ``blob``."""
    return _content(path) == blob


def _content(path: Location) -> bytes | None:
    """The content of the file at ``path``; None if there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as err:
        raise OutputError(f"{path} cannot be read: {err.strerror or err}; {RESUMES}") from err


def _output_error(path: Location, err: OSError) -> OutputError:
    """The error to raise if ``path`` cannot be written."""
    return OutputError(f"{path} cannot be written: {err.strerror or err}; {RESUMES}")
