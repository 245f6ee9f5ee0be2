"""The plan for one slide: headers are read, slides that changed are read whole, and nothing is written."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from wsipipe.errors import ChannelError, DamagedStoreError, FingerprintError, GeometryError
from wsipipe.files import locate
from wsipipe.geometry.grid import BlocksLeft, Grid, fit_sizes
from wsipipe.inference.devices import TORCH
from wsipipe.model.model_file import ModelInfo
from wsipipe.objects.block import STRIP_PX
from wsipipe.pipeline.instances import rules_of
from wsipipe.pipeline.memory_need import block_need, decoded_bytes, kept_bytes, network_need, tissue_need
from wsipipe.pipeline.objects_plan import plan_objects_of_run
from wsipipe.pipeline.setup import Setup
from wsipipe.pipeline.slide_seen import is_same
from wsipipe.rasters.region import Region, region_identity, region_of
from wsipipe.slides.pixels.tile_cache import Keep
from wsipipe.slides.planes import listed_channels
from wsipipe.slides.slide import Level, Slide, choose_level
from wsipipe.store.instances import rules_of_instances
from wsipipe.store.journal import Journal, read_journal
from wsipipe.store.record import Record, read_record
from wsipipe.store.spec import PARTIAL, Fingerprint, Seen, StoreSpec
from wsipipe.tissue.mask import mask_shape
from wsipipe.tissue.mask_file import TISSUE_OFF, given_shape, is_file
from wsipipe.version import VERSION

SHA256_DIGITS = 64
SEGMENT, RESUME, MEASURE, SKIP = "segment", "resume", "measure", "skip"
"""Actions for a slide; to measure is to find the objects of a finished store."""


@dataclass(frozen=True)
class SlidePlan:
    """The plan for one slide."""

    slide: Slide
    level: Level
    """The level to segment."""
    store: StoreSpec
    """The store to write."""
    action: str
    """``segment``, ``resume``, ``measure`` or ``skip``."""
    reason: str
    """The reason, in words."""
    blocks: BlocksLeft
    """The blocks to compute."""
    damaged: tuple[str, ...]
    """Paths, within the store, of shards that exist but are not whole."""
    reopen: bool
    """Whether to repair a store that has its final name already."""
    restart: bool
    """Whether to discard an unfinished store first."""
    block_bytes: int
    """The most memory that one block in flight holds."""
    tissue_bytes: int
    """The most memory that a task which finds the tissue holds."""
    network_bytes: int
    """The most of this machine's memory that the replicas hold."""
    region: Region | None = None
    """The region to segment; None: the whole slide."""

    @property
    def grid(self) -> Grid:
        """The blocks of the slide."""
        return self.store.grid

    @property
    def pixels(self) -> int:
        """Number of pixels in the blocks to compute."""
        return self.blocks.pixels

    def memory_bytes(self, threads: int) -> int:
        """The most memory that ``threads`` blocks in flight take, on top of what the process takes anyway."""
        return threads * max(self.block_bytes, self.tissue_bytes) + self.held_bytes

    @property
    def held_bytes(self) -> int:
        """The most memory that is held however many blocks are in flight, on top of what the process takes anyway."""
        return self.network_bytes + decoded_bytes(self.level)

    def keep(self, threads: int) -> Keep:
        """The decoded tiles that ``threads`` blocks in flight keep for the blocks to their right."""
        return Keep(self.grid.receptive.margin, threads * kept_bytes(self.level, self.grid))

    def tiled(self, core: int, setup: Setup) -> SlidePlan:
        """The same plan with tiles of ``core`` px, if they fill its blocks, and the batch of ``setup``."""
        grid = self.grid if self.grid.block % core else replace(self.grid, core=core)
        network_bytes = network_need(grid, setup) if self.network_bytes else 0
        return replace(self, store=replace(self.store, grid=grid), network_bytes=network_bytes)


def plan_slide(slide: Slide, path: str, setup: Setup) -> SlidePlan:
    """The plan for ``slide``, whose store is, or will be, at ``path``.

    Raises
    ------
    SlideError
        If the slide is refused: no usable level, other channels, or a store in the way.
    GeometryError
        If the sizes asked for are impossible.
    """
    level = level_of(slide, setup)
    check_channels(slide, level, setup.model)
    plan = _plan_store(slide, level, path, setup)
    if setup.objects is not None and plan.grid.block < STRIP_PX:
        raise GeometryError(f"block {plan.grid.block} px is too small for --objects; smallest: {STRIP_PX} (--block)")
    return plan


def level_of(slide: Slide, setup: Setup) -> Level:
    """The level of ``slide`` to segment, at the micrometres per pixel of the model.

    Raises
    ------
    ResolutionError
        If there is none.
    """
    return choose_level(slide, setup.model.spec.mpp, setup.max_upsample)


