"""What a file is, told by its content, whatever its name."""

from __future__ import annotations

import pickle
import random
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from wsipipe.errors import ModelError
from wsipipe.model.file_kind import FileKind, kind_of
from wsipipe.model.protobuf import text_field

MUTANTS = 200


class Net(nn.Module):
    """A convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)


def test_safetensors_and_archives_are_told_by_their_content(tiny_model: Path, tmp_path: Path) -> None:
    assert kind_of(tiny_model) == FileKind.SAFETENSORS
    for name, kind in (("net/archive_format", FileKind.PT2), ("net/code/__torch__.py", FileKind.TORCHSCRIPT)):
        with zipfile.ZipFile(tmp_path / "net.onnx", "w") as archive:
            archive.writestr(name, "pt2")
        assert kind_of(tmp_path / "net.onnx") == kind


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
    for name, message in (("serialized_exported_program.json", "of an older torch"), ("a/b.txt", "without a network")):
        with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
            archive.writestr(name, "{}")
        with pytest.raises(ModelError, match=message):
            kind_of(tmp_path / "net.pt2")
    with pytest.raises(ModelError, match="cannot be read"):
        kind_of(tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_mutant_is_told_or_refused(tmp_path: Path, *, legacy: bool) -> None:
    torch.save(Net().state_dict(), tmp_path / "sound", _use_new_zipfile_serialization=not legacy)
    content, path, chance = (tmp_path / "sound").read_bytes(), tmp_path / "mutant", random.Random(5)
    for _ in range(MUTANTS):
        mutant = bytearray(content)
        for place in (chance.randrange(len(mutant)), chance.randrange(400), -1 - chance.randrange(400)):
            mutant[place] = chance.choice([0, 255, chance.randrange(256)])
        path.write_bytes(mutant)
        with pytest.raises(ModelError):
            kind_of(path)
