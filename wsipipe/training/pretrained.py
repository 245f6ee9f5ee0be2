"""The model that a training starts from: what is taken from it, and what does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from wsipipe.errors import UsageError
from wsipipe.model.built_in import BUILT_IN
from wsipipe.model.file_kind import FileKind, kind_of
from wsipipe.model.model_file import FILES, ModelInfo, read_model_info
from wsipipe.model.spec import BACKGROUND, ModelSpec
from wsipipe.model.unet_file import UNetInfo, load_unet
from wsipipe.tables import at
from wsipipe.training.resize import MPP_TOLERANCE

SIZES_OF_NETWORK = ("base_channels", "depth", "convs_per_level")
"""The keys of ``[network]`` that are sizes of the network."""


@dataclass(frozen=True)
class Pretrained:
    """A U-Net of wsipipe, whose weights a training starts from."""

    info: ModelInfo
    network: UNetInfo

    @property
    def name(self) -> str:
        """Its file name, for messages."""
        return Path(self.info.path).name

    @property
    def spec(self) -> ModelSpec:
        """Description of its weights."""
        return self.info.spec

    @property
    def record(self) -> dict[str, Any]:
        """What the trained model says of it."""
        spec = self.spec
        return {"name": spec.name, "sha256": self.info.sha256, "licence": spec.licence, "training": spec.training}

    def complete(self, document: dict[str, Any]) -> dict[str, Any]:
        """The configuration ``document``, as tomllib reads it, with values of this model where it states none.

        These are the sizes of the network, the resolution, and the classes with the smallest area of their objects.
        """
        spec, sizes = self.spec, {key: self.network.architecture[key] for key in SIZES_OF_NETWORK}
        given: dict[str, Any] = {"mpp": spec.mpp}
        if "classes" not in document:
            named = [{"name": c.name} for c in spec.classes if c.label != BACKGROUND]
            given |= {"classes": named, "min_area_um2": spec.min_area_um2}
        network = {**sizes, "sigmoid": self.network.classes == 1, **document.get("network", {})}
        return {**given, **document, "network": network}

    def check_sizes(self, architecture: dict[str, int]) -> None:
        """Raise a UsageError unless a network of ``architecture`` has the layers of this one, apart from its head."""
        theirs = self.network.architecture
        if (channels := architecture["in_channels"]) != theirs["in_channels"]:
            wanted = theirs["in_channels"]
            raise UsageError(
                f"{self.name} takes images with {wanted} channel{'s'[: wanted > 1]}, and those of this training have "
                f"{channels}; train on other images, or without --from"
            )
        if differing := [key for key in SIZES_OF_NETWORK if architecture[key] != theirs[key]]:
            raise UsageError(
                f"{self.name} has {_listed(differing, theirs)}, this training {_listed(differing, architecture)}; "
                "remove from [network] what differs, to take it from the model, or train without --from"
            )

    def has_head_for(self, spec: ModelSpec) -> bool:
        """Whether the outputs of a model of ``spec`` mean what those of this one mean, in the same order."""
        return _meanings(spec) == _meanings(self.spec)

    def warnings(self, spec: ModelSpec) -> Iterator[str]:
        """What a user should know before a model of ``spec`` is trained from this one."""
        if not self.has_head_for(spec):
            other = f"{self.name} has {_counted(self.spec)}, this training {_counted(spec)}"
            way_out = "; name them as the model does to keep it" if len(spec.classes) == self.network.classes else ""
            yield f"the head starts anew: {other}{way_out}"
        elif (theirs := _labels(self.spec)) != (ours := _labels(spec)):
            yield f"the labels change: {self.name} has {theirs} for its classes, the new model will have {ours}"
        mpp = self.spec.mpp
        if mpp is not None and (spec.mpp is None or abs(spec.mpp - mpp) > MPP_TOLERANCE * mpp):
            here = "the resolution of the images" if spec.mpp is None else f"{spec.mpp:g}"
            yield (
                f"{self.name} was trained at {mpp:g} micrometres per pixel, this training is at {here}: "
                "objects have other sizes than those it knows; without mpp, a configuration takes that of the model"
            )

    def weights(self, spec: ModelSpec) -> dict[str, Tensor]:
        """The weights to start a model of ``spec`` from, by name, any axes (...), float32; without an unfit head.

        Raises
        ------
        ModelError
            If they are not those of the architecture, or not finite float32.
        """
        weights = load_unet(Path(self.info.path), self.network).state_dict()
        keeps_head = self.has_head_for(spec)
        return {name: tensor for name, tensor in weights.items() if keeps_head or not name.startswith("head.")}


def pretrained_path(name: str, roots: Sequence[Path]) -> Path:
    """The file of the model ``name``: of one that comes with wsipipe, else a file in one of ``roots``."""
    return BUILT_IN[name] if name in BUILT_IN else at(name, roots)


def read_pretrained(path: Path) -> Pretrained:
    """The model at ``path``, without its weights.

    Raises
    ------
    ModelError
        If it cannot be read, or is not a model.
    UsageError
        If it is the network of another program.
    """
    kind = kind_of(path)
    if kind is not FileKind.SAFETENSORS:
        raise UsageError(
            f"{path} is {FILES[kind]}, and train continues wsipipe's own U-Nets; give a .safetensors model, "
            "or train without --from"
        )
    info = read_model_info(path)
    assert isinstance(info.network, UNetInfo)
    return Pretrained(info, info.network)


def with_pretrained(document: dict[str, Any], roots: Sequence[Path], pretrained: str | None) -> dict[str, Any]:
    """``document``, as tomllib reads it, with the values that it leaves to the model that it starts from, if any.

    Parameters
    ----------
    document
        The configuration.
    roots
        Folders in which the model is looked for.
    pretrained
        The model, in place of the one that ``document`` names.

    Raises
    ------
    ModelError, UsageError
        If the model cannot be read, or is not wsipipe's own U-Net.
    """
    network = document.get("network", {})
    if not isinstance(network, dict):
        return document  # `config.config_of` says what is wrong with it
    if pretrained is not None:
        document = {**document, "network": {**network, "pretrained": pretrained}}
    elif not isinstance(pretrained := network.get("pretrained"), str):
        return document
    return read_pretrained(pretrained_path(pretrained, roots)).complete(document)


def _meanings(spec: ModelSpec) -> list[str | None]:
    """The name of each output's class; None for background, whatever its name."""
    return [None if c.label == BACKGROUND else c.name for c in spec.classes]


def _labels(spec: ModelSpec) -> list[int]:
    return [c.label for c in spec.classes]


def _counted(spec: ModelSpec) -> str:
    """The number and the names of the classes, such as ``2 classes (background, nucleus)``."""
    names = [c.name for c in spec.classes]
    return f"{len(names)} class{'es'[: 2 * (len(names) > 1)]} ({', '.join(names)})"


def _listed(keys: list[str], sizes: dict[str, int]) -> str:
    """Sizes by name, such as ``base_channels 24 and depth 3``."""
    return " and ".join(f"{key} {sizes[key]}" for key in keys)
