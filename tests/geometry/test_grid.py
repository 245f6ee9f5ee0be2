from __future__ import annotations

import itertools
from math import prod

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.soak import examples
from wsipipe.errors import GeometryError
from wsipipe.geometry.grid import CHUNK_PX, BlocksLeft, Box, Grid, fit_sizes
from wsipipe.geometry.mirror import mirror
from wsipipe.geometry.network import Receptive, UNetSizes
from wsipipe.pipeline.graph import mirrored_coordinates

NETWORKS = st.builds(
    lambda depth, convs: UNetSizes(depth, convs).receptive, depth=st.integers(0, 4), convs=st.integers(1, 3)
)


def smallest_block(receptive: Receptive, core: int) -> int:
    """Side of the smallest allowed block, in cores."""
    return -(-(receptive.margin // 2) // core)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """A grid of at most a few blocks, whose plane often ends near a block's border."""
    receptive = draw(NETWORKS)
    core = receptive.stride * draw(st.integers(1, 4))
    block = core * (smallest_block(receptive, core) + draw(st.integers(0, 2)))
    offsets = st.sampled_from([-1, 0, 1, receptive.stride])
    near = st.builds(lambda blocks, offset: max(blocks * block + offset, 1), st.integers(0, 3), offsets)
    side = st.one_of(st.integers(1, 3 * block), near)
    return Grid((draw(side), draw(side)), receptive, core, block)


@given(grid=grids())
def test_blocks_tile_the_plane_exactly_once(grid: Grid) -> None:
    covered = np.zeros(grid.shape, np.uint8)
    indices = list(grid.indices())
    for index in indices:
        box = grid.block_box(index)
        assert box.shape == (grid.block_sides(0)[index[0]], grid.block_sides(1)[index[1]])
        covered[box.slices] += 1
    assert (covered == 1).all()
    assert len(indices) == len(set(indices)) == grid.blocks[0] * grid.blocks[1]
    assert indices == sorted(indices)


@given(grid=grids())
def test_blocks_hold_a_pixel_and_all_but_the_last_are_whole(grid: Grid) -> None:
    for axis in (0, 1):
        sides = grid.block_sides(axis)
        assert sum(sides) == grid.shape[axis]
        assert set(sides[:-1]) <= {grid.block}
        assert 0 < sides[-1] <= grid.block


@given(grid=grids())
def test_cores_tile_what_is_computed_once_on_the_pooling_grid(grid: Grid) -> None:
    stride = grid.receptive.stride
    for row, col in grid.indices():
        computed = grid.computed_sides(0)[row], grid.computed_sides(1)[col]
        box = grid.block_box((row, col))
        assert all(0 <= c - side < stride for c, side in zip(computed, box.shape, strict=True))
        covered = np.zeros(computed, np.uint8)
        for core in grid.cores(computed):
            covered[core.slices] += 1
            height, width = core.shape
            assert 0 < height <= grid.core
            assert 0 < width <= grid.core
            places = (box.y0 + core.y0, box.x0 + core.x0, height, width)
            assert all(place % stride == 0 for place in places)
        assert (covered == 1).all()


def around(grid: Grid, axis: int, i: int) -> np.ndarray:
    """The mirrored pixels in and half a margin around what is computed of block ``i``."""
    half, start = grid.receptive.margin // 2, i * grid.block
    positions = np.arange(start - half, start + grid.computed_sides(axis)[i] + half)
    return mirror(positions, grid.shape[axis])


PAPER = UNetSizes(4, 2).receptive


@settings(max_examples=examples(40))
@given(grid=grids(), axis=st.sampled_from([0, 1]))
@example(grid=Grid((1, 1), PAPER, 16, 96), axis=0)  # one pixel
@example(grid=Grid((93, 30), PAPER, 16, 96), axis=0)  # smaller than half a margin, which is 94
@example(grid=Grid((94, 187), PAPER, 32, 128), axis=1)
@example(grid=Grid((127, 1), PAPER, 32, 128), axis=0)  # one less than a block
@example(grid=Grid((128, 1), PAPER, 32, 128), axis=0)
@example(grid=Grid((129, 1), PAPER, 32, 128), axis=0)  # one more
@example(grid=Grid((257, 1), PAPER, 32, 128), axis=0)
@example(grid=Grid((5, 7), UNetSizes(0, 1).receptive, 1, 1), axis=1)  # blocks of one pixel, and as much overlap
def test_overlapped_coordinates_are_the_mirror_around_every_block(grid: Grid, axis: int) -> None:
    coordinates = mirrored_coordinates(grid, axis)
    blocks = coordinates.blocks.ravel()
    assert len(blocks) == grid.blocks[axis]
    for i, block in enumerate(blocks):
        indices = block.compute(scheduler="synchronous")
        assert indices.dtype == np.int64
        assert indices.shape[1 - axis] == 1
        wanted = around(grid, axis, i)
        assert np.array_equal(indices.ravel()[: len(wanted)], wanted)


@given(grid=grids(), axis=st.sampled_from([0, 1]))
def test_coordinates_have_no_chunk_smaller_than_the_overlap(grid: Grid, axis: int) -> None:
    positions, chunks = grid.coordinates(axis)
    assert sum(chunks) == len(positions)
    assert min(chunks) >= grid.receptive.margin // 2
    assert len(chunks) == grid.blocks[axis]
    assert np.array_equal(positions, mirror(np.arange(len(positions)), grid.shape[axis]))


LARGE = st.builds(
    Grid,
    st.tuples(st.integers(1, 300_000), st.integers(1, 300_000)),
    st.just(PAPER),
    st.just(16),
    st.integers(6, 400).map(lambda i: 16 * i),
)


@given(grid=st.one_of(LARGE, grids()))
@example(grid=Grid((40_000, 50_000), PAPER, 1024, 2048))
@example(grid=Grid((1, 1), PAPER, 1024, 4096))
def test_levels_halve_and_round_up_until_a_chunk_holds_them(grid: Grid) -> None:
    shapes = grid.level_shapes
    assert shapes[0] == grid.shape
    for finer, coarser in itertools.pairwise(shapes):
        assert coarser == ((finer[0] + 1) // 2, (finer[1] + 1) // 2)
    assert max(shapes[-1]) <= grid.chunk
    assert len(shapes) == grid.block_levels or max(shapes[-2]) > grid.chunk
    assert len(shapes) >= grid.block_levels


@given(grid=st.one_of(LARGE, grids()))
def test_every_block_has_a_shard_of_its_own_at_the_levels_it_writes(grid: Grid) -> None:
    assert grid.block_levels >= 1
    for level in range(grid.block_levels):
        assert grid.shard(level) << level == grid.block
        shards = tuple(-(-side // grid.shard(level)) for side in grid.level_shapes[level])
        assert shards == grid.blocks
    assert grid.shard(grid.block_levels - 1) == grid.chunk


@given(grid=st.one_of(LARGE, grids()))
def test_chunk_divides_every_shard_and_is_the_largest_a_viewer_should_read(grid: Grid) -> None:
    for level in range(len(grid.level_shapes)):
        assert grid.shard(level) % grid.chunk == 0
    assert grid.chunk <= CHUNK_PX or grid.chunk % 2
    assert grid.chunk == grid.block or 2 * grid.chunk > CHUNK_PX
    assert (grid.block // grid.chunk).bit_count() == 1  # halved and halved again


def test_default_sizes_are_those_of_the_design() -> None:
    gpu, cpu = Grid((100_000, 100_000), PAPER, 1024, 4096), Grid((100_000, 100_000), PAPER, 1024, 2048)
    assert (gpu.chunk, gpu.block_levels, [gpu.shard(i) for i in range(5)]) == (512, 4, [4096, 2048, 1024, 512, 512])
    assert (cpu.chunk, cpu.block_levels) == (512, 3)
    assert gpu.blocks == (25, 25)


def test_grid_repr_can_be_read_by_a_tired_person() -> None:
    assert repr(Grid((5000, 9000), PAPER, 1024, 2048)) == (
        "Grid of 3 x 5 blocks of 2048 px, row by column -> 9000 wide x 5000 high"
    )


def test_box_knows_its_shape_and_slices() -> None:
    box = Box(1, 4, 2, 10)
    assert box.shape == (3, 8) == np.empty((20, 20))[box.slices].shape
    assert str(box) == "[1:4, 2:10]"


@pytest.mark.parametrize(
    ("shape", "core", "block", "words"),
    [
        ((0, 5), 16, 96, "5 wide x 0 high has no pixels"),
        ((5, -1), 16, 96, "-1 wide x 5 high has no pixels"),
        ((5, 5), 500, 1000, r"tile core 500 px .* 496 and 512 \(--tile\)"),
        ((5, 5), 0, 1024, r"tile core 0 px .* 16 \(--tile\)"),
        ((5, 5), 512, 1000, r"block 1000 px is not a multiple of 512, .* 512 and 1024 \(--block\)"),
        ((5, 5), 16, 80, r"block 80 px is smaller than the 94 px .*: 96 \(--block\)"),
        ((5, 5), 32, 64, r"block 64 px is smaller than the 94 px .*: 96 \(--block\)"),
    ],
)
def test_grid_refuses_impossible_sizes_and_names_possible_ones(
    shape: tuple[int, int], core: int, block: int, words: str
) -> None:
    with pytest.raises(GeometryError, match=words):
        Grid(shape, PAPER, core, block)


PREFERRED = st.sampled_from([(1024, 2048), (1024, 4096), (64, 128)])


@given(receptive=NETWORKS, preferred=PREFERRED)
def test_fit_sizes_takes_what_is_preferred_where_nothing_is_asked(
    receptive: Receptive, preferred: tuple[int, int]
) -> None:
    core, block = fit_sizes(receptive, None, None, preferred=preferred)
    Grid((1, 1), receptive, core, block)
    assert core == preferred[0]
    assert block == max(preferred[1], -(-(receptive.margin // 2) // core) * core)


@given(receptive=NETWORKS, preferred=PREFERRED, times=st.integers(1, 300))
def test_fit_sizes_keeps_the_core_and_finds_the_block(
    receptive: Receptive, preferred: tuple[int, int], times: int
) -> None:
    asked = times * receptive.stride
    core, block = fit_sizes(receptive, asked, None, preferred=preferred)
    Grid((1, 1), receptive, core, block)
    assert core == asked
    least = smallest_block(receptive, core) * core
    assert block == max(least, max((b for b in range(core, preferred[1] + 1, core)), default=0))


@given(receptive=NETWORKS, preferred=PREFERRED, times=st.integers(1, 300))
def test_fit_sizes_keeps_the_block_and_finds_the_core(
    receptive: Receptive, preferred: tuple[int, int], times: int
) -> None:
    asked = max(times * receptive.stride, smallest_block(receptive, receptive.stride) * receptive.stride)
    core, block = fit_sizes(receptive, None, asked, preferred=preferred)
    Grid((1, 1), receptive, core, block)
    assert block == asked
    assert core <= preferred[0]
    assert not any(block % c == 0 for c in range(core + receptive.stride, preferred[0] + 1, receptive.stride))


@given(receptive=NETWORKS, cores=st.integers(1, 300), blocks=st.integers(1, 600))
def test_fit_sizes_changes_nothing_that_was_asked_for(receptive: Receptive, cores: int, blocks: int) -> None:
    core, block = cores * receptive.stride, blocks * receptive.stride
    assert fit_sizes(receptive, core, block, preferred=(1024, 2048)) == (core, block)


@pytest.mark.parametrize("tile", [0, -16, 500])
def test_an_impossible_tile_alone_is_refused_by_its_option(tile: int) -> None:
    with pytest.raises(GeometryError, match=rf"core {tile} px .*\(--tile\)"):
        Grid((1, 1), PAPER, *fit_sizes(PAPER, tile, None, preferred=(1024, 2048)))


@pytest.mark.parametrize("block", [500, 0, -96, 17])
def test_an_impossible_block_alone_is_refused_by_its_option(block: int) -> None:
    with pytest.raises(GeometryError, match=rf"block {block} px .*\(--block\)"):
        Grid((1, 1), PAPER, *fit_sizes(PAPER, None, block, preferred=(1024, 2048)))


@given(grid=st.one_of(LARGE, grids()))
def test_coarse_passes_make_each_level_that_blocks_do_not_write_once_from_no_more_than_a_block(grid: Grid) -> None:
    passes = list(grid.coarse_passes())
    made = [level for levels in passes for level in levels]
    assert made == list(range(grid.block_levels, len(grid.level_shapes)))
    assert all(grid.chunk << len(levels) <= max(grid.block, 2 * grid.chunk) for levels in passes)


@given(grid=grids(), data=st.data())
def test_blocks_left_are_those_that_are_not_done(grid: Grid, data: st.DataObject) -> None:
    every = list(grid.indices())
    done = frozenset(data.draw(st.sets(st.sampled_from(every))))
    left = BlocksLeft(grid, done)
    assert list(left) == [index for index in every if index not in done]
    assert (len(left), left.pixels) == (len(list(left)), sum(prod(grid.block_box(index).shape) for index in left))
    assert [index in left for index in every] == [index not in done for index in every]
    assert grid.blocks not in left
