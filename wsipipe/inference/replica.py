"""One copy of the network on one device: a batch of tiles in, labels out.

Pixels travel to the device in the slide's own dtype and are normalised there. Labels are chosen there and travel back
as uint8. There is never a float map of more than one batch. Unless a lower precision was asked for, everything is
float32, so that a label does not depend on the device's generation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsipipe.arrays import Labels, Pixels, size_text
from wsipipe.errors import MachineError, MemoryLimitError, ModelError
from wsipipe.geometry.network import Receptive, round_up
from wsipipe.geometry.symmetry import SYMMETRIES, TTA_OFF, Symmetry
from wsipipe.inference import devices
from wsipipe.inference.averaging import moved, moved_back
from wsipipe.inference.devices import FLOAT16, FLOAT32, TORCH
from wsipipe.inference.engines.engine import Engine
from wsipipe.inference.engines.start import start_engine
from wsipipe.model.forward import Normalise, core_of, label_values, probabilities_of, uncertainty_of, winner
from wsipipe.model.model_file import Model
from wsipipe.model.network import LABELS, SIGMOID, ForeignNetwork, Head


@dataclass(frozen=True)
class Prediction:
    """The output of the network for one core, or for a batch of them."""

    labels: Labels
    """(..., y, x), uint8: the label of the most probable class; in a tie, of the first."""
    probabilities: npt.NDArray[np.uint8] | None
    """(..., class, y, x), uint8 = round(255 p) of softmax or sigmoid; None if not asked for."""
    uncertainty: npt.NDArray[np.uint8] | None = None
    """(..., y, x), uint8 = round(255 u) of `wsipipe.model.forward.uncertainty_of`; None if not asked for."""
    undefined: tuple[bool, ...] = ()
    """Of each core, whether the network gave values somewhere in it whose labels mean nothing: NaN, or an overflow."""
    seconds: float = 0.0
    """Seconds of the device's time; for one of a batch, its share."""

    def __getitem__(self, i: int) -> Prediction:
        """Prediction ``i`` of a batch."""
        return replace(self.each(lambda values: values[i]), undefined=self.undefined[i : i + 1])

    @property
    def arrays(self) -> list[npt.NDArray[np.uint8]]:
        """Its arrays (..., y, x), uint8: labels, and what else was asked for."""
        return [values for values in (self.labels, self.probabilities, self.uncertainty) if values is not None]

    def each(self, change: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]) -> Prediction:
        """The prediction whose arrays (..., y, x), uint8, are what ``change`` makes of its own."""
        more = {"probabilities": self.probabilities, "uncertainty": self.uncertainty}
        changed = {name: None if values is None else change(values) for name, values in more.items()}
        return Prediction(change(self.labels), changed["probabilities"], changed["uncertainty"])


NETWORK_ERRORS = (RuntimeError, MemoryError, ArithmeticError, LookupError, TypeError)
"""What computing a network raises: torch, and Python where a ``.pt2`` file computes sizes with numbers of its own."""


