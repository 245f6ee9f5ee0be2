"""Tiles and outputs moved by a symmetry of the square, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from wsipipe.geometry.symmetry import Symmetry


def moved(tiles: Tensor, symmetry: Symmetry) -> Tensor:
    """``tiles`` (n, channel, y, x), float32, moved by ``symmetry``; if they are turned, in channels-last order."""
    if symmetry == Symmetry():
        return tiles
    turned = tiles.transpose(-2, -1) if symmetry.transposed else tiles
    return turned.flip(symmetry.mirrored).contiguous(memory_format=torch.channels_last)


def moved_back(output: Tensor, symmetry: Symmetry) -> Tensor:
    """``output`` (n, class, y, x), float32, of tiles that were `moved` by ``symmetry``, as of others; always a copy."""
    turned = output.flip(symmetry.mirrored)
    return turned.transpose(-2, -1) if symmetry.transposed else turned
