"""Which blocks of a store are done: the store is its own journal.

A shard appears whole, by rename, and the shard of level 0 is the last that a block writes. So a block is done if its
shards exist. A machine that lost power can still leave a short file under a final name, so the size of each shard and
the checksum of its index are verified. To resume is to list shards.

In a bucket every object is whole: it is enough that it exists, and one request lists a thousand of them.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wsipipe.errors import OutputError
from wsipipe.files import Location
from wsipipe.geometry.grid import BlocksLeft
from wsipipe.store.lifecycle import arrays_fit
from wsipipe.store.shards import read_index
from wsipipe.store.spec import (
    PROBABILITIES,
    UNCERTAINTY,
    StoreSpec,
    block_shards,
    chunks_along,
    shard_name,
    tissue_shards,
)
from wsipipe.urls import Url

MISSING, WHOLE, DAMAGED = "missing", "whole", "damaged"
SHARD = re.compile(rf"(\d+|{PROBABILITIES}|{UNCERTAINTY})/c/(?:0/)?(\d+)/(\d+)")
"""Path of a shard within a store: its array, row and column; of probabilities after the first class."""


@dataclass(frozen=True)
class Journal:
    """The work that is left in a store."""

    blocks: BlocksLeft
    """The blocks with a missing or damaged shard."""
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
    there = _files(root)

    def state_of(name: str, chunks: int) -> str:
        if isinstance(root, Url):
            return WHOLE if name in there else MISSING
        return _state(root / name, chunks)

    done, damaged = set(), []
    shards_of, grid = _by_array(there), spec.grid
    every, by_blocks = grid.every_block, (PROBABILITIES, UNCERTAINTY, *map(str, range(grid.block_levels)))
    for index in sorted(index for index in set().union(*map(shards_of.__getitem__, by_blocks)) if index in every):
        states = {name: state_of(name, chunks) for name, chunks in block_shards(spec, index).items()}
        damaged += [name for name, state in states.items() if state == DAMAGED]
        if set(states.values()) == {WHOLE}:
            done.add(index)
    coarse_missing = 0
    for level in range(grid.block_levels, len(grid.level_shapes)):
        rows, cols = chunks_along(spec, level)
        indices = sorted((row, col) for row, col in shards_of[str(level)] if row < rows and col < cols)
        states = {name: state_of(name, 1) for name in (shard_name(str(level), index) for index in indices)}
        damaged += [name for name, state in states.items() if state == DAMAGED]
        coarse_missing += rows * cols - sum(state == WHOLE for state in states.values())
    tissue = tissue_shards(spec)
    tissue_missing = any(state_of(name, chunks) != WHOLE for name, chunks in tissue.items())
    damaged += tissue if tissue_missing else []  # all of its levels are made at once
    blocks = BlocksLeft(grid, frozenset(done))
    return Journal(blocks, tuple(damaged), coarse_missing, tissue_missing, arrays_fit(spec, root))


def _files(root: Location) -> set[str]:
    """Paths of all files within ``root``, with slashes: what exists is asked for, not each shard that could.

    Raises
    ------
    OutputError
        If they cannot be listed.
    """
    try:
        if isinstance(root, Url):
            return {name for name, _ in root.files()}
        folders = os.walk(root, onerror=_raise) if root.exists() else ()
        return {(Path(folder) / name).relative_to(root).as_posix() for folder, _, names in folders for name in names}
    except OSError as err:
        raise OutputError(f"{root} cannot be listed: {err.strerror or err}") from err


def _raise(err: OSError) -> None:
    raise err


def _by_array(names: Iterable[str]) -> dict[str, set[tuple[int, int]]]:
    """The (row, column) of the shards among files ``names``, by the name of their array."""
    found = defaultdict(set)
    for name in names:
        if shard := SHARD.fullmatch(name):
            found[shard[1]].add((int(shard[2]), int(shard[3])))
    return found


def _state(path: Path, chunks: int) -> str:
    """The state of a shard on a disk: whole if the index fits its checksum, and the file is as long as it says.

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
