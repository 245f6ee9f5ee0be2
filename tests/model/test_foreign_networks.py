"""Real networks of other people, in each format: every label as in PyTorch, at sizes that they were not exported at."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.networks import (
    CHANNELS,
    NETWORKS,
    by_onnxruntime,
    by_openvino,
    declare_torchvision,
    labels_that_differ,
    made,
    outputs,
)
from wsipipe.model.file_kind import FileKind, kind_of
from wsipipe.model.onnx_export import export_onnx
from wsipipe.model.onnx_file import ports as onnx_ports
from wsipipe.model.pt2_file import export_pt2, load_pt2
from wsipipe.model.pt2_file import ports as pt2_ports
from wsipipe.model.torchscript_file import convert_torchscript, load_torchscript

pytestmark = pytest.mark.soak
PACKAGE_OF = {"smp": "segmentation_models_pytorch", "monai": "monai", "hover": "torch"}


@pytest.mark.parametrize("name", NETWORKS)
def test_labels_are_those_of_torch_in_every_format(tmp_path: Path, name: str) -> None:
    declare_torchvision()
    for package in ("onnx", "onnxscript", "onnxruntime", "openvino", PACKAGE_OF[name.partition("-")[0]]):
        pytest.importorskip(package)
    network, step, side = made(name), NETWORKS[name].step, NETWORKS[name].side
    images = torch.rand(2, CHANNELS, side + 2 * step, side + 3 * step, generator=torch.Generator().manual_seed(2))
    expected = outputs(network, images)

    onnx, pt2 = tmp_path / "net.onnx", tmp_path / "net.pt2"
    export_onnx(network, onnx, channels=CHANNELS, side=side, step=step)
    export_pt2(network, pt2, channels=CHANNELS, side=side, step=step)
    assert (kind_of(onnx), kind_of(pt2)) == (FileKind.ONNX, FileKind.PT2)
    assert [len(port) for port in (onnx_ports(onnx)[1], pt2_ports(pt2)[1])] == [len(expected)] * 2
    assert labels_that_differ(expected, by_onnxruntime(onnx, images)) == 0
    assert labels_that_differ(expected, by_openvino(onnx, images)) == 0
    assert all(map(np.array_equal, expected, outputs(load_pt2(pt2), images)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that tracing is of the past
        torch.jit.trace(network, images[:1, :, :side, :side], strict=False).save(str(tmp_path / "net.pt"))
    traced = load_torchscript(tmp_path / "net.pt", trust=True)
    convert_torchscript(traced, pt2, channels=CHANNELS, side=side, step=step)
    assert labels_that_differ(expected, outputs(load_pt2(pt2), images)) == 0
