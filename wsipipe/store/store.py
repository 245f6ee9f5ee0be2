"""One slide's label store, from its first document to its final name.

While it is being made it is called ``case-17.zarr.partial``; in a bucket, where nothing is renamed, it is copied from
there to its name in the end, the root's document last. Its metadata follow from a `StoreSpec` alone, byte for byte, so
that mending them is writing them again; only ``run``, how the run went that finished it, is added in the end. Every
file appears whole, by rename or as an object, and every shard is written once, by one task; a block without objects
too, in a few hundred bytes.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from wsipipe.errors import DamagedStoreError, OutputError
from wsipipe.files import Location, files_in, locate, make_folder, move_folder, remove_folder, write_whole, zarr_store
from wsipipe.geometry.grid import Box, boxes
from wsipipe.store.documents import documents
from wsipipe.store.pyramid import Labels, halve
from wsipipe.store.shards import write_shard
from wsipipe.store.spec import (
    PARTIAL,
    PROBABILITIES,
    REPLACED,
    ROOT,
    TISSUE,
    UNREAD,
    StoreSpec,
    arrays,
    shard_name,
    tissue_shapes,
)
from wsipipe.urls import Url

RESUMES = "once it can, the same command resumes"


def prepare(spec: StoreSpec, damaged: Iterable[str] = ()) -> None:
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
    _write_documents(spec)
    never_renamed = [] if isinstance(spec.partial, Url) else spec.partial.rglob("*" + PARTIAL)
    for torn in (*never_renamed, *(spec.partial / name for name in damaged)):
        torn.unlink(missing_ok=True)


def write_block(
    spec: StoreSpec, index: tuple[int, int], labels: Labels, probabilities: npt.NDArray[np.uint8] | None
) -> None:
    """Write the shards of block ``index``: coarser levels and probabilities first, level 0 last.

    Parameters
    ----------
    spec
        Of a store that was prepared.
    index
        (row, column) of the block.
    labels
        (y, x), uint8: as many pixels as the block has.
    probabilities
        (class, y, x), uint8, or None where the store has none.

    Raises
    ------
    OutputError
        If the disk does not take them.
    """
    assert labels.shape == spec.grid.block_box(index).shape, f"{labels.shape} px are no block {index}"
    levels = [labels]
    while len(levels) < spec.grid.block_levels:
        levels.append(halve(levels[-1], binary=spec.binary))
    for level in range(1, len(levels)):
        _write_shard(spec, str(level), index, levels[level])
    if probabilities is not None:
        _write_shard(spec, PROBABILITIES, (0, *index), probabilities)
    _write_shard(spec, "0", index, labels)


def write_tissue(spec: StoreSpec, cells: npt.NDArray[np.bool_]) -> None:
    """Write the tissue mask of a store that was prepared, its finest level last.

    Raises
    ------
    OutputError
        If the disk does not take it.
    """
    assert cells.shape == spec.tissue, f"{cells.shape} cells are no mask of {spec.tissue}"
    levels = [cells.astype(np.uint8)]
    while len(levels) < len(tissue_shapes(spec)):
        levels.append(halve(levels[-1], binary=True))
    for level in reversed(range(len(levels))):
        _write_shard(spec, f"{TISSUE}/{level}", (0, 0), levels[level])


def has_tissue(spec: StoreSpec) -> bool:
    """Whether the unfinished store has its tissue mask."""
    return (spec.partial / shard_name(f"{TISSUE}/0", (0, 0))).exists()


def read_tissue(spec: StoreSpec) -> npt.NDArray[np.bool_]:
    """The cells of the tissue mask of the unfinished store.

    Raises
    ------
    DamagedStoreError
        If they can not be read; they are gone then, to be made again.
    OutputError
        If the disk fails.
    """
    assert spec.tissue is not None
    return _read(spec, f"{TISSUE}/0", Box(0, spec.tissue[0], 0, spec.tissue[1]), max(spec.tissue)).astype(bool)


def note_unread(spec: StoreSpec, index: tuple[int, int], tiles: Iterable[Box], pixels: int) -> None:
    """Keep which ``tiles`` of block ``index``, boxes of the plane, could not be decoded, before it is written.

    So many ``pixels`` of it have label 0 for them.

    Raises
    ------
    OutputError
        If the disk does not take it.
    """
    path = spec.partial / UNREAD / f"{index[0]}.{index[1]}.json"
    make_folder(path.parent, way_out=RESUMES)
    blob = json.dumps({"pixels": pixels, "tiles": [*map(astuple, tiles)]}).encode()
    write_whole(path, blob, way_out=RESUMES, shared=True)


def all_unread(spec: StoreSpec) -> tuple[list[Box], int]:
    """The tiles that could not be decoded, of all blocks of the unfinished store, each once, and how many pixels are 0.

    Raises
    ------
    OutputError
        If the disk fails.
    """
    folder = spec.partial / UNREAD
    try:
        names = [name for name, _ in files_in(folder) if name.endswith(".json")]
        notes = [json.loads((folder / name).read_bytes()) for name in names]
    except OSError as err:
        raise OutputError(f"{folder} can not be read: {err.strerror or err}; {RESUMES}") from err
    return sorted({Box(*sides) for note in notes for sides in note["tiles"]}), sum(note["pixels"] for note in notes)


def label_counts(spec: StoreSpec, labels: Labels) -> dict[int, int]:
    """Pixels of each label that occurs in ``labels``, which are some of the store's."""
    values = sorted({label for _, label, _ in spec.classes} - {0})
    counts = {value: int(np.count_nonzero(labels == value)) for value in values[1:]}
    rest = int(np.count_nonzero(labels)) - sum(counts.values())  # of the first, which need not be looked for
    counts = {0: labels.size - rest - sum(counts.values())} | dict.fromkeys(values[:1], rest) | counts
    return {label: count for label, count in counts.items() if count}


