"""The network in OpenVINO computes the same as in torch."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from tests.soak import each_value_once
from wsipipe.errors import GeometryError
from wsipipe.inference.engines.openvino import OpenVinoUNet
from wsipipe.model.unet import UNet


@pytest.mark.parametrize(
    ("sizes", "ends"), each_value_once([*product((0, 1, 2, 4), (1, 2, 3))], [(3, 2), (1, 1), (4, 5), (3, 1)]), ids=str
)
@torch.inference_mode()
def test_logits_are_those_of_torch_for_tiles_of_any_size(sizes: tuple[int, int], ends: tuple[int, int]) -> None:
    """Of depth and number of convolutions, and of channels and classes."""
    (depth, convs), (channels, classes) = sizes, ends
    torch.manual_seed(0)
    network = UNet(channels, classes, base_channels=4, depth=depth, convs_per_level=convs).eval()
    receptive = network.receptive
    compiled = OpenVinoUNet(network, threads=1)
    for batch, rows, cols in ((1, 3, 3), (3, 2, 5), (1, 1, 4)):
        sides = [receptive.margin + receptive.stride * count for count in (rows, cols)]
        x = torch.rand(batch, channels, *sides).to(memory_format=torch.channels_last)
        expected = network(x)
        torch.testing.assert_close(compiled(x), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_a_side_that_the_network_cannot_pool_is_refused() -> None:
    compiled = OpenVinoUNet(UNet(base_channels=4, depth=2).eval(), threads=1)
    with pytest.raises(GeometryError, match="nearest"):
        compiled(torch.zeros(1, 3, 65, 64))


def test_it_keeps_a_copy_of_the_weights() -> None:
    network = UNet(base_channels=4, depth=1).eval()
    compiled, x = OpenVinoUNet(network, threads=1), torch.rand(1, 3, 40, 40)
    before = compiled(x).clone()
    with torch.no_grad():
        for weights in network.parameters():
            weights.zero_()
    torch.testing.assert_close(compiled(x), before, rtol=0, atol=0)
    assert before.any()
