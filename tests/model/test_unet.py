from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.soak import examples
from wsipipe.errors import GeometryError
from wsipipe.model.unet import UNet


def test_the_papers_network_has_the_papers_size() -> None:
    # 3x3 convolutions, (in * 9 + 1) * out, two per level
    down = sum((a * 9 + 1) * b + (b * 9 + 1) * b for a, b in [(1, 64), (64, 128), (128, 256), (256, 512), (512, 1024)])
    # a 2x2 transposed convolution, (in * 4 + 1 / out) * out, and two 3x3 ones, the first of which sees the skip as well
    up = sum(2 * w * w * 4 + w + (2 * w * 9 + 1) * w + (w * 9 + 1) * w for w in (512, 256, 128, 64))
    head = (64 + 1) * 2
    assert down + up + head == 31_030_658
    with torch.device("meta"):
        network = UNet(1, 2, base_channels=64, depth=4, convs_per_level=2).eval()
    assert sum(p.numel() for p in network.parameters()) == 31_030_658
    assert network(torch.empty(1, 1, 572, 572, device="meta")).shape == (1, 2, 388, 388)


def test_the_papers_network_has_the_shapes_of_figure_1() -> None:
    with torch.device("meta"):
        network = UNet(1, 2, base_channels=64, depth=4, convs_per_level=2).eval()
    seen: list[tuple[int, int]] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda _m, _i, out: seen.append((out.shape[1], out.shape[2])))
    network(torch.empty(1, 1, 572, 572, device="meta"))
    assert seen == [
        *[(64, 570), (64, 568), (128, 282), (128, 280), (256, 138), (256, 136), (512, 66), (512, 64)],
        *[(1024, 30), (1024, 28), (512, 56), (512, 54), (512, 52), (256, 104), (256, 102), (256, 100)],
        *[(128, 200), (128, 198), (128, 196), (64, 392), (64, 390), (64, 388), (2, 388)],
    ]


def by_scipy(network: UNet, image: np.ndarray) -> np.ndarray:
    """Logits (class, y, x), float64, of ``image`` (channel, y, x), from the weights alone and layer by layer."""
    from scipy.signal import correlate  # a second, for this test alone

    weights = {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}
    depth, convs = network.sizes.depth, network.sizes.convs

    def convolve(x: np.ndarray, name: str) -> np.ndarray:
        kernels, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return np.stack(
            [correlate(x, k, mode="valid", method="direct")[0] + b for k, b in zip(kernels, bias, strict=True)]
        )

    def level(x: np.ndarray, name: str) -> np.ndarray:
        for i in range(convs):
            x = np.maximum(convolve(x, f"{name}.{2 * i}"), 0)
        return x

    def upsample(x: np.ndarray, name: str) -> np.ndarray:
        kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]  # (in, out, 2, 2)
        out = np.zeros((kernel.shape[1], 2 * x.shape[1], 2 * x.shape[2]))
        for dy in (0, 1):
            for dx in (0, 1):
                out[:, dy::2, dx::2] = np.einsum("iyx,io->oyx", x, kernel[:, :, dy, dx]) + bias[:, None, None]
        return out

    skips, x = [], image.astype(np.float64)
    for i in range(depth + 1):
        x = level(x, f"down.{i}")
        if i < depth:
            skips.append(x)
            x = x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2).max((2, 4))
    for i in reversed(range(depth)):
        x, skip = upsample(x, f"up.{i}"), skips.pop()
        top, left = (skip.shape[1] - x.shape[1]) // 2, (skip.shape[2] - x.shape[2]) // 2
        x = np.concatenate([skip[:, top : top + x.shape[1], left : left + x.shape[2]], x])
        x = level(x, f"merge.{i}")
    return convolve(x, "head")


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ((1, 2, 3, 0, 2), (9, 11)),
        ((3, 1, 2, 1, 1), (14, 12)),
        ((2, 3, 3, 2, 1), (26, 34)),
        ((1, 2, 2, 2, 2), (44, 48)),
        ((3, 2, 2, 3, 1), (62, 54)),
    ],
)
def test_forward_is_what_scipy_makes_of_the_same_weights(sizes: tuple[int, ...], shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    network = UNet(*sizes).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.5, 0.5)
        image = torch.randn(2, sizes[0], *shape)
        logits = network(image).numpy()
    for one, wanted in zip(logits, image.numpy(), strict=True):
        oracle = by_scipy(network, wanted)
        assert one.shape == oracle.shape == (sizes[1], *(network.sizes.output_side(side) for side in shape))
        np.testing.assert_allclose(one, oracle, rtol=1e-4, atol=1e-4 * np.abs(oracle).max())


