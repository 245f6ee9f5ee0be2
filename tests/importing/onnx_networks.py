"""Small ONNX networks, written node by node: quick to make, of any input, output and head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_network(
    path: Path,
    *,
    channels: int = 3,
    classes: int = 3,
    side: int | None = None,
    batch: int | None = None,
    valid: bool = False,
    quarter: bool = False,
    channels_last: bool = False,
    activation: str | None = None,
    labels: bool = False,
    second: bool = False,
    operator: str | None = None,
    faint: bool = False,
    quantised: bool = False,
    domain: str = "",
) -> Path:
    """Write a network of stride 4: convolutions, two poolings and, unless it is a ``quarter``, enlargement.

    Parameters
    ----------
    side, batch
        The only side and number of images that it takes; None: any.
    valid
        Whether its last convolution is not padded.
    activation
        Operator after the logits, over the classes: ``Softmax`` or ``Sigmoid``.
    labels
        Whether it gives the number of the class of the largest logit, (n, y, x), int64.
    second
        Whether the features are an output as well.
    operator
        One that is put before the logits: ``InstanceNormalization`` or ``GlobalAveragePool``.
    faint
        Whether its logits are close to 0.5, as those of a network that was hardly trained may be.
    quantised
        Whether its image is, as by other programs.
    domain
        What its operators call the domain of the standard.
    """
    rng, weights = np.random.default_rng(0), []

    def constant(name: str, value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(value, name))
        return name

    def kernel(name: str, out: int, into: int) -> str:
        value = rng.standard_normal((out, into, 3, 3), np.float32) / np.float32(np.sqrt(4.5 * into))
        return constant(name, value)

    nodes: list[Any] = []

    def add(operation: str, *inputs: str, **attributes: Any) -> str:
        output = f"value_{len(nodes)}"
        nodes.append(helper.make_node(operation, inputs, [output], name=f"node_{len(nodes)}", **attributes))
        return output

    x = add("Transpose", "image", perm=[0, 3, 1, 2]) if channels_last else "image"
    if quantised:
        steps = constant("step", np.float32(0.05)), constant("zero", np.uint8(128))
        x = add("DequantizeLinear", add("QuantizeLinear", x, *steps), *steps)
    x = add("Relu", add("Conv", x, kernel("k0", 6, channels), pads=[1] * 4))
    for level in (1, 2):
        x = add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = add("Relu", add("Conv", x, kernel(f"k{level}", 6, 6), pads=[1] * 4))
    if operator == "InstanceNormalization":
        x = add(operator, x, constant("scale", np.ones(6, np.float32)), constant("bias", np.zeros(6, np.float32)))
    if operator == "GlobalAveragePool":
        x = add("Mul", x, add("Sigmoid", add(operator, x)))
    if not quarter:
        scales = constant("scales", np.array([1, 1, 4, 4], np.float32))
        x = add(
            "Resize", x, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        )
    features = x
    head = rng.standard_normal((classes, 6, 3, 3), np.float32)
    head -= head.mean(axis=(2, 3), keepdims=True)  # so that every class wins somewhere
    x = add("Conv", x, constant("head", head), pads=[0 if valid else 1] * 4)
    if faint:
        x = add("Add", add("Mul", x, constant("small", np.float32(0.01))), constant("even", np.float32(0.5)))
    if activation:
        x = add(activation, x, **({"axis": 1} if activation == "Softmax" else {}))
    if labels:
        x = add("ArgMax", x, axis=1, keepdims=0)
    elif channels_last:
        x = add("Transpose", x, perm=[0, 2, 3, 1])
    nodes.append(helper.make_node("Identity", [x], ["classes"]))
    outputs = [
        helper.make_tensor_value_info(
            "classes", TensorProto.INT64 if labels else TensorProto.FLOAT, [None] * (4 - labels)
        )
    ]
    if second:
        nodes.append(helper.make_node("Identity", [features], ["features"]))
        outputs.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, [None] * 4))
    free = [side or "height", side or "width"]
    shape = [batch or "n", *free, channels] if channels_last else [batch or "n", channels, *free]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "network", [image], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    model = onnx.shape_inference.infer_shapes(model)
    for one in (*model.graph.node, *model.opset_import):
        one.domain = domain
    path.write_bytes(model.SerializeToString())
    return path
