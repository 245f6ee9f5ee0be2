"""Real networks of other people: segmented in tiles without a label that differs, or refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from torch import Tensor, nn

import wsipipe
from tests.importing.whole import whole
from tests.networks import CHANNELS, CLASSES, NETWORKS, declare_torchvision, made
from tests.real_data import data, needs_data
from wsipipe.errors import NoFiniteReachError
from wsipipe.geometry.grid import Box
from wsipipe.importing.import_model import NetworkRequest, named_classes
from wsipipe.model.model_file import load_model
from wsipipe.model.spec import ModelSpec
from wsipipe.slides.pixels.mirrored import read_box

pytestmark = [pytest.mark.soak, needs_data]
PACKAGE_OF = {"smp": "segmentation_models_pytorch", "monai": "monai", "hover": "torch"}
EVEN = 1e-5
"""The largest share of labels that may differ because two classes are even; of balanced random weights, many are."""
ROUNDING = 1e-5
"""How close two values are that sums in another order may exchange, relative to the largest value."""
REFUSED = {
    "smp-fpn": "GroupNorm",
    "smp-deeplabv3plus": "ASPPPooling",
    "smp-segformer": "attention|Attention|LayerNorm",
    "smp-unet-scse": "SCSEModule",
    "smp-unet-se-resnet": "SEModule|SEAttention|SqueezeExcite|se_module",
    "monai-unet-instance": "InstanceNorm",
    "monai-basicunet-instance": "InstanceNorm",
    "monai-segresnet-instance": "InstanceNorm",
}
"""What their messages name."""


class Balanced(nn.Module):
    """``network`` less the mean of its outputs over ``image``: with random weights, one class would win everywhere."""

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.network = network
        with torch.inference_mode():
            found = network(image)
        self.names = list(found) if isinstance(found, dict) else []
        for name, output in found.items() if self.names else [("only", found)]:
            self.register_buffer(f"mean_{name}", output.mean((0, 2, 3), keepdim=True).clone())

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        """As the network."""
        found = self.network(images)
        if not self.names:
            return found - self.get_buffer("mean_only")
        return {name: output - self.get_buffer(f"mean_{name}") for name, output in found.items()}


def saved(name: str, path: Path) -> None:
    declare_torchvision()
    pytest.importorskip(PACKAGE_OF[name.partition("-")[0]])
    level = wsipipe.open_slide(data("slides/CMU-1-Small-Region.svs")).levels[0]
    pixels = torch.from_numpy(read_box(level, Box(600, 856, 700, 956)).copy()).permute(2, 0, 1)[None] / 255
    network, classes = Balanced(made(name), (pixels - 0.5) / 0.25).eval(), 2 if name == "hover" else CLASSES
    output = None if name != "hover" else "np"
    spec = ModelSpec(named_classes([f"class {i}" for i in range(classes)]), mpp=0.5, mean=(0.5,), std=(0.25,))
    wsipipe.save_model(
        path, network, spec, request=NetworkRequest(in_channels=CHANNELS, step=NETWORKS[name].step, output=output)
    )


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of a real slide."""
    level = wsipipe.open_slide(data("slides/CMU-1-Small-Region.svs")).levels[0]
    path = tmp_path_factory.mktemp("slide") / "part.tif"
    pixels = read_box(level, Box(600, 1371, 700, 1705))
    tifffile.imwrite(path, pixels, tile=(256, 256), resolution=(20000, 20000), resolutionunit="CENTIMETER")
    return path


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in REFUSED])
def test_tiles_give_the_labels_of_one_pass(name: str, suffix: str, slide: Path, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    saved(name, path)
    model = load_model(path)
    for engine in ("onnxruntime", "openvino") if suffix == ".onnx" else ("torch",):
        labels = wsipipe.segment(slide, model, block=512, tile=256, device="cpu", engine=engine)
        found = labels.compute(scheduler="synchronous")
        assert len(np.unique(found)) > 1
        expected, gaps = whole(model, slide, engine)
        differing = gaps[found != expected]
        print(f"{name}{suffix} {engine}: {model.info.receptive}, {differing.size} of {found.size} labels differ")  # noqa: T201
        assert (differing < ROUNDING).all(), "not because two classes are even"
        assert differing.size <= EVEN * found.size


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_looks_at_the_whole_image_is_refused_by_name(name: str, suffix: str, tmp_path: Path) -> None:
    with pytest.raises(NoFiniteReachError) as refused:
        saved(name, tmp_path / f"net{suffix}")
    print(refused.value)  # noqa: T201
    assert re.search(REFUSED[name], str(refused.value))


def test_the_ten_lines_of_the_documentation_work(slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare_torchvision()
    pytest.importorskip("segmentation_models_pytorch")
    page = (Path(__file__).parents[2] / "docs" / "models" / "networks.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "part.tif").write_bytes(slide.read_bytes())
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(code, {})
    assert (tmp_path / "segmentations" / "part.zarr" / "zarr.json").exists()
