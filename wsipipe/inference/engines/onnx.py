"""What the engines for ONNX files have in common."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsipipe.model.model_file import Model
from wsipipe.model.network import ForeignNetwork


def foreign(model: Model) -> ForeignNetwork:
    """The description of the network of ``model``, an ONNX file."""
    about = model.info.network
    assert isinstance(about, ForeignNetwork), "engines for ONNX get ONNX files"
    return about


def as_named(about: ForeignNetwork, x: Tensor, compute: Callable[[npt.NDArray[np.float32]], Tensor]) -> Tensor:
    """The output (n, class, y, x) for tiles ``x`` (n, channel, y, x), in the order and number that a network takes.

    Parameters
    ----------
    about
        The network.
    x
        The tiles, float32.
    compute
        Gives the output for an array of as many tiles as the network takes, in its own order of axes.
    """
    tiles = (x.permute(0, 2, 3, 1) if about.channels_last else x).contiguous().cpu().numpy()
    if about.single and len(tiles) > 1:
        output = torch.cat([compute(tiles[i : i + 1]).clone() for i in range(len(tiles))])
    else:
        output = compute(tiles)
    if output.ndim == 3:  # class labels without a channel
        return output[:, None]
    return output.permute(0, 3, 1, 2) if about.channels_last else output


def first_line(err: Exception) -> str:
    """The first line of an error of an engine that says something."""
    return next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)
