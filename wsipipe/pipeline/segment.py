"""The labels of one slide as a lazy dask array."""

from __future__ import annotations

import os

import dask.array as da

from wsipipe.geometry.symmetry import TTA_OFF
from wsipipe.inference.block import BlockWork
from wsipipe.model.model_file import Model
from wsipipe.pipeline.config import RunConfig
from wsipipe.pipeline.graph import lazy_labels
from wsipipe.pipeline.setup import resolve
from wsipipe.pipeline.slide_plan import check_channels, grid_of, level_of
from wsipipe.slides.open import open_slide
from wsipipe.slides.slide import MAX_UPSAMPLE, Slide, with_mpp


def segment(
    slide: str | os.PathLike[str] | Slide,
    model: str | os.PathLike[str] | Model,
    *,
    block: int | None = None,
    tile: int | None = None,
    batch: int | None = None,
    device: str = "auto",
    engine: str = "auto",
    tta: str = TTA_OFF,
    mpp: float | None = None,
    max_upsample: float = MAX_UPSAMPLE,
) -> da.Array:
    """The labels of a slide as a lazy dask array (y, x), uint8; no pixel is read until it is needed.

    Any dask scheduler can compute it; each process that computes loads the model once, from its path.
    The labels equal those of one pass of the network over the whole mirror-padded slide.

    Parameters
    ----------
    slide, model
        Paths, or the results of `open_slide` and `load_model`.
    block, tile
        Sides in pixels of a task's block and of a tile's core.
    batch
        Tiles that go through the network at once; None: one.
    device, engine
        As ``wsipipe run --device`` and ``--engine``.
    tta
        Test-time averaging: labels are those of the mean probabilities over mirrored tiles (``"flips"``, 4 times the
        network's time), or over transposed ones as well (``"all"``, 8 times); the whole slide is mirrored likewise.
    mpp
        Micrometres per pixel of the slide's level 0, instead of those in the file.
    max_upsample
        How much a slide that is coarser than the model may be enlarged.

    Raises
    ------
    SlideError, ModelError, UsageError, MachineError
        As `run` would report them, at once; computing may raise SlideError, ModelError and MachineError.
    """
    source = model.info.path if isinstance(model, Model) else os.fspath(model)
    setup = resolve(
        RunConfig(
            model=source,
            block=block,
            tile=tile,
            batch=batch,
            device=device,
            engine=engine,
            tta=tta,
            mpp=mpp,
            max_upsample=max_upsample,
        )
    )
    opened = slide if isinstance(slide, Slide) else open_slide(slide)
    if mpp is not None:
        opened = with_mpp(opened, mpp)
    level = level_of(opened, setup)
    check_channels(opened, level, setup.model)
    return lazy_labels(BlockWork(level, grid_of(level, setup), setup.pool, compare=setup.compare))
