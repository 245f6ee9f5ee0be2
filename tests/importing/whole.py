"""One pass of a network over a whole image, which tiles are compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
import torch

from wsipipe.geometry.mirror import mirror
from wsipipe.geometry.network import round_up
from wsipipe.inference.engines.start import start_engine
from wsipipe.model.forward import Normalise, label_values, winner
from wsipipe.model.model_file import Model


def whole_labels(model: Model, slide: Path, engine: str) -> npt.NDArray[np.uint8]:
    """The labels of one pass over the whole slide, mirrored far around."""
    return whole(model, slide, engine)[0]


def whole(model: Model, slide: Path, engine: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """The labels (y, x) of one pass, and by how much the largest value of each pixel exceeds the next, relatively."""
    pixels, sizes, network = tifffile.imread(slide), model.info.receptive, model.info.network
    height, width = pixels.shape[:2]
    around = round_up(sizes.margin // 2, sizes.stride) + sizes.margin // 2 % sizes.stride
    rows, cols = (mirror(np.arange(-around, round_up(side, sizes.stride) + around), side) for side in (height, width))
    cpu = torch.device("cpu")
    tiles = Normalise(model.spec, cpu).pixels(pixels[rows][:, cols][None])
    with torch.inference_mode():
        output = start_engine(engine, model, cpu, threads=1)(tiles).clone()
    labels = label_values(model.spec, network.head, cpu)[winner(output, network.head)][0].numpy()
    labels = labels.repeat(sizes.scale, 0).repeat(sizes.scale, 1)
    start = around - (len(rows) - labels.shape[0]) // 2
    here = np.s_[start : start + height, start : start + width]
    if output.shape[1] == 1:
        return labels[here], np.abs(labels[here], dtype=np.float32)
    first, second = output.float().topk(2, dim=1).values[0].numpy()
    gap = (first - second) / np.abs(output.float().numpy()).max()
    return labels[here], gap.repeat(sizes.scale, 0).repeat(sizes.scale, 1)[here]
