"""The gain of a lower precision on this machine: measured once for each model, on a tile of a slide, and remembered."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from wsipipe.arrays import Labels, Pixels
from wsipipe.errors import WsipipeError
from wsipipe.events import PrecisionGain
from wsipipe.geometry.grid import Box
from wsipipe.geometry.network import Receptive, round_up
from wsipipe.geometry.symmetry import TTA_OFF
from wsipipe.inference.devices import BFLOAT16, FLOAT32, OPENVINO, multiplies_bfloat16
from wsipipe.inference.pool import PoolSpec, load_replicas
from wsipipe.inference.replica import Replica
from wsipipe.inference.speeds import fastest, is_worth, key, recall_rows, remember_rows
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.slide import Level

LOGGER = logging.getLogger(__name__)
GAIN_PX = 512
"""The largest core that is measured, px."""
PLACES, PLACE_PX = 5, 64
"""Places along each side of a slide where tissue is looked for, and their size in pixels."""
LEAST_GAIN = 1.1
"""A lower precision that is not faster by this factor is no gain."""


def measure_gain(spec: PoolSpec, level: Level, core: int, *, pixels: int, bare: float) -> PrecisionGain | None:
    """The `PrecisionGain` of bfloat16 over ``spec``; None if there is none, or measuring it fails, or would not pay.

    Parameters
    ----------
    spec
        The pool that will compute.
    level
        The level that a tile is read from, where its pixels vary most of a few places: tissue, if there is any.
    core
        Side of a tile's core, px; at most `GAIN_PX` are measured.
    pixels
        Pixels that the run will compute, without margins.
    bare
        Pixels a second through the network, margins included.
    """
    if spec.precision != FLOAT32 or spec.engine != OPENVINO or not multiplies_bfloat16():
        return None
    core = min(core, round_up(GAIN_PX, spec.receptive.stride))
    lower = replace(spec, precision=BFLOAT16, tta=TTA_OFF, probabilities=False, uncertainty=False)
    name = f"{key(lower)}, gain"
    preparing = f"{name}, preparing"

    def affordable(spent: float) -> bool:
        """Whether to measure once ``spent`` seconds went into loading both networks and reading a tile."""
        return is_worth(2 * (core + spec.receptive.margin) ** 2 / bare, spec.passes * pixels / bare, spent=spent)

    if not affordable(_remembered_seconds(preparing)):
        return None
    if (found := _recalled(name)) is None:
        started = time.perf_counter()
        try:
            tile = busiest_tile(level, spec.receptive, core)
            plain, low = (
                load_replicas(replace(lower, precision=precision), spec.devices[:1])[0]
                for precision in (FLOAT32, BFLOAT16)
            )
            spent = time.perf_counter() - started
            remember_rows(preparing, [spent])
            if not affordable(spent):
                return None
            found = _measured(plain, low, tile)
        except (WsipipeError, MemoryError) as err:  # what is wrong in float32, the run will say
            LOGGER.debug("the gain of %s cannot be measured: %s", BFLOAT16, err)
            return None
        remember_rows(name, [[found.speed, found.differing]])
    return found if found.speed >= LEAST_GAIN else None


def _remembered_seconds(name: str) -> float:
    """The seconds remembered under ``name``; 0 if there are none."""
    found = next(iter(recall_rows(name)), 0.0)
    return float(found) if isinstance(found, int | float) else 0.0


def _recalled(name: str) -> PrecisionGain | None:
    """The gain remembered under ``name``."""
    try:
        ((speed, differing),) = recall_rows(name)
        return PrecisionGain(BFLOAT16, float(speed), float(differing))
    except (ValueError, TypeError):
        return None


def _measured(plain: Replica, low: Replica, tile: Pixels) -> PrecisionGain:
    """The gain of ``low``, in bfloat16, on ``tile`` over ``plain``, the same in float32."""
    with ThreadPoolExecutor(1, "wsipipe-measure") as thread:  # a lane changes settings of its thread
        (expected, seconds), (labels, less) = (
            thread.submit(_timed, replica, tile).result() for replica in (plain, low)
        )
    return PrecisionGain(BFLOAT16, seconds / less, float(np.mean(expected != labels)))


def _timed(replica: Replica, tile: Pixels) -> tuple[Labels, float]:
    """The labels (y, x) of ``tile``, and the seconds that they take."""
    with replica.lane():
        return fastest(lambda: replica.predict([tile]).labels[0])


def busiest_tile(level: Level, receptive: Receptive, core: int) -> Pixels:
    """The tile (core + margin, core + margin, channel), in the dtype of ``level``, where its pixels vary most.

    Raises
    ------
    SlideReadError
        If pixels cannot be read.
    """
    parts = [(2 * i + 1) / (2 * PLACES) for i in range(PLACES)]
    centres = [(int(y * level.shape[0]), int(x * level.shape[1])) for y in parts for x in parts]

    def variety(centre: tuple[int, int]) -> float:
        near = Box(*(at + half for at in centre for half in (-PLACE_PX // 2, PLACE_PX // 2)))
        there = near.overlap(Box(0, level.shape[0], 0, level.shape[1]))
        return 0.0 if there is None else float(read_box(level, there).std(axis=(0, 1)).sum())

    (y, x), side = max(centres, key=variety), core + receptive.margin
    return level.read(y - side // 2, x - side // 2, side, side, mirror=True)