class Replica:
    """The network of ``model`` on ``device``.

    Parameters
    ----------
    model
        The loaded model, whose network is copied to the device.
    device
        ``"cpu"``, ``"cuda:0"`` and the like.
    engine
        ``"torch"``, ``"compile"``, or on a CPU ``"openvino"``.
    precision
        ``"float32"``, or what convolutions compute in: ``"tf32"``, ``"bfloat16"``, ``"float16"``.
    threads
        Cores that it uses, on a CPU.
    probabilities
        Whether predictions carry probabilities.
    receptive
        The sizes of its tiles; None: those of the model.
    uncertainty
        Whether predictions carry the uncertainty.
    tta
        The symmetries over which it averages probabilities: ``"off"``, ``"flips"`` or ``"all"``.
    channels_last
        Whether the channels of a pixel lie together in memory, within a network of torch.
    """

    network: Engine
    """Computes the network."""

    def __init__(
        self,
        model: Model,
        device: str,
        *,
        engine: str = TORCH,
        precision: str = FLOAT32,
        threads: int = 1,
        probabilities: bool = False,
        receptive: Receptive | None = None,
        uncertainty: bool = False,
        tta: str = TTA_OFF,
        channels_last: bool = True,
    ) -> None:
        self.device = torch.device(device)
        self.probabilities, self.uncertainty = probabilities, uncertainty
        self.receptive = receptive or model.info.receptive
        self.symmetries = SYMMETRIES[tta]
        self.info = model.info
        self.head = model.info.network.head
        self.in_channels = model.info.network.in_channels
        self.threads = threads
        self.overflows = precision == FLOAT16
        self.lanes = devices.lanes(device)
        self.network = start_engine(
            engine, model, self.device, threads=threads, precision=precision, channels_last=channels_last
        )
        self.normalise = Normalise(model.spec, self.device)
        self.label_values = label_values(model.spec, self.head, self.device)
        # Pixels of the smallest batch that did not fit, or of which a tensor would have too many values.
        self._too_large = devices.most_values(device) / model.info.network.values_per_pixel
        self._reason = "a tensor would have too many values"
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # so that every stream sees what was copied

    @contextmanager
    def lane(self) -> Iterator[None]:
        """The context in which a thread predicts: on a GPU its own stream, on a CPU its share of the cores."""
        if self.device.type == "cuda":
            with torch.cuda.stream(torch.cuda.Stream(self.device)):  # type: ignore[no-untyped-call]
                yield
        else:
            torch.set_num_threads(self.threads)  # OpenMP keeps this number per thread
            yield

    def predict(self, tiles: list[Pixels]) -> Prediction:
        """The prediction for ``tiles``, uint8 or uint16, all of one shape (core + margin, core + margin, channel).

        If they do not fit together, into the device's memory or into one tensor, they are predicted in halves, then
        each tile in halves on the pooling grid: slower, with the same labels. A size that did not fit is not tried
        again.

        Raises
        ------
        MemoryLimitError
            If not even the smallest tile fits into the device's memory.
        MachineError
            If the device fails.
        ModelError
            If the network is not what the model says of it.
        """
        pixels = len(tiles) * tiles[0].shape[0] * tiles[0].shape[1]
        if pixels < self._too_large:
            try:
                return self._forward(self._stack(tiles))
            except NETWORK_ERRORS as err:  # it keeps the tensors that did not fit alive: leave this block
                if not is_out_of_memory(err):
                    raise self._failure(err, tiles[0].shape) from err
                self._reason = str(err).partition("\n")[0]
            self._too_large = min(self._too_large, pixels)
        if len(tiles) > 1:
            half = len(tiles) // 2
            return concatenate([self.predict(tiles[:half]), self.predict(tiles[half:])], axis=0)
        return self._split_tile(tiles[0])

    def _failure(self, err: Exception, shape: tuple[int, ...]) -> MachineError | ModelError:
        """What ``err`` means, raised for tiles of this ``shape``: a network of others refuses what it gets.

        On a GPU, only what torch does not raise is known to be the network's.
        """
        of_network = self.device.type == "cpu" or not isinstance(err, RuntimeError)
        if of_network and isinstance(self.info.network, ForeignNetwork):
            return ModelError(
                f"model {self.info.path} does not compute tiles of {size_text(shape)} and {shape[2]} channels: "
                f"{' '.join(str(err).split())}; import it again, or use another --engine"
            )
        return MachineError(f"device {self.device} failed: {err}")

    def _split_tile(self, tile: Pixels) -> Prediction:
        """The prediction for one tile, cut in two between cores along its longer side."""
        margin, axis = self.receptive.margin, int(tile.shape[1] > tile.shape[0])
        core = tile.shape[axis] - margin
        if core <= self.receptive.stride:
            raise MemoryLimitError(
                f"device {self.device} has too little memory for a tile of {size_text(tile.shape)} "
                f"({self._reason}); use a device with more memory (--device)"
            )
        cut = round_up(core // 2, self.receptive.stride)
        along = np.moveaxis(tile, axis, 0)
        halves = [np.moveaxis(half, 0, axis) for half in (along[: cut + margin], along[cut:])]
        return concatenate([self.predict([half]) for half in halves], axis=axis - 2)

    def _stack(self, tiles: list[Pixels]) -> npt.NDArray[Any]:
        """``tiles`` as one array (n, y, x, channel), in pinned memory for a GPU, which copies from there by itself."""
        if self.device.type != "cuda":
            return np.stack(tiles)
        dtype = torch.from_numpy(tiles[0][:1, :1]).dtype
        pinned = torch.empty((len(tiles), *tiles[0].shape), dtype=dtype, pin_memory=True).numpy()
        return np.stack(tiles, out=pinned)

    @torch.inference_mode()
    def _forward(self, tiles: npt.NDArray[Any]) -> Prediction:
        """The prediction for ``tiles`` (n, y, x, channel) in one pass for each symmetry."""
        pixels = self.normalise.pixels(tiles)
        if len(self.symmetries) == 1:
            output, head = self._output(pixels), self.head
            finite = all_finite(output)
        else:
            output, finite = self._averaged(pixels)
            head = Head(self.head.kind, activated=True)
        labels = self._to_host(self._enlarged(self.label_values[self._winner(output, head)]))
        probabilities = uncertainty = None
        if self.probabilities or self.uncertainty:
            shares = probabilities_of(output, head)
            probabilities = self._share_to_host(shares) if self.probabilities else None
            uncertainty = self._share_to_host(uncertainty_of(shares, head)) if self.uncertainty else None
        prediction = Prediction(labels, probabilities, uncertainty)
        if not self.overflows and not finite.all():
            finite = have_winner(output, head)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
            prediction = prediction.each(np.copy)  # out of pinned memory, so that each lane takes that of one batch
        return replace(prediction, undefined=tuple((~finite).tolist()))

    def _output(self, pixels: Tensor) -> Tensor:
        """The network's output (n, class, y, x), float32, for the cores of normalised tiles (n, channel, y, x)."""
        output = core_of(self.network(pixels), self.receptive)
        classes = 1 if self.head.kind == LABELS else self.info.network.classes
        sides = [(side - self.receptive.margin) // self.receptive.scale for side in pixels.shape[2:]]
        if output.shape != (len(pixels), classes, *sides):
            raise ModelError(
                f"model {self.info.path} gives {tuple(output.shape)} for the cores of {tuple(pixels.shape)}, not "
                f"{(len(pixels), classes, *sides)}, as its description says; import it again"
            )
        return output.float()

    def _winner(self, output: Tensor, head: Head) -> Tensor:
        """`winner`, once class labels are among those that the model names."""
        found, count = winner(output, head), len(self.label_values)
        if head.kind == LABELS and not 0 <= found.amin() <= found.amax() < count:
            raise ModelError(
                f"model {self.info.path} gives classes from {int(found.amin())} to {int(found.amax())}, and names "
                f"{count}, from 0 on; import it again with a name for each"
            )
        return found

    def _averaged(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of the probabilities (n, class, y, x) over the symmetries, one after the other; and `all_finite`."""
        first, *others = self.symmetries
        total, finite = self._probabilities(pixels, first)
        for symmetry in others:
            shares, also = self._probabilities(pixels, symmetry)
            total.add_(shares)
            finite &= also
        return total.div_(len(self.symmetries)), finite

    def _probabilities(self, pixels: Tensor, symmetry: Symmetry) -> tuple[Tensor, Tensor]:
        """Probabilities (n, class, y, x) of tiles (n, channel, y, x) that the network sees moved; and `all_finite`."""
        output = self._output(moved(pixels, symmetry))
        return moved_back(probabilities_of(output, self.head), symmetry), all_finite(output)

    def _enlarged(self, found: Tensor) -> Tensor:
        """``found`` (..., y, x) of a network whose output is coarser than its input, at the size of the input."""
        scale = self.receptive.scale
        return found if scale == 1 else found.repeat_interleave(scale, -2).repeat_interleave(scale, -1)

    def _share_to_host(self, share: Tensor) -> npt.NDArray[np.uint8]:
        """``share`` (..., y, x), 0 to 1, as round(255 share) at the size of the input, `_to_host`."""
        return self._to_host(self._enlarged((share * 255).round_().to(torch.uint8)))

    def _to_host(self, found: Tensor) -> npt.NDArray[np.uint8]:
        """``found``, uint8, in the machine's memory; from a GPU it is there once the stream is synchronised."""
        if self.device.type != "cuda":
            return found.cpu().numpy()
        return torch.empty(found.shape, dtype=found.dtype, pin_memory=True).copy_(found, non_blocking=True).numpy()


def all_finite(output: Tensor) -> Tensor:
    """Whether ``output`` (n, class, y, x) has neither NaN nor infinities, (n,), bool.

    Where float16 overflows, a network gives either; its sigmoid or softmax may then be a number that looks right. A sum
    hands them on, and takes no memory; of finite values it would overflow if they were beyond 1e30, which mean nothing.
    """
    return output.sum((1, 2, 3)).isfinite()


def have_winner(output: Tensor, head: Head) -> Tensor:
    """Whether the probabilities of ``output`` (n, class, y, x) are numbers everywhere, (n,), bool.

    Unless it overflowed, an infinity is a value like others: the logit of a class that a network rules out is -inf.
    """
    most = output.amax(1)
    return ~most.amax((1, 2)).isnan() if head.kind == SIGMOID else most.sum((1, 2)).isfinite()


def is_out_of_memory(err: Exception) -> bool:
    """Whether ``err`` means out of memory; the CPU, mps, cuDNN and cuBLAS raise a plain RuntimeError for it.

    If no convolution of cuDNN gets the memory that it needs, torch says that it finds no engine (``Conv_v8.cpp``).
    """
    words = ("allocate memory", "out of memory", "bad_alloc", "ALLOC_FAILED", "unable to find an engine")
    return isinstance(err, torch.OutOfMemoryError | MemoryError) or any(text in str(err) for text in words)


def concatenate(parts: list[Prediction], axis: int) -> Prediction:
    """``parts`` joined along ``axis``; negative axes count from the end, (y, x), so that both arrays agree."""

    def joined(values: list[npt.NDArray[np.uint8] | None]) -> npt.NDArray[np.uint8] | None:
        arrays = [one for one in values if one is not None]
        return np.concatenate(arrays, axis) if arrays else None

    labels = np.concatenate([p.labels for p in parts], axis)
    undefined = tuple(one for p in parts for one in p.undefined)
    return Prediction(
        labels,
        joined([p.probabilities for p in parts]),
        joined([p.uncertainty for p in parts]),
        undefined if axis == 0 else (any(undefined),),
    )
