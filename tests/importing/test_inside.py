"""Files of networks whose operations lose NaN, or look at the whole image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.importing.small_networks import PaddedUNet, SqueezeExcite, conv, evaluated
from tests.soak import in_soak
from wsipipe.errors import NoFiniteReachError
from wsipipe.importing.import_model import NetworkRequest, measure_network, named_classes
from wsipipe.model.file_kind import FileKind
from wsipipe.model.network import LABELS, ForeignNetwork
from wsipipe.model.onnx_export import export_onnx
from wsipipe.model.pt2_file import export_pt2
from wsipipe.model.spec import ModelSpec

EXPORT: dict[FileKind, Callable[..., None]] = {FileKind.PT2: export_pt2, FileKind.ONNX: export_onnx}
KINDS = [FileKind.PT2, *in_soak(FileKind.ONNX)]  # writing ONNX takes seconds


class Labels(nn.Module):
    """The number of the class of the largest value, (n, 1, y, x)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).argmax(1, keepdim=True)


def measured(network: nn.Module, kind: FileKind, folder: Path, step: int) -> ForeignNetwork:
    """What is measured of the file that ``network`` is exported to."""
    torch.manual_seed(0)
    EXPORT[kind](evaluated(network), path := folder / f"network.{kind}", channels=3, side=32, step=step)
    spec = ModelSpec(named_classes(["background", "tumour"]), mean=(0.5,), std=(0.25,))
    return measure_network(path, kind, spec, NetworkRequest())


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_gives_labels_is_measured_by_the_values_they_are_chosen_from(
    kind: FileKind, tmp_path: Path
) -> None:
    found = measured(Labels(PaddedUNet(1)), kind, tmp_path, step=2)
    assert (found.head.kind, found.receptive.stride, found.receptive.halo) == (LABELS, 2, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_what_looks_at_the_whole_image_is_refused_by_name(kind: FileKind, tmp_path: Path) -> None:
    network = nn.Sequential(conv(3, 4, 3), nn.ReLU(), SqueezeExcite(), conv(4, 2, 1))
    with pytest.raises(NoFiniteReachError, match=r"without seams: AdaptiveAvgPool2d 2.weigh.0 in SqueezeExcite 2 \("):
        measured(network, kind, tmp_path, step=1)


def test_aligned_corners_are_refused_though_nothing_looks_at_the_whole_image(tmp_path: Path) -> None:
    network = PaddedUNet(1, up="bilinear", align_corners=True)
    with pytest.raises(NoFiniteReachError, match=r"align_corners=True: set it to False, and train again; or add"):
        measured(network, FileKind.PT2, tmp_path, step=2)
