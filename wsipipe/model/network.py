"""What a run knows of a network before it loads it, and what the network's output means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wsipipe.geometry.network import Receptive

UNET, ONNX, PT2 = "U-Net", "ONNX", "torch.export"
"""The kinds of networks: wsipipe's own, and files of other programs."""
SOFTMAX, SIGMOID, LABELS = "softmax", "sigmoid", "labels"
HEADS = (SOFTMAX, SIGMOID, LABELS)
"""What the channels of the output are: classes that exclude each other; classes by themselves; one of class numbers."""


@dataclass(frozen=True)
class Head:
    """What the output of a network, (n, channel, y, x), means."""

    kind: str
    """``softmax``, ``sigmoid`` or ``labels``."""
    activated: bool = False
    """Whether softmax or sigmoid is part of the network, so that the output is probabilities, not logits."""


@dataclass(frozen=True)
class ForeignNetwork:
    """A network that was made elsewhere, as `wsipipe.model.import_model` measured it."""

    kind: str
    """``ONNX`` or ``torch.export``."""
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

    def tensor_bytes(self, side: int, batch: int, *, engine: str, probabilities: bool) -> int:
        """The most bytes that ``engine`` holds at once for tiles of ``side`` px, ``batch`` of them, weights apart."""
        known = self.bytes_per_pixel
        per_pixel = known.get(engine, max(known.values()))
        chosen = 8 + 5 * self.classes * probabilities  # int64: the winning class; float32 and uint8: probabilities
        return int(batch * side * side * (per_pixel + chosen))