def test_an_illegal_side_is_refused_with_the_nearest_legal_ones() -> None:
    with torch.device("meta"):
        network = UNet(1, 2, base_channels=1, depth=4, convs_per_level=2)
    for shape in [(570, 572), (572, 570)]:
        with pytest.raises(GeometryError, match=r"input side 570 px .*nearest: 556 and 572"):
            network(torch.empty(1, 1, *shape, device="meta"))


def test_dropout_is_at_the_end_of_the_contracting_path_only_and_off_when_evaluating() -> None:
    network = UNet(1, 2, base_channels=2, depth=2, convs_per_level=1)
    order: list[nn.Module] = []
    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, _i, _o: order.append(m))
    image = torch.randn(1, 1, 62, 62)
    drawn = [network(image) for _ in range(2)]
    assert not torch.equal(*drawn)  # training
    dropouts = [m for m in network.modules() if isinstance(m, nn.Dropout)]
    assert len(dropouts) == 1
    at = order.index(dropouts[0])
    deepest = network.down[-1]
    assert order[at - 1] is list(deepest.children())[-1]
    assert order[at + 1] is network.up[-1]
    network.eval()
    assert torch.equal(network(image), network(image))


def test_weights_are_drawn_as_he_says_and_biases_are_zero() -> None:
    torch.manual_seed(0)
    network = UNet(3, 2, base_channels=64, depth=2, convs_per_level=2)
    looked_at = 0
    for module in network.modules():
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            continue
        assert module.bias is not None
        assert not module.bias.any()
        # how many products are summed into one output value
        incoming = module.in_channels * (1 if isinstance(module, nn.ConvTranspose2d) else module.kernel_size[0] ** 2)
        n, std = module.weight.numel(), (2 / incoming) ** 0.5
        assert module.weight.std().item() == pytest.approx(std, rel=5 / (2 * n) ** 0.5)  # five standard errors
        assert abs(module.weight.mean().item()) < 5 * std / n**0.5
        looked_at += 1
    assert looked_at == 2 * 3 + 2 + 2 * 2 + 1


@settings(max_examples=examples(15))
@given(depth=st.integers(0, 3), convs=st.integers(1, 2), dy=st.integers(0, 2), dx=st.integers(0, 2))
def test_shifts_by_the_pooling_grid_commute_with_the_network_to_the_last_bit(
    depth: int, convs: int, dy: int, dx: int
) -> None:
    torch.manual_seed(depth)
    network = whole_numbers(UNet(1, 2, base_channels=2, depth=depth, convs_per_level=convs).eval().double())
    stride, tile = network.receptive.stride, network.receptive.margin + 4 * network.receptive.stride
    image = torch.randint(0, 4, (1, 1, tile + 2 * stride, tile + 2 * stride)).double()
    y, x = dy * stride, dx * stride
    with torch.no_grad():
        whole, part = network(image), network(image[..., y : y + tile, x : x + tile])
    assert 0 < whole.abs().max() < 2**53  # sums of whole numbers this small are exact in any order
    assert torch.equal(part, whole[..., y : y + part.shape[-2], x : x + part.shape[-1]])


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_shifts_off_the_pooling_grid_do_not(depth: int) -> None:
    torch.manual_seed(depth)
    network = UNet(1, 2, base_channels=4, depth=depth, convs_per_level=1).eval()
    tile = network.receptive.margin + 4 * network.receptive.stride
    image = torch.randn(1, 1, tile + network.receptive.stride, tile + network.receptive.stride)
    with torch.no_grad():
        whole = network(image)
        for shift in range(1, network.receptive.stride):
            part = network(image[..., shift : shift + tile, :tile])
            there = whole[..., shift : shift + part.shape[-2], : part.shape[-1]]
            assert (part - there).abs().mean() > 1e-3


def whole_numbers(network: UNet) -> UNet:
    """The network with weights of -1, 0 and 1."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randint(-1, 2, parameter.shape))
    return network


def test_architecture_makes_the_same_network_again() -> None:
    network = UNet(2, 5, 3, 1, 3)
    again = UNet(**network.architecture)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert again.architecture == network.architecture
