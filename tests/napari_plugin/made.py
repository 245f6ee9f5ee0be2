"""A slide and its result, with everything that a store can have, for the tests of layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tests.faults import picture, write_slide
from tests.store.test_store import labels_of, probabilities_of, spec_of, write_blocks, write_coarse
from wsipipe.pipeline.objects_plan import ObjectsRequest, plan_objects
from wsipipe.pipeline.objects_store import make_objects
from wsipipe.slides.open import open_slide
from wsipipe.slides.slide import Slide
from wsipipe.store import content, lifecycle

COLORS = {7: (255, 128, 0), 200: (0, 128, 255)}
"""The colour of each label: `tests.store.test_store.CLASSES`."""
MPP = 0.25
"""Of the slide's finest level."""


@dataclass(frozen=True)
class Made:
    """What was written."""

    store: Path
    slide: Slide
    pixels: np.ndarray
    """The slide, (y, x, 3), uint8."""
    labels: np.ndarray
    """(y, x), uint8."""
    probabilities: np.ndarray
    """(class, y, x), uint8."""
    tissue: np.ndarray
    """(row, column), bool."""


def made_result(
    folder: Path,
    shape: tuple[int, int] = (61, 83),
    *,
    downsample: float = 1.0,
    mpp: float | None = MPP,
    patch: int = 1,
) -> Made:
    """A slide of ``shape`` px, and a finished store whose pixels span ``downsample`` of it, with objects.

    Both are of one colour within each ``patch``, a square of so many pixels; of labels a patch has at least three.
    """
    path, pixels = folder / "case-17.tif", picture(tuple(-(-side // patch) for side in shape))
    pixels = pixels.repeat(patch, 0).repeat(patch, 1)[: shape[0], : shape[1]]
    slide = open_slide(write_slide(path, pixels, mpp=mpp))
    seen = tuple(-int(-side // downsample) for side in shape)
    block = {"core": 8, "block": 256} if max(shape) > 256 else {}
    spec = spec_of(folder, seen, **block, probabilities=True, downsample=downsample, mpp=mpp and mpp * downsample)
    tissue = np.zeros((5, 7), bool)
    tissue[1:4, 2:6] = True
    spec = replace(
        spec, slide=str(path), fingerprint=replace(spec.fingerprint, slide=slide.identity), tissue=tissue.shape
    )
    labels, probabilities = labels_of(spec), probabilities_of(spec)
    if patch > 1:
        labels = labels[1::3, 1::3].repeat(patch, 0).repeat(patch, 1)[: seen[0], : seen[1]]
    lifecycle.begin_store(spec)
    content.write_tissue(spec, tissue)
    write_blocks(spec, labels, list(spec.grid.indices()), probabilities)
    write_coarse(spec)
    lifecycle.publish(spec, {"tissue": {"share": float(tissue.mean())}})
    make_objects(plan_objects(spec.path, ObjectsRequest(slide="off")), 1, 2**32, lambda _, __: None)
    return Made(Path(spec.path), slide, pixels, labels, probabilities, tissue)
