"""TorchScript files: a way in for networks, for those who trust the file.

``torch.jit.load`` runs code of the file: methods ``__setstate__`` as it is loaded, and operators such as ``aten::save``,
which writes files, whenever the network is called. So a file is loaded only if its user says so, once, to convert it.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from wsipipe.errors import ModelError


def load_torchscript(path: Path, *, trust: bool) -> nn.Module:
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
            network: nn.Module = torch.jit.load(str(path), map_location="cpu")
    except (OSError, RuntimeError, ValueError) as err:
        raise ModelError(f"{path} is truncated or not a TorchScript file ({str(err).splitlines()[0]})") from err
    return network.eval()
