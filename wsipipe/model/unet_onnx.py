"""wsipipe's own U-Net as an ONNX graph, operator by operator, for any batch and sides.

torch's exporter would record sides that are multiples of a step, which those of a U-Net of valid convolutions are not
(`UNetSizes.is_legal`), and compute from them at run time how much a skip loses. Here that is a constant.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from wsipipe.geometry.network import UNetSizes
from wsipipe.model.exporting import INPUT_NAME
from wsipipe.model.unet import UNet

OPSET, IR_VERSION = 20, 9
"""Versions of the operators, and of the file format that came with them."""
OUTPUT_NAME = "logits"
TO_THE_END = np.iinfo(np.int64).max


def unet_as_onnx(network: UNet) -> onnx.ModelProto:
    """`UNet.forward` as ONNX: logits (n, class, y, x) from the image (n, channel, y, x), both float32.

    Each node has the name of the layer that it computes, such as ``down.0.0``.
    """
    return _Writer(network).model


class _Writer:
    """The nodes and weights of ``network``, added one after another."""

    def __init__(self, network: UNet) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        x, skips = INPUT_NAME, []
        for level, contract in enumerate(network.down):
            if level:
                x = self._add("MaxPool", f"pool.{level}", x, kernel_shape=[2, 2], strides=[2, 2])
            x = self._layers(x, f"down.{level}", contract.children())
            skips.append(x)
        x = skips.pop()
        depth, convs = network.sizes.depth, network.sizes.convs
        for level in reversed(range(depth)):
            lost = UNetSizes(depth - level, convs).halo - 2 * convs  # px on each side, in all levels below
            x = self._layer(x, f"up.{level}", network.up[level])
            x = self._add("Concat", f"concat.{level}", self._cropped(skips.pop(), level, lost), x, axis=1)
            x = self._layers(x, f"merge.{level}", network.merge[level].children())
        self._layer(x, "head", network.head)
        self._nodes[-1].output[0] = OUTPUT_NAME
        self.model = self._whole(network)

    def _whole(self, network: UNet) -> onnx.ModelProto:
        float32 = onnx.TensorProto.FLOAT
        ports = [
            helper.make_tensor_value_info(name, float32, ["batch", channels, f"{name}_height", f"{name}_width"])
            for name, channels in ((INPUT_NAME, network.in_channels), (OUTPUT_NAME, network.classes))
        ]
        graph = helper.make_graph(self._nodes, "U-Net", ports[:1], ports[1:], self._weights)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, producer_name="wsipipe", opset_imports=[opset], ir_version=IR_VERSION)

    def _add(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, inputs, [f"{name}.output"], name, **attributes))
        return f"{name}.output"

    def _constant(self, name: str, value: Tensor) -> str:
        self._weights.append(numpy_helper.from_array(value.detach().cpu().contiguous().numpy(), name))
        return name

    def _layers(self, x: str, name: str, modules: Iterable[nn.Module]) -> str:
        """``x`` through valid convolutions and ReLUs."""
        for number, module in enumerate(modules):
            x = self._layer(x, f"{name}.{number}", module)
        return x

    def _layer(self, x: str, name: str, module: nn.Module) -> str:
        if isinstance(module, nn.ReLU):
            return self._add("Relu", name, x)
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d), f"{module} is not a layer of a U-Net"
        assert module.bias is not None
        weight, bias = self._constant(f"{name}.weight", module.weight), self._constant(f"{name}.bias", module.bias)
        if isinstance(module, nn.Conv2d):
            return self._add("Conv", name, x, weight, bias)
        return self._add("ConvTranspose", name, x, weight, bias, strides=[2, 2])

    def _cropped(self, x: str, level: int, lost: int) -> str:
        """``x`` (n, c, h, w) without ``lost`` px on each side."""
        ends = {"starts": [lost] * 2, "ends": [-lost or TO_THE_END] * 2, "axes": [2, 3]}
        given = [self._constant(f"crop.{level}.{what}", torch.tensor(value)) for what, value in ends.items()]
        return self._add("Slice", f"crop.{level}", x, *given)
