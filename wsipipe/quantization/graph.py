"""The graph of a model as ONNX: in float32, as it is quantised, and what is changed in it before and after."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from wsipipe.errors import ModelError
from wsipipe.model.exporting import INPUT_NAME
from wsipipe.model.file_kind import FileKind
from wsipipe.model.model_file import Model
from wsipipe.model.network import ForeignNetwork
from wsipipe.model.unet import UNet
from wsipipe.model.unet_onnx import OUTPUT_NAME, unet_as_onnx

LEAST_OPSET = 13
"""The first version of the operators that quantises each channel of a weight by itself."""
UNMEASURED = {"": 0.0}
"""Memory of a network that was not measured yet."""


def float_network(model: Model) -> tuple[onnx.ModelProto, ForeignNetwork]:
    """The network of ``model`` as ONNX, and its description but for the memory that it takes.

    Raises
    ------
    ModelError
        If it is a ``torch.export`` program, quantised already, or of operators that are too old.
    """
    info, network = model.info, model.info.network
    if isinstance(model.network, UNet):
        described = ForeignNetwork(
            kind=FileKind.ONNX,
            in_channels=network.in_channels,
            classes=network.classes,
            head=network.head,
            receptive=network.receptive,
            input=INPUT_NAME,
            output=OUTPUT_NAME,
            channels_last=False,
            single=False,
            exact=network.exact,
            bytes_per_pixel=UNMEASURED,
        )
        return unet_as_onnx(model.network), described
    if not isinstance(model.network, bytes):
        raise ModelError(
            f"model {info.path} is {network.kind.value}, and only ONNX becomes int8; write the network as ONNX: "
            "wsipipe.save_model('net.onnx', network, spec)"
        )
    assert isinstance(network, ForeignNetwork)
    graph = onnx.load_from_string(model.network)
    if info.quantized:
        raise ModelError(f"model {info.path} is quantised already; give the model in float32 that it was made from")
    version = max((one.version for one in graph.opset_import if not one.domain), default=1)
    if version < LEAST_OPSET:
        raise ModelError(
            f"model {info.path} has operators of version {version}, and int8 needs {LEAST_OPSET} or later; export the "
            f"network again with opset_version={LEAST_OPSET}, or more"
        )
    return graph, network


def with_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` whose nodes all have names of their own, by which some are left in float32."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    taken = set()
    for number, node in enumerate(named.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}.{number}"
        taken.add(node.name)
    return named


def first_convolutions(model: onnx.ModelProto, image: str) -> list[str]:
    """Names of the convolutions that see the input ``image`` of ``model`` before any other has."""
    seen, found = {image}, []
    for node in model.graph.node:
        if seen.intersection(node.input):
            if node.op_type == "Conv":
                found.append(node.name)
            else:
                seen.update(node.output)
    return found


def make_unsigned(model: onnx.ModelProto) -> None:
    """Make activations of ``model`` that are int8 uint8, with the same values: their zero points rise by 128.

    OpenVINO 2026.4 computes networks of int8 activations whose zero points are not 0 wrongly on CPUs: the nuclei model
    then had a Dice coefficient of 0.929 against float32, where onnxruntime, and OpenVINO with uint8, gave 0.984.
    """
    constants = {constant.name: constant for constant in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            zero_point = constants[node.input[2]]
            value = numpy_helper.to_array(zero_point)
            if value.dtype == np.int8:
                unsigned = (value.astype(np.int16) + 128).astype(np.uint8)
                zero_point.CopyFrom(numpy_helper.from_array(unsigned, zero_point.name))
    del model.graph.value_info[:]  # which says of what type they were
