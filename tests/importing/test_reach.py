from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product
from math import lcm

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.importing.small_networks import (
    NormOverSpace,
    OnlySide,
    PaddedUNet,
    Residual,
    SelfAttention,
    SqueezeExcite,
    Strided,
    WithoutNaN,
    computing,
    conv,
)
from tests.soak import examples, in_soak
from wsipipe.errors import ModelError, NoFiniteReachError
from wsipipe.geometry.network import Receptive
from wsipipe.importing.legal_sides import SidesHint
from wsipipe.importing.reach import measure_receptive, shift_test
from wsipipe.model.unet import UNet

SIZES = list(product(range(5), range(1, 4)))  # depth, and convolutions per level
IN_EACH_RUN = [(0, 1), (1, 2), (2, 1), (3, 2)]


@pytest.mark.parametrize(
    "size", [*IN_EACH_RUN, *in_soak(*(size for size in SIZES if size not in IN_EACH_RUN))], ids=str
)
def test_a_unet_of_valid_convolutions_has_the_sizes_that_follow_from_its_depth(size: tuple[int, int]) -> None:
    depth, convs = size
    torch.manual_seed(0)
    network = UNet(1, 2, base_channels=2, depth=depth, convs_per_level=convs)
    measured = measure_receptive(computing(network), 1)
    assert measured == network.receptive
    assert shift_test(computing(network), 1, measured) < 1e-5


BILINEAR = nn.Upsample(scale_factor=12, mode="bilinear")
FINITE: dict[str, tuple[Callable[[], nn.Module], Receptive]] = {
    # as far as the same U-Net of valid convolutions, and 92 = 2 * (3 * 2**4 - 2)
    "padded U-Net": (lambda: PaddedUNet(4), Receptive(16, 92, 192, 96)),
    # half a pixel more at each level, on its own grid: 1 + 2 + 4
    "bilinear upsampling": (lambda: PaddedUNet(3, up="bilinear"), Receptive(8, 44 + 7, 112, 56)),
    "reflected borders": (lambda: PaddedUNet(2, padding_mode="reflect"), Receptive(4, 20, 44, 22)),
    "any side": (lambda: PaddedUNet(2, fit_to_skips=True), Receptive(4, 20, 44, 22)),
    "residual": (lambda: Residual(conv(3, 3, 3), nn.ReLU(), conv(3, 3, 3)), Receptive(1, 2, 4, 2)),
    "far apart": (lambda: nn.Conv2d(3, 2, 3, dilation=470, padding=470), Receptive(1, 470, 940, 470)),
    "dilated": (lambda: nn.Sequential(conv(3, 4, 3, dilation=8), nn.ReLU(), conv(4, 2, 5)), Receptive(1, 10, 20, 10)),
    "not square": (lambda: nn.Conv2d(3, 2, (7, 3), padding=(3, 1)), Receptive(1, 3, 6, 3)),
    # a px of the output for 4 x 4: from 3 + 2 * 2 before to 3 + 2 * 2 after their first
    "a quarter": (
        lambda: nn.Sequential(conv(3, 4, 7, stride=2), nn.ReLU(), conv(4, 2, 5, stride=2)),
        Receptive(4, 7, 16, 8, 4),
    ),
    # each px of 4 x 4 sees all of its own cell and of those beside it
    "pixel shuffle": (
        lambda: nn.Sequential(nn.PixelUnshuffle(4), conv(48, 32, 3), nn.PixelShuffle(4)),
        Receptive(4, 4, 8, 4),
    ),
    # the last of 4 px sees 1 + 2 px before the first
    "two remainders": (Strided, Receptive(4, 3, 8, 4)),
    # cells of 12 px, of which bilinear upsampling sees two: from the middle of one to that of the next is a core
    "stride 12": (lambda: nn.Sequential(nn.Conv2d(3, 4, 12, stride=12), BILINEAR), Receptive(12, 6, 12, 6)),
    "one side": (lambda: OnlySide(PaddedUNet(2), 128), Receptive(84, 20, 44, 22, 1, 84)),
}


