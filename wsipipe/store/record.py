"""The record of what a store was made from: ``attributes.wsipipe`` of its root, finished or not."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from wsipipe.errors import DamagedStoreError, OutputError, StoreError
from wsipipe.events import ClassCount, parse_class_count
from wsipipe.files import Location, locate
from wsipipe.store.documents import STORE_VERSION
from wsipipe.store.spec import PARTIAL, ROOT, Fingerprint, Seen
from wsipipe.urls import Url

FINGERPRINT_FIELDS = frozenset(one.name for one in fields(Fingerprint))


@dataclass(frozen=True)
class Record:
    """The attributes under ``wsipipe`` of a store."""

    slide: str
    """Path of the slide."""
    fingerprint: Fingerprint
    """Everything that its labels depend on."""
    block: int
    """Side of its blocks in pixels."""
    complete: bool
    """Whether the run that made it marked it as finished."""
    tissue_share: float | None
    """Share of the slide, or of its `region_share`, that is tissue, 0 to 1; None without a tissue mask, or while
    unfinished."""
    region_share: float | None = None
    """Share of the slide that lies in the region that was asked for, 0 to 1; None without one, or while unfinished."""
    version: str = ""
    """Version of the wsipipe that made it."""
    model: str = ""
    """Name of the model."""
    counts: Mapping[int, int] = field(default_factory=dict)
    """Pixels of each label at level 0; empty if the run did not record them, or while unfinished."""
    min_area_um2: float | None = None
    """Area in square micrometres below which the model's finds are not objects; older stores do not say."""
    objects: tuple[ClassCount, ...] | None = None
    """Counts of its objects, class by class; None if it has none."""
    seen: Seen | None = None
    """The slide's files, as they were; older stores do not name them."""
    unknown: tuple[str, ...] = ()
    """Fields of the fingerprint that this wsipipe does not know, as a newer one writes them."""


def parse_record(attributes: Any) -> Record:
    """The record in ``attributes``, those under ``wsipipe``. Only this function takes them apart.

    Raises
    ------
    KeyError, TypeError, ValueError
        If they are not those of a store.
    """
    given, run = dict(attributes["fingerprint"]), dict(attributes.get("run") or {})
    unknown = tuple(sorted(given.keys() - FINGERPRINT_FIELDS))
    if unknown and "model_sha256" not in given:
        raise ValueError(f"unknown in its fingerprint: {', '.join(unknown)}")
    seen = dict(attributes.get("slide_seen") or {})
    return Record(
        slide=attributes["slide"],
        fingerprint=Fingerprint(**{name: value for name, value in given.items() if name in FINGERPRINT_FIELDS}),
        block=attributes["block"],
        complete=attributes["complete"],
        tissue_share=dict(run.get("tissue") or {}).get("share"),
        region_share=dict(run.get("region") or {}).get("share"),
        version=str(attributes.get("version", "")),
        model=str(attributes.get("model", "")),
        counts={int(label): int(pixels) for label, pixels in dict(run.get("labels") or {}).items()},
        min_area_um2=None if (smallest := attributes.get("min_area_um2")) is None else float(smallest),
        unknown=unknown,
        seen=Seen(seen["state"], seen["sha256"]) if seen else None,
        objects=_objects(attributes.get("objects")),
    )


def _objects(noted: Any) -> tuple[ClassCount, ...] | None:
    """Counts of objects; None where there are none, or damaged ones, which can be made again."""
    try:
        return tuple(map(parse_class_count, noted["classes"]))
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def read_record(path: str) -> Record | None:
    """The record of the store at ``path``, finished or not; None if there is nothing.

    Raises
    ------
    DamagedStoreError
        If the store is there, and its metadata cannot be read.
    StoreError
        If something else is there, or a store of a newer wsipipe.
    OutputError
        If the disk fails.
    """
    folder = locate(path)
    root = folder / ROOT
    if isinstance(folder, Path) and folder.is_symlink() and not os.path.exists(folder):  # noqa: PTH110 - of loops, too
        raise DamagedStoreError(
            f"{path} is a link to {folder.readlink()}, which is not there; bring that back, or replace the link: "
            "--overwrite"
        )
    try:
        attributes = json.loads(root.read_bytes())["attributes"]["wsipipe"]
        if attributes["store_version"] > STORE_VERSION:
            raise StoreError(f"{path} was made by a newer wsipipe ({attributes['version']}); use that, or another -o")
        record = parse_record(attributes)
    except FileNotFoundError:
        if _is_debris(path):
            return None
        raise StoreError(
            f"{path} is in the way: it is not a store that wsipipe made; move it, or use another -o"
        ) from None
    except KeyError as err:
        raise StoreError(
            f"{path} is in the way: it is a Zarr store, but wsipipe did not make it; move it, or use another -o"
        ) from err
    except (ValueError, TypeError) as err:
        raise _damaged(root, err) from err
    except NotADirectoryError as err:
        raise StoreError(f"{path} is in the way: it is a file; move it, or use another -o") from err
    except OSError as err:
        raise OutputError(f"{root} cannot be read: {err.strerror or err}") from err
    if record.unknown:
        raise _damaged(root, f"unknown in its fingerprint: {', '.join(record.unknown)}")
    return record


def _is_debris(path: str) -> bool:
    """Whether there is nothing at ``path``, or only leftovers of a writer killed before the root's document."""
    folder = locate(path)
    if isinstance(folder, Url):  # killed while it copied from the unfinished store to its name, or removed either
        return not folder.is_dir() or path.endswith(PARTIAL) or (locate(path + PARTIAL) / ROOT).is_file()
    left = list(folder.iterdir()) if folder.is_dir() else []
    return all(file.name.startswith(ROOT) and file.name.endswith(PARTIAL) for file in left)


def _damaged(root: Location, reason: object) -> DamagedStoreError:
    """The error to raise if ``root`` is not the document of a store that this wsipipe can go on with."""
    return DamagedStoreError(
        f"{root} cannot be read ({reason}), so what the store was made from is unknown; --overwrite makes it anew"
    )
