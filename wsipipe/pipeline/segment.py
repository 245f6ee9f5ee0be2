"""One slide: lazily as a dask array, or into its store."""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from distributed import Client, Future, as_completed

from wsipipe.errors import MachineError, SlideReadError
from wsipipe.events import BlockDone, Listener, SlideDone, SlideStarted, Warned
from wsipipe.geometry.mirror import Indices
from wsipipe.inference.block import BlockWork, predict_block
from wsipipe.labels import store as stores
from wsipipe.model.bundle import Bundle
from wsipipe.pipeline.config import RunConfig, check_config
from wsipipe.pipeline.graph import lazy_labels, map_blocks
from wsipipe.pipeline.look import RunPlan
from wsipipe.pipeline.outcome import Outcomes, SlideOutcome, account
from wsipipe.pipeline.plan import SlidePlan, check_channels, grid_of
from wsipipe.slides.slide import Slide, choose_level, open_slide, with_mpp

PORTION, PORTION_PER_THREAD = 256, 8
"""Blocks that are handed to the scheduler at once. It takes some 20 kB for each, before the first is computed."""


def segment(
    slide: str | os.PathLike[str] | Slide,
    bundle: str | os.PathLike[str] | Bundle,
    *,
    block: int | None = None,
    tile: int | None = None,
    batch: int | None = None,
    device: str = "auto",
    engine: str = "auto",
    mpp: float | None = None,
) -> da.Array:
    """The labels of a slide as a lazy dask array (y, x), uint8; no pixel is read until it is computed.

    It computes under any dask scheduler; each process that computes loads the bundle once, from its path.
    The labels equal those of one pass of the network over the whole mirror-padded slide.

    Parameters
    ----------
    slide, bundle
        Paths, or what `open_slide` and `load_bundle` give.
    block, tile
        Sides in pixels of a task's block and of a tile's core.
    batch
        Tiles that go through the network at once; None: one.
    device, engine
        As ``wsipipe run --device`` and ``--engine``.
    mpp
        Micrometres per pixel of the slide's level 0, over what it says itself.

    Raises
    ------
    SlideError, BundleError, UsageError, MachineError
        As `run` would report them, at once; computing may raise SlideReadError and MachineError.
    """
    source = bundle.info.path if isinstance(bundle, Bundle) else os.fspath(bundle)
    setup = check_config(
        RunConfig(bundle=source, block=block, tile=tile, batch=batch, device=device, engine=engine, mpp=mpp)
    )
    opened = slide if isinstance(slide, Slide) else open_slide(slide)
    if mpp is not None:
        opened = with_mpp(opened, mpp)
    level = choose_level(opened, setup.bundle.spec.mpp)
    check_channels(opened, level, setup.bundle)
    return lazy_labels(BlockWork(level, grid_of(level, setup), setup.pool))


@dataclass(frozen=True)
class _StoreWork:
    """What every task that writes a block knows."""

    block: BlockWork
    store: stores.StoreSpec


def run_slide(plan: SlidePlan, run: RunPlan, client: Client, listener: Listener) -> None:
    """Compute the blocks of ``plan``, one of ``run``, into its store, then its coarse levels, and publish it.

    Raises
    ------
    SlideReadError
        If blocks could not be read; all others are in the unfinished store, and the message says where.
    WsipipeError
        If the device or the disk failed; what was done stays.
    """
    started = time.perf_counter()
    store, grid, path = plan.store, plan.grid, plan.slide.path
    if plan.reopen:
        stores.reopen(store)
    if plan.restart:
        stores.discard_partial(store)
    stores.prepare(store, plan.damaged)
    outcome = Outcomes(listener)
    outcome(SlideStarted(path, store.path, grid.count, len(plan.blocks), plan.pixels))
    _compute_blocks(plan, run, client, outcome)
    _compute_coarse_levels(store, client)
    (how_it_went,) = outcome.in_order([path])
    how_it_went.seconds = time.perf_counter() - started
    stores.publish(store, _history(how_it_went, run))
    listener(SlideDone(path, store.path, time.perf_counter() - started, plan.pixels))


