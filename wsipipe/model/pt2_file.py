"""Networks as ``.pt2`` files of ``torch.export``: writing them, what they declare, and loading that executes nothing.

``torch.export.load`` is for files of one's own: it unpickles the example inputs, constants and weights that ask for it,
evaluates the sizes as Python, imports the modules that output structures name, and calls whatever function of torch
the graph names. Here the archive is read as what it is, a zip of JSON and raw numbers, and nothing else in it counts:
`wsipipe.model.pt2_graph` makes a module from the JSON, out of a fixed set of operators.

Source: ``torch/export/pt2_archive/_package.py`` and ``torch/_export/serde/schema.py`` of torch 2.13.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wsipipe.errors import ModelError, WsipipeError
from wsipipe.files import appearing
from wsipipe.model.exporting import as_model_error, export_free
from wsipipe.model.file_kind import DAMAGED_ZIP
from wsipipe.model.port import Port, check_one_input
from wsipipe.model.pt2_graph import DTYPES, STRIDED, build_network, read_ports

METADATA_NAME = "extra/wsipipe"
"""Where the description is in the archive."""
SAMPLE_INPUTS = "data/sample_inputs/"
"""Pickled example inputs, which nothing here reads; torch takes an empty file for none."""
SCHEMA_MAJOR = 8
"""Version of the JSON."""
MALFORMED = (LookupError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError)
"""What reading JSON of another structure raises, besides RuntimeError and ValueError."""


def export_pt2(network: nn.Module, path: Path, *, channels: int, side: int, step: int) -> None:
    """Write ``network`` as a ``.pt2`` file: float32, evaluation mode, any batch, sides as `export_free`.

    Parameters
    ----------
    network
        Takes images (n, channel, y, x), float32; it is left as it is.
    path
        The file to write; it appears whole.
    channels, side, step
        The images that it shall take, as `export_free`.

    Raises
    ------
    ModelError
        If torch cannot export it, or it uses an operator that `load_pt2` would refuse.
    OutputError
        If the file cannot be written.
    """
    program = export_free(network, channels=channels, side=side, step=step)
    with appearing(path, kind="model ", way_out="give another path") as partial:
        with as_model_error("as .pt2", "write ONNX"), partial.open("wb") as file:
            torch.export.save(program, file)
        _load(partial, f"model {path}")
        _copy(partial, partial, {})


def read_pt2_metadata(path: Path) -> str | None:
    """The text in the extra file ``wsipipe`` of the ``.pt2`` file at ``path``; None if there is none.

    Raises
    ------
    ModelError
        If the file cannot be read, or is not a ``.pt2`` file.
    """
    with _opened(path) as archive:
        return str(archive.read(METADATA_NAME), "utf-8") if METADATA_NAME in archive.names else None


def write_pt2_metadata(source: Path, target: Path, content: str) -> None:
    """Copy the ``.pt2`` file ``source`` to ``target``, with ``content`` as its extra file ``wsipipe``.

    Example inputs are left out, as they are pickled; all else is copied as it is. ``target`` may be ``source``; it
    appears whole.

    Raises
    ------
    ModelError
        If ``source`` cannot be read, or is not a ``.pt2`` file.
    OutputError
        If ``target`` cannot be written.
    """
    _copy(source, target, {METADATA_NAME: content.encode()})


def ports(path: Path) -> tuple[list[Port], list[Port]]:
    """The inputs and the outputs of the network in the ``.pt2`` file at ``path``.

    Raises
    ------
    ModelError
        If the file cannot be read, or is not a ``.pt2`` file of this version of torch.
    """
    with _opened(path) as archive:
        inputs, outputs = read_ports(archive.program())
    check_one_input(f"model {path}", inputs)
    return inputs, outputs


def load_pt2(path: Path) -> nn.Module:
    """The network in the ``.pt2`` file at ``path``, on the CPU and in evaluation mode; nothing of the file is executed.

    It takes (n, channel, y, x) and returns a tensor, or a tuple of them in the order of `ports`. A side that the file
    does not allow is a GeometryError.

    Raises
    ------
    ModelError
        If the file cannot be read, is not a ``.pt2`` file of this version of torch, or has pickled weights or an
        operator that is not among those of `wsipipe.model.pt2_graph`.
    """
    return _load(path, f"model {path}")


def _load(path: Path, what: str) -> nn.Module:
    """`load_pt2` of a file that messages call ``what``."""
    with _opened(path) as archive:
        return build_network(archive.program(), archive.tensors(), what=what).eval()


class _Archive:
    """The zip file, as names within its one folder and their bytes."""

    def __init__(self, file: zipfile.ZipFile) -> None:
        self.file = file
        if sum(info.compress_size for info in file.infolist()) > Path(str(file.filename)).stat().st_size:
            raise ValueError("its files overlap")
        folders = {name.partition("/")[0] for name in file.namelist()}
        if len(folders) != 1:
            raise ValueError("its files are not in one folder")
        self.folder = folders.pop()
        self.names = [name.partition("/")[2] for name in file.namelist()]
        if "archive_format" not in self.names or self.read("archive_format") != b"pt2":
            raise ValueError("it has no archive_format; export the network again with a newer torch")
        if "byteorder" in self.names and self.read("byteorder") != b"little":
            raise ValueError("its numbers are big-endian; export the network again on a usual machine")

    def read(self, name: str) -> bytes:
        """The bytes of one file, which torch never compresses, so that none is larger than the archive."""
        info = self.file.getinfo(f"{self.folder}/{name}")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed, which torch does not write")
        return self.file.read(info)

    def json(self, name: str) -> Any:
        """The JSON in one file."""
        return json.loads(self.read(name))

    def program(self) -> dict[str, Any]:
        """The JSON of the one network."""
        models = [name for name in self.names if name.startswith("models/") and name.endswith(".json")]
        if models != ["models/model.json"]:
            raise ValueError(f"it has {len(models)} networks, {models}, not one called model")
        program: dict[str, Any] = self.json(models[0])
        version = program["schema_version"]["major"]
        if version != SCHEMA_MAJOR:
            raise ValueError(
                f"its version is {version}, and {SCHEMA_MAJOR} is read; export it again with a newer torch"
            )
        return program

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights and constants, by their names in the network."""
        tensors: dict[str, torch.Tensor] = {}
        for kind in ("weights", "constants"):
            config = f"data/{kind}/model_{kind}_config.json"
            if config not in self.names:
                raise ValueError(f"its {kind} are pickled, as older torch did; export it again with a newer one")
            raw: dict[str, bytearray] = {}
            for name, payload in self.json(config)["config"].items():
                file = payload["path_name"]
                if payload["use_pickle"] or not payload["tensor_meta"]:
                    raise ValueError(f"{name} in {kind} is pickled, and unpickling executes code; export plain tensors")
                if file not in raw:
                    raw[file] = bytearray(self.read(f"data/{kind}/{file}"))
                tensors[name] = _tensor(raw[file], payload["tensor_meta"])
        return tensors


