"""What a run knows of a network before it loads it, and what the network's output means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from wsipipe.geometry.network import Receptive
from wsipipe.model.file_kind import FileKind
from wsipipe.model.footprint import FLOAT32_BYTES

SOFTMAX, SIGMOID, LABELS = "softmax", "sigmoid", "labels"
HEADS = (SOFTMAX, SIGMOID, LABELS)
"""What the channels of the output are: classes that exclude each other; classes by themselves; one of class numbers."""

MOST_CHANNELS, MOST_CLASSES, MOST_PX, MOST_BYTES = 2**16, 256, 2**13, 2**30
"""What no network has more of: channels, classes, pixels of its stride and halo, bytes per pixel of a tile."""


@dataclass(frozen=True)
class Head:
    """What the output of a network, (n, channel, y, x), means."""

    kind: str
    """``softmax``, ``sigmoid`` or ``labels``."""
    activated: bool = False
    """Whether softmax or sigmoid is part of the network, so that the output is probabilities, not logits."""

    def __str__(self) -> str:
        return f"{self.kind} within the network" if self.activated else self.kind


@dataclass(frozen=True)
class ForeignNetwork:
    """A network that was made elsewhere, as `wsipipe.importing.import_model` measured it."""

    kind: FileKind
    """``ONNX`` or ``PT2``."""
    in_channels: int
    """Channels of the image."""
    classes: int
    """Classes that it tells apart: the channels of its output, or for class labels their number."""
    head: Head
    """What its output means."""
    receptive: Receptive
    """How far it looks, and the tiles that it takes: measured."""
    input: str
    """Name of the input in an ONNX file."""
    output: str
    """Name of the output in an ONNX file; in a ``torch.export`` program its number, from 0."""
    channels_last: bool
    """Whether it takes and gives (n, y, x, channel) instead of (n, channel, y, x)."""
    single: bool
    """Whether it takes one tile at a time."""
    exact: bool
    """Whether tiles give what the whole image would; if not, ``receptive`` has a margin that somebody chose."""
    bytes_per_pixel: Mapping[str, float]
    """Memory of each engine that was measured, in bytes per pixel of a tile, weights apart."""

    @property
    def values_per_pixel(self) -> float:
        """The most values of one tensor for each pixel of a tile; no tensor has more than all of them together."""
        return max(self.in_channels, self.classes, max(self.bytes_per_pixel.values()) / FLOAT32_BYTES)

    def tensor_bytes(self, side: int, batch: int, *, engine: str, value_bytes: int, probabilities: bool) -> int:
        """The most bytes that ``engine`` holds at once for tiles of ``side`` px, ``batch`` of them, weights apart.

        A value of a tensor within the network takes ``value_bytes``; those of input and output are float32.
        """
        known = self.bytes_per_pixel
        least = FLOAT32_BYTES * (
            self.in_channels + (self.classes if self.head.kind != LABELS else 1) / self.receptive.scale**2
        )
        per_pixel = max(least, known.get(engine, max(known.values())))
        if value_bytes < FLOAT32_BYTES:
            per_pixel = least + per_pixel * value_bytes / FLOAT32_BYTES
        chosen = 12 + 24 * self.classes * probabilities  # int64 and float32: the winner; three of float64
        return int(batch * side * side * (per_pixel + chosen))


def describe_foreign(network: ForeignNetwork) -> dict[str, Any]:
    """What the metadata of a file says of ``network``; `parse_foreign` reads it."""
    described = asdict(network)
    del described["kind"]  # the file shows it
    return described


def parse_foreign(kind: FileKind, described: Mapping[str, Any]) -> ForeignNetwork:
    """The network of this ``kind`` that the metadata of a file describes.

    Raises
    ------
    KeyError, TypeError, ValueError
        If they describe none.
    """
    head, receptive = Head(**described["head"]), Receptive(**described["receptive"])
    network = ForeignNetwork(**{**described, "kind": kind, "head": head, "receptive": receptive})
    _check_types(network)
    _check_types(head)
    _check_types(receptive)
    for problem in _problems(network):
        raise ValueError(problem)
    return network


def _check_types(value: Head | Receptive | ForeignNetwork) -> None:
    """Raise a TypeError unless each field is of the type that its class declares; JSON knows no more of them."""
    allowed = {"int": (int,), "int | None": (int, type(None)), "str": (str,), "bool": (bool,)}
    for field in fields(value):
        given = getattr(value, field.name)
        if type(given) not in allowed.get(str(field.type), (type(given),)):
            raise TypeError(f"{field.name} is {given!r}, not {field.type}")


def _problems(network: ForeignNetwork) -> Iterator[str]:
    """What cannot be in the description of a network."""
    sizes, known = network.receptive, network.bytes_per_pixel
    if not (1 <= network.in_channels <= MOST_CHANNELS and 1 <= network.classes <= MOST_CLASSES):
        yield f"{network.in_channels} channels and {network.classes} classes"
    if network.head.kind not in HEADS or (network.head.kind == SOFTMAX and network.classes == 1):
        yield f"the head {network.head.kind!r} of {network.classes} classes"
    if not (0 < sizes.stride <= MOST_PX and 0 <= sizes.halo <= MOST_PX and 0 <= sizes.margin <= 4 * MOST_PX):
        yield f"a stride of {sizes.stride} px, a halo of {sizes.halo} px and a margin of {sizes.margin} px"
    if (
        sizes.margin % 2
        or not 0 <= sizes.crop <= sizes.margin // 2
        or (network.exact and sizes.margin < 2 * sizes.halo)
    ):
        yield f"a margin of {sizes.margin} px with a halo of {sizes.halo} px and a crop of {sizes.crop} px"
    if sizes.scale < 1 or sizes.stride % sizes.scale or sizes.crop % sizes.scale:
        yield f"a scale of {sizes.scale} with a stride of {sizes.stride} px and a crop of {sizes.crop} px"
    if sizes.largest_core not in (None, sizes.stride):
        yield f"a largest core of {sizes.largest_core} px with a stride of {sizes.stride} px"
    if not known or not all(isinstance(value, int | float) and 0 <= value < MOST_BYTES for value in known.values()):
        yield f"{known!r} bytes per pixel"
