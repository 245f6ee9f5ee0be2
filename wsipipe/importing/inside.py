"""What the operations of a network tell of how far it looks: which lose NaN, and which look at the whole image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np

from wsipipe.importing.legal_sides import Compute, Floats, Sides, noise
from wsipipe.model import pt2_reach
from wsipipe.model.global_operation import GlobalOperation
from wsipipe.model.model_file import Model, OneOutput
from wsipipe.model.network import ForeignNetwork
from wsipipe.model.pt2_graph import ExportedNetwork

HEIGHT = 2048
"""Height of the images in which NaN spreads, px: networks look less far, or everywhere."""
ROWS_OF_NAN = 32
"""Rows of NaN in their middle, px: as many as the stride of most networks."""


def opaque_compute(model: Model, sides: Sides, compute_of: Callable[[Model], Compute]) -> Compute | None:
    """What computes a network that looks as far as that of ``model`` and lets NaN through; its values are others.

    Parameters
    ----------
    model
        A foreign network.
    sides
        The sides that it takes.
    compute_of
        Makes of a model what computes it.

    Returns
    -------
    None if there is no such network, as without the extra onnx, or if there are operations that do not fit into it.
    """
    tile = noise(foreign_of(model).in_channels, sides.legal, sides.legal)[None]
    try:
        compute = compute_of(_opaque_copy(model))
        output = compute(tile)
    except Exception:  # of a runtime that cannot compute what nobody wrote like that; the network's own values are left
        return None
    alike = output.shape == compute_of(model)(tile).shape and not np.isnan(output).any()
    return compute if alike else None


def _opaque_copy(model: Model) -> Model:
    """The model whose network lets NaN through."""
    if isinstance(model.network, bytes):
        from wsipipe.model import onnx_reach

        return replace(model, network=onnx_reach.analysis_copy(model.network))
    exported, about = exported_of(model), foreign_of(model)
    copy = ExportedNetwork(pt2_reach.analysis_copy(exported.graph), exported.axes)
    return replace(model, network=OneOutput(copy, int(about.output), channels_last=about.channels_last))


def global_operation(model: Model, sides: Sides) -> GlobalOperation | None:
    """The first operation in ``model``, a foreign network of those ``sides``, that looks at the whole image.

    None if none is found, or the network cannot be computed operation by operation.
    """
    images = images_with_nan(foreign_of(model), sides)
    with suppress(Exception):  # of a runtime; that the network has no finite reach is known without
        if not isinstance(model.network, bytes):
            return pt2_reach.global_operation(exported_of(model).graph, images)
        from wsipipe.model import onnx_reach

        return onnx_reach.global_operation(model.network, images, input_name=foreign_of(model).input)
    return None


def images_with_nan(network: ForeignNetwork, sides: Sides) -> Iterator[Floats]:
    """A tall image with NaN in the middle rows, and a wide one with NaN in the middle columns.

    Both are (1, channel, y, x) or (1, y, x, channel), as ``network`` takes them, float32.
    """
    height = sides.at_least(HEIGHT)
    start = (height - ROWS_OF_NAN) // 2
    image = noise(network.in_channels, height, sides.width(height))[None]
    image[:, :, start : start + ROWS_OF_NAN] = np.nan
    for one in (image, image.swapaxes(2, 3)):
        yield np.ascontiguousarray(one.transpose(0, 2, 3, 1) if network.channels_last else one)


def foreign_of(model: Model) -> ForeignNetwork:
    """What is known of the network of a foreign model."""
    network = model.info.network
    assert isinstance(network, ForeignNetwork)
    return network


def exported_of(model: Model) -> ExportedNetwork:
    """The ``torch.export`` program of a foreign model."""
    assert isinstance(model.network, OneOutput)
    assert isinstance(model.network.network, ExportedNetwork)
    return model.network.network
