"""A model: one file with the weights of a network and all that a run must know about them.

The file's metadata carries one JSON document under the key ``wsipipe``: the network, its sizes, normalisation,
micrometres per pixel, classes with label values and colours, licence, how it was trained, and the version
of this format. wsipipe's own U-Nets are ``.safetensors`` files, networks from elsewhere ``.onnx`` or ``.pt2``.
Loading executes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsipipe.errors import ModelError
from wsipipe.files import write_whole
from wsipipe.geometry.network import Receptive
from wsipipe.model.built_in import model_path
from wsipipe.model.file_kind import FileKind, kind_of
from wsipipe.model.min_areas import min_area_of_older
from wsipipe.model.network import ForeignNetwork, describe_foreign, parse_foreign
from wsipipe.model.onnx_file import is_quantized, read_network, read_onnx_metadata, write_onnx_metadata
from wsipipe.model.onnx_file import ports as onnx_ports
from wsipipe.model.pt2_file import load_pt2, read_pt2_metadata, write_pt2_metadata
from wsipipe.model.pt2_file import ports as pt2_ports
from wsipipe.model.spec import OWN_MEAN, OWN_STD, LabelClass, ModelSpec, default_classes
from wsipipe.model.unet import UNet
from wsipipe.model.unet_file import (
    UNetInfo,
    describe_unet,
    load_unet,
    parse_architecture,
    read_unet_metadata,
    unet_blob,
)

FORMAT_VERSION = 1
HEADER_KEY = "wsipipe"

NetworkInfo = UNetInfo | ForeignNetwork
"""A network as its file describes it."""
READERS = {
    FileKind.SAFETENSORS: lambda path: read_unet_metadata(path).get(HEADER_KEY),
    FileKind.ONNX: read_onnx_metadata,
    FileKind.PT2: read_pt2_metadata,
}
"""What reads the description in a file of each kind; None if there is none."""
PORTS = {FileKind.ONNX: onnx_ports, FileKind.PT2: pt2_ports}
"""What lists the inputs and outputs in a file of each kind."""
FILES = {
    FileKind.SAFETENSORS: "a safetensors file",
    FileKind.ONNX: "an ONNX file",
    FileKind.PT2: "a .pt2 file",
    FileKind.TORCHSCRIPT: "a TorchScript file",
}


@dataclass(frozen=True)
class ModelInfo:
    """What a model file says of itself, read without its weights."""

    path: str
    """The file, absolute."""
    sha256: str
    """Digest of the whole file: the identity of the weights and their header."""
    network: NetworkInfo = field(hash=False)
    """The network: how far it looks, what it takes and gives."""
    spec: ModelSpec = field(hash=False)
    """Classes, resolution, normalisation and the like."""
    quantized: bool = False
    """Whether the network computes in whole numbers, such as int8; its operators say so, whoever quantised it."""

    @property
    def receptive(self) -> Receptive:
        """How far its network looks, and the tiles that it takes."""
        return self.network.receptive


@dataclass(frozen=True)
class Model:
    """A network ready to run, and what its file says."""

    info: ModelInfo
    """What its file says: description, sizes, identity."""
    network: nn.Module | bytes
    """A `UNet`; the module of a ``torch.export`` program; or the bytes of an ONNX file, as an engine takes them."""

    @property
    def spec(self) -> ModelSpec:
        """Description of the model's weights."""
        return self.info.spec


def save_unet(path: str | Path, network: UNet, spec: ModelSpec) -> None:
    """Write wsipipe's own ``network`` and ``spec`` as one model file; it appears whole or not at all.

    Raises
    ------
    ModelError
        If the spec does not fit the network.
    OutputError
        If the file cannot be written.
    """
    spec = replace(spec, mean=spec.mean or OWN_MEAN, std=spec.std or OWN_STD)
    check_fit(path, UNetInfo(network.architecture), spec)
    header = {"format_version": FORMAT_VERSION, **describe_unet(network), **asdict(spec)}
    blob = unet_blob(network, {HEADER_KEY: json.dumps(header, sort_keys=True)})
    write_whole(Path(path), blob, kind="model ", way_out="give another path")


def write_description(source: Path, target: Path, network: ForeignNetwork, spec: ModelSpec) -> None:
    """Copy the file of ``network`` from ``source`` to ``target``, with what a run must know among its metadata.

    Raises
    ------
    ModelError
        If ``source`` cannot be read.
    OutputError
        If ``target`` cannot be written.
    """
    header = {"format_version": FORMAT_VERSION, "network": describe_foreign(network), **asdict(spec)}
    write = write_onnx_metadata if network.kind == FileKind.ONNX else write_pt2_metadata
    write(source, target, json.dumps(header, sort_keys=True))


