"""Any network of torch as a graph with free sides, which is what becomes ONNX or ``.pt2``."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from wsipipe.errors import ModelError, WsipipeError

INPUT_NAME = "image"
"""What the input of an exported network is called."""
ONLY_OUTPUT = "output"
"""What the output of a network is called that has one."""


def export_free(network: nn.Module, *, channels: int, side: int, step: int) -> ExportedProgram:
    """The graph of ``network``, float32, in evaluation mode, on the CPU, that takes any batch and free sides.

    Parameters
    ----------
    network
        Takes images (n, channel, y, x), float32; it is left as it is.
    channels
        Channels of its images.
    side
        The smallest side that it shall take, px, rounded up to a multiple of ``step``, and two of them at least: torch
        records the graph at that size, and takes a length of 1 for one that is never another.
    step
        Sides may be any larger multiple of this, px.

    Raises
    ------
    ModelError
        If torch cannot export it, for example because its code asks for a side's value.
    """
    lowest = max(-(-side // step), 2)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*LeafSpec", category=FutureWarning
        )  # of torch, about its own graphs
        network = copy.deepcopy(network).cpu().float().eval()
    example = torch.zeros(2, channels, lowest * step, (lowest + 1) * step)  # equal sides would have to be equal always
    height, width = (Dim(axis, min=lowest) for axis in ("height", "width"))
    if step > 1:
        height, width = step * height, step * width
    free = {0: Dim("batch"), 1: Dim.STATIC, 2: height, 3: width}
    way_out = "a larger multiple may do; or export it for one size with torch.onnx.export"
    with as_model_error(f"for all sides that are multiples of {step} px", way_out), torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=(free,), strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of this machine
    return program


@contextmanager
def as_model_error(how: str, way_out: str) -> Iterator[None]:
    """A context in which errors of torch become a ModelError: it cannot export ``how``; ``way_out`` is what to do."""
    try:
        yield
    except WsipipeError:
        raise
    except Exception as err:  # torch raises its own kinds and most builtins
        raise ModelError(
            f"torch cannot export this network {how}: {type(err).__name__}: {_on_one_line(str(err))}; {way_out}"
        ) from err


def _on_one_line(message: str, most: int = 400) -> str:
    """``message`` on one line, cut where it becomes long: torch quotes whole graphs."""
    line = " ".join(message.split())
    return line if len(line) <= most else line[:most] + " ..."


def output_names(treespec: str) -> list[str]:
    """Names of the outputs of a network, in their order.

    Those of a dict have their keys, those of a tuple or list their places; one that is alone is ``output``.

    Parameters
    ----------
    treespec
        The structure of the outputs, as ``torch.export`` writes it: JSON.

    Raises
    ------
    ValueError, KeyError, TypeError
        If it is something else.
    """
    _, root = json.loads(treespec)
    return [".".join(path) or ONLY_OUTPUT for path in _leaves(root, ())]


def _leaves(node: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The path of each leaf of ``node``, which is at ``path``."""
    children: Sequence[dict[str, Any]] = node["children_spec"]
    if node["type"] is None:
        yield path
        return
    context = json.loads(node["context"]) if isinstance(node["context"], str) else None
    keys = context if isinstance(context, list) and len(context) == len(children) else range(len(children))
    for key, child in zip(keys, children, strict=True):
        yield from _leaves(child, path if len(children) == 1 and keys is not context else (*path, str(key)))


def output_names_of(program: ExportedProgram) -> list[str]:
    """Names of the outputs of ``program``, in their order, as `output_names`; none is that of a weight or the input."""
    taken = {*program.state_dict, *program.constants, INPUT_NAME}
    names = output_names(pytree.treespec_dumps(program.call_spec.out_spec))
    return [f"{name}_output" if name in taken else name for name in names]
