from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wsipipe.model.footprint import activation_bytes
from wsipipe.model.unet import UNet
from wsipipe.model.unet_file import UNetInfo


class Live(TorchDispatchMode):
    """Counts the bytes of the storages that are alive after each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.holders: dict[int, int] = {}
        self.live = self.peak = self.largest = 0

    def hold(self, tensor: torch.Tensor) -> None:
        """Count ``tensor``'s storage as alive until its last view is gone."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.holders:
            self.holders[key] = 0
            self.live += size
            self.peak, self.largest = max(self.peak, self.live), max(self.largest, tensor.numel())
        self.holders[key] += 1
        weakref.finalize(tensor, self.drop, key, size)

    def drop(self, key: int, size: int) -> None:
        self.holders[key] -= 1
        if not self.holders[key]:
            del self.holders[key]
            self.live -= size

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = operation(*args, **(kwargs or {}))
        known = {id(argument) for argument in tree_leaves(args)}
        for output in tree_leaves(outputs):
            if isinstance(output, torch.Tensor) and id(output) not in known:  # else it was done in place
                self.hold(output)
        return outputs


def measured(network: UNet, shape: tuple[int, ...]) -> int:
    """Peak bytes of one forward pass, its input included."""
    with torch.inference_mode(), Live() as live:
        image = torch.empty(shape, device="meta")
        network(image)
    return live.peak


def network_of(*sizes: int) -> UNet:
    with torch.device("meta"):
        return UNet(*sizes).eval()


SIZES = [
    (3, 2, 4, 2, 1),
    (1, 2, 64, 4, 2),
    (3, 1, 2, 1, 1),
    (3, 8, 2, 2, 1),
    (1, 2, 4, 0, 1),
    (16, 2, 2, 0, 3),
    (3, 2, 8, 3, 2),
]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_pass_never_holds_more_than_projected(sizes: tuple[int, ...], batch: int) -> None:
    network = network_of(*sizes)
    for cores in (1, 2, 7, 40):
        side = cores * network.receptive.stride + network.receptive.margin
        most = measured(network, (batch, sizes[0], side, side))
        projected = activation_bytes(network.architecture, side, batch)
        assert most <= projected <= 2 * most


@pytest.mark.parametrize("core", [512, 1024, 2048])
@pytest.mark.parametrize("sizes", [(3, 2, 64, 4, 2), (1, 2, 64, 4, 2), (3, 2, 32, 4, 2), (3, 3, 16, 4, 2)], ids=str)
def test_at_usual_sizes_a_pass_holds_exactly_what_was_projected(sizes: tuple[int, ...], core: int) -> None:
    network = network_of(*sizes)
    side = core + network.receptive.margin
    assert activation_bytes(network.architecture, side, 1) == measured(network, (1, sizes[0], side, side))


def test_the_papers_network_by_hand() -> None:
    # At the peak, the skip of level 0, the tensor up from level 1, both concatenated, and the image are alive.
    architecture = network_of(1, 2, 64, 4, 2).architecture
    floats = 1 * 1212**2 + 64 * 1208**2 + 64 * 1032**2 + 128 * 1032**2
    assert activation_bytes(architecture, 1212, 1) == 4 * floats


def test_twice_the_batch_takes_twice_the_memory() -> None:
    architecture = network_of(3, 2, 8, 2, 2).architecture
    assert activation_bytes(architecture, 84, 6) == 6 * activation_bytes(architecture, 84, 1)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_no_tensor_has_more_values_than_said(sizes: tuple[int, ...]) -> None:
    network = network_of(*sizes)
    side = 2048 + network.receptive.margin
    with torch.inference_mode(), Live() as live:
        network(torch.empty((2, sizes[0], side, side), device="meta"))
    said = UNetInfo(network.architecture).values_per_pixel * 2 * side * side
    assert live.largest <= said <= 1.3 * live.largest
