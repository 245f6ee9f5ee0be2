"""The tissue mask of one slide: made by tasks before its first block, kept in its store, read there by blocks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from distributed import Client, Future

from wsipipe.errors import SlideReadError
from wsipipe.files import absolute
from wsipipe.pipeline.config import FILL, RunConfig
from wsipipe.pipeline.slide_plan import SlidePlan
from wsipipe.slides.slide import Level, Slide
from wsipipe.store import content
from wsipipe.store.spec import StoreSpec
from wsipipe.tissue.detect import BLANK, Plane, mask_of, parts, see
from wsipipe.tissue.mask import TissueMask, mask_shape
from wsipipe.tissue.mask_file import given_mask, is_file

MASKS_KEPT = 8
"""Kept per process, of at most 2 MB each: those of the slides that are computed at the same time."""
GIVEN, STORED, UNSEEN = "given", "found before", "not readable"
TISSUE_PRIORITY = 1
"""Priority of these tasks over blocks: those of the slides before keep the other threads busy meanwhile."""


@dataclass(frozen=True)
class TissueFinding:
    """How much of a slide is to be looked at."""

    how: str
    """``brightfield``, ``fluorescence``, ``blank``, ``given``, ``found before``, or ``not readable``: everywhere."""
    share: float
    """Of the slide: 0 to 1."""


@dataclass(frozen=True)
class _Work:
    """What the tasks know."""

    slide: Slide
    level: Level
    store: StoreSpec


def submit_tissue(plan: SlidePlan, config: RunConfig, client: Client) -> Future[Any]:
    """A task that puts the mask that ``config`` asks for into the store of ``plan``; gives `TissueFinding`.

    A slide that has only a huge level is seen in parts, by several workers at once.
    """
    work = _Work(plan.slide, plan.level, plan.store)
    if content.has_tissue(plan.store):
        return client.submit(_recall, work.store, pure=False, priority=TISSUE_PRIORITY)
    if is_file(config.tissue):
        return client.submit(_take, work, str(absolute(config.tissue)), pure=False, priority=TISSUE_PRIORITY)
    rows = parts(plan.slide, plan.level)
    seeing = _see_if_readable if config.on_bad_tile == FILL else see
    seen = [client.submit(seeing, plan.slide, plan.level, part, pure=False, priority=TISSUE_PRIORITY) for part in rows]
    return client.submit(_find, work, seen, pure=False, priority=TISSUE_PRIORITY)


def _recall(store: StoreSpec) -> TissueFinding:
    return TissueFinding(STORED, resident_mask(store).share)


def _take(work: _Work, path: str) -> TissueFinding:
    return _keep(work.store, given_mask(path, work.level), GIVEN)


def _see_if_readable(slide: Slide, level: Level, part: range) -> Plane | None:
    try:
        return see(slide, level, part)
    except SlideReadError:
        return None


def _find(work: _Work, seen: list[Plane | None]) -> TissueFinding:
    planes = [plane for plane in seen if plane is not None]
    if len(planes) < len(seen):  # where that is not known it is looked
        cells = np.ones(mask_shape(work.level.shape), bool)
        return _keep(work.store, TissueMask(cells, work.level.shape), UNSEEN)
    mask, how = mask_of(planes, work.level, halo=work.store.grid.receptive.halo)
    return TissueFinding(how, 0.0) if how == BLANK else _keep(work.store, mask, how)  # of a blank slide nothing is kept


def _keep(store: StoreSpec, mask: TissueMask, how: str) -> TissueFinding:
    content.write_tissue(store, mask.cells)
    return TissueFinding(how, mask.share)


@lru_cache(MASKS_KEPT)
def resident_mask(store: StoreSpec) -> TissueMask:
    """The mask of ``store``, which has one, read once per process: its fingerprint decides what it is.

    Raises
    ------
    WsipipeError
        If it can not be read.
    """
    return TissueMask(np.asarray(content.read_tissue(store)), store.grid.shape)
