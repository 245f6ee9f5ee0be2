"""Which blocks of a store are done: the store is its own journal.

A shard appears whole, by rename, and the one of level 0 is the last that a block writes; so a block is done
if its shards are there. A machine that lost power can still leave a short file under a final name, hence
each shard's size and the checksum of its index are looked at. To resume is to list shards.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from wsipipe.labels.store import PROBABILITIES, StoreSpec, coarse_chunks

NOT_WRITTEN = 2**64 - 1


@dataclass(frozen=True)
class Journal:
    """What is still to be done in a store."""

    blocks: tuple[tuple[int, int], ...]
    """(row, column) of each block that misses a shard, or has a damaged one."""
    damaged: tuple[Path, ...]
    """Shards that are there, and not whole."""
    coarse_missing: int
    """Shards of the levels made at the end that are missing or damaged."""

    @property
    def finished(self) -> bool:
        """Whether nothing is to be done."""
        return not self.blocks and not self.coarse_missing


def read_journal(spec: StoreSpec, root: Path) -> Journal:
    """What is still to be done in the store at ``root``; nothing is changed.

    Parameters
    ----------
    spec
        What the store is to be.
    root
        Where it is: its final path, or the unfinished one.
    """
    todo, damaged = [], []
    for index in spec.grid.indices():
        states = {path: _state(path, chunks) for path, chunks in _block_shards(spec, root, index)}
        damaged += [path for path, state in states.items() if state == "damaged"]
        if set(states.values()) != {"whole"}:
            todo.append(index)
    coarse = {path: _state(path, 1) for path in _coarse_shards(spec, root)}
    damaged += [path for path, state in coarse.items() if state == "damaged"]
    return Journal(tuple(todo), tuple(damaged), sum(state != "whole" for state in coarse.values()))


def _block_shards(spec: StoreSpec, root: Path, index: tuple[int, int]) -> Iterator[tuple[Path, int]]:
    """The shards that block ``index`` writes, and how many chunks each holds."""
    row, col = index
    for level in range(spec.grid.block_levels):
        yield root / f"{level}/c/{row}/{col}", (spec.grid.shard(level) // spec.grid.chunk) ** 2
    if spec.fingerprint.probabilities:
        per_class = (spec.grid.block // spec.grid.chunk) ** 2
        yield root / f"{PROBABILITIES}/c/0/{row}/{col}", len(spec.classes) * per_class


def _coarse_shards(spec: StoreSpec, root: Path) -> Iterator[Path]:
    for level in range(spec.grid.block_levels, len(spec.grid.level_shapes)):
        for row, col in coarse_chunks(spec, level):
            yield root / f"{level}/c/{row}/{col}"


def _state(path: Path, chunks: int) -> str:
    """``missing``, ``whole`` or ``damaged``: the index fits its checksum, and the file ends where it says.

    A shard is its chunks, then for each chunk offset and length (uint64, all ones where not written), then
    the CRC32C of that (https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/).
    """
    index_bytes = 16 * chunks + 4
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < index_bytes:
                return "damaged"
            file.seek(size - index_bytes)
            index = file.read()
    except FileNotFoundError:
        return "missing"
    if struct.pack("<I", google_crc32c.value(index[:-4])) != index[-4:]:
        return "damaged"
    table = np.frombuffer(index[:-4], "<u8").reshape(-1, 2)
    written = table[table[:, 0] != NOT_WRITTEN]
    end = int(written.sum(axis=1).max(initial=0))
    return "whole" if end == size - index_bytes else "damaged"
