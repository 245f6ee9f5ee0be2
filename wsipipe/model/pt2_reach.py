"""The operation in an exported program (``torch.export``) that looks at the whole image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from wsipipe.model.global_operation import GlobalOperation, spreads


def global_operation(network: fx.GraphModule, images: Iterable[npt.NDArray[np.float32]]) -> GlobalOperation | None:
    """The first operation of ``network`` that turns NaN in a part of the image into NaN everywhere.

    Parameters
    ----------
    network
        The module of an exported program, for one input.
    images
        What it is computed for, each with NaN in a part.
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
        output = super().run_node(node)
        if self.found is None and node.op == "call_function" and isinstance(output, Tensor):
            inputs = [self.env[one] for one in node.all_input_nodes]
            if spreads(output.numpy(), [one.numpy() for one in inputs if isinstance(one, Tensor)]):
                stack = node.meta.get("nn_module_stack", {})
                modules = tuple((str(path), _class_name(kind)) for path, kind in stack.values())
                self.found = GlobalOperation(str(node.target), node.name, modules)
        return output


def _class_name(kind: object) -> str:
    """The name of a module's class, which is in a program as a class or as its dotted name."""
    return (kind.__qualname__ if isinstance(kind, type) else str(kind)).split(".")[-1]
