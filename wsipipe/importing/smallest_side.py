"""The smallest image that a network in memory takes, found by trying."""

from __future__ import annotations

import torch
from torch import nn

from wsipipe.errors import ModelError

MOST_SIDE_PX = 1024
"""The largest side that is tried, px."""


def smallest_side(network: nn.Module, channels: int, step: int, *, channels_last: bool) -> int:
    """The smallest side in pixels, a multiple of ``step``, of images of so many ``channels`` that ``network`` takes.

    Raises
    ------
    ModelError
        If it takes none; with what it says to the largest that was tried.
    """
    was_training, problem = network.training, ""
    network.eval()
    try:
        for side in range(step, MOST_SIDE_PX + 1, step):
            shape = (1, side, side, channels) if channels_last else (1, channels, side, side)
            try:
                with torch.inference_mode():
                    network(torch.zeros(shape))
            except Exception as err:  # whatever the network of somebody raises
                problem = f"{type(err).__name__}: {err}"
            else:
                return side
    finally:
        network.train(was_training)
    raise ModelError(
        f"the network takes no image of {channels} channels with sides of {step} to "
        f"{MOST_SIDE_PX} px ({problem}); NetworkRequest(in_channels=..., step=...) says what it takes"
    )