def count_labels(spec: StoreSpec, index: tuple[int, int]) -> Counter[int]:
    """Pixels of each label in block ``index``, which was written before.

    Raises
    ------
    DamagedStoreError
        If it can not be read; its shard is gone then, to be made again.
    OutputError
        If the disk fails.
    """
    return Counter(label_counts(spec, _read(spec, "0", spec.grid.block_box(index), spec.grid.block)))


def write_coarse_chunks(spec: StoreSpec, levels: range, index: tuple[int, int]) -> None:
    """Make chunk ``index`` of the last of ``levels``, and what it is made of in the others, from the level before.

    Parameters
    ----------
    spec
        Of a store whose blocks are all there.
    levels
        One pass of `Grid.coarse_passes`; a shard of them is one chunk.
    index
        (row, column) of the chunk.

    Raises
    ------
    DamagedStoreError
        If the level before can not be read; the shards in question are gone then, to be made again.
    OutputError
        If the disk does not take it.
    """
    before, chunk = levels.start - 1, spec.grid.chunk
    side = chunk << len(levels)
    (height, width), (y0, x0) = spec.grid.level_shapes[before], (side * i for i in index)
    box = Box(y0, min(y0 + side, height), x0, min(x0 + side, width))
    labels = _read(spec, str(before), box, spec.grid.shard(before))
    for level in levels:
        labels = halve(labels, binary=spec.binary)
        across = side >> (level - before)  # of this part, in pixels of this level
        for part in boxes(labels.shape, chunk):
            at = (index[0] * across + part.y0) // chunk, (index[1] * across + part.x0) // chunk
            _write_shard(spec, str(level), at, labels[part.slices])


def publish(spec: StoreSpec, run: dict[str, Any]) -> None:
    """Mark the store complete, and give it its final name; a store that had it before goes only then.

    What ``run`` says of the run that finished it, as JSON, stands in its attributes.
    """
    _write_documents(spec, run)
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
        raise _output_error(final, err) from err
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
        raise _output_error(spec.partial, err) from err


def discard_partial(spec: StoreSpec) -> None:
    """Remove an unfinished store."""
    try:
        remove_folder(spec.partial, root=ROOT)
    except OSError as err:
        raise _output_error(spec.partial, err) from err


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


def _read(spec: StoreSpec, array: str, box: Box, side: int) -> Labels:
    """The pixels of ``box``, which is whole shards of ``side`` px, of ``array`` of the unfinished store.

    Raises
    ------
    DamagedStoreError
        If they can not be read; the shards in question are gone then, to be made again.
    OutputError
        If the disk fails.
    """
    try:
        return np.asarray(zarr.open_array(zarr_store(spec.partial / array), mode="r")[box.slices])
    except OSError as err:
        raise OutputError(f"{spec.partial} can not be read: {err.strerror or err}; the same command resumes") from err
    except Exception as err:  # whatever a codec raises on bytes that rotted within a chunk
        for part in boxes(box.shape, side):
            at = (box.y0 + part.y0) // side, (box.x0 + part.x0) // side
            (spec.partial / shard_name(array, at)).unlink(missing_ok=True)
        raise DamagedStoreError(f"{spec.partial} was damaged ({err}); the same command makes that part again") from err


def _write_shard(spec: StoreSpec, array: str, index: tuple[int, ...], pixels: npt.NDArray[np.uint8]) -> None:
    """Write shard ``index`` of ``array``, of which ``pixels`` are what lies within the slide."""
    chunks, shards = next((chunks, shards) for name, _, chunks, shards in arrays(spec) if name == array)
    path = spec.partial / shard_name(array, index)
    make_folder(path.parent, way_out=RESUMES)
    write_shard(path, pixels, chunks, shards, way_out=RESUMES)


def _output_error(path: Location, err: OSError) -> OutputError:
    return OutputError(f"{path} can not be written: {err.strerror or err}; {RESUMES}")


def _write_documents(spec: StoreSpec, run: dict[str, Any] | None = None) -> None:
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
