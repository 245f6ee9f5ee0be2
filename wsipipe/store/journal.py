"""Which blocks of a store are done: the store is its own journal.

A shard appears whole, by rename, and the one of level 0 is the last that a block writes; so a block is done
if its shards are there. A machine that lost power can still leave a short file under a final name, hence
each shard's size and the checksum of its index are looked at. To resume is to list shards.

In a bucket every object is whole: that it is there says all, and one request tells of a thousand of them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from wsipipe.errors import OutputError
from wsipipe.files import Location
from wsipipe.store.lifecycle import arrays_fit
from wsipipe.store.shards import NOT_WRITTEN
from wsipipe.store.spec import StoreSpec, block_shards, coarse_chunks, shard_name, tissue_shards
from wsipipe.urls import Url

MISSING, WHOLE, DAMAGED = "missing", "whole", "damaged"


@dataclass(frozen=True)
class Journal:
    """What is still to be done in a store."""

    blocks: tuple[tuple[int, int], ...]
    """(row, column) of each block that misses a shard, or has a damaged one."""
    damaged: tuple[str, ...]
    """Shards that are there, and not whole: their paths within the store."""
    coarse_missing: int
    """Shards of the levels made at the end that are missing or damaged."""
    tissue_missing: bool
    """Whether the tissue mask, where there is to be one, is missing or damaged."""
    arrays_fit: bool
    """Whether the metadata of every array are there, and say what they should."""

    @property
    def finished(self) -> bool:
        """Whether nothing is to be done."""
        return self.arrays_fit and not (self.blocks or self.coarse_missing or self.tissue_missing)


def read_journal(spec: StoreSpec, root: Location) -> Journal:
    """What is still to be done in the store at ``root``; nothing is changed.

    Parameters
    ----------
    spec
        What the store is to be.
    root
        Where it is: its final path, or the unfinished one.

    Raises
    ------
    OutputError
        If a file of it may not be read.
    """
    todo, damaged, state_of = [], [], _states(root)
    for index in spec.grid.indices():
        states = {name: state_of(name, chunks) for name, chunks in block_shards(spec, index).items()}
        damaged += [name for name, state in states.items() if state == DAMAGED]
        if set(states.values()) != {WHOLE}:
            todo.append(index)
    coarse = {name: state_of(name, 1) for name in _coarse_shards(spec)}
    damaged += [name for name, state in coarse.items() if state == DAMAGED]
    coarse_missing = sum(state != WHOLE for state in coarse.values())
    tissue = tissue_shards(spec)
    tissue_missing = any(state_of(name, chunks) != WHOLE for name, chunks in tissue.items())
    damaged += tissue if tissue_missing else []  # all of its levels are made at once
    return Journal(tuple(todo), tuple(damaged), coarse_missing, tissue_missing, arrays_fit(spec, root))


def _coarse_shards(spec: StoreSpec) -> Iterator[str]:
    for level in range(spec.grid.block_levels, len(spec.grid.level_shapes)):
        for index in coarse_chunks(spec, level):
            yield shard_name(str(level), index)


def _states(root: Location) -> Callable[[str, int], str]:
    """What gives the state of a shard, by its name in the store at ``root`` and its number of chunks."""
    if not isinstance(root, Url):
        return lambda name, chunks: _state(root / name, chunks)
    try:
        there = {name for name, _ in root.files()}
    except OSError as err:
        raise OutputError(f"{root} can not be listed: {err.strerror or err}") from err
    return lambda name, _: WHOLE if name in there else MISSING


def _state(path: Path, chunks: int) -> str:
    """Of one shard on a disk: whole if the index fits its checksum, and the file ends where it says.

    A shard is its chunks, then for each chunk offset and length (uint64, all ones where not written), then
    the CRC32C of that (https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/).
    """
    index_bytes = 16 * chunks + 4
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < index_bytes:
                return DAMAGED
            file.seek(size - index_bytes)
            index = file.read()
    except FileNotFoundError:
        return MISSING
    except OSError as err:
        raise OutputError(f"{path} can not be read: {err.strerror or err}") from err
    if struct.pack("<I", google_crc32c.value(index[:-4])) != index[-4:]:
        return DAMAGED
    table = np.frombuffer(index[:-4], "<u8").reshape(-1, 2)
    written = table[table[:, 0] != NOT_WRITTEN]
    end = int(written.sum(axis=1).max(initial=0))
    return WHOLE if end == size - index_bytes else DAMAGED
