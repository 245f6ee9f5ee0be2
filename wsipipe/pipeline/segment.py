"""The labels of one slide as a lazy dask array."""

from __future__ import annotations

import os
from dataclasses import replace

import dask.array as da

from wsipipe.geometry.symmetry import TTA_OFF
from wsipipe.inference.block import BlockWork
from wsipipe.inference.comparison import Compare
from wsipipe.inference.devices import AUTO, FLOAT32, is_cpu
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.model.model_file import Model
from wsipipe.pipeline.config import RunConfig
from wsipipe.pipeline.lazy_plane import LazyPlane, resident_region
from wsipipe.pipeline.setup import CORE_PX, resolve
from wsipipe.pipeline.slide_plan import check_channels, grid_of, level_of, tissue_shape
from wsipipe.slides.open import open_slide
from wsipipe.slides.slide import MAX_UPSAMPLE, Slide, with_mpp
from wsipipe.tissue.mask_file import TISSUE_OFF


def segment(
    slide: str | os.PathLike[str] | Slide,
    model: str | os.PathLike[str] | Model = DEFAULT_MODEL,
    *,
    tissue: str | os.PathLike[str] = TISSUE_OFF,
    region: str | os.PathLike[str] | None = None,
    probabilities: bool = False,
    precision: str = FLOAT32,
    block: int | None = None,
    tile: int | None = None,
    batch: int | None = None,
    device: str = AUTO,
    engine: str = AUTO,
    tta: str = TTA_OFF,
    mpp: float | None = None,
    max_upsample: float = MAX_UPSAMPLE,
) -> da.Array:
    """The labels of a slide as a lazy dask array (y, x), uint8; no pixel is read until it is needed.

    Of a part, ``segment(slide)[600:800, 700:900]``, only that and the margin around it is computed, and its labels are
    those that the part has in the whole: those of one pass of the network over the whole mirror-padded slide. Any dask
    scheduler can compute it; each process that computes loads the model once, from its path.

    Parameters
    ----------
    slide, model
        Paths, or the results of `open_slide` and `load_model`; or the name of a model that comes with wsipipe.
    tissue
        Where to segment: everywhere (``off``), in the tissue that is found when pixels are first needed (``auto``), or
        in a mask (its path). Elsewhere labels and probabilities are 0.
    region
        Region to segment, as ``wsipipe run --roi``: ``x,y,width,height`` in pixels of level 0, or with units
        (``250um,500um,1mm,1mm``), or a file of annotations. Elsewhere, too, they are 0.
    probabilities
        The probability of each class instead of the labels: (class, y, x), uint8, round(255 p), with the classes in the
        order of the model's.
    precision
        Precision of convolutions: ``float32``, ``tf32``, ``bfloat16`` or ``float16``.
    block, tile
        Sides in pixels of a chunk of the array, and of a tile's core; None: a chunk is a tile on a CPU, and 16 on GPUs.
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
    config = RunConfig(
        model=model.info.path if isinstance(model, Model) else os.fspath(model),
        tissue=os.fspath(tissue),
        roi=None if region is None else os.fspath(region),
        probabilities=probabilities,
        precision=precision,
        block=block,
        tile=tile,
        batch=batch,
        device=device,
        engine=engine,
        tta=tta,
        mpp=mpp,
        max_upsample=max_upsample,
    )
    setup = resolve(config)
    if is_cpu(setup.devices):
        setup = replace(setup, preferred_sizes=(CORE_PX, CORE_PX))  # so that dask's progress bar moves
    opened = slide if isinstance(slide, Slide) else open_slide(slide)
    if mpp is not None:
        opened = with_mpp(opened, mpp)
    level = level_of(opened, setup)
    check_channels(opened, level, setup.model)
    tissue_shape(level, setup)
    if setup.roi is not None:
        resident_region(setup.roi, opened, level)
    compare = Compare.NEVER if setup.approximate else setup.compare
    return LazyPlane(
        BlockWork(level, grid_of(level, setup), setup.pool, compare=compare),
        opened,
        setup.tissue,
        setup.tissue_identity,
        region=setup.roi,
        classes=setup.model.network.classes if probabilities else None,
        approximate=setup.approximate,
    ).lazy
