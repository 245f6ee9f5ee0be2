"""Label images for the tests of objects, and what is right for them, by scipy and scikit-image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage
from skimage.measure import regionprops

from wsipipe.geometry.grid import boxes
from wsipipe.objects.block import Counting, measure_block
from wsipipe.objects.block_file import block_file, write_block_file
from wsipipe.objects.joining import MAX_CORNERS
from wsipipe.objects.sums import Intensities, Layout
from wsipipe.objects.table import Description, ObjectClass
from wsipipe.objects.write import write_table

CLASSES = tuple(ObjectClass(label, f"class {label}", "#ff8000") for label in range(1, 5))
LABELS = st.tuples(
    arrays(
        np.uint8,
        array_shapes(min_dims=2, max_dims=2, max_side=24),
        elements=st.integers(0, 3),
        fill=st.just(np.uint8(1)),
    ),
    st.integers(1, 3),
).map(lambda drawn: np.kron(drawn[0], np.ones((drawn[1], 1), np.uint8)))
"""Label images, from noise to large regions with holes and diagonals."""
SIDES = st.sampled_from([4, 5, 7, 12, 100])
CONNECTIVITIES = st.sampled_from([4, 8])


def regions(labels: np.ndarray, connectivity: int, intensity: np.ndarray | None = None) -> list[tuple[int, int, Any]]:
    """(first pixel, label, properties) of each object of the whole image, in the order of first pixels."""
    found = []
    for label in np.unique(labels[labels > 0]).tolist():
        numbers, _ = ndimage.label(labels == label, np.ones((3, 3)) if connectivity == 8 else None)
        for region in regionprops(numbers, intensity):
            y, x = region.coords[0]
            found.append((int(y) * labels.shape[1] + int(x), label, region))
    return sorted(found, key=lambda one: one[0])


def write_objects(
    path: Path,
    labels: np.ndarray,
    *,
    block_px: int,
    connectivity: int = 8,
    mpp: float | None = 0.5,
    downsample: float = 1.0,
    min_area_um2: float = 0.0,
    pixels: np.ndarray | None = None,
    probability: np.ndarray | None = None,
    stained: bool = False,
    split: bool = False,
    max_corners: int = MAX_CORNERS,
    seed: int = 0,
) -> int:
    """Measure the blocks of a label image in random order, and write its table; returns how many were too small."""
    channels = () if pixels is None else tuple(f"c{number}" for number in range(pixels.shape[2]))
    layout = Layout(channels, stained, probability is not None)
    counting = Counting(labels.shape, connectivity, layout, split)
    folder = path.parent / f"blocks-{path.stem}"
    folder.mkdir()
    every = list(boxes(labels.shape, block_px))
    for number in np.random.default_rng(seed).permutation(len(every)).tolist():
        box = every[number]
        measured = Intensities(
            layout,
            None if pixels is None else pixels[box.slices],
            None if probability is None else probability[box.slices],
        )
        block = measure_block(labels[box.slices], box, counting, measured)
        write_block_file(block_file(folder, (box.y0 // block_px, box.x0 // block_px)), block, counting)
    description = Description("slide", CLASSES, mpp, downsample, connectivity, split, min_area_um2, layout)
    return write_table(
        path, folder, counting=counting, block_px=block_px, description=description, max_corners=max_corners
    )


def read_sorted(path: Path) -> pa.Table:
    """The table, by id."""
    return pq.read_table(path).sort_by("id")
