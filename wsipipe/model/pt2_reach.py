"""Exported programs (``torch.export``) that let NaN through, and the operation in one that looks at the whole image."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from wsipipe.model.global_operation import GlobalOperation, spreads

aten = torch.ops.aten


def analysis_copy(network: fx.GraphModule) -> fx.GraphModule:
    """A network that looks as far as ``network`` and lets NaN through.

    All that torch computes does, but for classes: these become the mean of the values that they are chosen from.
    """
    opaque = fx.GraphModule(network, copy.deepcopy(network.graph))  # of the same weights
    for node in opaque.graph.nodes:
        if node.target in (aten.argmax.default, aten.argmin.default):
            given = dict(zip(("self", "dim", "keepdim"), node.args, strict=False)) | node.kwargs
            if given.get("dim") is not None:
                node.target, node.kwargs = aten.mean.dim, {}
                node.args = (given["self"], [given["dim"]], given.get("keepdim", False))
    opaque.recompile()
    return opaque


def global_operation(network: fx.GraphModule, images: Iterable[npt.NDArray[np.float32]]) -> GlobalOperation | None:
    """The first operation of ``network`` that turns NaN in a part of the image into NaN everywhere.

    Parameters
    ----------
    network
        The graph of a program with one input.
    images
        What it is computed for: (1, channel, y, x) or (1, y, x, channel), float32, each with NaN in a part.
    """
    for image in images:
        observer = _Observer(network)
        with torch.inference_mode():
            observer.run(torch.from_numpy(image))
        if observer.found is not None:
            return observer.found
    return None


class _Observer(fx.Interpreter):
    """Computes a network node by node, and remembers the first that spreads NaN."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.found: GlobalOperation | None = None

    def run_node(self, node: fx.Node) -> Any:
        """What the node computes."""
        output = super().run_node(node)
        if self.found is None and node.op == "call_function":
            inputs = [share for one in node.all_input_nodes for share in _nan_shares(self.env[one])]
            if spreads(list(_nan_shares(output)), inputs):
                stack: dict[str, tuple[str, object]] = node.meta.get("nn_module_stack", {})
                modules = tuple((str(path), str(kind).split(".")[-1]) for path, kind in stack.values())
                self.found = GlobalOperation(str(node.target), node.name, modules)
        return output


def _nan_shares(values: object) -> Iterator[float]:
    """The share of NaN in each tensor that an operation takes or returns."""
    if isinstance(values, Tensor):
        yield float(values.isnan().float().mean()) if values.numel() else 0.0
    elif isinstance(values, list | tuple):
        for one in values:
            yield from _nan_shares(one)
