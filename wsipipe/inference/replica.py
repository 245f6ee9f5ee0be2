"""One copy of the network on one device: a batch of tiles in, labels out.

Pixels travel to the device in the slide's own dtype and are normalised there; labels are chosen there and
travel back as uint8. There is never a float map of more than one batch. Everything is float32, so that a
label does not depend on the device's generation.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsipipe.errors import MachineError, MemoryLimitError
from wsipipe.geometry.network import round_up
from wsipipe.inference.devices import OPENVINO, TORCH
from wsipipe.model.bundle import Bundle
from wsipipe.model.forward import Normalise, compute_float32, core_of, label_values, probabilities_of, winner

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """What the network says of some cores."""

    labels: Labels
    """(..., y, x), uint8: the label of the most probable class; of equally probable ones the first."""
    probabilities: npt.NDArray[np.uint8] | None
    """(..., class, y, x), uint8 = round(255 p) of softmax or sigmoid; None where not asked for."""
    seconds: float = 0.0
    """What it took of the device's time, in a batch its share."""

    def __getitem__(self, i: int) -> Prediction:
        """Prediction ``i`` of a batch."""
        return Prediction(self.labels[i], None if self.probabilities is None else self.probabilities[i])


class Replica:
    """The network of ``bundle`` on ``device``.

    Parameters
    ----------
    bundle
        As loaded; its network is copied to the device.
    device
        ``"cpu"``, ``"cuda:0"`` and the like.
    engine
        ``"torch"``, or on a CPU ``"openvino"``.
    threads
        How many cores it takes, on a CPU.
    probabilities
        Whether predictions carry them.
    """

    network: Callable[[Tensor], Tensor]
    """Logits of normalised tiles, as `UNet` gives them."""

    def __init__(
        self, bundle: Bundle, device: str, *, engine: str = TORCH, threads: int = 1, probabilities: bool = False
    ) -> None:
        self.device = torch.device(device)
        self.probabilities = probabilities
        self.receptive = bundle.info.receptive
        self.threads = threads
        if engine == OPENVINO:
            from wsipipe.inference.openvino import OpenVinoUNet  # an extra, and not installed everywhere

            self.network = OpenVinoUNet(bundle.network, threads)
        else:
            compute_float32(self.device)
            network = deepcopy(bundle.network).to(self.device)
            self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.normalise = Normalise(bundle.spec, self.device)
        self.label_values = label_values(bundle.spec, self.device)

    def predict(self, tiles: list[Pixels]) -> Prediction:
        """The prediction for ``tiles``, each (core + margin, core + margin, channel), all of one shape.

        When the device has no memory for all of them, they are predicted in halves, then each tile in
        halves on the pooling grid: slower, and the same labels.

        Raises
        ------
        MemoryLimitError
            If the device has no memory for the smallest tile there is.
        """
        try:
            return self._forward(np.stack(tiles))
        except (RuntimeError, MemoryError) as err:  # its traceback holds the tensors that did not fit: leave it
            if not is_out_of_memory(err):
                raise MachineError(f"device {self.device} failed: {err}") from err
            reason = str(err).partition("\n")[0]
        if len(tiles) > 1:
            half = len(tiles) // 2
            return concatenate([self.predict(tiles[:half]), self.predict(tiles[half:])], axis=0)
        return self._split_tile(tiles[0], reason)

    def _split_tile(self, tile: Pixels, reason: str) -> Prediction:
        """One tile as two, cut between two cores along its longer side."""
        margin, axis = self.receptive.margin, int(tile.shape[1] > tile.shape[0])
        core = tile.shape[axis] - margin
        if core <= self.receptive.stride:
            raise MemoryLimitError(
                f"device {self.device} has no memory for a tile of {tile.shape[0]} x {tile.shape[1]} px ({reason}); "
                "use a device with more (--device)"
            )
        cut = round_up(core // 2, self.receptive.stride)
        along = np.moveaxis(tile, axis, 0)
        halves = [np.moveaxis(half, 0, axis) for half in (along[: cut + margin], along[cut:])]
        return concatenate([self.predict([half]) for half in halves], axis=axis - 2)

    @torch.inference_mode()
    def _forward(self, tiles: npt.NDArray[Any]) -> Prediction:
        """The prediction for ``tiles`` (n, y, x, channel) in one pass."""
        logits = core_of(self.network(self.normalise.pixels(tiles)), self.receptive)
        probabilities = None
        if self.probabilities:
            probabilities = probabilities_of(logits).mul_(255).round_().to(torch.uint8).cpu().numpy()
        return Prediction(self.label_values[winner(logits)].cpu().numpy(), probabilities)


def is_out_of_memory(err: Exception) -> bool:
    """Whether ``err`` says so; on a CPU and on mps it is a plain RuntimeError."""
    words = ("allocate memory", "out of memory", "bad_alloc")
    return isinstance(err, torch.OutOfMemoryError | MemoryError) or any(text in str(err) for text in words)


def concatenate(parts: list[Prediction], axis: int) -> Prediction:
    """``parts`` as one, joined along ``axis``; negative axes count from (y, x), so that both arrays agree."""
    probabilities = [p.probabilities for p in parts if p.probabilities is not None]
    return Prediction(
        np.concatenate([p.labels for p in parts], axis),
        np.concatenate(probabilities, axis) if probabilities else None,
    )