def check_channels(slide: Slide, level: Level, model: ModelInfo) -> None:
    """Raise a ChannelError unless the slide has as many channels as the network takes."""
    wanted = model.network.in_channels
    if level.channels != wanted:
        count = len(slide.channel_names) or level.channels
        named = f": {listed_channels(slide.channel_names, count)}" if slide.channel_names else ""
        choose = (
            f", or choose {wanted} of them with --channels{named}" if count > wanted and _are_channels(level) else ""
        )
        raise ChannelError(
            f"{slide.file} has {_channels(level.channels)}, model {model.spec.name!r} takes {_channels(wanted)}; "
            f"use a model trained on such slides (-m){choose}"
        )


def grid_of(level: Level, setup: Setup, *, block: int | None = None) -> Grid:
    """The blocks of ``level``, of the sizes asked for; ``block`` px is that of an unfinished store.

    The tile of that store may differ from the one asked for now, which only changes the speed.
    """
    receptive, core = setup.receptive, setup.asked.tile
    if core is not None and block is not None and block % core:
        core = None
    core, block = fit_sizes(receptive, core, block or setup.asked.block, preferred=setup.preferred_sizes)
    return Grid(level.shape, receptive, core, block)


def _plan_store(slide: Slide, level: Level, path: str, setup: Setup) -> SlidePlan:
    """The plan for the slide, given the stores that exist."""
    unfinished, asked = path + PARTIAL, setup.asked.block
    store_of = partial(_store_spec, slide, level, path, setup)
    fingerprint = store_of(None).fingerprint
    plan = partial(_slide_plan, slide, level, setup)
    usable = partial(_usable, slide, fingerprint=fingerprint, overwrite=setup.overwrite or setup.renew)
    final = usable(path)
    journal = None
    if final is not None and not setup.overwrite:
        store = store_of(final.block, final.seen)
        journal = read_journal(store, locate(path))
        if final.complete and journal.finished:
            if lack := _lack_of_objects(slide, level, path, setup):
                return plan(store, MEASURE, lack, journal)
            return plan(store, SKIP, "complete, no tissue found" if final.tissue_share == 0 else "complete", journal)
    begun = usable(unfinished)
    linked = os.path.islink(unfinished)  # noqa: PTH114 - a URL is no link
    if begun is not None and not (setup.overwrite and (linked or asked not in (None, begun.block))):
        store = store_of(begun.block, begun.seen)
        return plan(store, RESUME, "", read_journal(store, locate(unfinished)))
    if journal is not None:
        return plan(store, RESUME, "", journal, reopen=True)
    store = store_of(None)
    replaces = locate(path).exists()
    return plan(store, SEGMENT, "replaces an existing store" if replaces else "new", restart=True)


def _lack_of_objects(slide: Slide, level: Level, path: str, setup: Setup) -> str:
    """What the finished store at ``path`` lacks of the objects that are asked for, in words; empty if nothing."""
    if setup.objects is None:
        return ""
    objects = plan_objects_of_run(locate(path), setup.objects, slide, level)
    instances = rules_of_instances(locate(path))
    if objects.existing() is None or not objects.counted:
        others = objects.store.objects is not None and objects.table.exists()
        if not others:
            return "complete, but without objects"
        return f"complete, but its objects were made with {objects.other_rules}; they are measured again"
    if instances is None:
        return "complete, but without instances" if objects.instances else ""
    return "" if instances == rules_of(objects.description) else "complete, but its instances are of other objects"


def _store_spec(
    slide: Slide, level: Level, path: str, setup: Setup, block: int | None, seen: Seen | None = None
) -> StoreSpec:
    """The store of ``slide`` to write, with blocks of ``block`` px, or of the size asked for.

    ``seen`` is what an earlier run saw of the same slide.
    """
    grid = grid_of(level, setup, block=block)
    return StoreSpec(
        path=path,
        slide=slide.path,
        fingerprint=Fingerprint(
            slide=slide.identity,
            model_sha256=setup.model.sha256,
            level=level.index,
            mpp=level.mpp,
            probabilities=setup.probabilities,
            precision=_precision(setup),
            tta=setup.tta,
            uncertainty=setup.uncertainty,
            on_bad_tile=setup.on_bad_tile,
            shrink=level.shrink,
            tissue=setup.tissue_identity,
            reading=level.reading,
            approximate=_approximate(grid) if setup.approximate else "",
            region=region_identity(setup.roi, slide),
        ),
        downsample=level.downsample,
        grid=grid,
        classes=tuple((c.name, c.label, c.color) for c in setup.model.spec.classes),
        model=setup.model.spec.name,
        version=VERSION,
        mpp_source=slide.mpp_source,
        tissue=tissue_shape(level, setup),
        seen=Seen(slide.state, seen.sha256 if seen else None),
        min_area_um2=setup.model.spec.min_area_um2,
        image=_image_of(slide, path),
    )