@pytest.mark.parametrize("name", FINITE)
def test_each_kind_of_network_looks_as_far_as_its_layers_do(name: str) -> None:
    torch.manual_seed(0)
    make, expected = FINITE[name]
    compute = computing(make())
    assert measure_receptive(compute, 3) == expected
    assert shift_test(compute, 3, expected) < 1e-5


def test_a_side_that_the_file_declares_is_not_searched_for() -> None:
    sides = []

    def compute(images: np.ndarray) -> np.ndarray:
        sides.append(images.shape[2:])
        return network(images)

    network = computing(OnlySide(PaddedUNet(1), 96))
    measured = measure_receptive(compute, 3, sides=SidesHint(fixed=96))
    assert (measured.largest_core, set(sides)) == (80, {(96, 96)})


class RunningMean(nn.Module):
    """The mean of the rows so far, which looks up without end and not down."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(2) / torch.arange(1, x.shape[2] + 1)[:, None]


EVERYWHERE = {
    "squeeze and excitation": lambda: nn.Sequential(conv(3, 4, 3), SqueezeExcite(), conv(4, 2, 1)),
    "instance normalisation": lambda: PaddedUNet(1, norm=nn.InstanceNorm2d),
    "group normalisation": lambda: PaddedUNet(1, norm=lambda channels: nn.GroupNorm(2, channels)),
    "layer normalisation over space": lambda: nn.Sequential(conv(3, 2, 3), NormOverSpace()),
    "everything above": RunningMean,
    "self-attention": lambda: nn.Sequential(conv(3, 4, 3, stride=8), SelfAttention(), nn.Upsample(scale_factor=8)),
}


@pytest.mark.parametrize("name", EVERYWHERE)
def test_what_looks_at_the_whole_image_has_no_finite_reach(name: str) -> None:
    with pytest.raises(NoFiniteReachError, match="no rows of its output stay as they are"):
        measure_receptive(computing(EVERYWHERE[name]()), 3)


def test_bilinear_upsampling_with_aligned_corners_commutes_with_no_shift() -> None:
    torch.manual_seed(0)
    compute = computing(PaddedUNet(2, up="bilinear", align_corners=True))
    with pytest.raises(NoFiniteReachError, match="changes with where a tile begins along the rows, whatever the step"):
        measure_receptive(compute, 3)
    with pytest.raises(NoFiniteReachError, match=r"tiles of the network disagree: the same 32 px square"):
        shift_test(compute, 3, Receptive(4, 40, 96, 48))


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d, lambda channels: nn.GroupNorm(2, channels)])
def test_statistics_over_the_image_fail_the_shift_test(norm: Callable[[int], nn.Module]) -> None:
    with pytest.raises(NoFiniteReachError, match="disagree"):
        shift_test(computing(PaddedUNet(1, norm=norm)), 3, Receptive(2, 40, 96, 48))


def test_a_margin_one_stride_too_small_fails_the_shift_test() -> None:
    torch.manual_seed(0)
    compute = computing(PaddedUNet(2))
    known = measure_receptive(compute, 3)
    for less in (known.stride, known.margin // 2):
        margin = known.margin - 2 * less
        with pytest.raises(NoFiniteReachError, match="disagree"):
            shift_test(compute, 3, Receptive(known.stride, known.halo, margin, margin // 2))


def test_a_network_that_swallows_nan_is_measured_all_the_same() -> None:
    torch.manual_seed(0)
    layers = [conv(3, 4, 3), WithoutNaN(), nn.MaxPool2d(2), conv(4, 4, 3), WithoutNaN(), nn.Upsample(scale_factor=2)]
    swallowing, opaque = (nn.Sequential(*layers, conv(4, 2, 3)) for layers in (layers, [*layers[:1], *layers[2:]]))
    assert not np.isnan(computing(nn.Sequential(*layers))(np.full((1, 3, 8, 8), np.nan, np.float32))).any()
    measured = measure_receptive(computing(swallowing), 3)
    assert measured == measure_receptive(computing(opaque), 3)
    assert measured == measure_receptive(computing(swallowing), 3, analysis=computing(opaque))


REFUSED = {
    "a classifier": (
        lambda: nn.Sequential(conv(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        r"output for one image of 32 wide x 32 high has the shape \(1, 4\), which is no map of classes",
    ),
    "other channels": (
        lambda: conv(1, 2, 3),
        r"takes no square tile of 3 channels .*expected input.* to have 1 channels",
    ),
    "an output of one size": (
        lambda: nn.Sequential(conv(3, 2, 3), nn.AdaptiveAvgPool2d(64)),
        "output is 64 px high for a tile of 32 px, and 64 px for 1472 px; it has to grow",
    ),
    "dropout": (lambda: nn.Sequential(conv(3, 2, 3), StillTraining()), r"other values each time .*network\.eval\(\)"),
    "half a pixel": (lambda: nn.Conv2d(3, 2, 2), "no tile of the network has a core in its middle.* cuts 1 rows"),
}


class StillTraining(nn.Dropout):
    """Dropout that evaluation does not switch off."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_map_of_the_image_is_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ModelError, match=message):
        measure_receptive(computing(make()), 3)


