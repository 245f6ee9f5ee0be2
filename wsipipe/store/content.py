"""The contents of an unfinished store: blocks, coarser levels, the tissue mask, tiles that could not be decoded.

They are written shard by shard, and some are read again before the store is published.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple

import numpy as np
import numpy.typing as npt
import zarr

from wsipipe.arrays import Labels
from wsipipe.errors import DamagedStoreError, OutputError, StoreError
from wsipipe.files import RESUMES, files_in, make_folder, write_whole, zarr_store
from wsipipe.geometry.grid import Box, boxes
from wsipipe.store.pyramid import halve
from wsipipe.store.record import read_record
from wsipipe.store.shards import damage_of_shard, write_shard
from wsipipe.store.spec import (
    PROBABILITIES,
    REGION,
    TISSUE,
    UNCERTAINTY,
    UNREAD,
    StoreSpec,
    arrays,
    block_shards,
    shard_name,
    tissue_shapes,
)
from wsipipe.urls import Url


def write_block(
    spec: StoreSpec,
    index: tuple[int, int],
    labels: Labels,
    probabilities: npt.NDArray[np.uint8] | None,
    uncertainty: npt.NDArray[np.uint8] | None = None,
) -> None:
    """Write the shards of block ``index``: coarser levels, probabilities and uncertainty first, level 0 last.

    Parameters
    ----------
    spec
        The plan of a store that was begun (`begin_store`).
    index
        (row, column) of the block.
    labels
        The labels of the block, (y, x), uint8.
    probabilities
        The probabilities of the block, (class, y, x), uint8; None if the store has none.
    uncertainty
        The uncertainty of the block, (y, x), uint8; None if the store has none.

    Raises
    ------
    OutputError
        If the disk does not take them.
    StoreError
        If the unfinished store has become another's.
    """
    _check_begun(spec)
    assert labels.shape == spec.grid.block_box(index).shape, f"{labels.shape} px is not the shape of block {index}"
    levels = [labels]
    while len(levels) < spec.grid.block_levels:
        levels.append(halve(levels[-1], binary=spec.binary))
    for level in range(1, len(levels)):
        _write_shard(spec, str(level), index, levels[level])
    if probabilities is not None:
        _write_shard(spec, PROBABILITIES, (0, *index), probabilities)
    if uncertainty is not None:
        _write_shard(spec, UNCERTAINTY, index, uncertainty)
    _write_shard(spec, "0", index, labels)


def write_coarse_chunks(spec: StoreSpec, levels: range, index: tuple[int, int]) -> None:
    """Make chunk ``index`` of the last of ``levels``, and the chunks of the others below it, from the level before.

    Parameters
    ----------
    spec
        The plan of a store whose blocks are all written.
    levels
        One pass of `Grid.coarse_passes`. Their shards are single chunks.
    index
        (row, column) of the chunk.

    Raises
    ------
    DamagedStoreError
        If the level before cannot be read. The shards in question are removed then, to be made again.
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
        across = side >> (level - before)  # side of this part, in pixels of this level
        for part in boxes(labels.shape, chunk):
            at = (index[0] * across + part.y0) // chunk, (index[1] * across + part.x0) // chunk
            _write_shard(spec, str(level), at, labels[part.slices])


def label_counts(spec: StoreSpec, labels: Labels) -> dict[int, int]:
    """Number of pixels of each label that occurs in ``labels``, (y, x), uint8, a part of the store."""
    values = sorted({label for _, label, _ in spec.classes} - {0})
    counts = {value: int(np.count_nonzero(labels == value)) for value in values[1:]}
    rest = int(np.count_nonzero(labels)) - sum(counts.values())  # of the first, which need not be counted by itself
    counts = {0: labels.size - rest - sum(counts.values())} | dict.fromkeys(values[:1], rest) | counts
    return {label: count for label, count in counts.items() if count}


def count_labels(spec: StoreSpec, index: tuple[int, int]) -> Counter[int]:
    """Number of pixels of each label in block ``index``, which an earlier run wrote; all of its shards are looked at.

    Raises
    ------
    DamagedStoreError
        If one of its shards is damaged. Those that are, are removed then, to be made again.
    OutputError
        If the disk fails.
    """
    _check_block(spec, index)
    return Counter(label_counts(spec, _read(spec, "0", spec.grid.block_box(index), spec.grid.block)))


def _check_block(spec: StoreSpec, index: tuple[int, int]) -> None:
    """Look at every chunk that block ``index`` wrote; raises as `count_labels`."""
    damages = []
    for name, chunks in block_shards(spec, index).items():
        path = spec.partial / name
        try:
            found = damage_of_shard(path, chunks=chunks, chunk_bytes=spec.grid.chunk**2)
            if found:
                path.unlink(missing_ok=True)
                damages.append(f"{name}: {found}")
        except OSError as err:
            raise OutputError(f"{path} cannot be read: {err.strerror or err}; {RESUMES}") from err
    if damages:
        raise _damaged(spec, "; ".join(damages))


