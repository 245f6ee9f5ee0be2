"""Patches: tiles as the network sees them in a run, with the target and the weight of each pixel of their core.

::

    |<-------------------- tile -------------------->|   image    the input of one forward pass, mirrored at the border
    | margin/2 |<--------- core --------->| margin/2 |   target   the core: the network's output, cropped

Patch k depends on the seed and on k alone, whichever process makes it: `numpy.random.default_rng([seed, k])`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from wsipipe.errors import MachineError
from wsipipe.geometry.mirror import mirror
from wsipipe.training.augment import Augmentation, jitter, sample_image, sample_labels, source_positions
from wsipipe.training.config import WeightConfig
from wsipipe.training.fields import Field
from wsipipe.training.pixel_weights import border_weight, separated
from wsipipe.training.sampling import PatchPlace, Places
from wsipipe.training.styles import Styles

SPARE_PX = 3
"""Pixels that are read beyond the outermost positions, for interpolation."""


class Patch(NamedTuple):
    """One example, or several stacked along a new first axis."""

    image: npt.NDArray[np.float32]
    """(channel, tile, tile), as a share of full scale."""
    target: npt.NDArray[np.int64]
    """(core, core): 0 background, 1 the first class ..."""
    weight: npt.NDArray[np.float32]
    """(core, core): weight of each pixel in the loss."""


@dataclass(frozen=True)
class PatchMaker:
    """Makes any patch of a training."""

    fields: tuple[Field, ...]
    places: Places
    seed: int
    tile: int
    """Side of the network's input, px."""
    margin: int
    """Difference between that and the side of the target, px."""
    augmentation: Augmentation
    weights: WeightConfig
    class_weights: npt.NDArray[np.float64]
    """(class,): weight of background, and of each class."""
    styles: Styles | None = None
    """The looks of the training images; None if no patch gets another one."""

    def patch(self, k: int) -> Patch:
        """Patch number ``k``."""
        rng = np.random.default_rng([self.seed, k])
        place = self.places.draw(rng)
        return self.patch_at(place, source_positions(rng, self.tile, self.augmentation), rng)

    def patch_at(self, place: PatchPlace, positions: npt.NDArray[np.float64], rng: np.random.Generator) -> Patch:
        """The patch at ``place`` whose pixels come from ``positions`` about its centre, (2, tile, tile), float64."""
        field = self.fields[place.field]
        # An even number of pixels has its centre between two of them.
        offsets = np.array([np.floor(c) - (self.tile + 1) % 2 / 2 for c in place.center])
        positions = positions + offsets[:, None, None]
        low = np.floor(positions.min((1, 2))).astype(np.int64) - SPARE_PX
        high = np.ceil(positions.max((1, 2))).astype(np.int64) + SPARE_PX + 1
        rows, cols = (mirror(np.arange(a, b), n) for a, b, n in zip(low, high, field.shape, strict=True))
        positions -= low[:, None, None]
        shares = field.pixels_at(rows, cols).astype(np.float32) / np.float32(np.iinfo(field.dtype).max)
        image = sample_image(shares, positions).clip(0, 1)  # cubic interpolation overshoots
        truth = field.truth_at(rows, cols)
        classes, instances = sample_labels(truth.classes, positions), sample_labels(truth.instances, positions)
        image, objects_stay = jitter(image, classes > 0, rng, self.augmentation, self.styles)
        if not objects_stay:
            classes, instances = np.zeros_like(classes), np.zeros_like(instances)
        target, weight = self._target(classes, instances, sample_labels(truth.inside, positions))
        return Patch(np.ascontiguousarray(image.transpose(2, 0, 1)), target, weight)

    def _target(
        self, classes: npt.NDArray[np.uint8], instances: npt.NDArray[np.int32], inside: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Target and weight, (core, core), from the labels of the augmented tile."""
        half = self.margin // 2
        core = np.s_[half : self.tile - half, half : self.tile - half]
        apart = separated(instances, self.weights.ridge_px)
        target = np.where(apart == instances, classes, 0)[core].astype(np.int64)
        weight = self.class_weights[target].astype(np.float32)
        if self.weights.w0:
            weight += border_weight(apart, w0=self.weights.w0, sigma=self.weights.sigma_px, margin=half)
        return target, weight * inside[core]


def stacked(patches: list[Patch]) -> Patch:
    """``patches`` as one batch, along a new first axis."""
    return Patch(*(np.stack(planes) for planes in zip(*patches, strict=True)))


def batches(maker: PatchMaker, numbers: Iterator[list[int]], workers: int) -> Iterator[Patch]:
    """The patches of each list of ``numbers`` as a batch, in order, made ahead by ``workers`` processes.

    Raises
    ------
    SlideError
        If pixels cannot be read.
    MachineError
        If a process died.
    """
    if workers == 0:
        yield from (stacked([maker.patch(k) for k in some]) for some in numbers)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(maker,))
    try:
        ahead: deque[list[Future[Patch]]] = deque()
        for some in numbers:
            ahead.append([pool.submit(_make, k) for k in some])
            if len(ahead) > 2 + workers // len(some):
                yield stacked([future.result() for future in ahead.popleft()])
        while ahead:
            yield stacked([future.result() for future in ahead.popleft()])
    except BrokenProcessPool as err:
        raise MachineError(
            "a patch worker died, possibly out of memory; the same command with --resume continues; "
            "fewer [loop] workers take less memory"
        ) from err
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_maker: PatchMaker | None = None
"""Makes the patches of a worker process, which is sent it once, when it starts."""


def _begin(maker: PatchMaker) -> None:
    global _maker
    _maker = maker
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the first one ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent is gone: a killed parent tells nobody, and its pipes stay open here."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make(k: int) -> Patch:
    assert _maker is not None
    return _maker.patch(k)
