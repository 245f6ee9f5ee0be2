"""Test-time averaging: the tiled result equals one averaged pass over the whole slide, whatever the tiles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import zarr
from torch import nn

import wsipipe
from tests.faults import store_files
from tests.importing.small_networks import PaddedUNet
from tests.model.test_footprint import Live
from tests.soak import each_value_once
from tests.test_exactness import FLOAT32_EXACT, make_model, random_image, write_slide
from wsipipe.arrays import Pixels
from wsipipe.errors import UsageError
from wsipipe.geometry.grid import boxes
from wsipipe.geometry.network import Receptive, round_up
from wsipipe.inference.pool import PoolSpec
from wsipipe.inference.replica import Prediction, Replica
from wsipipe.model.file_kind import FileKind
from wsipipe.model.model_file import Model, ModelInfo, load_model
from wsipipe.model.network import ForeignNetwork, Head
from wsipipe.model.spec import ModelSpec, default_classes
from wsipipe.pipeline import setup
from wsipipe.store.spec import Fingerprint

Shares = npt.NDArray[np.float32]
TURNS = {"flips": [(0, flip) for flip in range(4)], "all": [(turn, flip) for turn in (0, 1) for flip in range(4)]}
"""Of each kind of averaging: whether rows and columns change places, and then whether x (1) and y (2) are mirrored."""


def turned(image: npt.NDArray[Any], turn: int, flip: int) -> npt.NDArray[Any]:
    """``image`` (..., y, x), transposed and mirrored."""
    image = np.swapaxes(image, -2, -1) if turn else image
    return image[..., :: -1 if flip & 2 else 1, :: -1 if flip & 1 else 1]


def turned_back(image: npt.NDArray[Any], turn: int, flip: int) -> npt.NDArray[Any]:
    """The image (..., y, x) of which ``image`` is the `turned` one."""
    image = image[..., :: -1 if flip & 2 else 1, :: -1 if flip & 1 else 1]
    return np.swapaxes(image, -2, -1) if turn else image


def whole_shares(model: Model, image: Pixels, tta: str) -> Shares:
    """The mean probabilities, (class, y, x), of passes over the whole mirror-padded image, moved and moved back.

    The padded image ends on the grid of the stride on every side: mirrored, it lies on that grid as it did before.
    """
    assert isinstance(model.network, nn.Module)
    sizes, (height, width) = model.info.receptive, image.shape[:2]
    half = sizes.margin // 2
    pads = [(half, half + round_up(side, sizes.stride) - side) for side in (height, width)]
    padded = np.moveaxis(np.pad(image, [*pads, (0, 0)], mode="symmetric"), -1, 0)
    mean = np.zeros((), np.float32)
    for turn in TURNS[tta]:
        pixels = torch.from_numpy(turned(padded, *turn).copy())[None].float().div(255.0).div(torch.tensor(1 / 255))
        with torch.inference_mode():
            output = model.network(pixels)[0]
        output = output[:, sizes.crop : output.shape[1] - sizes.crop, sizes.crop : output.shape[2] - sizes.crop]
        shares = output.double().sigmoid() if len(output) == 1 else output.double().softmax(0)
        mean = mean + turned_back(shares.float().numpy(), *turn) / np.float32(len(TURNS[tta]))
    return mean[:, :height, :width]


def decided(model: Model, shares: Shares) -> npt.NDArray[np.uint8]:
    """The labels of mean ``shares``, (class, y, x): the first of the largest, or of one class where it is above 1/2."""
    values = np.array([c.label for c in model.spec.classes])
    return np.where(shares[0] > 0.5, values[0], 0) if len(values) == 1 else values[shares.argmax(0)]


def entropy(shares: Shares) -> Shares:
    """Of the shares (class, y, x), or of one and its complement, over the largest that it can be."""
    wide = shares.astype(float)
    wide = np.concatenate([wide, 1 - wide]) if len(wide) == 1 else wide
    return -(wide * np.log(np.maximum(wide, 1e-300))).sum(0) / np.log(len(wide))


def softened(path: str) -> Model:
    """The model at ``path``, with whole numbers of 1/64 as logits: probabilities of all sizes, and still exact."""
    model = load_model(path)
    network = model.network
    assert isinstance(network, wsipipe.UNet)
    with torch.no_grad():
        network.head.weight /= 64
        network.head.bias /= 64
    wsipipe.save_model(path, network, model.spec)
    return load_model(path)


@pytest.mark.parametrize(("tta", "classes", "engine"), [("flips", 3, "torch"), ("all", 1, "openvino")])
def test_a_run_writes_the_average_of_whole_passes(tmp_path: Path, tta: str, classes: int, engine: str) -> None:
    image = random_image((97, 211))
    slide = write_slide(tmp_path / "s.tif", image)
    sizes = {"base_channels": 4, "depth": 2, "convs_per_level": 1}
    model = softened(make_model(tmp_path / "b.safetensors", classes=classes, **sizes))
    shares = whole_shares(model, image, tta)
    labels = decided(model, shares)
    options = {
        "tissue": "off",
        "probabilities": True,
        "uncertainty": True,
        "tta": tta,
        "device": "cpu",
        "engine": engine,
    }
    for name, more in {"a": {"block": 96, "tile": 96}, "b": {"block": 96, "tile": 32, "batch": 2}, "c": {}}.items():
        config = wsipipe.RunConfig(out=str(tmp_path / name), model=model.info.path, **options, **more)  # type: ignore[arg-type]
        assert wsipipe.run([slide], config).exit_code == 0
        store = zarr.open_group(tmp_path / name / "s.zarr", mode="r")
        np.testing.assert_array_equal(store["0"][:], labels)
        np.testing.assert_array_equal(store["probabilities/0"][:], (shares * 255).round())
        np.testing.assert_allclose(store["uncertainty/0"][:], 255 * entropy(shares), atol=0.5 + 1e-6)
    assert store_files(tmp_path / "a/s.zarr") == store_files(tmp_path / "b/s.zarr"), "the tile changes speed only"
    lazy = wsipipe.segment(slide, model, block=96, tile=48, device="cpu", engine=engine, tta=tta)
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), labels)
    alone = wsipipe.segment(slide, model, device="cpu").compute(scheduler="synchronous")
    assert (alone != labels).mean() > 0.001, "averaging changes some labels, else this would prove nothing"


def strided() -> nn.Module:
    """A network whose response is not symmetric: a stride of 2 in a padded convolution of 3, then a pooling."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Upsample(scale_factor=4, mode="nearest"),
        nn.Conv2d(4, 2, 3, padding=1),
    )
    return with_whole_logits(network, network[-1])


