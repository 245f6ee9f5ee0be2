from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.importing.small_networks import SelfAttention, SqueezeExcite, conv, evaluated
from wsipipe.model.global_operation import GlobalOperation
from wsipipe.model.pt2_file import export_pt2, load_pt2
from wsipipe.model.pt2_reach import analysis_copy, global_operation


def nan_in_the_middle() -> np.ndarray:
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 16), np.float32)
    image[:, :, 30:34] = np.nan
    return image


def found_in(network: nn.Module, path: Path) -> GlobalOperation | None:
    """What is found in the file that ``network`` is written to."""
    export_pt2(evaluated(network), path, channels=3, side=16, step=8)
    return global_operation(load_pt2(path).graph, [nan_in_the_middle()])


EVERYWHERE = {
    "AdaptiveAvgPool2d 1.weigh.0 in SqueezeExcite 1 (aten.adaptive_avg_pool2d.default, ": SqueezeExcite,
    "InstanceNorm2d 1 (aten.instance_norm.default, ": lambda: nn.InstanceNorm2d(4),
    "GroupNorm 1 (aten.group_norm.default, ": lambda: nn.GroupNorm(2, 4),
    "attention of MultiheadAttention 1.attention in SelfAttention 1 (aten.softmax.int, ": SelfAttention,
}


@pytest.mark.parametrize("words", EVERYWHERE)
def test_the_operation_that_looks_at_the_whole_image_is_named_by_its_modules(words: str, tmp_path: Path) -> None:
    make: Callable[[], nn.Module] = EVERYWHERE[words]
    found = found_in(nn.Sequential(conv(3, 4, 3), make(), conv(4, 2, 1)), tmp_path / "network.pt2")
    assert str(found).startswith(words)


def test_a_network_of_finite_reach_has_no_such_operation(tmp_path: Path) -> None:
    assert found_in(nn.Sequential(conv(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)), tmp_path / "network.pt2") is None


class Labels(nn.Module):
    """The class of the largest value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.argmax(1, keepdim=True)


def test_classes_become_numbers_that_nan_passes_through(tmp_path: Path) -> None:
    network = nn.Sequential(conv(3, 4, 3), nn.ReLU(), Labels())
    export_pt2(evaluated(network), path := tmp_path / "network.pt2", channels=3, side=16, step=8)
    opaque, image = analysis_copy(load_pt2(path).graph), torch.from_numpy(nan_in_the_middle())
    assert not load_pt2(path)(image).isnan().any()
    rows = opaque(image).isnan().any(dim=3).ravel().nonzero().ravel()
    assert rows.tolist() == list(range(29, 35))
