"""A model: one ``.safetensors`` file with the weights of a network and all that a run must know about them.

The file's header carries one JSON document under the key ``wsipipe``: architecture, halo, normalisation,
micrometres per pixel, classes with label values and colours, licence, how it was trained, and the version
of this format. Loading executes nothing (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from wsipipe.errors import ModelError
from wsipipe.files import write_whole
from wsipipe.geometry.network import Receptive
from wsipipe.model.min_areas import min_area_of_older
from wsipipe.model.unet import UNet
from wsipipe.palette import class_color

FORMAT_VERSION = 1
HEADER_KEY = "wsipipe"
SIZES = {
    "in_channels": (1, 2**16),
    "classes": (1, 256),
    "base_channels": (1, 2**12),
    "depth": (0, 10),
    "convs_per_level": (1, 2**8),
}
"""The arguments of `UNet`, and the lowest and highest value of each."""
BACKGROUND = 0
"""The label of background, and of pixels that were not segmented."""


@dataclass(frozen=True)
class LabelClass:
    """The meaning of one output channel of the network."""

    name: str
    """The name that viewers show."""
    label: int
    """The value of its pixels in the label array, 1 to 255; 0 for the background channel."""
    color: str
    """The colour in which viewers draw it, ``#rrggbb``."""


@dataclass(frozen=True)
class ModelSpec:
    """Description of a model's weights.

    Raises
    ------
    ModelError
        If a value is out of range, or two classes share a label.
    """

    classes: tuple[LabelClass, ...]
    """One per output channel of the network."""
    mpp: float | None = None
    """Micrometres per pixel it was trained at; None: any, and level 0 is used."""
    mean: tuple[float, ...] = (0.5,)
    """Subtracted from each channel, as a share of the pixel type's full scale; one value serves all channels."""
    std: tuple[float, ...] = (0.25,)
    """Divisor of each channel after that, as a share of full scale; one value serves all channels."""
    name: str = "unnamed"
    """The name that people call it by."""
    licence: str = "not stated"
    """Licence of the weights."""
    training: dict[str, Any] = field(default_factory=dict)
    """Record of its training: data, settings, scores. Plain JSON."""
    min_area_um2: float = 0.0
    """Area in square micrometres below which what it finds is not an object."""

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise ModelError(f"model {self.name!r} {problem}")

    def _problems(self) -> Iterator[str]:
        """Its problems, basic ones first; later checks rely on earlier ones."""
        texts = [self.name, self.licence, *(text for c in self.classes for text in (c.name, c.color))]
        labels, colors = [c.label for c in self.classes], [c.color for c in self.classes]
        if not all(isinstance(text, str) for text in texts):
            yield f"has names that are not text: {texts}"
        if not isinstance(self.training, dict):
            yield f"has a training record that is not a table: {self.training!r}"
        if not labels:
            yield "has no classes"
        if not all(type(label) is int and 0 <= label <= 255 for label in labels):
            yield f"has labels that are not whole numbers from 0 to 255: {labels}"
        if len(set(labels)) < len(labels):
            yield f"has two classes with the same label: {labels}"
        if labels == [BACKGROUND]:
            yield f"has only a background, label {BACKGROUND}"
        if not all(re.fullmatch("#[0-9a-fA-F]{6}", color) for color in colors):
            yield f"has colours that are not #rrggbb: {colors}"
        if self.mpp is not None and not 0 < self.mpp < math.inf:
            yield f"has {self.mpp} micrometres per pixel, which is not a positive number"
        if not 0 <= self.min_area_um2 < math.inf:
            yield f"has a smallest object of {self.min_area_um2} um2, which is not 0 or more"
        if not self.std or not all(0 < value < math.inf for value in self.std):
            yield f"has standard deviations that are not positive numbers, one or more: {self.std}"
        if not self.mean or not all(map(math.isfinite, self.mean)):
            yield f"has means that are not finite numbers, one or more: {self.mean}"


def default_classes(channels: int) -> tuple[LabelClass, ...]:
    """Background and ``class 1``, ``class 2`` ...; for one sigmoid channel ``class 1`` alone."""
    named = [LabelClass(f"class {i}", i, class_color(i)) for i in range(1, max(channels, 2))]
    return tuple(named) if channels == 1 else (LabelClass("background", BACKGROUND, "#000000"), *named)


@dataclass(frozen=True)
class ModelInfo:
    """The header of a model file, read without its weights."""

    path: str
    """The file, absolute."""
    sha256: str
    """Digest of the whole file: the identity of the weights and their header."""
    architecture: dict[str, int] = field(hash=False)
    """Arguments of `UNet`."""
    spec: ModelSpec = field(hash=False)
    """Classes, resolution, normalisation and the like."""

    @property
    def receptive(self) -> Receptive:
        """The sizes of its network."""
        return Receptive(self.architecture["depth"], self.architecture["convs_per_level"])


@dataclass(frozen=True)
class Model:
    """A network ready to run, and the header of its file."""

    info: ModelInfo
    network: UNet

    @property
    def spec(self) -> ModelSpec:
        """Description of the model's weights."""
        return self.info.spec


