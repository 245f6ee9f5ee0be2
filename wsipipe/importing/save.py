"""A network in memory becomes a model file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import nn

from wsipipe.errors import UsageError
from wsipipe.importing.import_model import NetworkRequest, import_model
from wsipipe.importing.smallest_side import smallest_side
from wsipipe.model.file_kind import SUFFIX_OF, FileKind, kind_named
from wsipipe.model.model_file import save_unet
from wsipipe.model.onnx_export import export_onnx
from wsipipe.model.pt2_file import export_pt2
from wsipipe.model.spec import ModelSpec
from wsipipe.model.unet import UNet

EXPORT = {FileKind.ONNX: export_onnx, FileKind.PT2: export_pt2}
"""What writes a network as a file of each kind."""


def save_model(
    path: str | Path,
    network: nn.Module,
    spec: ModelSpec,
    *,
    request: NetworkRequest | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Write ``network`` and ``spec`` as one model file; it appears whole or not at all.

    wsipipe's own `UNet` becomes a ``.safetensors`` file. Any other network is exported with free sides, to ``.onnx`` or
    ``.pt2`` as ``path`` says, and how far it looks is measured, which takes some seconds.

    Parameters
    ----------
    path
        The file to write.
    network
        Takes images (n, channel, y, x), float32, normalised as ``spec`` says, and gives (n, class, y, x).
    spec
        A class for each channel of the output, and what else the model says of itself.
    request
        What its images are, if not of 3 channels and sides that are multiples of 32; what its output is, if not a
        softmax over classes or one sigmoid; and a margin, if it has no finite reach.
    say
        Told what comes next.

    Raises
    ------
    NoFiniteReachError
        If tiles cannot give what the whole image would, and no margin is asked for.
    ModelError
        If the spec does not fit the network, or the network cannot be exported.
    UsageError
        If ``path`` has another suffix.
    OutputError
        If the file cannot be written.
    """
    path = Path(path)
    kind, request = kind_named(path), request or NetworkRequest()
    if kind is None and isinstance(network, UNet):
        save_unet(path, network, spec)
        return
    if kind is None:
        raise UsageError(f"{path}: a network that is no wsipipe.UNet is written as {' or '.join(SUFFIX_OF.values())}")
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / path.name
        say("exporting it")
        side = smallest_side(network, request.in_channels, request.step, channels_last=request.channels_last)
        EXPORT[kind](network, exported, channels=request.in_channels, side=side, step=request.step)
        import_model(exported, kind, path, spec, request, say)
