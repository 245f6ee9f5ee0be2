"""Finished stores, looked at byte by byte: every level, every shard, and the checksum of every chunk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from wsipipe.errors import OutputError, StoreError
from wsipipe.files import Location, Named, absolute, one_name, zarr_store
from wsipipe.store.image_label import parse_image_label, read_attributes
from wsipipe.store.instances import RULES, rules_of_instances
from wsipipe.store.record import parse_record
from wsipipe.store.shards import damage_of_shard
from wsipipe.store.spec import INSTANCES, PROBABILITIES, REGION, ROOT, STORE, TISSUE, UNCERTAINTY, shard_name

Shard = tuple[str, zarr.Array[Any], tuple[int, ...]]
"""Name of an array, the array, and (row, column) of one of its shards, after the class where it has classes."""
IN_HAND_PER_THREAD = 4
"""Shards submitted at once for each thread; a store may have a million."""


@dataclass(frozen=True)
class StoreCheck:
    """What was found in one store."""

    store: str
    """Path or URL of the store."""
    shards: int
    """Number of shards that were read."""
    damages: tuple[str, ...]
    """What is wrong, one message each; empty of a sound store."""


def stores_in(out: Location) -> list[Location]:
    """The stores that have their final name in the folder ``out``, sorted; ``out`` itself if it is a store.

    Raises
    ------
    StoreError
        If there are none.
    OutputError
        If the folder cannot be listed.
    """
    try:
        if (out / ROOT).is_file():
            return [out]
        found = [path for path in out.iterdir() if path.name.endswith(STORE)] if out.is_dir() else []
    except OSError as err:
        raise OutputError(f"{out} cannot be listed: {err.strerror or err}") from err
    if not found:
        raise StoreError(
            f"{out} is neither a finished store nor a folder with some; give the folder of a run's results"
        )
    return sorted(found, key=str)


def stores_named(out: Iterable[Named]) -> list[Location]:
    """The stores in each of ``out`` (see `stores_in`), each once, even if several names or links lead to it.

    Raises
    ------
    StoreError
        If one has none.
    OutputError
        If a folder cannot be listed.
    """
    return list({one_name(store): store for text in out for store in stores_in(absolute(text))}.values())


def check_stores(stores: Sequence[Location], threads: int, notes: Path) -> Iterator[StoreCheck]:
    """Look at ``stores`` one after the other; what was found goes into ``notes`` until all of them were looked at.

    If that is interrupted, those in ``notes`` are not read again, unless they were made anew since. Where ``notes``
    cannot be written, all are read.
    """
    noted = _read_notes(notes)
    for store in stores:
        key = _digest_of_root(store)
        if key not in noted:
            noted[key] = check_store(store, threads)
            with suppress(OSError):
                notes.parent.mkdir(parents=True, exist_ok=True)
                with notes.open("a") as file:
                    file.write(json.dumps({"key": key, **asdict(noted[key])}) + "\n")
        yield noted[key]
    with suppress(OSError):
        notes.unlink()


def _read_notes(notes: Path) -> dict[str, StoreCheck]:
    found = {}
    with suppress(OSError, ValueError, LookupError, TypeError):  # the last line may be torn
        for line in notes.read_text().splitlines():
            row = json.loads(line)
            found[row["key"]] = StoreCheck(row["store"], row["shards"], tuple(row["damages"]))
    return found


def _digest_of_root(store: Location) -> str:
    """Tells a store from others, and from one that takes its place; the root says when it was finished."""
    try:
        blob = (store / ROOT).read_bytes()
    except OSError as err:
        blob = str(err).encode()
    return hashlib.sha256(str(store).encode() + b"\0" + blob).hexdigest()


def check_store(store: Location, threads: int) -> StoreCheck:
    """Read all of the finished store at ``store``: ``threads`` shards at a time, each chunk by chunk."""
    try:
        arrays = _arrays(store)
        count = sum(prod(_pieces(array)) for array in arrays.values())
        damages = _stale_instances(store) + _lost_region(store)
    except Exception as err:  # zarr may raise anything on damaged metadata
        return StoreCheck(str(store), 0, (f"{store}: {err}; --overwrite makes the store anew",))
    shards = ((name, array, index) for name, array in arrays.items() for index in np.ndindex(*_pieces(array)))
    with ThreadPoolExecutor(threads, "wsipipe-check") as pool:
        while some := list(islice(shards, threads * IN_HAND_PER_THREAD)):
            damages += filter(None, pool.map(partial(_damage, store), some))
    return StoreCheck(str(store), count, tuple(damages))


def _arrays(store: Location) -> dict[str, zarr.Array[Any]]:
    """The arrays that a store must have by its root's attributes, by name.

    Raises
    ------
    StoreError
        If it is not a finished store of wsipipe, or a level is not half of the one before.
    """
    attributes = read_attributes(store)
    if "wsipipe" not in attributes:
        raise StoreError("it is not a store that wsipipe made")
    record = parse_record(attributes["wsipipe"])
    if not record.complete:
        raise StoreError("it is not complete; segment its slide again")
    levels = parse_image_label(attributes).levels
    if not levels:
        raise StoreError("its attributes name no levels")
    names = [str(level) for level in range(levels)]
    if record.fingerprint.probabilities:
        names.append(PROBABILITIES)
    if record.fingerprint.uncertainty:
        names.append(UNCERTAINTY)
    if record.fingerprint.tissue != "off":
        tissue = parse_image_label(read_attributes(store / TISSUE)).levels
        names += [f"{TISSUE}/{level}" for level in range(max(tissue, 1))]
    if rules_of_instances(store) is not None:
        names += [f"{INSTANCES}/{level}" for level in range(levels)]
    arrays = {name: zarr.open_array(zarr_store(store / name), mode="r") for name in names}
    shapes = [arrays[str(level)].shape for level in range(levels)]
    halves = [tuple(-(-side // 2) for side in shape) for shape in shapes]
    if shapes[1:] != halves[:-1] or sum(record.counts.values()) not in (0, prod(shapes[0])):
        raise StoreError(f"its levels have the shapes {shapes}, which do not fit together")
    return arrays


def _stale_instances(store: Location) -> list[str]:
    """What is wrong if a store has instances that are of other objects than its counts and its table."""
    rules = rules_of_instances(store)
    objects: Any = read_attributes(store)["wsipipe"].get("objects", {})
    if rules is None or rules == {name: objects.get(name) for name in RULES}:
        return []
    return [f"{store / INSTANCES}: they do not match the table; wsipipe objects --instances makes them anew"]


def _lost_region(store: Location) -> list[str]:
    """What is wrong if a store of a region does not have its outline."""
    record: Any = parse_record(read_attributes(store)["wsipipe"])
    if not record.fingerprint.region or (store / REGION).is_file():
        return []
    return [f"{store / REGION} is gone; --overwrite makes the store anew"]


def _pieces(array: zarr.Array[Any]) -> tuple[int, ...]:
    """How many shards an array has along each axis.

    Raises
    ------
    StoreError
        If it has none.
    """
    if array.shards is None:
        raise StoreError(f"its array {array.path or array.name} has no shards")
    return tuple(-(-size // side) for size, side in zip(array.shape, array.shards, strict=True))


def _damage(store: Location, shard: Shard) -> str:
    """What is wrong with ``shard`` of ``store``; an empty string if nothing is."""
    name, array, index = shard
    path = store / shard_name(name, index)
    assert array.shards is not None
    chunks = prod(side // chunk for side, chunk in zip(array.shards, array.chunks, strict=True))
    try:
        found = damage_of_shard(path, chunks=chunks, chunk_bytes=prod(array.chunks) * array.dtype.itemsize)
    except OSError as err:
        found = f"it cannot be read: {err.strerror or err}"
    way_out = f"; remove {store / INSTANCES}, and wsipipe objects --instances makes it anew"
    return found and f"{path}: {found}{way_out if name.startswith(INSTANCES) else ''}"