def save_untrained(path: str | Path, sizes: dict[str, int], *, seed: int, mpp: float | None) -> int:
    """Write a model of random weights, the same for the same ``seed``, and return their number.

    Parameters
    ----------
    path
        The file to write.
    sizes
        Arguments of `UNet`.
    seed
        Seed of the weights.
    mpp
        Micrometres per pixel that the model states.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(**sizes)
    training = {"untrained": True, "seed": seed}
    spec = ModelSpec(default_classes(network.classes), mpp=mpp, name=Path(path).stem, training=training)
    save_unet(path, network, spec)
    return sum(weights.numel() for weights in network.parameters())


def check_fit(path: str | Path, network: NetworkInfo, spec: ModelSpec) -> None:
    """Raise a ModelError unless there is a class for every output, and a mean and deviation for every input."""
    channels_fit = all(len(values) in (1, network.in_channels) for values in (spec.mean, spec.std))
    if len(spec.classes) != network.classes or not channels_fit:
        raise ModelError(
            f"model {path} names {len(spec.classes)} classes, {len(spec.mean)} means and {len(spec.std)} standard "
            f"deviations for a network of {network.classes} classes and {network.in_channels} channels"
        )


def read_model_info(path: str | Path) -> ModelInfo:
    """What the model file at ``path``, or the one of that name in `BUILT_IN`, says of itself, and its digest.

    Raises
    ------
    ModelError
        If there is no such file, or it is truncated, foreign, newer than this wsipipe, or inconsistent.
    """
    path = model_path(path)
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        kind = kind_of(path)
        text = READERS[kind](path) if kind in READERS else None
    except OSError as err:
        raise ModelError(f"model {path} cannot be read: {err.strerror or err}") from err
    if text is None:
        own = kind == FileKind.SAFETENSORS
        way_out = "wsipipe.save_model writes one" if own else "wsipipe model import makes one of it"
        raise ModelError(
            f"{path} is {FILES[kind]}, but not a wsipipe model (it has no metadata {HEADER_KEY!r}); {way_out}"
        )
    network, spec = _parse_header(path, kind, text, min_area_of_older(sha256))
    check_fit(path, network, spec)
    return ModelInfo(str(path.absolute()), sha256, network, spec, kind == FileKind.ONNX and is_quantized(path))


def _parse_header(path: Path, kind: FileKind, text: str, min_area_um2: float) -> tuple[NetworkInfo, ModelSpec]:
    """Network and spec from the JSON of the header; ``min_area_um2`` is for headers that do not state it."""
    try:
        header = json.loads(text)
        version = header["format_version"]
        newer = version > FORMAT_VERSION
        if not newer:
            own = kind == FileKind.SAFETENSORS
            network = parse_architecture(header) if own else parse_foreign(kind, header["network"])
            spec = _parse_spec(header, min_area_um2)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as err:
        raise ModelError(f"model {path} has an invalid header: {type(err).__name__}: {err}") from err
    if newer:
        raise ModelError(
            f"model {path} has format version {version}, this wsipipe reads up to {FORMAT_VERSION}; "
            "install a newer wsipipe"
        )
    return network, spec


def _parse_spec(header: Mapping[str, Any], min_area_um2: float) -> ModelSpec:
    return ModelSpec(
        classes=tuple(LabelClass(**c) for c in header["classes"]),
        mpp=header["mpp"],
        mean=tuple(header["mean"]),
        std=tuple(header["std"]),
        name=header["name"],
        licence=header["licence"],
        training=header["training"],
        min_area_um2=header.get("min_area_um2", min_area_um2),
    )


def load_model(path: str | Path) -> Model:
    """The model at ``path``, or of that name in `BUILT_IN`: its network, on the CPU, and what the file says of it.

    Raises
    ------
    ModelError
        As `read_model_info`, or if the weights are not those of the architecture, or not finite float32.
    """
    info = read_model_info(path)
    path = Path(info.path)
    if isinstance(info.network, UNetInfo):
        return Model(info, load_unet(path, info.network))
    return Model(info, load_foreign(path, info.network))


def load_foreign(path: Path, network: ForeignNetwork) -> nn.Module | bytes:
    """What an engine computes of a file of another program: its module, or the bytes of an ONNX file.

    Raises
    ------
    ModelError
        If it cannot be read, has what is never loaded, or does not fit ``network``.
    """
    (image,), outputs = PORTS[network.kind](path)
    names = [port.name for port in outputs] if network.kind == FileKind.ONNX else list(map(str, range(len(outputs))))
    if network.input != image.name or network.output not in names:
        raise ModelError(
            f"model {path} is described with the input {network.input!r} and the output {network.output!r}, but has "
            f"the input {image.name!r} and the outputs {', '.join(map(repr, names))}; import it again"
        )
    channels = image.shape[-1 if network.channels_last else 1] if len(image.shape) == 4 else 0
    if channels not in (None, network.in_channels) or (image.shape[0] == 1 and not network.single):
        number = "one image" if network.single else "any number of images"
        raise ModelError(
            f"model {path} is described as taking {number} of {network.in_channels} channels, but takes {image}; "
            "import it again"
        )
    if network.kind == FileKind.PT2:
        return OneOutput(load_pt2(path), int(network.output), channels_last=network.channels_last)
    return read_network(path)


class OneOutput(nn.Module):
    """``network`` with one of its outputs, (n, channel, y, x) in and out whatever its own order of axes."""

    def __init__(self, network: nn.Module, number: int, *, channels_last: bool) -> None:
        super().__init__()
        self.network, self.number, self.channels_last = network, number, channels_last

    def forward(self, x: Tensor) -> Tensor:
        """The output (n, class, y, x) for images ``x`` (n, channel, y, x), float32."""
        found = self.network(x.permute(0, 2, 3, 1) if self.channels_last else x)
        output: Tensor = found if isinstance(found, Tensor) else found[self.number]
        if output.ndim == 3:  # class labels without a channel
            return output[:, None]
        return output.permute(0, 3, 1, 2) if self.channels_last else output
