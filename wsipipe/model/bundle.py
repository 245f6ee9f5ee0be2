"""A model bundle: one ``.safetensors`` file that holds the weights and all that a run must know of them.

The file's header carries one JSON document under the key ``wsipipe``: architecture, halo, normalisation,
micrometres per pixel, classes with label values and colours, licence, how it was trained, and the version
of this format. Loading executes nothing (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from wsipipe.errors import BundleError, GeometryError
from wsipipe.geometry.network import Receptive
from wsipipe.model.unet import UNet

FORMAT_VERSION = 1
HEADER_KEY = "wsipipe"
BACKGROUND = 0
"""The label of background, and of what was not looked at."""
PALETTE = ("#e6194b", "#3cb44b", "#4363d8", "#ffe119", "#f58231", "#911eb4", "#46f0f0", "#f032e6")


@dataclass(frozen=True)
class LabelClass:
    """What one output channel of the network stands for."""

    name: str
    """As viewers show it."""
    label: int
    """The value of its pixels in the label array, 1 to 255; 0 for the background channel."""
    color: str
    """``#rrggbb``, as viewers draw it."""


@dataclass(frozen=True)
class BundleSpec:
    """What a bundle says beside its weights.

    Raises
    ------
    BundleError
        If a value is out of range, or two classes share a label.
    """

    classes: tuple[LabelClass, ...]
    """One per output channel of the network."""
    mpp: float | None = None
    """Micrometres per pixel it was trained at; None: it does not care, level 0 is used."""
    mean: tuple[float, ...] = (0.5,)
    """Subtracted from each channel, as a share of the pixel type's full scale; one value serves all channels."""
    std: tuple[float, ...] = (0.25,)
    """What each channel is then divided by; one value serves all channels."""
    name: str = "unnamed"
    """As people call it."""
    licence: str = "not stated"
    """Of the weights."""
    training: dict[str, Any] = field(default_factory=dict)
    """How it was trained: data, settings, scores. Plain JSON."""

    def __post_init__(self) -> None:
        labels = [c.label for c in self.classes]
        checks = {
            "has no class": bool(self.classes),
            f"has two classes with one label: {labels}": len(set(labels)) == len(labels),
            f"has labels outside 0 to 255: {labels}": all(0 <= label <= 255 for label in labels),
            f"has only a background, label {BACKGROUND}": labels != [BACKGROUND],
            f"has colours that are not #rrggbb: {[c.color for c in self.classes]}": all(
                len(c.color) == 7 and c.color[0] == "#" and set(c.color[1:].lower()) <= set("0123456789abcdef")
                for c in self.classes
            ),
            f"says {self.mpp} micrometres per pixel": self.mpp is None or (math.isfinite(self.mpp) and self.mpp > 0),
            f"divides by a standard deviation of {self.std}": all(math.isfinite(s) and s > 0 for s in self.std),
            f"subtracts a mean of {self.mean}": all(math.isfinite(m) for m in self.mean),
        }
        for problem, fine in checks.items():
            if not fine:
                raise BundleError(f"bundle {self.name!r} {problem}")


def default_classes(channels: int) -> tuple[LabelClass, ...]:
    """Background and ``class 1``, ``class 2`` ...; for one sigmoid channel ``class 1`` alone."""
    named = [LabelClass(f"class {i}", i, PALETTE[(i - 1) % len(PALETTE)]) for i in range(1, max(channels, 2))]
    return tuple(named) if channels == 1 else (LabelClass("background", BACKGROUND, "#000000"), *named)


@dataclass(frozen=True)
class BundleInfo:
    """What the header of a bundle file says; no weight is read for it."""

    path: str
    """The file, absolute."""
    sha256: str
    """Of the whole file: the identity of the weights and of what is said of them."""
    architecture: dict[str, int] = field(hash=False)
    """Arguments of `UNet`."""
    spec: BundleSpec = field(hash=False)
    """Classes, resolution, normalisation and the like."""

    @property
    def receptive(self) -> Receptive:
        """The sizes of its network."""
        return Receptive(self.architecture["depth"], self.architecture["convs_per_level"])


