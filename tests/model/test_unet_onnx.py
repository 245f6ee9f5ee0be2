"""The U-Net as ONNX computes the same as in torch."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest
import torch

from wsipipe.model.unet import UNet
from wsipipe.model.unet_onnx import unet_as_onnx


@pytest.mark.parametrize(("depth", "convs"), [(0, 1), (1, 2), (3, 2), (2, 3)])
@torch.inference_mode()
def test_logits_are_those_of_torch_for_tiles_of_any_size(depth: int, convs: int) -> None:
    torch.manual_seed(0)
    network = UNet(3, 2, base_channels=4, depth=depth, convs_per_level=convs).eval()
    receptive = network.receptive
    model = unet_as_onnx(network)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch, rows, cols in ((1, 3, 3), (3, 2, 5)):
        sides = [receptive.margin + receptive.stride * count for count in (rows, cols)]
        x = torch.rand(batch, 3, *sides)
        expected = network(x)
        (found,) = session.run(None, {"image": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