def padded_unet() -> nn.Module:
    """A U-Net of padded convolutions, which pools from the edge of the tile."""
    network = PaddedUNet(2, norm=lambda _: nn.Identity())
    return with_whole_logits(network, network.head)


def with_whole_logits(network: nn.Module, head: nn.Module) -> nn.Module:
    """``network`` with weights of -1, 0 and 1, and in its ``head`` of a power of 2 times that: all sums are exact."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_((torch.rand(weight.shape, generator=generator) * 1.6 - 0.8).round())
        logits = network(torch.from_numpy(random_image((64, 64))).permute(2, 0, 1)[None].float())
        assert logits.abs().max() < FLOAT32_EXACT / 64
        for weight in head.parameters():
            weight /= 2 ** logits.std().log2().ceil()
    return network.eval()


FOREIGN = {
    "strided": (strided, Receptive(stride=4, halo=12, margin=24, crop=12)),
    "strided, with a margin off the grid": (strided, Receptive(stride=4, halo=12, margin=28, crop=14)),
    "padded U-Net": (padded_unet, Receptive(stride=4, halo=22, margin=48, crop=24)),
}


def foreign_model(network: nn.Module, receptive: Receptive) -> Model:
    """A model of two classes from elsewhere, that gives logits."""
    about = ForeignNetwork(
        kind=FileKind.PT2,
        in_channels=3,
        classes=2,
        head=Head("softmax"),
        receptive=receptive,
        input="",
        output="0",
        channels_last=False,
        single=False,
        exact=True,
        bytes_per_pixel={"torch": 100.0},
    )
    spec = ModelSpec(default_classes(2), mean=(0.0,), std=(1 / 255,))
    return Model(ModelInfo("net.pt2", "0", about, spec), network)


def tiled(model: Model, image: Pixels, core: int, tta: str) -> Prediction:
    """The prediction for ``image``, from tiles with cores of ``core`` px or less."""
    sizes, (height, width) = model.info.receptive, image.shape[:2]
    half = sizes.margin // 2
    padded = np.pad(image, [(half, half + sizes.stride)] * 2 + [(0, 0)], mode="symmetric")
    replica = Replica(model, "cpu", probabilities=True, tta=tta)
    shape = round_up(height, sizes.stride), round_up(width, sizes.stride)
    labels, probabilities = np.zeros(shape, np.uint8), np.zeros((2, *shape), np.uint8)
    for box in boxes(shape, core):
        found = replica.predict([padded[box.y0 : box.y1 + sizes.margin, box.x0 : box.x1 + sizes.margin]])[0]
        labels[box.slices], probabilities[:, *box.slices] = found.labels, found.probabilities
    return Prediction(labels[:height, :width], probabilities[:, :height, :width])


@pytest.mark.parametrize(("name", "tta"), each_value_once([*FOREIGN], ["all", "flips"]))
def test_tiles_of_any_network_agree_with_averaged_whole_passes(name: str, tta: str) -> None:
    make, receptive = FOREIGN[name]
    model, image = foreign_model(make(), receptive), random_image((67, 50))
    shares = whole_shares(model, image, tta)
    for core in (12, 20, 68):
        found = tiled(model, image, core, tta)
        np.testing.assert_array_equal(found.labels, decided(model, shares))
        np.testing.assert_array_equal(found.probabilities, (shares * 255).round())
    assert len(np.unique(shares)) > 100


def test_the_mean_is_as_symmetric_as_the_image() -> None:
    """Of an image that is the same from all sides, and so are the labels, though the network's response is not."""
    model = foreign_model(strided(), FOREIGN["strided"][1])
    quarter = random_image((32, 32))
    quarter = np.where(np.arange(32)[:, None, None] > np.arange(32)[None, :, None], quarter.swapaxes(0, 1), quarter)
    image = np.pad(quarter, [(0, 32), (0, 32), (0, 0)], mode="symmetric")
    alone, mean = tiled(model, image, 64, "off").probabilities, tiled(model, image, 64, "all").probabilities
    assert mean is not None
    assert alone is not None
    for turn in TURNS["all"]:
        np.testing.assert_array_equal(turned(mean, *turn), mean)
    assert not np.array_equal(turned(alone, 0, 1), alone)


