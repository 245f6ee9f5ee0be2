"""The path of each slide's store, which is named after the slide, with a hash where names are shared or too long."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence

from wsipipe.errors import OutputError, SlideReadError, StoreError
from wsipipe.files import Location, fitted_name, name_limit
from wsipipe.leases.lease import CLAIM_SUFFIX
from wsipipe.pipeline.slide_seen import is_same
from wsipipe.slides.slide import Slide
from wsipipe.store.record import Record, read_record
from wsipipe.store.spec import PARTIAL, REPLACED, STORE

LONGEST_SUFFIX = max((PARTIAL, REPLACED, CLAIM_SUFFIX), key=len)
"""The longest suffix of the names beside a store, which have to fit into the file system's limit, too."""


def name_stores(slides: Sequence[Slide], out: Location) -> dict[str, str]:
    """The path of each slide's store, by the slide's path.

    It is ``out/<slide's name>.zarr``, unless that belongs to another slide of this run or of an earlier one; then it
    is ``out/<slide's name>-<8 hex digits of the slide's path>.zarr``. A slide keeps the store that was begun from it.
    A name that is too long for the file system is cut, and ends in 8 hex digits of the whole.
    """
    named: dict[str, str] = {}
    taken: set[str] = set()  # without regard to case, which some file systems ignore
    limit = name_limit(out) - len(LONGEST_SUFFIX)
    candidates = {slide.path: _candidates(slide, out, limit) for slide in slides}
    owners = {name: _owner(name) for names in candidates.values() for name in names}
    for is_of in (_of_that_path, _of_that_file):
        for slide in slides:
            mine = [name for name in candidates[slide.path] if is_of(owners[name], slide, candidates)]
            if slide.path not in named and mine and mine[0].casefold() not in taken:
                named[slide.path] = mine[0]
                taken.add(mine[0].casefold())
    for slide in slides:
        if slide.path not in named:
            plain, told_apart = candidates[slide.path]
            free = owners[plain] is None and plain.casefold() not in taken
            named[slide.path] = plain if free else told_apart
            taken.add(named[slide.path].casefold())
    return named


def _candidates(slide: Slide, out: Location, limit: int) -> tuple[str, str]:
    digest = hashlib.sha256(os.fsencode(slide.path)).hexdigest()[:8]
    plain, told_apart = (fitted_name(slide.name, end, limit) for end in (STORE, f"-{digest}{STORE}"))
    return str(out / plain), str(out / told_apart)


def _owner(store: str) -> Record | None:
    """The record of the store, finished or not; None if there is none that can be read."""
    for path in (store, store + PARTIAL):
        try:
            record = read_record(path)
        except (StoreError, OutputError):  # the slide's plan refuses it, with the reason
            continue
        if record is not None:
            return record
    return None


def _of_that_path(owner: Record | None, slide: Slide, _others: Collection[str]) -> bool:
    """Whether a store was made from the path of ``slide``."""
    return owner is not None and owner.slide == slide.path


def _of_that_file(owner: Record | None, slide: Slide, others: Collection[str]) -> bool:
    """Whether a store was made from the same file at another path, one that none of the ``others`` has."""
    if owner is None or owner.fingerprint.slide != slide.identity or owner.slide in others:
        return False
    try:
        return is_same(slide, owner.seen)
    except SlideReadError:  # the slide's own blocks will say why
        return False
