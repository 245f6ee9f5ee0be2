"""What a file is, told by its content, whatever its name."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from wsipipe.errors import ModelError
from wsipipe.model.file_kind import FileKind, kind_of
from wsipipe.model.protobuf import text_field
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


def test_safetensors_and_torchscript_are_told_by_their_content(tiny_model: Path, script: Path) -> None:
    assert kind_of(tiny_model) == FileKind.SAFETENSORS
    assert kind_of(script) == FileKind.TORCHSCRIPT


def test_onnx_is_told_by_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "net.bin"
    path.write_bytes(b"\x08\x0a" + text_field(7, text_field(2, b"main")))
    assert kind_of(path) == FileKind.ONNX


@pytest.mark.parametrize("legacy", [False, True])
def test_a_state_dict_is_refused_with_what_to_do(tmp_path: Path, *, legacy: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save(Net().state_dict(), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        ModelError, match=r"pickled state dict.*load_state_dict\(torch.load\('weights.pth', weights_only"
    ):
        kind_of(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_network_is_refused_by_the_name_of_its_class(tmp_path: Path, *, legacy: bool) -> None:
    path = tmp_path / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"epoch": 3, "network": Net()}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelError, match=r"pickle of Python objects \(.*test_file_kind.Net.*executes code"):
        kind_of(path)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_other_pickles_are_refused_by_what_they_would_import(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "net.pkl"
    path.write_bytes(pickle.dumps([Path, Path], protocol))
    with pytest.raises(ModelError, match=r"pickle of Python objects \(pathlib.Path\)"):
        kind_of(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a model, or is truncated"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), r"HDF5.*tf2onnx"),
        (b'<?xml version="1.0"?><net/>', "OpenVINO"),
        (b"PK\x03\x04" + bytes(40), "zip archive that is damaged"),
        (b"just a text", "not a model, or is truncated"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        kind_of(path)


def test_other_archives_are_refused(tmp_path: Path) -> None:
    for name, message in (("serialized_exported_program.json", "torch 2.8 or older"), ("a/b.txt", "without a network")):
        with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
            archive.writestr(name, "{}")
        with pytest.raises(ModelError, match=message):
            kind_of(tmp_path / "net.pt2")
    with pytest.raises(ModelError, match="cannot be read"):
        kind_of(tmp_path)


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
