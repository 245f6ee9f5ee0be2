"""What kind of file a network comes in, told by its content and without loading it; what cannot be used is refused."""

from __future__ import annotations

import pickletools
import struct
import zipfile
import zlib
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import IO

from wsipipe.errors import ModelError
from wsipipe.model.onnx_file import is_onnx

HEAD_BYTES = 16
"""Bytes at the beginning of a file that most kinds are told by."""
LEGACY_PICKLES = 5
"""Pickles that ``torch.save`` wrote one after another before torch 1.6; the network is the fourth."""
OF_WEIGHTS = {"collections", "torch", "torch._utils", "torch._tensor", "torch.storage", "torch.serialization"}
"""Modules whose names are in a pickle of nothing but weights; those of numpy are, too, in some."""
SAVE_IT = "wsipipe.save_model('net.onnx', network, spec)"
OTHERS = {
    b"\x89HDF": "an HDF5 file, perhaps of Keras; convert the network to ONNX (tf2onnx)",
    b"<?xml": "an XML file, perhaps of OpenVINO; give the ONNX file that it was made from",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"ustar": "a tar archive; unpack it",
}
"""Other files that networks come in, by how they begin, and what to do about them."""

DAMAGED_ZIP = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error, zlib.error)
"""What `zipfile` raises about archives that are damaged, or encrypted."""


class FileKind(Enum):
    """The kinds of file that networks are read from."""

    SAFETENSORS = "safetensors"
    """Weights of wsipipe's own U-Net."""
    ONNX = "ONNX"
    PT2 = "pt2"
    """A graph of ``torch.export``."""
    TORCHSCRIPT = "TorchScript"


SUFFIX_OF = {FileKind.ONNX: ".onnx", FileKind.PT2: ".pt2"}
"""How the names of models end that networks of other programs become."""


def kind_named(path: Path) -> FileKind | None:
    """The kind of model that a file to write at ``path`` is, by its name; None if it is neither ONNX nor ``.pt2``."""
    return next((kind for kind, suffix in SUFFIX_OF.items() if path.suffix == suffix), None)


def kind_of(path: Path) -> FileKind:
    """The kind of the file at ``path``.

    Raises
    ------
    ModelError
        If it cannot be read, or is of another kind; the message tells which, and what to do.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:  # the header's length
                return FileKind.SAFETENSORS
            if head.startswith(b"PK\x03\x04"):
                return _kind_of_zip(path, file)
            if head[:1] == b"\x80" and head[1:2] <= b"\x05":
                raise _refused_pickle(path, _globals(file, pickles=LEGACY_PICKLES))
    except OSError as err:
        raise ModelError(f"model {path} cannot be read: {err.strerror or err}") from err
    if head[8:9] == b"{":  # truncated
        return FileKind.SAFETENSORS
    if is_onnx(path):
        return FileKind.ONNX
    for beginning, what in OTHERS.items():
        if head.startswith(beginning):
            raise ModelError(f"model {path} is {what}")
    raise ModelError(
        f"model {path} is not a model, or is truncated: its content is none of safetensors, ONNX, .pt2 and "
        f"TorchScript; copy it again, or in Python: {SAVE_IT}"
    )


def _kind_of_zip(path: Path, file: IO[bytes]) -> FileKind:
    """The kind of a zip archive, by the files in its one folder."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            inside = {name.partition("/")[2] for name in names}
            if "archive_format" in inside:
                return FileKind.PT2
            if any(name.startswith("code/") for name in inside) or "constants.pkl" in inside:
                return FileKind.TORCHSCRIPT
            if "data.pkl" in inside:
                name = next(name for name in names if name.partition("/")[2] == "data.pkl")
                with archive.open(name) as pickled:
                    raise _refused_pickle(path, _globals(pickled, pickles=1))
    except ModelError:
        raise
    except DAMAGED_ZIP as err:
        raise ModelError(f"model {path} is truncated, or a zip archive that is damaged ({err}); copy it again") from err
    if "serialized_exported_program.json" in names:
        raise ModelError(f"model {path} is a .pt2 file of an older torch; export the network again with a newer one")
    raise ModelError(f"model {path} is a zip archive without a network that can be read; in Python: {SAVE_IT}")


def _globals(file: IO[bytes], *, pickles: int) -> set[str]:
    """The names that up to ``pickles`` pickles in a row would import, found without unpickling."""
    file.seek(0)
    found: set[str] = set()
    try:
        for _ in range(pickles):
            found.update(_imported(file))
    except (ValueError, OverflowError, MemoryError):
        pass  # what pickletools says of what is not a pickle, such as the numbers that follow the last one
    return found


def _imported(file: IO[bytes]) -> Iterator[str]:
    """``module.name`` of each global of the next pickle in ``file``."""
    texts: list[str] = []
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL" and len(texts) > 1:
            yield ".".join(texts[-2:])
        elif isinstance(argument, str):
            texts.append(argument)


def _refused_pickle(path: Path, names: set[str]) -> ModelError:
    """The refusal of a pickle that would import ``names``: weights alone, or whole objects."""
    strangers = sorted(name for name in names if name.rpartition(".")[0] not in OF_WEIGHTS and "numpy" not in name)
    if names and not strangers:
        return ModelError(
            f"model {path} is a pickled state dict: weights without their network; load them into it, in Python: "
            f"network.load_state_dict(torch.load({path.name!r}, weights_only=True)); {SAVE_IT}"
        )
    what = ", ".join(strangers[:3]) + (", ..." if len(strangers) > 3 else "")
    return ModelError(
        f"model {path} is a pickle of Python objects ({what or 'no tensors'}), and unpickling executes code of the "
        f"file; if you trust it, in Python: network = torch.load({path.name!r}, weights_only=False); {SAVE_IT}"
    )