@dataclass(frozen=True)
class Bundle:
    """A network ready to run, and what its file says."""

    info: BundleInfo
    network: UNet

    @property
    def spec(self) -> BundleSpec:
        """What the bundle says beside its weights."""
        return self.info.spec


def save_bundle(path: str | Path, network: UNet, spec: BundleSpec) -> None:
    """Write ``network`` and ``spec`` as one bundle file; it appears whole or not at all.

    Raises
    ------
    BundleError
        If the spec does not fit the network.
    """
    channels_fit = all(len(values) in (1, network.in_channels) for values in (spec.mean, spec.std))
    if len(spec.classes) != network.classes or not channels_fit:
        raise BundleError(
            f"{path}: the spec names {len(spec.classes)} classes, {len(spec.mean)} means and {len(spec.std)} "
            f"standard deviations for a network of {network.classes} classes and {network.in_channels} channels"
        )
    header = {
        "format_version": FORMAT_VERSION,
        "architecture": network.architecture,
        "halo": network.receptive.halo,
        **asdict(spec),
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    blob = save(weights, metadata={HEADER_KEY: json.dumps(header, sort_keys=True)})
    partial = Path(path).with_name(Path(path).name + ".partial")
    partial.write_bytes(blob)
    partial.replace(path)


def read_bundle_info(path: str | Path) -> BundleInfo:
    """What the bundle says of itself.

    Raises
    ------
    BundleError
        If there is no such file, or it is truncated, foreign, newer than this wsipipe, or inconsistent.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except OSError as err:
        raise BundleError(f"bundle {path} can not be read: {err.strerror or err}") from err
    except SafetensorError as err:
        raise BundleError(
            f"bundle {path} is truncated or not a safetensors file ({err}); copy it again, or give another with -m"
        ) from err
    if HEADER_KEY not in metadata:
        raise BundleError(
            f"{path} is a safetensors file, but not a wsipipe bundle (its header has no {HEADER_KEY!r}); "
            "wsipipe.save_bundle writes one"
        )
    return BundleInfo(str(path.absolute()), sha256, *_parse_header(path, metadata[HEADER_KEY]))


def _parse_header(path: Path, text: str) -> tuple[dict[str, int], BundleSpec]:
    """Architecture and spec from the JSON of the header."""
    try:
        header = json.loads(text)
        version = header["format_version"]
        if version > FORMAT_VERSION:
            raise BundleError(
                f"bundle {path} has format version {version}, this wsipipe reads up to {FORMAT_VERSION}; "
                "install a newer wsipipe"
            )
        architecture = {key: int(value) for key, value in header["architecture"].items()}
        spec = BundleSpec(
            classes=tuple(LabelClass(**c) for c in header["classes"]),
            mpp=header["mpp"],
            mean=tuple(header["mean"]),
            std=tuple(header["std"]),
            name=header["name"],
            licence=header["licence"],
            training=header["training"],
        )
        halo = Receptive(architecture["depth"], architecture["convs_per_level"]).halo
    except BundleError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, GeometryError) as err:
        raise BundleError(f"bundle {path} has a header that makes no sense: {err!r}") from err
    if header["halo"] != halo:
        raise BundleError(f"bundle {path} says a halo of {header['halo']} px, its architecture has {halo}")
    return architecture, spec


def load_bundle(path: str | Path) -> Bundle:
    """The network of a bundle file, on the CPU, in evaluation mode, and what the file says of it.

    Raises
    ------
    BundleError
        As `read_bundle_info`, and if the weights are not those of the architecture.
    """
    info = read_bundle_info(path)
    try:
        with torch.device("meta"):  # no memory, and no random numbers drawn, for weights that are replaced at once
            network = UNet(**info.architecture)
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network.load_state_dict(weights, assign=True)
    except (OSError, SafetensorError, RuntimeError, TypeError) as err:
        raise BundleError(f"bundle {path}: its weights do not fit its architecture {info.architecture}: {err}") from err
    if len(info.spec.classes) != network.classes:
        raise BundleError(f"bundle {path} names {len(info.spec.classes)} classes for {network.classes} output channels")
    return Bundle(info, network.eval().requires_grad_(False))
