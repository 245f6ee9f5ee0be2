"""wsipipe's own U-Net in a file: ``.safetensors``, with the architecture in the header.

Loading executes nothing (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from wsipipe.errors import ModelError
from wsipipe.geometry.network import Receptive, UNetSizes
from wsipipe.model.file_kind import FileKind
from wsipipe.model.footprint import FLOAT32_BYTES, activation_bytes
from wsipipe.model.network import SIGMOID, SOFTMAX, Head
from wsipipe.model.unet import UNet

SIZES = {
    "in_channels": (1, 2**16),
    "classes": (1, 256),
    "base_channels": (1, 2**12),
    "depth": (0, 10),
    "convs_per_level": (1, 2**8),
}
"""The arguments of `UNet`, and the lowest and highest value of each."""
OPENVINO_SHARE = 1.5
"""Memory of OpenVINO over image and tensors alive at once: 1.0 to 1.47 for bases of 2 to 64, depths of 1 to 4."""


@dataclass(frozen=True)
class UNetInfo:
    """A U-Net as its file describes it."""

    architecture: dict[str, int] = field(hash=False)
    """Arguments of `UNet`."""

    kind: ClassVar[FileKind] = FileKind.SAFETENSORS
    exact: ClassVar[bool] = True

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return self.architecture["in_channels"]

    @property
    def classes(self) -> int:
        """Channels of the output."""
        return self.architecture["classes"]

    @property
    def head(self) -> Head:
        """One channel is a sigmoid, several are a softmax."""
        return Head(SIGMOID if self.classes == 1 else SOFTMAX)

    @property
    def receptive(self) -> Receptive:
        """How far it looks, and the tiles that it takes."""
        return UNetSizes(self.architecture["depth"], self.architecture["convs_per_level"]).receptive

    @property
    def values_per_pixel(self) -> float:
        """The most values of one tensor for each pixel of a tile: of skip and decoder joined, in the first level."""
        sizes = self.architecture
        return max(self.in_channels, self.classes, sizes["base_channels"] << (sizes["depth"] > 0))

    def tensor_bytes(self, side: int, batch: int, *, engine: str, value_bytes: int, probabilities: bool) -> int:
        """The most bytes that ``engine`` holds at once for tiles of ``side`` px, ``batch`` of them, weights apart.

        A value of a tensor within the network takes ``value_bytes``.
        """
        tensors = activation_bytes(self.architecture, side, batch, probabilities=probabilities, value_bytes=value_bytes)
        if engine != "openvino":
            return tensors
        return int(OPENVINO_SHARE * (tensors + FLOAT32_BYTES * batch * side * side * self.in_channels))


def parse_architecture(header: Mapping[str, Any]) -> UNetInfo:
    """The network that the ``header`` of a file describes.

    Raises
    ------
    ValueError, KeyError, TypeError
        If it describes none; a ValueError also if the halo that it states is not the network's.
    """
    given = header["architecture"]
    if set(given) != set(SIZES):
        raise ValueError(f"the architecture has the keys {sorted(given)}, not {sorted(SIZES)}")
    info = UNetInfo({key: _whole(given[key], key, limits) for key, limits in SIZES.items()})
    if header["halo"] != info.receptive.halo:
        raise ValueError(f"a halo of {header['halo']} px, but the architecture has {info.receptive.halo}")
    return info


def _whole(value: object, name: str, limits: tuple[int, int]) -> int:
    """``value``. Raise a ValueError unless it is a whole number within ``limits``."""
    if type(value) is not int or not limits[0] <= value <= limits[1]:
        raise ValueError(f"{name} is {value!r}, not a whole number from {limits[0]} to {limits[1]}")
    return value


def describe_unet(network: UNet) -> dict[str, Any]:
    """What the header of a file says of ``network``."""
    return {"architecture": network.architecture, "halo": network.receptive.halo}


def unet_blob(network: UNet, metadata: dict[str, str]) -> bytes:
    """The file of ``network``, with ``metadata`` in its header."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    blob: bytes = save(weights, metadata=metadata)
    return blob


def read_unet_metadata(path: Path) -> dict[str, str]:
    """The metadata in the header of a ``.safetensors`` file.

    Raises
    ------
    ModelError
        If it is truncated, or no such file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as err:
        raise ModelError(
            f"model {path} is truncated or not a safetensors file ({err}); copy it again, or give another with -m"
        ) from err


def load_unet(path: Path, info: UNetInfo) -> UNet:
    """The network in a file, on the CPU and in evaluation mode.

    Raises
    ------
    ModelError
        If the weights are not those of the architecture, or not finite float32.
    """
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
    return network.eval().requires_grad_(False)