@st.composite
def layers_of_any_kind(draw: st.DrawFn) -> list[nn.Module]:
    """Convolutions, poolings and upsamplings of three channels, in any order."""
    layers: list[nn.Module] = []
    factors: list[int] = []  # of poolings whose upsampling is still to come
    for kind in draw(st.lists(st.sampled_from(["convolution", "pooling", "stride", "up"]), min_size=1, max_size=5)):
        factor, kernel = draw(st.sampled_from([2, 2, 3])), draw(st.sampled_from([1, 3, 5]))
        if kind == "convolution":
            layers += [conv(3, 3, kernel, dilation=draw(st.integers(1, 3))), nn.LeakyReLU()]
        elif kind == "up" and factors:
            # bilinear upsampling by 3 multiplies by 0 in its middle rows, which NaN survives
            mode = draw(st.sampled_from(["nearest", "bilinear"] if factors[-1] == 2 else ["nearest"]))
            layers.append(nn.Upsample(scale_factor=factors.pop(), mode=mode))
        elif len(factors) < 3 and kind != "up":
            factors.append(factor)
            layers.append(conv(3, 3, kernel, stride=factor) if kind == "stride" else nn.MaxPool2d(factor))
    return layers


def seen_by_brute_force(layers: list[nn.Module], stride: int, scale: int) -> int:
    """The farthest px that an output depends on: where an impulse is not 0 in sums without a negative weight."""
    linear: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d):
            linear.append(nn.AvgPool2d(layer.kernel_size, layer.stride))
        elif isinstance(layer, nn.Conv2d):
            linear.append(copy.deepcopy(layer).double())
            for name, weights in linear[-1].named_parameters():
                nn.init.constant_(weights, float(name == "weight"))
        elif isinstance(layer, nn.Upsample):
            linear.append(layer)
    height, width = 20 * 54, 54  # multiples of every stride
    rows = height // 2 // stride * stride + np.arange(stride)
    impulses = torch.zeros(stride, 3, height, width, dtype=torch.float64)
    impulses[np.arange(stride), :, rows] = 1
    with torch.inference_mode():
        outputs = nn.Sequential(*linear)(impulses)
    which, hit = np.nonzero((outputs != 0).any(3).any(1).numpy())
    return int(max((hit * scale + scale - 1 - rows[which]).max(), (rows[which] - hit * scale).max()))


@settings(max_examples=examples(10))
@example(layers=[nn.MaxPool2d(3), nn.MaxPool2d(3), nn.MaxPool2d(3)], seed=0)
@given(layers=layers_of_any_kind(), seed=st.integers(0, 9))
def test_the_measured_reach_is_that_of_brute_force(layers: list[nn.Module], seed: int) -> None:
    torch.manual_seed(seed)
    scale = stride = 1
    for layer in layers:
        if isinstance(layer, nn.Upsample):
            scale //= int(layer.scale_factor)
        elif isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            scale *= layer.stride if isinstance(layer.stride, int) else layer.stride[0]
            stride = lcm(stride, scale)
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    compute = computing(nn.Sequential(*layers))
    measured = measure_receptive(compute, 3)
    assert (measured.stride, measured.scale) == (stride, scale)
    assert measured.halo == max(seen_by_brute_force(layers, stride, scale) - stride + 1, 0)
    assert shift_test(compute, 3, measured) < 1e-5