def _image_of(slide: Slide, path: str) -> str | None:
    """The path from the store at ``path`` to ``slide``, if viewers can open that as an OME-Zarr image."""
    store, image = locate(path), locate(slide.path)
    if slide.reader != "ome-zarr" or not isinstance(store, Path) or not isinstance(image, Path) or not image.is_dir():
        return None
    return Path(os.path.relpath(image, store)).as_posix()


def _slide_plan(
    slide: Slide,
    level: Level,
    setup: Setup,
    store: StoreSpec,
    action: str,
    reason: str,
    journal: Journal | None = None,
    *,
    reopen: bool = False,
    restart: bool = False,
) -> SlidePlan:
    grid = store.grid
    blocks = journal.blocks if journal else grid.every_block
    return SlidePlan(
        slide=slide,
        level=level,
        store=store,
        action=action,
        reason=reason or f"{len(blocks.done)} of {grid.count} blocks are done",
        blocks=blocks,
        damaged=journal.damaged if journal else (),
        reopen=reopen,
        restart=restart,
        block_bytes=block_need(level, grid, setup),
        tissue_bytes=tissue_need(level, setup),
        network_bytes=0 if action == MEASURE else network_need(grid, setup),
        region=None if setup.roi is None else region_of(setup.roi, slide, level),
    )


def tissue_shape(level: Level, setup: Setup) -> tuple[int, int] | None:
    """(rows, columns) of cells of the tissue mask of ``level``; None if there is no mask.

    Raises
    ------
    SlideError
        If the mask that was given is not one of this slide.
    """
    tissue = setup.tissue
    if tissue == TISSUE_OFF:
        return None
    return given_shape(tissue, level) if is_file(tissue) else mask_shape(level.shape)


def _usable(slide: Slide, path: str, *, fingerprint: Fingerprint, overwrite: bool) -> Record | None:
    """The store at ``path`` if it has ``fingerprint``; a store with another is refused, or ignored to be replaced."""
    try:
        record = read_record(path)
    except DamagedStoreError:
        if overwrite:
            return None
        raise
    if record is None:
        return None
    old, new = record.fingerprint, fingerprint
    if old.slide == new.slide and not is_same(slide, record.seen):
        old = replace(old, slide="")
    if old == new:
        return record
    if overwrite:
        return None
    words = {
        "slide": "another slide file",
        "model_sha256": "other weights (-m)",
        "level": f"level {old.level} (now {new.level})",
        "mpp": f"{old.mpp} micrometres per pixel (now {new.mpp})",
        "probabilities": f"{'' if old.probabilities else 'no '}--probabilities",
        "on_bad_tile": f"--on-bad-tile {old.on_bad_tile} (now {new.on_bad_tile})",
        "precision": f"--precision {old.precision} (now {new.precision})",
        "uncertainty": f"{'' if old.uncertainty else 'no '}--uncertainty",
        "tta": f"--tta {old.tta} (now {new.tta})",
        "shrink": f"the level shrunk by {old.shrink:.5g} (now {new.shrink:.5g})",
        "tissue": f"--tissue {_mask(old.tissue)} (now {_mask(new.tissue)})",
        "reading": f"{old.reading or 'all planes'} (now {new.reading or 'all planes'})",
        "region": f"{(old.region and f'--roi {old.region}') or 'no --roi'} (now {new.region or 'none'})",
        "approximate": f"{old.approximate or 'exact tiles'} (now {new.approximate or 'exact tiles'}; --margin)",
    }
    raise FingerprintError(
        f"{path} was made with {', '.join(words[name] for name in old.differences(new))}; "
        "--overwrite replaces it once the new one is complete; to have both, use another -o"
    )


def _mask(identity: str) -> str:
    """The identity of a tissue mask in a message; that of a file is its sha256."""
    return f"FILE (sha256 {identity[:8]}...)" if len(identity) == SHA256_DIGITS else identity


def _precision(setup: Setup) -> str:
    """The precision, with the engine where each has its own labels; torch was the first, and is not named."""
    by = f" by {setup.engine}" if setup.labels_by_engine and setup.engine != TORCH else ""
    return setup.precision + by


def _approximate(grid: Grid) -> str:
    """The tiles of ``grid``, which labels depend on."""
    return f"a margin of {grid.receptive.margin // 2} px around cores of {grid.core} px"


def _are_channels(level: Level) -> bool:
    """Whether a level has channels of their own, rather than the parts of a colour."""
    return level.axes == "cyx" or level.channels > 4


def _channels(count: int) -> str:
    known = {1: "1 channel (grey)", 3: "3 channels (RGB)", 4: "4 channels (RGBA)"}
    return known.get(count, f"{count} channels")
