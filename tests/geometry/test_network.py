from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsipipe.errors import GeometryError, UsageError
from wsipipe.geometry.network import UNetSizes, check_multiple, round_up
from wsipipe.model.unet import UNet

PAPER = UNetSizes(depth=4, convs=2)
NETWORKS = st.builds(UNetSizes, depth=st.integers(0, 6), convs=st.integers(1, 4))


def walk(sizes: UNetSizes, side: int) -> int | None:
    """The output side for ``side`` px, counted layer by layer; None if a pooling or a crop is impossible."""
    skips = []
    for level in range(sizes.depth + 1):
        side -= 2 * sizes.convs
        if side < 1:
            return None
        if level < sizes.depth:
            if side % 2:
                return None
            skips.append(side)
            side //= 2
    while skips:
        side *= 2
        assert side <= skips.pop()
        side -= 2 * sizes.convs
        if side < 1:
            return None
    return side


@pytest.mark.parametrize(("depth", "convs"), [(0, 1), (1, 1), (1, 3), (2, 1), (2, 2), (3, 1)])
def test_the_step_by_step_count_is_what_the_real_network_does(depth: int, convs: int) -> None:
    with torch.device("meta"):
        network = UNet(1, 1, base_channels=1, depth=depth, convs_per_level=convs).eval()
    sizes = UNetSizes(depth, convs)
    for side in range(1, 2 * sizes.halo + 3 * sizes.stride):
        try:
            out: int | None = network(torch.empty(1, 1, side, side, device="meta")).shape[-1]
        except GeometryError:
            out = None
        assert out == walk(sizes, side), side


@given(sizes=NETWORKS, extra=st.integers(-300, 3000))
def test_legal_sides_are_those_that_a_step_by_step_count_gets_through(sizes: UNetSizes, extra: int) -> None:
    side = max(2 * sizes.halo + extra, 0)
    out = walk(sizes, side)
    assert sizes.is_legal(side) == (out is not None)
    if out is None:
        with pytest.raises(GeometryError, match=rf"input side {side} px is not legal"):
            sizes.output_side(side)
    else:
        assert sizes.output_side(side) == out
        assert sizes.halo == (side - out) / 2


@given(sizes=NETWORKS)
def test_margin_is_the_smallest_even_one_legal_for_every_core(sizes: UNetSizes) -> None:
    cores = [sizes.stride * i for i in (*range(1, 9), 100)]
    even = range(2 * sizes.halo, 2 * sizes.halo + 4 * sizes.stride + 2, 2)
    smallest = next(m for m in even if all(walk(sizes, core + m) is not None for core in cores))
    assert sizes.receptive.margin == smallest
    for core in cores:
        assert walk(sizes, core + sizes.receptive.margin) == core + 2 * sizes.receptive.crop
    assert sizes.receptive.margin == 2 * (sizes.halo + sizes.receptive.crop)
    assert sizes.receptive.crop >= 0


@given(sizes=NETWORKS, extra=st.integers(-500, 3000))
def test_nearest_legal_names_the_true_neighbours(sizes: UNetSizes, extra: int) -> None:
    side = max(2 * sizes.halo + extra, 0)
    below = (s for s in range(side, 0, -1) if walk(sizes, s) is not None)
    above = (s for s in range(side + 1, side + 2 * sizes.halo + 600) if walk(sizes, s) is not None)
    neighbours = [s for s in (next(below, None), next(above, None)) if s is not None]
    assert sizes.nearest_legal(side) == neighbours


def test_the_numbers_are_the_papers() -> None:
    assert PAPER.output_side(572) == 388
    assert (PAPER.halo, PAPER.receptive.margin, PAPER.receptive.crop, PAPER.stride) == (92, 188, 2, 16)
    assert {side % 16 for side in range(185, 2000) if PAPER.is_legal(side)} == {12}
    assert PAPER.output_side(1024 + PAPER.receptive.margin) - 2 * PAPER.receptive.crop == 1024


def test_output_side_names_value_network_and_nearest() -> None:
    with pytest.raises(GeometryError, match=r"input side 570 px .* 4 poolings with 2 .*nearest: 556 and 572$"):
        PAPER.output_side(570)
    with pytest.raises(GeometryError, match=r"input side 7 px .*nearest: 188$"):
        PAPER.output_side(7)


@pytest.mark.parametrize(
    ("core", "nearest"),
    [(500, "496 and 512"), (17, "16 and 32"), (15, "16"), (1, "16"), (0, "16"), (-16, "16"), (-500, "16")],
)
def test_check_core_names_value_step_nearest_and_option(core: int, nearest: str) -> None:
    with pytest.raises(GeometryError) as refused:
        PAPER.receptive.check_core(core)
    message = str(refused.value)
    assert message.startswith(f"tile core {core} px is not a multiple of 16, which is the stride of the network")
    assert message.endswith(f"nearest: {nearest} (--tile)")


@given(sizes=NETWORKS, times=st.integers(1, 1000))
def test_check_core_gives_back_what_is_on_the_grid(sizes: UNetSizes, times: int) -> None:
    assert sizes.receptive.check_core(sizes.stride * times) == sizes.stride * times


@given(size=st.integers(-1000, 10**6), step=st.integers(1, 5000))
def test_check_multiple_names_the_positive_multiples_next_to_the_size(size: int, step: int) -> None:
    multiples = range(step, max(size, 0) + 2 * step, step)
    if size in multiples:
        assert check_multiple("block", size, step, "somebody needs", "--block") == size
        return
    below, above = [m for m in multiples if m < size], [m for m in multiples if m > size]
    with pytest.raises(GeometryError) as refused:
        check_multiple("block", size, step, "somebody needs", "--block")
    found = re.search(r"nearest: (.*) \(--block\)", str(refused.value))
    assert found is not None
    assert [int(n) for n in found[1].split(" and ")] == [*below[-1:], above[0]]


@given(size=st.integers(0, 10**6), step=st.integers(1, 5000))
def test_round_up_is_the_smallest_multiple_that_is_not_less(size: int, step: int) -> None:
    assert size <= round_up(size, step) < size + step
    assert round_up(size, step) % step == 0


@pytest.mark.parametrize(("depth", "convs"), [(-1, 2), (2, 0), (2, -1)])
def test_an_impossible_network_is_refused_as_a_usage_error(depth: int, convs: int) -> None:
    with pytest.raises(UsageError, match=f"depth {depth} with {convs} convolutions"):
        UNetSizes(depth, convs)