def write_tissue(spec: StoreSpec, cells: npt.NDArray[np.bool_]) -> None:
    """Write the tissue mask ``cells``, (y, x), bool, of a store that was begun; its finest level last.

    Raises
    ------
    OutputError
        If the disk does not take it.
    """
    assert cells.shape == spec.tissue, f"{cells.shape} is not the mask's shape, {spec.tissue}"
    levels = [cells.astype(np.uint8)]
    while len(levels) < len(tissue_shapes(spec)):
        levels.append(halve(levels[-1], binary=True))
    for level in reversed(range(len(levels))):
        _write_shard(spec, f"{TISSUE}/{level}", (0, 0), levels[level])


def has_tissue(spec: StoreSpec) -> bool:
    """Whether the unfinished store has its tissue mask."""
    return (spec.partial / shard_name(f"{TISSUE}/0", (0, 0))).exists()


def read_tissue(spec: StoreSpec) -> npt.NDArray[np.bool_]:
    """The cells of the tissue mask of the unfinished store, (y, x), bool.

    Raises
    ------
    DamagedStoreError
        If they cannot be read. They are removed then, to be made again.
    OutputError
        If the disk fails.
    """
    assert spec.tissue is not None
    return _read(spec, f"{TISSUE}/0", Box(0, spec.tissue[0], 0, spec.tissue[1]), max(spec.tissue)).astype(bool)


def write_region(spec: StoreSpec, geojson: bytes) -> None:
    """Write the region that is segmented into a store that was begun.

    Raises
    ------
    OutputError
        If the disk does not take it.
    """
    write_whole(spec.partial / REGION, geojson, way_out=RESUMES, shared=True)


def read_region(spec: StoreSpec) -> bytes:
    """The document that `write_region` wrote.

    Raises
    ------
    OutputError
        If it cannot be read.
    """
    try:
        return (spec.partial / REGION).read_bytes()
    except OSError as err:
        raise OutputError(f"{spec.partial / REGION} cannot be read: {err.strerror or err}; {RESUMES}") from err


def note_unread(spec: StoreSpec, index: tuple[int, int], tiles: Iterable[Box], pixels: int) -> None:
    """Record the ``tiles`` of block ``index`` that could not be decoded, before the block is written.

    Tiles are boxes of the plane; ``pixels`` is how many pixels of the block have label 0 because of them.

    Raises
    ------
    OutputError
        If the disk does not take it.
    """
    path = spec.partial / UNREAD / f"{index[0]}.{index[1]}.json"
    make_folder(path.parent, way_out=RESUMES, within=spec.partial)
    blob = json.dumps({"pixels": pixels, "tiles": [*map(astuple, tiles)]}).encode()
    write_whole(path, blob, way_out=RESUMES, shared=True)


def all_unread(spec: StoreSpec) -> tuple[list[Box], int]:
    """The tiles that could not be decoded, of all blocks, each once, and how many pixels have label 0 because of them.

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
        raise OutputError(f"{folder} cannot be read: {err.strerror or err}; {RESUMES}") from err
    return sorted({Box(*sides) for note in notes for sides in note["tiles"]}), sum(note["pixels"] for note in notes)


def _check_begun(spec: StoreSpec) -> None:
    """Raise a StoreError unless the unfinished store is the one that was begun, not one that replaced it since."""
    if isinstance(spec.partial, Url):  # one more request a block
        return
    record = read_record(str(spec.partial))
    if record is None or record.fingerprint != spec.fingerprint:
        raise StoreError(f"{spec.partial} is gone, or another run's by now; run the same again")


def _read(spec: StoreSpec, array: str, box: Box, side: int) -> Labels:
    """The pixels of ``box`` of ``array`` of the unfinished store, (y, x), uint8.

    ``box`` consists of whole shards of ``side`` px, but for the ends of the array.

    Raises
    ------
    DamagedStoreError
        If they cannot be read. The shards in question are removed then, to be made again.
    OutputError
        If the disk fails.
    """
    try:
        return np.asarray(zarr.open_array(zarr_store(spec.partial / array), mode="r")[box.slices])
    except OSError as err:
        raise OutputError(f"{spec.partial} cannot be read: {err.strerror or err}; the same command resumes") from err
    except Exception as err:  # a codec may raise anything on bytes that rotted within a chunk
        for part in boxes(box.shape, side):
            at = (box.y0 + part.y0) // side, (box.x0 + part.x0) // side
            (spec.partial / shard_name(array, at)).unlink(missing_ok=True)
        raise _damaged(spec, str(err)) from err


def _damaged(spec: StoreSpec, reason: str) -> DamagedStoreError:
    """The error to raise once the damaged shards are removed."""
    return DamagedStoreError(f"{spec.partial} was damaged ({reason}); the same command rewrites that part")


def _write_shard(spec: StoreSpec, array: str, index: tuple[int, ...], pixels: npt.NDArray[np.uint8]) -> None:
    """Write shard ``index`` of ``array``; ``pixels`` is the part of it that lies within the slide."""
    chunks, shards = next((chunks, shards) for name, _, chunks, shards in arrays(spec) if name == array)
    path = spec.partial / shard_name(array, index)
    make_folder(path.parent, way_out=RESUMES, within=spec.partial)
    write_shard(path, pixels, chunks, shards, way_out=RESUMES)