def _tensor(raw: bytearray, meta: dict[str, Any]) -> torch.Tensor:
    """The tensor in the bytes ``raw``; torch checks that it stays within them."""
    dtype = DTYPES[meta["dtype"]]
    if meta["layout"] != STRIDED:
        raise ValueError(f"weights of layout {meta['layout']}, which is not strided")
    size, stride = ([int(length["as_int"]) for length in meta[key]] for key in ("sizes", "strides"))
    numbers = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    return numbers.as_strided(size, stride, int(meta["storage_offset"]["as_int"]))


def _copy(source: Path, target: Path, extra: dict[str, bytes]) -> None:
    """Copy the archive ``source`` to ``target`` with the files of ``extra`` put in, and no example inputs."""
    with (
        _opened(source) as archive,
        appearing(target, kind="model ", way_out="give another path") as partial,
        zipfile.ZipFile(partial, "w") as copy,
    ):
        for name in dict.fromkeys([*archive.names, *extra]):
            content = b"" if name.startswith(SAMPLE_INPUTS) else extra.get(name)
            undated = zipfile.ZipInfo(f"{archive.folder}/{name}")  # the same bytes whenever it is written
            copy.writestr(undated, archive.read(name) if content is None else content)


@contextmanager
def _opened(path: Path) -> Iterator[_Archive]:
    """The archive at ``path``; whatever is wrong with it is a ModelError."""
    try:
        with zipfile.ZipFile(path) as file:
            yield _Archive(file)
    except WsipipeError:
        raise
    except OSError as err:
        raise ModelError(f"model {path} cannot be read: {err.strerror or err}") from err
    except (*DAMAGED_ZIP, *MALFORMED) as err:
        raise ModelError(
            f"model {path} is truncated or not a .pt2 file that can be loaded ({type(err).__name__}: {err})"
        ) from err
