"""Networks of other people with random weights, and what computes them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

CHANNELS, CLASSES = 3, 4
_LIBRARY: list[torch.library.Library] = []
Array = npt.NDArray[np.float32]


class Foreign(NamedTuple):
    """A network, and the sides that it takes."""

    make: Callable[[], nn.Module]
    step: int = 32
    side: int = 64


class HoVer(nn.Module):
    """A network of valid convolutions with two heads, as HoVer-Net's, one of whose skips is cropped."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(CHANNELS, 8, 7), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.down = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.heads = nn.ModuleDict({name: nn.Conv2d(24, classes, 5) for name, classes in {"np": 2, "hv": 2}.items()})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Nuclear pixels and distances."""
        fine = self.stem(images / 255)
        coarse = nn.functional.interpolate(self.down(fine), scale_factor=2.0, mode="nearest")
        joined = torch.cat([fine[:, :, 2:-2, 2:-2], coarse], 1)
        return {name: head(joined) for name, head in self.heads.items()}


def _smp(name: str, **options: object) -> Callable[[], nn.Module]:
    """A network of segmentation_models_pytorch with a ResNet-18 encoder."""

    def make() -> nn.Module:
        declare_torchvision()
        import segmentation_models_pytorch as smp

        chosen = {"encoder_name": "resnet18", "encoder_weights": None, **options}
        network: nn.Module = getattr(smp, name)(in_channels=CHANNELS, classes=CLASSES, **chosen)
        return network

    return make


def _monai(name: str, **options: object) -> Callable[[], nn.Module]:
    """A network of MONAI for images of two axes."""

    def make() -> nn.Module:
        declare_torchvision()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from monai.networks import nets
        network: nn.Module = getattr(nets, name)(spatial_dims=2, in_channels=CHANNELS, out_channels=CLASSES, **options)
        return network

    return make


_UNET = {"channels": (8, 16, 32), "strides": (2, 2)}
NETWORKS: dict[str, Foreign] = {
    "smp-unet": Foreign(_smp("Unet")),
    "smp-unetplusplus": Foreign(_smp("UnetPlusPlus")),
    "smp-fpn": Foreign(_smp("FPN")),
    "smp-deeplabv3plus": Foreign(_smp("DeepLabV3Plus")),
    "smp-segformer": Foreign(_smp("Segformer", encoder_name="mit_b0")),
    "smp-unet-scse": Foreign(_smp("Unet", decoder_attention_type="scse")),
    "smp-unet-se-resnet": Foreign(_smp("Unet", encoder_name="se_resnet50")),
    "monai-unet-batch": Foreign(_monai("UNet", norm="batch", **_UNET), step=4),
    "monai-unet-instance": Foreign(_monai("UNet", norm="instance", **_UNET), step=4),
    "monai-basicunet-batch": Foreign(_monai("BasicUNet", norm="batch", features=(8, 8, 16, 16, 32, 8)), step=16),
    "monai-basicunet-instance": Foreign(_monai("BasicUNet", features=(8, 8, 16, 16, 32, 8)), step=16),
    "monai-segresnet-batch": Foreign(_monai("SegResNet", norm="batch"), step=8),
    "monai-segresnet-instance": Foreign(_monai("SegResNet", norm="instance"), step=8),
    "hover": Foreign(HoVer, step=2),
}


def declare_torchvision() -> None:
    """Declare the operators that torchvision asks for as it is imported, which PyPI's lacks beside torch for CPUs."""
    if not _LIBRARY:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARY.append(library)


def made(name: str) -> nn.Module:
    """The network ``name`` in evaluation mode, with random weights and statistics, the same each time."""
    torch.manual_seed(1)
    network = NETWORKS[name].make().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


def outputs(network: nn.Module, images: torch.Tensor) -> list[Array]:
    """What ``network`` gives for ``images``, a list also of one."""
    with torch.no_grad():
        given = network(images)
    given = list(given.values()) if isinstance(given, dict) else given
    return [one.numpy() for one in (given if isinstance(given, list | tuple) else [given])]


def by_onnxruntime(path: Path, images: torch.Tensor) -> list[Array]:
    """The same by onnxruntime, from the bytes of a file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: images.numpy()}))


def by_openvino(path: Path, images: torch.Tensor) -> list[Array]:
    """The same by OpenVINO, in float32."""
    import openvino

    core = openvino.Core()
    network = core.compile_model(core.read_model(path.read_bytes()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    given = network(images.numpy())
    return [given[port] for port in network.outputs]


def labels_that_differ(one: list[Array], other: list[Array]) -> int:
    """Pixels of which two computations have different classes."""
    assert [a.shape for a in one] == [b.shape for b in other]
    return sum(int((a.argmax(1) != b.argmax(1)).sum()) for a, b in zip(one, other, strict=True))
