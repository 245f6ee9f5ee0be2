"""Which blocks of a store are done: the store is its own journal.

A shard appears whole, by rename, and the shard of level 0 is the last that a block writes. So a block is done if its
shards exist. A machine that lost power can still leave a short file under a final name, so the size of each shard and
the checksum of its index are verified. To resume is to list shards.

In a bucket every object is whole: it is enough that it exists, and one request lists a thousand of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wsipipe.errors import OutputError
from wsipipe.files import Location
from wsipipe.store.lifecycle import arrays_fit
from wsipipe.store.shards import read_index
from wsipipe.store.spec import StoreSpec, block_shards, coarse_chunks, shard_name, tissue_shards
from wsipipe.urls import Url

MISSING, WHOLE, DAMAGED = "missing", "whole", "damaged"


@dataclass(frozen=True)
class Journal:
    """The work that is left in a store."""

    blocks: tuple[tuple[int, int], ...]
    """(row, column) of each block with a missing or damaged shard."""
    damaged: tuple[str, ...]
    """Paths, within the store, of the shards that exist and are not whole."""
    coarse_missing: int
    """Number of missing or damaged shards of the levels that are made at the end."""
    tissue_missing: bool
    """Whether a tissue mask is planned, and missing or damaged."""
    arrays_fit: bool
    """Whether the metadata of every array exist, and are as planned."""

    @property
    def finished(self) -> bool:
        """Whether no work is left."""
        return self.arrays_fit and not (self.blocks or self.coarse_missing or self.tissue_missing)


def read_journal(spec: StoreSpec, root: Location) -> Journal:
    """The work that is left in the store at ``root``; nothing is changed.

    Parameters
    ----------
    spec
        The plan of the store.
    root
        Path of the store: the final one, or that of the unfinished store.

    Raises
    ------
    OutputError
        If a file of it cannot be read, or the bucket cannot be listed.
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
    """Paths, within the store, of the shards of the levels that blocks do not write."""
    for level in range(spec.grid.block_levels, len(spec.grid.level_shapes)):
        for index in coarse_chunks(spec, level):
            yield shard_name(str(level), index)


def _states(root: Location) -> Callable[[str, int], str]:
    """A function from a shard's path within the store at ``root``, and its number of chunks, to its state."""
    if not isinstance(root, Url):
        return lambda name, chunks: _state(root / name, chunks)
    try:
        there = {name for name, _ in root.files()}
    except OSError as err:
        raise OutputError(f"{root} cannot be listed: {err.strerror or err}") from err
    return lambda name, _: WHOLE if name in there else MISSING


def _state(path: Path, chunks: int) -> str:
    """The state of one shard on a disk: whole if the index fits its checksum, and the file is as long as it says.

    A shard is its chunks, then for each chunk offset and length (uint64, all ones if not written), then the CRC32C
    of these (https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/).
    """
    try:
        with path.open("rb") as file:
            return DAMAGED if read_index(file, chunks) is None else WHOLE
    except FileNotFoundError:
        return MISSING
    except OSError as err:
        raise OutputError(f"{path} cannot be read: {err.strerror or err}") from err
