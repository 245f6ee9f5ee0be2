"""What the operations of a network tell of how far it looks: which lose NaN, and which look at the whole image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from wsipipe.importing.legal_sides import Array, Sides, noise
from wsipipe.model.global_operation import GlobalOperation
from wsipipe.model.model_file import Model, OneOutput
from wsipipe.model.network import ForeignNetwork
from wsipipe.model.pt2_graph import ExportedNetwork

HEIGHT = 2048
"""Height of the images in which NaN spreads, px: networks look less far, or everywhere."""
ROWS_OF_NAN = 32
"""Rows of NaN in their middle, px: as many as the stride of most networks."""


def opaque(model: Model) -> Model:
    """A network that looks as far as that of ``model``, a foreign one, and lets NaN through; its values are others."""
    if isinstance(model.network, bytes):
        from wsipipe.model import onnx_reach

        return replace(model, network=onnx_reach.analysis_copy(model.network))
    from wsipipe.model import pt2_reach

    exported = exported_of(model)
    graph = pt2_reach.analysis_copy(exported.graph)
    about = foreign_of(model)
    same = OneOutput(ExportedNetwork(graph, exported.axes), int(about.output), channels_last=about.channels_last)
    return replace(model, network=same)


def global_operation(model: Model, sides: Sides) -> GlobalOperation | None:
    """The first operation of ``model``, a foreign one, that looks at the whole image; None if none is found.

    Parameters
    ----------
    model
        The network.
    sides
        The sides that it takes.
    """
    images = images_with_nan(foreign_of(model), sides)
    if isinstance(model.network, bytes):
        from wsipipe.model import onnx_reach

        return onnx_reach.global_operation(model.network, images, input_name=foreign_of(model).input)
    from wsipipe.model import pt2_reach

    return pt2_reach.global_operation(exported_of(model).graph, images)


def images_with_nan(network: ForeignNetwork, sides: Sides) -> Iterator[Array]:
    """Images as ``network`` takes them, a tall one with NaN in the middle rows, and a wide one with NaN in columns."""
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
