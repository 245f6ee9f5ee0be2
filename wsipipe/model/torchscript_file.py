"""TorchScript files: a way in for networks, for those who trust the file.

``torch.jit.load`` runs code of the file: methods ``__setstate__`` as it is loaded, and operators such as
``aten::save``, which writes files, then or whenever the network is called. So a file is loaded only if its user says
so, once, to convert it.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from wsipipe.errors import ModelError
from wsipipe.files import appearing
from wsipipe.model.exporting import INPUT_NAME, ONLY_OUTPUT, as_model_error
from wsipipe.model.file_kind import FileKind, kind_named
from wsipipe.model.onnx_export import OPSET, export_onnx, require_exporter
from wsipipe.model.onnx_file import check_onnx
from wsipipe.model.pt2_file import export_pt2


def load_torchscript(path: Path, *, trust: bool) -> torch.jit.ScriptModule:
    """The network in the TorchScript file at ``path``, on the CPU and in evaluation mode.

    Parameters
    ----------
    path
        The file.
    trust
        Whether its user trusts it: to load it is to run code that is in it.

    Raises
    ------
    ModelError
        If it is not trusted, cannot be read, or is not a TorchScript file.
    """
    if not trust:
        raise ModelError(
            f"{path} is a TorchScript file, which runs code of its own as it is loaded; if you trust whoever made it, "
            "say so (--trust), or export the network as ONNX: wsipipe.save_model('net.onnx', network, spec)"
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated", category=DeprecationWarning)
            network: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError, ValueError) as err:
        raise ModelError(f"{path} is truncated or not a TorchScript file ({str(err).splitlines()[0]})") from err
    return network.eval()


def convert_torchscript(network: torch.jit.ScriptModule, path: Path, *, channels: int, side: int, step: int) -> None:
    """Write ``network``, which `load_torchscript` loaded, as ONNX or ``.pt2``, by the suffix of ``path``.

    What was traced becomes either. Of what was scripted (``torch.jit.script``) torch's older exporter makes ONNX of
    some.

    Parameters
    ----------
    network
        Takes images (n, channel, y, x), float32.
    path
        The file to write; it appears whole.
    channels, side, step
        The images that it shall take, as `export_free`.

    Raises
    ------
    ModelError
        If torch cannot convert it, or a package that writes ONNX is missing.
    OutputError
        If the file cannot be written.
    """
    example = torch.zeros(2, channels, max(side, 2 * step), max(side, 2 * step) + step)
    onnx = kind_named(path) == FileKind.ONNX
    if onnx:
        require_exporter(path)
    try:
        plain = _plain_module(network, example)
        (export_onnx if onnx else export_pt2)(plain, path, channels=channels, side=side, step=step)
    except ModelError:
        if not onnx:
            raise
        _export_by_jit(network, example, path)


def _plain_module(network: torch.jit.ScriptModule, example: torch.Tensor) -> nn.Module:
    """``network`` as a module of the operators that it calls for ``example``, which `torch.export` takes."""
    from torch._export.converter import TS2EPConverter  # nothing public does it

    with (
        as_model_error("from TorchScript", "export the PyTorch network itself: wsipipe.save_model"),
        warnings.catch_warnings(),
        torch.no_grad(),
    ):
        warnings.simplefilter("ignore")  # of torch, about its own code
        plain: nn.Module = TS2EPConverter(network, (example,)).convert().module()
    return plain


def _export_by_jit(network: torch.jit.ScriptModule, example: torch.Tensor, path: Path) -> None:
    """Write ``network`` as ONNX by torch's older exporter, which follows the code of the script."""
    axes = {0: "batch", 2: "height", 3: "width"}
    with (
        as_model_error("from TorchScript as ONNX", "export the PyTorch network itself: wsipipe.save_model"),
        warnings.catch_warnings(),
        appearing(path, kind="model ", way_out="give another path") as partial,
    ):
        warnings.simplefilter("ignore")  # of torch, about its own code
        torch.onnx.export(
            network,
            (example,),
            str(partial),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[ONLY_OUTPUT],
            dynamic_axes={INPUT_NAME: axes, ONLY_OUTPUT: axes},
        )
        check_onnx(partial)
