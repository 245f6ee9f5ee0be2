"""TorchScript files: refused without trust, and what they become."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from wsipipe.errors import ModelError
from wsipipe.model.file_kind import FileKind, kind_of
from wsipipe.model.pt2_file import load_pt2
from wsipipe.model.torchscript_file import convert_torchscript, load_torchscript


class Net(nn.Module):
    """A convolution, and its image in it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        coarse = nn.functional.max_pool2d(self.conv(images), 2)
        return nn.functional.interpolate(coarse, size=images.shape[2:], mode="nearest")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A traced network, under the name of another kind."""
    path = tmp_path_factory.mktemp("script") / "net.onnx"
    torch.manual_seed(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that there is torch.export now
        torch.jit.trace(Net().eval(), torch.rand(1, 3, 16, 24)).save(str(path))
    return path


def test_torchscript_is_refused_without_trust(script: Path) -> None:
    with pytest.raises(ModelError, match=r"runs code of its own as it is loaded.*--trust"):
        load_torchscript(script, trust=False)


def test_a_traced_network_becomes_pt2_with_free_sides(script: Path, tmp_path: Path) -> None:
    loaded = load_torchscript(script, trust=True)
    convert_torchscript(loaded, tmp_path / "net.pt2", channels=3, side=16, step=4)
    images = torch.rand(2, 3, 20, 32)
    with torch.no_grad():
        assert torch.equal(load_pt2(tmp_path / "net.pt2")(images), loaded(images))
    assert kind_of(tmp_path / "net.pt2") == FileKind.PT2


def test_a_file_that_is_not_torchscript_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(b"PK\x03\x04" + bytes(40))
    with pytest.raises(ModelError, match="truncated or not a TorchScript file"):
        load_torchscript(tmp_path / "net.pt", trust=True)


def test_a_scripted_network_becomes_onnx_with_free_sides(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the package onnxscript, in the extra onnx")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the package onnxruntime, in the extra onnx")

    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return nn.functional.interpolate(self.conv(images), scale_factor=2.0, mode="nearest")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Doubled().eval()).save(str(tmp_path / "net.pt"))
    loaded, images = load_torchscript(tmp_path / "net.pt", trust=True), torch.rand(2, 3, 20, 32)
    convert_torchscript(loaded, tmp_path / "net.onnx", channels=3, side=16, step=4)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"image": images.numpy()})[0], loaded(images), atol=1e-6)
