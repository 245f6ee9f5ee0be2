"""OpenVINO: on CPUs 1.3 times as fast as torch for wsipipe's U-Net, with the same float32 weights and the same labels.

The U-Net is built from OpenVINO's own operations (https://docs.openvino.ai, operation set 13), with dynamic
shapes: how much a skip loses at its borders depends on the network, not on the tile. So nothing is traced, nothing is
compiled for each size of tile, and OpenVINO's converter is not called.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
import torch
from openvino import opset13 as ops
from torch import Tensor, nn

from wsipipe.errors import ModelError
from wsipipe.geometry.network import UNetSizes
from wsipipe.inference.devices import BFLOAT16, FLOAT32
from wsipipe.inference.engines.engine import Engine
from wsipipe.inference.engines.onnx import as_named, first_line, foreign
from wsipipe.model.model_file import Model
from wsipipe.model.unet import UNet

Node = Any
"""An operation of OpenVINO, whose functions have no type annotations."""
TO_THE_END = np.iinfo(np.int64).max


HINTS = {FLOAT32: "f32", BFLOAT16: "bf16"}
"""The precision in which convolutions multiply, as OpenVINO names it. It adds up in float32 in both."""


def start_openvino(model: Model, threads: int, precision: str = FLOAT32) -> Engine:
    """The network of ``model`` compiled for the CPU in ``precision``, with ``threads`` cores for each call.

    Raises
    ------
    ModelError
        If OpenVINO lacks an operation of an ONNX file.
    """
    if isinstance(model.network, UNet):
        return OpenVinoUNet(model.network, threads, precision)
    return OpenVinoOnnx(model, threads, precision)


def compiled(model: openvino.Model, threads: int, precision: str) -> openvino.InferRequest:
    """``model`` for the CPU in ``precision``, with ``threads`` cores for each call."""
    settings = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    return openvino.Core().compile_model(model, "CPU", settings).create_infer_request()


def infer(request: openvino.InferRequest, x: npt.NDArray[np.float32]) -> Tensor:
    """The first output for the images ``x`` (n, channel, y, x), float32, valid until the next call."""
    found = request.infer([openvino.Tensor(x, shared_memory=True)], share_outputs=True)
    return torch.from_numpy(found[0])


class OpenVinoUNet:
    """``network`` compiled for the CPU, called like `UNet`: images (n, channel, y, x) in, logits (n, class, y, x) out.

    Parameters
    ----------
    network
        On any device; its weights are copied.
    threads
        CPU cores that one call uses.
    precision
        ``"float32"`` or ``"bfloat16"``.
    """

    def __init__(self, network: UNet, threads: int, precision: str = FLOAT32) -> None:
        self.sizes = network.sizes
        self._request = compiled(graph(network), threads, precision)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (n, class, y, x) of images ``x`` (n, channel, y, x), both float32; valid until the next call.

        Raises
        ------
        GeometryError
            If a side is not one that the network can take.
        """
        for side in x.shape[-2:]:
            self.sizes.output_side(side)
        return infer(self._request, x.contiguous().numpy())


class OpenVinoOnnx:
    """The ONNX file of ``model``, as `Engine`; of several outputs only the one that the model names is computed.

    Raises
    ------
    ModelError
        If OpenVINO lacks an operation of it.
    """

    def __init__(self, model: Model, threads: int, precision: str) -> None:
        self._about = foreign(model)
        try:
            whole = openvino.Core().read_model(model.network)
            self._request = compiled(
                openvino.Model([whole.output(self._about.output)], whole.get_parameters()), threads, precision
            )
        except RuntimeError as err:
            raise ModelError(
                f"model {model.info.path}: OpenVINO cannot compute it: {first_line(err)}; use --engine onnxruntime"
            ) from err

    def __call__(self, x: Tensor) -> Tensor:
        """The output (n, class, y, x) for tiles ``x`` (n, channel, y, x), both float32; valid until the next call."""
        return as_named(self._about, x, lambda tiles: infer(self._request, tiles))


def graph(network: UNet) -> openvino.Model:
    """`UNet.forward` as a model of OpenVINO, for tiles of any size."""
    depth, convs = network.sizes.depth, network.sizes.convs
    image = ops.parameter([-1, network.in_channels, -1, -1], np.float32)
    x: Node = image
    skips = []
    for level, contract in enumerate(network.down):
        if level:
            x = ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
        x = layers(x, contract.children())
        skips.append(x)
    x = skips.pop()
    for level in reversed(range(depth)):
        lost = UNetSizes(depth - level, convs).halo - 2 * convs  # px on each side, in all levels below
        up, merge = network.up[level], network.merge[level]
        assert isinstance(up, nn.ConvTranspose2d)
        x = biased(ops.convolution_backprop_data(x, up.weight.detach().numpy(), [2, 2]), up)
        x = layers(ops.concat([cropped(skips.pop(), lost), x], 1), merge.children())
    return openvino.Model([layers(x, [network.head])], [image], "U-Net")


def layers(x: Node, modules: Iterable[nn.Module]) -> Node:
    """``x`` through valid convolutions and ReLUs."""
    for module in modules:
        if isinstance(module, nn.Conv2d):
            x = biased(ops.convolution(x, module.weight.detach().numpy(), [1, 1], [0, 0], [0, 0], [1, 1]), module)
        else:
            assert isinstance(module, nn.ReLU), f"{module} is not a layer of a U-Net"
            x = ops.relu(x)
    return x


def biased(x: Node, module: nn.Conv2d | nn.ConvTranspose2d) -> Node:
    """``x`` plus the bias of ``module``."""
    assert module.bias is not None
    return ops.add(x, module.bias.detach().numpy().reshape(1, -1, 1, 1))


def cropped(x: Node, lost: int) -> Node:
    """``x`` (n, c, h, w) without ``lost`` px on each side."""
    ends = [-lost or TO_THE_END] * 2
    return ops.slice(x, [lost] * 2, ends, [1, 1], [2, 3])
