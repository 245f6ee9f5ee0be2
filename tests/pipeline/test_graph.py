"""The task graph: lazy, small, and one task a block."""

from __future__ import annotations

from pathlib import Path

import dask
import numpy as np
import pytest
from dask.array import Array

import wsipipe
from tests.big import write_big_slide
from wsipipe.errors import SlideReadError
from wsipipe.geometry.grid import Grid
from wsipipe.geometry.mirror import mirror
from wsipipe.geometry.network import UNetSizes
from wsipipe.pipeline.graph import map_blocks, mirrored_coordinates, tasks_of


def tasks(array: Array) -> int:
    return len(dict(array.__dask_graph__()))


def blocks_of(side: int, block: int) -> Array:
    """The graph of a run over a slide of ``side`` px, of some function."""
    grid = Grid((side, side), UNetSizes(2, 2).receptive, 512, block)
    chunks = tuple(grid.block_sides(axis) for axis in (0, 1))
    return map_blocks(print, None, grid, chunks=chunks, dtype=np.uint8, meta=np.empty((0, 0), np.uint8))


@pytest.mark.parametrize("block", [2048, 4096])
def test_graph_of_ten_gigapixels_has_at_most_1_3_tasks_a_block(block: int) -> None:
    blocks = blocks_of(100_000, block)
    assert blocks.npartitions == (-(-100_000 // block)) ** 2
    assert tasks(blocks) <= 1.3 * blocks.npartitions
    assert tasks(dask.optimize(blocks)[0]) <= 1.3 * blocks.npartitions


def test_segment_reads_no_pixel_until_it_is_computed(tmp_path: Path, tiny_model: Path) -> None:
    path = write_big_slide(tmp_path / "big.zarr", 4096)
    slide = wsipipe.open_slide(path)
    chunk = path / "0" / "c" / "0" / "0" / "0"
    pixels = chunk.read_bytes()
    chunk.write_bytes(b"these are no pixels")
    labels = wsipipe.segment(slide, tiny_model, block=1024, device="cpu")
    with pytest.raises(SlideReadError, match=r"big\.zarr"):
        labels.blocks[0, 0].compute(scheduler="synchronous")
    chunk.write_bytes(pixels)
    assert labels.blocks[0, 0].compute(scheduler="synchronous").shape == (1024, 1024)


def test_one_block_computes_one_block() -> None:
    blocks = blocks_of(8192, 512)
    few, _ = dask.optimize(blocks.blocks[3, 4], blocks.blocks[3, 4])
    assert tasks(few) <= 4, "the block, its rows, its columns, and its slice"


def test_tasks_of_some_blocks_are_those_of_the_whole_graph() -> None:
    blocks, indices = blocks_of(8192, 512), [(3, 4), (3, 5), (15, 0)]
    few, every = tasks_of(blocks, indices), dict(blocks.__dask_graph__())
    assert few.keys() == {key for key in every if key[0] == blocks.name and key[1:] in indices} | {
        key for index in indices for key in every[(blocks.name, *index)].dependencies
    }
    assert len(few) == 3 + 2 + 3, "blocks, their rows, their columns"


def test_the_same_request_has_the_same_names(tmp_path: Path, tiny_model: Path) -> None:
    path = write_big_slide(tmp_path / "big.zarr", 2048)
    names = {wsipipe.segment(path, tiny_model, block=block, device="cpu").name for block in (1024, 1024, 2048)}
    assert len(names) == 2


@pytest.mark.parametrize("side", [1, 7, 95, 96, 97, 191, 288, 290])
def test_coordinates_of_every_block_are_the_mirrored_ones(side: int) -> None:
    grid = Grid((side, side), UNetSizes(2, 2).receptive, 48, 96)
    half = grid.receptive.margin // 2
    for axis in (0, 1):
        coordinates = mirrored_coordinates(grid, axis)
        for i, computed in enumerate(grid.computed_sides(axis)):
            index = (i, 0) if axis == 0 else (0, i)
            got = coordinates.blocks[index].compute(scheduler="synchronous").ravel()[: computed + 2 * half]
            start = i * grid.block - half
            np.testing.assert_array_equal(got, mirror(np.arange(start, start + computed + 2 * half), side))