def save_model(path: str | Path, network: UNet, spec: ModelSpec) -> None:
    """Write ``network`` and ``spec`` as one model file; it appears whole or not at all.

    Raises
    ------
    ModelError
        If the spec does not fit the network.
    OutputError
        If the file cannot be written.
    """
    header = {
        "format_version": FORMAT_VERSION,
        "architecture": network.architecture,
        "halo": network.receptive.halo,
        **asdict(spec),
    }
    _check_fit(path, network.architecture, spec)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    blob = save(weights, metadata={HEADER_KEY: json.dumps(header, sort_keys=True)})
    write_whole(Path(path), blob, kind="model ", way_out="give another path")


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
    save_model(path, network, spec)
    return sum(weights.numel() for weights in network.parameters())


def _check_fit(path: str | Path, architecture: dict[str, int], spec: ModelSpec) -> None:
    """Raise a ModelError unless there is a class for every output, and a mean and deviation for every input."""
    channels_fit = all(len(values) in (1, architecture["in_channels"]) for values in (spec.mean, spec.std))
    if len(spec.classes) != architecture["classes"] or not channels_fit:
        raise ModelError(
            f"model {path} names {len(spec.classes)} classes, {len(spec.mean)} means and {len(spec.std)} standard "
            f"deviations for a network of {architecture['classes']} classes and {architecture['in_channels']} channels"
        )


def read_model_info(path: str | Path) -> ModelInfo:
    """The header of the model file at ``path``, and its digest.

    Raises
    ------
    ModelError
        If there is no such file, or it is truncated, foreign, newer than this wsipipe, or inconsistent.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except OSError as err:
        raise ModelError(f"model {path} cannot be read: {err.strerror or err}") from err
    except SafetensorError as err:
        raise ModelError(
            f"model {path} is truncated or not a safetensors file ({err}); copy it again, or give another with -m"
        ) from err
    if HEADER_KEY not in metadata:
        raise ModelError(
            f"{path} is a safetensors file, but not a wsipipe model (its header has no {HEADER_KEY!r}); "
            "wsipipe.save_model writes one"
        )
    architecture, spec = _parse_header(path, metadata[HEADER_KEY], min_area_of_older(sha256))
    _check_fit(path, architecture, spec)
    return ModelInfo(str(path.absolute()), sha256, architecture, spec)


def _parse_header(path: Path, text: str, min_area_um2: float) -> tuple[dict[str, int], ModelSpec]:
    """Architecture and spec from the JSON of the header; ``min_area_um2`` is for headers that do not state it."""
    try:
        header = json.loads(text)
        version = header["format_version"]
        newer = version > FORMAT_VERSION
        if not newer:
            given = header["architecture"]
            if set(given) != set(SIZES):
                raise ValueError(f"the architecture has the keys {sorted(given)}, not {sorted(SIZES)}")
            architecture = {key: _whole(given[key], key, limits) for key, limits in SIZES.items()}
            spec = ModelSpec(
                classes=tuple(LabelClass(**c) for c in header["classes"]),
                mpp=header["mpp"],
                mean=tuple(header["mean"]),
                std=tuple(header["std"]),
                name=header["name"],
                licence=header["licence"],
                training=header["training"],
                min_area_um2=header.get("min_area_um2", min_area_um2),
            )
            stated, halo = header["halo"], Receptive(architecture["depth"], architecture["convs_per_level"]).halo
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as err:
        raise ModelError(f"model {path} has an invalid header: {type(err).__name__}: {err}") from err
    if newer:
        raise ModelError(
            f"model {path} has format version {version}, this wsipipe reads up to {FORMAT_VERSION}; "
            "install a newer wsipipe"
        )
    if stated != halo:
        raise ModelError(f"model {path} states a halo of {stated} px, but its architecture has {halo}")
    return architecture, spec


def _whole(value: object, name: str, limits: tuple[int, int]) -> int:
    """``value``. Raise a ValueError unless it is a whole number within ``limits``."""
    if type(value) is not int or not limits[0] <= value <= limits[1]:
        raise ValueError(f"{name} is {value!r}, not a whole number from {limits[0]} to {limits[1]}")
    return value


def load_model(path: str | Path) -> Model:
    """The model in a file: its network, on the CPU and in evaluation mode, and its header.

    Raises
    ------
    ModelError
        As `read_model_info`, or if the weights are not those of the architecture, or not finite float32.
    """
    info = read_model_info(path)
    try:
        # Its weights are replaced at once. On the "meta" device they would cost nothing, except 1.5 s of imports.
        with torch.random.fork_rng(devices=[]):
            network = UNet(**info.architecture)
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network.load_state_dict(weights, assign=True)
    except (OSError, SafetensorError, RuntimeError, TypeError) as err:
        raise ModelError(f"model {path}: its weights do not fit its architecture {info.architecture}: {err}") from err
    for name, weight in weights.items():
        if weight.dtype != torch.float32 or not weight.isfinite().all():
            raise ModelError(
                f"model {path}: weights {name} are {weight.dtype}, or not finite; finite float32 is required"
            )
    return Model(info, network.eval().requires_grad_(False))
