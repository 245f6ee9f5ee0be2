from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from torch import nn

from tests.importing.small_networks import SqueezeExcite, conv, evaluated
from wsipipe.model.onnx_export import export_onnx
from wsipipe.model.onnx_reach import analysis_copy, global_operation


def written(*nodes: str, output: str = "float[n, c, p, q] y", opset: int = 20) -> bytes:
    """An ONNX file of one input ``x`` (n, 4, h, w); ``nodes`` as the text format of ONNX has them."""
    lines = "\n".join(
        (
            "zero = Constant <value = float {0.0}> ()",
            "six = Constant <value = float {6.0}> ()",
            "ones = Constant <value = float[4] {1.0, 1.0, 1.0, 1.0}> ()",
            "axes = Constant <value = int64[2] {2, 3}> ()",
            *nodes,
        )
    )
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> network (float[n, 4, h, w] x) => ({output}) {{ {lines} }}'
    )
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def rows_of_nan(model: bytes, row: int) -> list[int]:
    """The rows of the output that turn NaN if row ``row`` of an image of 24 x 24 px does."""
    image = np.random.default_rng(0).standard_normal((1, 4, 24, 24), np.float32)
    image[:, :, row] = np.nan
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": image})
    return [int(row) for row in np.flatnonzero(np.isnan(output).any(axis=(0, 1, 3)))]


SWALLOWING = {
    "Relu": (("y = Relu (x)",), [8]),
    "LeakyRelu": (("y = LeakyRelu <alpha = 0.2> (x)",), [8]),
    "PRelu": (("y = PRelu (x, zero)",), [8]),
    "ThresholdedRelu": (("y = ThresholdedRelu <alpha = 1.0> (x)",), [8]),
    "Clip": (("y = Clip (x, zero, six)",), [8]),
    "HardSigmoid": (("y = HardSigmoid <alpha = 0.1> (x)",), [8]),
    "Max": (("y = Max (zero, x)",), [8]),
    "Min": (("y = Min (x, six)",), [8]),
    "MaxPool": (("y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (x)",), [4]),
    "overlapping": (("y = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)",), [7, 8, 9]),
    "dilated": (("y = MaxPool <kernel_shape = [3, 3], dilations = [2, 2], pads = [2, 2, 2, 2]> (x)",), [6, 8, 10]),
    "rounded up": (("y = MaxPool <kernel_shape = [7, 7], strides = [7, 7], ceil_mode = 1> (x)",), [1]),
    "ReduceMax": (("channels = Constant <value = int64[1] {1}> ()", "y = ReduceMax (x, channels)"), [8]),
    "ArgMax": (("label = ArgMax <axis = 1> (x)", "y = Cast <to = 1> (label)"), [8]),
}


@pytest.mark.parametrize("name", SWALLOWING)
def test_nan_passes_through_the_copy_of_each_operator_to_all_that_depends_on_it(name: str) -> None:
    nodes, rows = SWALLOWING[name]
    assert rows_of_nan(analysis_copy(written(*nodes)), row=8) == rows


@pytest.mark.parametrize("opset", [13, 17, 18, 22])
def test_classes_become_numbers_that_nan_passes_through(opset: int) -> None:
    model = written("y = ArgMax <axis = 1, keepdims = 1> (x)", output="int64[n, c, p, q] y", opset=opset)
    assert rows_of_nan(model, row=8) == []
    assert rows_of_nan(analysis_copy(model), row=8) == [8]


def test_the_arithmetic_of_shapes_stays_as_it_is() -> None:
    model = written(
        "shape = Shape (x)",
        "low = Constant <value = int64[4] {1, 1, 1, 1}> ()",
        "clipped = Max (shape, low)",
        "zeros = ConstantOfShape (clipped)",
        "y = Add (x, zeros)",
    )
    assert "Max" in [node.op_type for node in onnx.load_from_string(analysis_copy(model)).graph.node]
    assert rows_of_nan(analysis_copy(model), row=8) == [8]


EVERYWHERE = {
    "InstanceNormalization": ("y = InstanceNormalization (x, ones, ones)",),
    "ReduceMean": ("mean = ReduceMean (x, axes)", "gate = Sigmoid (mean)", "y = Mul (x, gate)"),
    "GlobalMaxPool": ("largest = GlobalMaxPool (x)", "y = Mul (x, largest)"),
    "ReduceMax": ("largest = ReduceMax (x, axes)", "y = Mul (x, largest)"),
    "Softmax": (
        "shape = Constant <value = int64[3] {1, 4, -1}> ()",
        "values = Reshape (x, shape)",
        "keys = Transpose <perm = [0, 2, 1]> (values)",
        "scores = MatMul (keys, values)",
        "attention = Softmax <axis = -1> (scores)",
        "mixed = MatMul (values, attention)",
        "all = Shape (x)",
        "y = Reshape (mixed, all)",
    ),
}


def nan_in_the_middle() -> np.ndarray:
    image = np.random.default_rng(0).standard_normal((1, 4, 64, 8), np.float32)
    image[:, :, 30:34] = np.nan
    return image


@pytest.mark.parametrize("name", EVERYWHERE)
def test_the_operation_that_looks_at_the_whole_image_is_found(name: str) -> None:
    found = global_operation(written(*EVERYWHERE[name]), [nan_in_the_middle()], input_name="x")
    assert found is not None
    assert found.kind == name


def test_a_network_of_finite_reach_has_no_such_operation() -> None:
    model = written("a = MaxPool <kernel_shape = [3, 3]> (x)", "b = Relu (a)", "y = LpNormalization <axis = 1> (b)")
    assert global_operation(model, [nan_in_the_middle()], input_name="x") is None


SCOPES = "['', 'encoder', 'encoder.se', 'encoder.se.0', 'mean']"
CLASSES = "['Net', 'timm.Encoder', 'timm.SqueezeExcite', 'torch.nn.modules.pooling.AdaptiveAvgPool2d', 'aten.mean.dim']"


@pytest.mark.parametrize("scopes", [SCOPES, "['', '", "__import__('os')", "[]"])
def test_an_operation_is_named_by_the_modules_that_the_file_says_it_is_in(scopes: str) -> None:
    model = onnx.load_from_string(written(*EVERYWHERE["ReduceMean"]))
    node = next(node for node in model.graph.node if node.op_type == "ReduceMean")
    node.name = "node_mean"
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    node.metadata_props.add(key="pkg.torch.onnx.class_hierarchy", value=CLASSES)
    found = global_operation(model.SerializeToString(), [nan_in_the_middle()], input_name="x")
    modules = "AdaptiveAvgPool2d encoder.se.0 in SqueezeExcite encoder.se (ReduceMean, node_mean)"
    assert str(found) == (modules if scopes == SCOPES else "ReduceMean (node_mean)")


@pytest.mark.soak  # what torch writes is above; exporting takes 6 s
def test_what_torch_exports_is_named_by_its_modules(tmp_path: Path) -> None:
    network = nn.Sequential(conv(4, 4, 3), SqueezeExcite(), conv(4, 2, 1))
    export_onnx(evaluated(network), path := tmp_path / "network.onnx", channels=4, side=32, step=8)
    given = onnx.load(path).graph.input[0].name
    found = global_operation(path.read_bytes(), [nan_in_the_middle()], input_name=given)
    assert str(found).startswith("AdaptiveAvgPool2d 1.weigh.0 in SqueezeExcite 1 (ReduceMean, ")