def test_an_engine_may_reuse_the_memory_of_its_output() -> None:
    model = foreign_model(strided(), FOREIGN["strided"][1])
    about = replace(model.info.network, head=Head("softmax", activated=True))  # the output itself is added up
    model = replace(model, info=replace(model.info, network=about))
    replica = Replica(model, "cpu", probabilities=True, tta="flips")
    memory, calls = torch.empty(1, 2, 40, 40), iter((0.25, 0.5, 0.5, 0.75))

    def engine(_pixels: torch.Tensor) -> torch.Tensor:
        share = next(calls)
        memory[:, 0], memory[:, 1] = share, 1 - share
        return memory

    replica.network = engine
    found = replica.predict([np.zeros((40, 40, 3), np.uint8)])
    assert found.probabilities is not None
    assert np.unique(found.probabilities).tolist() == [128]
    assert np.unique(found.labels).tolist() == [0], "of two that are as probable the first"


@pytest.mark.parametrize("tta", ["off", "all"])
def test_averaging_holds_no_more_memory_than_projected(tiny_model: Path, tta: str) -> None:
    model = load_model(tiny_model)
    info, asked = model.info, {"uncertainty": True, "tta": tta}
    replica, side = Replica(model, "cpu", probabilities=True, **asked), 128 + info.receptive.margin  # type: ignore[arg-type]
    spec = PoolSpec(info.path, info.sha256, "cpu", "torch", "float32", 2, True, info.receptive, **asked)  # type: ignore[arg-type]
    tiles = np.zeros((2, side, side, info.network.in_channels), np.uint8)
    with Live() as live:
        replica._forward(tiles)
    assert live.peak <= spec.tensor_bytes(info.network, side, 2) + tiles.nbytes  # the stacked tiles count elsewhere


@pytest.mark.parametrize("asked", [{"tta": "flips"}, {"probabilities": True}, {"uncertainty": True}])
def test_class_numbers_have_no_probabilities(monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]) -> None:
    info = foreign_model(strided(), FOREIGN["strided"][1]).info
    info = replace(info, network=replace(info.network, head=Head("labels")))
    monkeypatch.setattr(setup, "read_model_info", lambda _: info)
    with pytest.raises(UsageError, match=r"gives the number of a class, not probabilities; remove the option, or"):
        setup.resolve(wsipipe.RunConfig(device="cpu", **asked))


def test_stores_without_averaging_and_uncertainty_do_not_name_them() -> None:
    plain = Fingerprint("a", "b", 0, 0.5, probabilities=False)
    averaged = replace(plain, tta="flips", uncertainty=True)
    assert not {"tta", "uncertainty"} & plain.described().keys()
    assert averaged.described() == {**plain.described(), "tta": "flips", "uncertainty": True}
    assert Fingerprint(**plain.described()) == plain
    assert Fingerprint(**averaged.described()) == averaged
    assert averaged.differences(plain) == ["tta", "uncertainty"]
