"""The tissue mask of one slide, which tasks write to its store before the first block, and blocks read there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from distributed import Client, Future

from wsipipe.errors import SlideReadError
from wsipipe.files import absolute
from wsipipe.geometry.grid import BlocksLeft
from wsipipe.inference.work import work_of
from wsipipe.pipeline.setup import Setup
from wsipipe.pipeline.slide_plan import SlidePlan
from wsipipe.rasters.region import Region, read_region
from wsipipe.slides.slide import Level, Slide
from wsipipe.store import content
from wsipipe.store.spec import REGION, StoreSpec
from wsipipe.tissue.detect import BLANK, Plane, mask_of, parts, see
from wsipipe.tissue.mask import TissueMask, mask_shape
from wsipipe.tissue.mask_file import given_mask, is_file
from wsipipe.tissue.searched import tissue_share_in

MASKS_KEPT = 8
"""Masks kept per process, one for each slide that is computed at the same time; at most 2 MB each."""
GIVEN, STORED, UNSEEN = "given", "found before", "not readable"
TISSUE_PRIORITY = 1
"""Priority of these tasks over blocks; meanwhile blocks of the slides before keep the other threads busy."""


@dataclass(frozen=True)
class TissueFinding:
    """How much of a slide is tissue, and how that was found."""

    how: str
    """``brightfield``, ``fluorescence``, ``blank``, ``given``, ``found before``, or ``not readable`` (everywhere)."""
    share: float
    """Share of the slide, or of its region, 0 to 1."""
    work: int
    """Pixels that go through the network for the blocks to do."""


@dataclass(frozen=True)
class _Work:
    """What the tasks need to know."""

    slide: Slide
    level: Level
    store: StoreSpec
    blocks: BlocksLeft
    """The blocks to do."""
    passes: int
    """Passes of the network over each tile."""


def submit_tissue(plan: SlidePlan, setup: Setup, client: Client) -> Future[Any]:
    """Submit a task that writes the mask that ``setup`` wants to the store of ``plan``, and returns a `TissueFinding`.

    A slide that has only a huge level is read in parts, by several workers at once.
    """
    work = _Work(plan.slide, plan.level, plan.store, plan.blocks, setup.pool.passes)
    if content.has_tissue(plan.store):
        return client.submit(_recall, work, pure=False, priority=TISSUE_PRIORITY)
    if is_file(setup.tissue):
        return client.submit(_take, work, str(absolute(setup.tissue)), pure=False, priority=TISSUE_PRIORITY)
    rows = parts(plan.slide, plan.level)
    seeing = _see_if_readable if setup.fills else see
    seen = [client.submit(seeing, plan.slide, plan.level, part, pure=False, priority=TISSUE_PRIORITY) for part in rows]
    return client.submit(_find, work, seen, pure=False, priority=TISSUE_PRIORITY)


def _recall(work: _Work) -> TissueFinding:
    return _finding(work, resident_mask(work.store), STORED)


def _take(work: _Work, path: str) -> TissueFinding:
    return _keep(work, given_mask(path, work.level), GIVEN)


def _see_if_readable(slide: Slide, level: Level, part: range) -> Plane | None:
    try:
        return see(slide, level, part)
    except SlideReadError:
        return None


def _find(work: _Work, seen: list[Plane | None]) -> TissueFinding:
    planes = [plane for plane in seen if plane is not None]
    if len(planes) < len(seen):  # segment wherever tissue is unknown
        cells = np.ones(mask_shape(work.level.shape), bool)
        return _keep(work, TissueMask(cells, work.level.shape), UNSEEN)
    mask, how = mask_of(planes, work.level, halo=work.store.grid.receptive.halo)
    return (
        TissueFinding(how, 0.0, 0) if how == BLANK else _keep(work, mask, how)
    )  # the store of a blank slide is discarded


def _keep(work: _Work, mask: TissueMask, how: str) -> TissueFinding:
    content.write_tissue(work.store, mask.cells)
    return _finding(work, mask, how)


def _finding(work: _Work, mask: TissueMask, how: str) -> TissueFinding:
    region = resident_region(work.store)
    return TissueFinding(how, tissue_share_in(mask, region), work.passes * work_of(work.blocks, mask, region))


@lru_cache(MASKS_KEPT)
def resident_mask(store: StoreSpec) -> TissueMask:
    """The mask of ``store``, which must have one, read once per process.

    Raises
    ------
    WsipipeError
        If it cannot be read.
    """
    return TissueMask(np.asarray(content.read_tissue(store)), store.grid.shape)


@lru_cache(MASKS_KEPT)
def resident_region(store: StoreSpec) -> Region | None:
    """The region of ``store``, read once per process; None if it is the whole slide.

    Raises
    ------
    WsipipeError
        If it cannot be read.
    """
    if not store.fingerprint.region:
        return None
    return read_region(content.read_region(store), REGION, store.grid.shape, store.downsample)
