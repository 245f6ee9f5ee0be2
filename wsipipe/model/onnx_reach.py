"""ONNX networks that let NaN through, and the operation in one that looks at the whole image.

NaN shows how far a network looks, but onnxruntime's MaxPool swallows it, and so do OpenVINO's MaxPool, Relu and Clip:
each of them is ``max(a, b)``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from wsipipe.model.global_operation import GlobalOperation, spreads

OPAQUE = {
    "Relu": "Identity",
    "LeakyRelu": "Identity",
    "PRelu": "Identity",
    "ThresholdedRelu": "Identity",
    "Clip": "Tanh",
    "HardSigmoid": "Sigmoid",
    "Max": "Mean",
    "Min": "Mean",
    "MaxPool": "AveragePool",
    "GlobalMaxPool": "GlobalAveragePool",
    "ReduceMax": "ReduceMean",
    "ReduceMin": "ReduceMean",
    "ArgMax": "ReduceMean",
    "ArgMin": "ReduceMean",
}
"""Operators that may swallow NaN, and others that look as far and do not."""
OF_NUMBERS_TOO = {"Clip", "Max", "Min", "ReduceMax", "ReduceMin", "ArgMax", "ArgMin"}
"""Those that occur in the arithmetic of shapes as well, and there have to stay."""
ALL_INPUTS = {"Max", "Min", "ReduceMax", "ReduceMin"}
"""Those of which the other operator takes all inputs, and not just the first."""
ATTRIBUTES = {
    "ReduceMax": {"axes", "keepdims", "noop_with_empty_axes"},
    "ReduceMin": {"axes", "keepdims", "noop_with_empty_axes"},
    "MaxPool": {"auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides"},
    "ArgMax": {"keepdims"},
    "ArgMin": {"keepdims"},
}
"""Attributes that the other operator has as well."""
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
FATAL = 4
"""Severity from which on onnxruntime prints."""
SCOPES, CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"
"""Metadata that torch's exporter gives each node: lists of paths and of classes, as Python writes them."""


def analysis_copy(model: bytes) -> bytes:
    """An ONNX file of a network that looks as far as that in ``model`` and lets NaN through; its values are others.

    The largest of some values becomes their mean, and an activation with a flat part one without it.
    """
    opaque: bytes = _opaque(onnx.load_from_string(model)).SerializeToString()
    return opaque


def _opaque(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, changed as `analysis_copy` says."""
    graph, version = model.graph, max(one.version for one in model.opset_import if not one.domain)
    types = _types(model)
    for node in graph.node:
        of_numbers = node.op_type in OF_NUMBERS_TOO and types.get(node.input[0]) not in FLOATS
        if node.domain or node.op_type not in OPAQUE or of_numbers or len(node.output) > 1:
            continue
        if node.op_type == "MaxPool" and version < 19 and any(size != 1 for size in _attribute(node, "dilations", [1])):
            continue  # averages are dilated from version 19 on
        if node.op_type in ("ArgMax", "ArgMin"):
            for output in graph.output:
                if output.name == node.output[0]:
                    output.type.tensor_type.elem_type = types[node.input[0]]
        _replace(node, graph, version)
    del graph.value_info[:]  # which says of what type classes were
    return model


def _replace(node: onnx.NodeProto, graph: onnx.GraphProto, version: int) -> None:
    """Make ``node``, of ``graph``, the operator that lets NaN through; ``version`` is that of the operators."""
    axis = _attribute(node, "axis", 0)
    kept = [one for one in node.attribute if one.name in ATTRIBUTES.get(node.op_type, ())]
    if node.op_type in ("ArgMax", "ArgMin") and version < 18:
        kept.append(onnx.helper.make_attribute("axes", [axis]))
    elif node.op_type in ("ArgMax", "ArgMin"):
        axes = f"{node.output[0]}_axes"
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([axis], np.int64), axes))
        node.input.append(axes)
    elif node.op_type not in ALL_INPUTS:
        del node.input[1:]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.op_type = OPAQUE[node.op_type]


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute of ``node``; ``default`` if it has none of that name."""
    return next((onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def global_operation(
    model: bytes, images: Iterable[npt.NDArray[np.float32]], *, input_name: str
) -> GlobalOperation | None:
    """The first operation of an ONNX file that turns NaN in a part of the image into NaN everywhere.

    Parameters
    ----------
    model
        The content of the file.
    images
        What it is computed for: (1, channel, y, x) or (1, y, x, channel), float32, each with NaN in a part.
    input_name
        The name of its input.
    """
    original = onnx.load_from_string(model)
    kinds = {name: node.op_type for node in original.graph.node for name in node.output}
    opaque = _opaque(original)
    nodes = list(opaque.graph.node)
    measured = _measure_nan(opaque)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # every operation stays
    options.log_severity_level = FATAL
    session = onnxruntime.InferenceSession(opaque.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for image in images:
        shares = dict(zip(measured, map(float, session.run(None, {input_name: image})), strict=True))
        for node in nodes:
            if spreads(
                [shares[name] for name in node.output if name in shares], [shares.get(name, 0) for name in node.input]
            ):
                return GlobalOperation(kinds[node.output[0]], node.name or node.output[0], _modules(node))
    return None


def _measure_nan(model: onnx.ModelProto) -> list[str]:
    """Let ``model`` return the share of NaN in each value instead of its outputs, and return the names of the values.

    The values themselves, of which there are hundreds, could be too much for the memory.
    """
    graph, make = model.graph, onnx.helper.make_node
    types = _types(model)
    names = [name for node in graph.node for name in node.output if types.get(name) in FLOATS]
    del graph.output[:]
    for number, name in enumerate(names):
        steps = [name, *(f"wsipipe_{number}_{step}" for step in ("is_nan", "as_float", "share"))]
        graph.node.append(make("IsNaN", [steps[0]], [steps[1]]))
        graph.node.append(make("Cast", [steps[1]], [steps[2]], to=onnx.TensorProto.FLOAT))
        graph.node.append(make("ReduceMean", [steps[2]], [steps[3]], keepdims=0))
        graph.output.append(onnx.helper.make_tensor_value_info(steps[3], onnx.TensorProto.FLOAT, []))
    return names


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """The type of the elements of each value of ``model``, as far as it can be inferred."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def _modules(node: onnx.NodeProto) -> tuple[tuple[str, str], ...]:
    """(path, class) of the modules that torch's exporter says ``node`` is in; none for other exporters."""
    written = {entry.key: entry.value for entry in node.metadata_props}
    try:
        paths, classes = (ast.literal_eval(written[key]) for key in (SCOPES, CLASSES))
        return tuple((str(path), str(kind).split(".")[-1]) for path, kind in zip(paths[:-1], classes[:-1], strict=True))
    except (KeyError, SyntaxError, TypeError, ValueError):
        return ()