def _history(slide: SlideOutcome, run: RunPlan) -> dict[str, Any]:
    """What the store keeps of the run that finished it: when, with what, and where the time went."""
    setup = run.setup
    spent = account([slide], threads=run.threads, devices=len(setup.devices), bare=run.bare)
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "devices": list(setup.devices),
        "engine": setup.engine,
        "threads": run.threads,
        "blocks": slide.blocks_computed,
        "pixels": slide.pixels,
        "seconds": slide.seconds,
        "spent": asdict(slide.spent),
        "account": None if spent is None else asdict(spent),
    }


def _compute_blocks(plan: SlidePlan, run: RunPlan, client: Client, listener: Listener) -> None:
    """Have every block of ``plan`` computed and written, by a graph of one task each, handed over in portions."""
    grid = plan.grid
    one_each = tuple((1,) * count for count in grid.blocks)
    block = BlockWork(plan.level, grid, run.setup.pool, plan.keep(run.threads))
    done = map_blocks(
        _store_block, _StoreWork(block, plan.store), grid, chunks=one_each, dtype=object, meta=np.empty((0, 0), object)
    )
    keys = deque((done.name, *index) for index in plan.blocks)
    portion = max(PORTION, PORTION_PER_THREAD * run.threads)
    futures: set[Future[Any]] = set()
    completed = as_completed()
    unread: list[SlideReadError] = []
    blank = len(plan.blocks) == grid.count  # else not all of it is seen

    def hand_over() -> None:
        """The next portion, once there is less than one left."""
        if keys and len(futures) < portion:
            some = [keys.popleft() for _ in range(min(portion, len(keys)))]
            new = client.get(dict(done.dask.cull(set(some))), some, sync=False)
            futures.update(new)
            completed.update(new)

    hand_over()
    try:
        for future in completed:
            if future.cancelled():
                raise MachineError("the scheduler was lost; run the same again, it resumes")
            error = future.exception()
            if isinstance(error, SlideReadError):
                unread.append(error)
            elif error is not None:
                raise error
            else:
                row: BlockDone = future.result()[0, 0]
                blank &= row.blank
                listener(row)
            futures.remove(future)
            future.release()
            hand_over()
    finally:
        client.cancel(list(futures))
    if unread:
        raise SlideReadError(
            f"{unread[0]}; {len(unread)} of {len(plan.blocks)} blocks could not be read, the others are in "
            f"{plan.store.partial}; mend the slide, then run the same again, with --overwrite if its file has changed"
        ) from unread[0]
    if blank:
        listener(
            Warned(
                plan.slide.path,
                "every pixel that was read is zero, which no scanner writes; the file may be half-written",
            )
        )


def _store_block(work: _StoreWork, index: tuple[int, int], rows: Indices, cols: Indices) -> npt.NDArray[np.object_]:
    """Predict one block and write its shards; the block's row of statistics, as an array of one object."""
    block = predict_block(work.block, index, rows, cols)
    with block.spent.on("write"):
        stores.write_block(work.store, index, block.prediction.labels, block.prediction.probabilities)
    labels = block.prediction.labels
    values = sorted({label for _, label, _ in work.store.classes} - {0})
    counts = {value: int(np.count_nonzero(labels == value)) for value in values[1:]}
    rest = int(np.count_nonzero(labels)) - sum(counts.values())  # of the first, which need not be looked for
    counts = {0: labels.size - rest - sum(counts.values())} | dict.fromkeys(values[:1], rest) | counts
    done = BlockDone(
        slide=work.store.slide,
        index=index,
        pixels=labels.size,
        computed=block.computed,
        labels={label: count for label, count in counts.items() if count},
        blank=block.blank,
        spent=block.spent,
    )
    row = np.empty((1, 1), object)
    row[0, 0] = done
    return row


def _compute_coarse_levels(store: stores.StoreSpec, client: Client) -> None:
    """Make the levels that blocks do not write, each pass from the level before it."""
    for levels in store.grid.coarse_passes():
        futures: list[Future[None]] = [
            client.submit(stores.write_coarse_chunks, store, levels, index, pure=False)
            for index in stores.coarse_chunks(store, levels[-1])
        ]
        client.gather(futures)
