"""A network in memory becomes a model file."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import nn

from wsipipe.errors import UsageError, WsipipeError
from wsipipe.importing.import_model import NetworkRequest, check_normalisation, import_model
from wsipipe.importing.smallest_side import smallest_side
from wsipipe.model.file_kind import SUFFIX_OF, FileKind, kind_named
from wsipipe.model.model_file import save_unet
from wsipipe.model.onnx_export import export_onnx
from wsipipe.model.pt2_file import export_pt2
from wsipipe.model.spec import UNNAMED, ModelSpec
from wsipipe.model.unet import UNet

EXPORT = {FileKind.ONNX: export_onnx, FileKind.PT2: export_pt2}
"""What writes a network as a file of each kind."""
IN_PYTHON = (
    (r"add --approximate --margin PX", "give request=wsipipe.NetworkRequest(margin=PX)"),
    (r"--(head|input|output|margin) (\w+)", r"\1=\2"),
    (r"--channels-last", "channels_last=True"),
    (r"--classes", "classes"),
)
"""What messages call options of ``wsipipe model import``, and what that is in Python."""


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
        A class for each channel of the output, how pixels are normalised (a `UNet` is saved with defaults where that is
        left out), and what else the model says of itself; its name is that of the file unless there is another.
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
        If ``path`` has another suffix, or ``spec`` leaves out how pixels are normalised.
    OutputError
        If the file cannot be written.
    """
    path = Path(path)
    kind, request = kind_named(path), request or NetworkRequest()
    if spec.name == UNNAMED:
        spec = replace(spec, name=path.stem)
    if kind is None and isinstance(network, UNet):
        save_unet(path, network, spec)
        return
    if kind is None:
        raise UsageError(f"{path}: a network that is no wsipipe.UNet is written as {' or '.join(SUFFIX_OF.values())}")
    check_normalisation(spec)
    with tempfile.TemporaryDirectory() as folder, _in_python(exported := Path(folder) / path.name, path):
        say("exporting it")
        side = smallest_side(network, request.in_channels, request.step, channels_last=request.channels_last)
        EXPORT[kind](network, exported, channels=request.in_channels, side=side, step=request.step)
        import_model(exported, kind, path, spec, request, say)


@contextmanager
def _in_python(exported: Path, path: Path) -> Iterator[None]:
    """A context whose errors are about ``path``, not the temporary file ``exported``, and in the words of Python."""
    try:
        yield
    except WsipipeError as err:
        message = str(err).replace(str(exported), str(path))
        for option, words in IN_PYTHON:
            message = re.sub(option, words, message)
        raise type(err)(message) from err
