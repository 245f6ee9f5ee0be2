"""ONNX networks that let NaN through, and the operation in one that looks at the whole image.

NaN shows how far a network looks, but onnxruntime's MaxPool swallows it, and so do OpenVINO's MaxPool, Relu and Clip:
each of them is ``max(a, b)``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

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
    "ArgMax": "ReduceMean",
    "ArgMin": "ReduceMean",
}
"""Operators that may swallow NaN, and others that look as far and do not."""
OF_NUMBERS_TOO = {"Clip", "Max", "Min", "ArgMax", "ArgMin"}
"""Those that occur in the arithmetic of shapes as well, and there have to stay."""
ATTRIBUTES = {
    "MaxPool": {"auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides"},
    "ArgMax": {"keepdims"},
    "ArgMin": {"keepdims"},
}
"""Attributes that the other operator has as well."""
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
SCOPES, CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"
"""Metadata that torch's exporter gives each node: lists of paths and of classes, as Python writes them."""


def analysis_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A network that looks as far as ``model`` and lets NaN through; its values are others.

    The largest of some values becomes their mean, and an activation with a flat part one without it.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph, version = copy.graph, max(one.version for one in model.opset_import if not one.domain)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }
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
    return copy


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
    elif node.op_type not in ("Max", "Min"):
        del node.input[1:]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.op_type = OPAQUE[node.op_type]


def _attribute(node: onnx.NodeProto, name: str, default: object) -> object:
    """The value of an attribute of ``node``; ``default`` if it has none of that name."""
    return next((onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def global_operation(
    model: onnx.ModelProto, images: Iterable[npt.NDArray[np.float32]], *, input_name: str | None = None
) -> GlobalOperation | None:
    """The first operation of ``model`` that turns NaN in a part of the image into NaN everywhere.

    Parameters
    ----------
    model
        The network.
    images
        What it is computed for, each as its input has it, and with NaN in a part.
    input_name
        Its input, if there are several.
    """
    copy = analysis_copy(model)
    nodes = [node for node in copy.graph.node if node.op_type != "Constant"]
    names = [name for node in nodes for name in node.output if name]
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # every operation stays
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = input_name or session.get_inputs()[0].name
    for image in images:
        values = {given: image, **dict(zip(names, session.run(names, {given: image}), strict=True))}
        for node in nodes:
            inputs = [values[name] for name in node.input if name in values]
            if any(spreads(values[name], inputs) for name in node.output if name):
                return GlobalOperation(_original(model, node), node.name or node.output[0], _modules(node))
    return None


def _original(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
    """The operator that ``node`` of an analysis copy is in ``model``."""
    return next(one.op_type for one in model.graph.node if one.output[:1] == node.output[:1])


def _modules(node: onnx.NodeProto) -> tuple[tuple[str, str], ...]:
    """(path, class) of the modules that torch's exporter says ``node`` is in; none for other exporters."""
    written = {entry.key: entry.value for entry in node.metadata_props}
    try:
        paths, classes = (ast.literal_eval(written[key]) for key in (SCOPES, CLASSES))
        return tuple((str(path), str(kind).split(".")[-1]) for path, kind in zip(paths[:-1], classes[:-1], strict=True))
    except (KeyError, SyntaxError, TypeError, ValueError):
        return ()
