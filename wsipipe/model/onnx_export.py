"""Networks written as ONNX files, by torch's exporter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from wsipipe.errors import ModelError
from wsipipe.extras import install
from wsipipe.files import write_whole
from wsipipe.model.exporting import INPUT_NAME, as_model_error, export_free, output_names_of
from wsipipe.model.onnx_file import MOST_BYTES

OPSET = 20
"""Version of the operators in files that are written here."""


def export_onnx(network: nn.Module, path: Path, *, channels: int, side: int, step: int) -> None:
    """Write ``network`` as one ONNX file, weights inside: float32, evaluation mode, any batch, sides as `export_free`.

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
        If torch cannot export it, it is larger than 2 GB, or a package that writes ONNX is missing.
    OutputError
        If the file cannot be written.
    """
    require_exporter(path)
    program = export_free(network, channels=channels, side=side, step=step)
    with as_model_error("as ONNX", "write .pt2"), warnings.catch_warnings(), _errors_only("torch.onnx"):
        warnings.simplefilter("ignore")  # the exporter's, about its own code
        written = torch.onnx.export(
            program,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=output_names_of(program),
            dynamo=True,
            verbose=False,
        )
        assert written is not None
        proto = written.model_proto
        if proto.ByteSize() > MOST_BYTES:
            raise ModelError(f"{path}: its weights take more than the 2 GB that an ONNX file can hold; write .pt2")
        blob = proto.SerializeToString()
    write_whole(path, blob, kind="model ", way_out="give another path")


@contextmanager
def _errors_only(logger: str) -> Iterator[None]:
    """A context in which ``logger`` logs no warnings, such as torch's that torchvision is not installed."""
    log = logging.getLogger(logger)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def require_exporter(path: Path) -> None:
    """Raise a ModelError about ``path`` if a package that torch exports ONNX with is missing.

    Raises
    ------
    ModelError
        If ``onnx`` or ``onnxscript`` is not installed.
    """
    missing = [package for package in ("onnx", "onnxscript") if find_spec(package) is None]
    if missing:
        raise ModelError(
            f"writing {path} needs {' and '.join(missing)}, which torch exports with; "
            f"install them ({install('onnx')}), or write .pt2"
        )
