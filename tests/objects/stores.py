"""Finished stores of small slides, made without a network, for the tests of their objects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.faults import picture, write_slide
from tests.store.test_store import labels_of, probabilities_of, spec_of, write_blocks, write_coarse
from wsipipe.slides.open import open_slide
from wsipipe.store import lifecycle
from wsipipe.store.spec import Seen, StoreSpec

SHAPE = (150, 130)


def made_store(
    folder: Path,
    *,
    shape: tuple[int, int] = SHAPE,
    block: int = 48,
    slide: str = "case-17.tif",
    min_area_um2: float = 0.0,
    probabilities: bool = False,
    labels: np.ndarray | None = None,
) -> tuple[StoreSpec, np.ndarray, np.ndarray]:
    """A finished store of a slide beside it: its spec, its labels and the slide's pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = picture(shape)
    path = write_slide(folder / slide, pixels)
    opened = open_slide(path)
    spec = spec_of(folder, shape, 4, block, probabilities=probabilities, min_area_um2=min_area_um2)
    spec = replace(
        spec,
        path=str(folder / "case-17.zarr"),
        slide=str(path),
        fingerprint=replace(spec.fingerprint, slide=opened.identity),
        seen=Seen(opened.state, opened.sha256),
    )
    labels = labels_of(spec) if labels is None else labels
    lifecycle.begin_store(spec)
    write_blocks(spec, labels, list(spec.grid.indices()), probabilities_of(spec) if probabilities else None)
    write_coarse(spec)
    lifecycle.publish(spec, {"tissue": {"share": 0.5}})
    return spec, labels, pixels
