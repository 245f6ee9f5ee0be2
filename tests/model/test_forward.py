"""A validation predicts what a run writes, to the last pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from tests.soak import rounds
from tests.training.discs import changed, discs, made_setup, write_discs
from wsipipe import ModelSpec, RunConfig, UNet, run
from wsipipe.geometry.grid import Box
from wsipipe.model.forward import (
    Normalise,
    core_of,
    label_values,
    predict_box,
    probabilities_of,
    uncertainty_of,
    winner,
)
from wsipipe.model.network import Head
from wsipipe.model.spec import LabelClass, default_classes
from wsipipe.training.augment import NO_AUGMENTATION
from wsipipe.training.config import ClassConfig
from wsipipe.training.trainer import Trainer

CPU = torch.device("cpu")
SOFTMAX, SIGMOID = Head("softmax"), Head("sigmoid")


@pytest.mark.parametrize(
    ("channels", "dtype", "sigmoid", "shape", "sizes"),
    [
        (3, "uint8", False, (72, 91), {}),
        *rounds(
            (1, "uint16", True, (97, 130), {"block": 64, "tile": 32}),
            (1, "uint8", True, (129, 65), {"block": 64, "tile": 32}),
            (3, "uint16", True, (61, 60), {}),
            (1, "uint16", False, (97, 130), {"block": 32, "tile": 16}),
        ),
    ],
)
def test_prediction_of_a_validation_image_is_what_a_run_writes(
    tmp_path: Path, channels: int, dtype: str, sigmoid: bool, shape: tuple[int, int], sizes: dict[str, int]
) -> None:
    data = write_discs(tmp_path / "data", 3, shape=shape, channels=channels, dtype=dtype)
    config = changed(
        mpp=None,
        classes=(ClassConfig("disc", "#123456"),),
        augmentation=NO_AUGMENTATION,
        network={"sigmoid": sigmoid},
        loop={"steps": 30, "validate_every": 99, "checkpoint_every": 99},
    )
    trainer = Trainer(made_setup(data, config, tmp_path), "cpu")
    trainer.run()
    trainer.finish(lambda _: None)
    (view,) = trainer.setup.validation
    assert view.box == Box(0, shape[0], 0, shape[1])
    found = predict_box(trainer.network, trainer.setup.spec, view.field.pixels_at, view.box, shape=shape)
    assert found.shape == shape
    assert 0.05 < (found == 1).mean() < 0.95, "there is something to be wrong about"
    options = RunConfig(out=str(tmp_path / "run"), model=str(trainer.setup.out), device="cpu", **sizes)  # type: ignore[arg-type]
    (slide,) = run([str(data / "disc-0_image.tif")], options).slides
    assert slide.status == "done", slide.message
    np.testing.assert_array_equal(zarr.open_array(Path(slide.store) / "0", mode="r")[:], found)


@pytest.fixture(scope="module")
def network() -> UNet:
    """A network of depth 2 and three classes, with random weights by which each class wins somewhere."""
    torch.manual_seed(1)
    network = UNet(3, 3, base_channels=4, depth=2, convs_per_level=1).eval()
    with torch.no_grad():
        logits = network(torch.rand(1, 3, 106, 106) * 4 - 2)
        network.head.bias -= logits.mean((0, 2, 3))
    return network


def reader(image: Any) -> Any:
    return lambda rows, cols: image[rows[:, None], cols]


@pytest.mark.parametrize("core", [4, 16, 64, 512])
def test_box_is_the_same_whatever_the_tile_and_whatever_is_around(network: UNet, core: int) -> None:
    image = discs((75, 93))[0]
    spec, shape = ModelSpec(default_classes(3), mean=(0.5,), std=(0.25,)), (75, 93)
    whole = predict_box(network, spec, reader(image), Box(0, 75, 0, 93), shape=shape)
    assert len(np.unique(whole)) == 3
    for box in (Box(0, 75, 0, 93), Box(8, 75, 12, 50), Box(40, 41, 88, 93), Box(0, 9, 0, 93)):
        part = predict_box(network, spec, reader(image), box, shape=shape, core=core)
        np.testing.assert_array_equal(part, whole[box.slices])


def test_box_off_the_pooling_grid_is_refused(network: UNet) -> None:
    spec = ModelSpec(default_classes(3), mean=(0.5,), std=(0.25,))
    with pytest.raises(AssertionError, match="off the pooling grid of 4 px"):
        predict_box(network, spec, reader(discs((40, 40))[0]), Box(2, 9, 0, 9), shape=(40, 40))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_pixels_are_normalised_as_shares_of_full_scale(dtype: str) -> None:
    top = np.iinfo(dtype).max
    tiles = np.random.default_rng(0).integers(0, top + 1, (2, 5, 7, 3)).astype(dtype)
    spec = ModelSpec(default_classes(2), mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))
    seen = Normalise(spec, CPU).pixels(tiles)
    wanted = (tiles / top - spec.mean) / spec.std
    np.testing.assert_allclose(seen.numpy(), wanted.transpose(0, 3, 1, 2), atol=1e-5)
    shares = torch.from_numpy((tiles / np.float32(top)).astype(np.float32)).permute(0, 3, 1, 2)
    assert torch.equal(Normalise(spec, CPU)(shares.clone()), seen), "training and inference, to the last bit"
    plain = torch.from_numpy(tiles).permute(0, 3, 1, 2)
    on_gpus = Normalise(spec, CPU).in_one_pass(plain, np.iinfo(tiles.dtype).max)
    torch.testing.assert_close(on_gpus, seen, rtol=0, atol=1e-6)
    assert on_gpus.stride() == plain.stride(), "channels last, as they came"


@pytest.mark.parametrize(("mean", "std"), [((0.25,), (0.5,)), ((0.25,), (0.5, 0.25, 1.0)), ((0.5, 0.25, 1.0), (0.5,))])
def test_one_value_serves_all_channels(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), np.uint8)
    shares = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    wanted = (shares - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    normalise = Normalise(ModelSpec(default_classes(2), mean=mean, std=std), CPU)
    assert torch.equal(normalise.pixels(pixels), wanted)
    assert torch.equal(normalise(shares.clone()), wanted)


def test_labels_are_those_of_the_classes() -> None:
    classes = (LabelClass("a", 7, "#000000"), LabelClass("rest", 0, "#000000"), LabelClass("b", 200, "#000000"))
    logits = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]).T.view(1, 3, 1, 4)
    assert label_values(ModelSpec(classes), SOFTMAX, CPU)[winner(logits, SOFTMAX)].tolist() == [[[7, 0, 200, 7]]]
    one = ModelSpec((LabelClass("a", 9, "#000000"),))
    three = torch.tensor([-1.0, 0.0, 1e-6]).view(1, 1, 1, 3)
    assert label_values(one, SIGMOID, CPU)[winner(three, SIGMOID)].tolist() == [[[0, 0, 9]]]


def test_in_a_tie_the_first_class_wins() -> None:
    logits = torch.randint(0, 3, (2, 4, 100, 101), generator=torch.Generator().manual_seed(0)).float()
    assert np.array_equal(winner(logits, SOFTMAX).numpy(), logits.numpy().argmax(1))


def test_probabilities_sum_to_1_and_agree_with_the_winner() -> None:
    logits = torch.randn(2, 3, 5, 5)
    shares = probabilities_of(logits, SOFTMAX)
    torch.testing.assert_close(shares.sum(1), torch.ones(2, 5, 5))
    assert torch.equal(shares.argmax(1), winner(logits, SOFTMAX))
    assert torch.equal(probabilities_of(logits[:, :1], SIGMOID)[:, 0] > 0.5, winner(logits[:, :1], SIGMOID) == 1)


@pytest.mark.parametrize("head", [SOFTMAX, SIGMOID], ids=str)
def test_a_probability_does_not_depend_on_its_place_in_the_tile(head: Head) -> None:
    """torch computes the last elements of a row by another exp(), so that with float32 some differ in the last bit."""
    logits = 4 * torch.randn(1, 3, 200, 200, generator=torch.Generator().manual_seed(0))
    whole = probabilities_of(logits, head)
    for side in (3, 5, 16, 31):
        for y, x in ((0, 0), (3, 7), (100, 41), (169, 169)):
            part = logits[..., y : y + side, x : x + side]
            assert torch.equal(probabilities_of(part, head), whole[..., y : y + side, x : x + side])


@pytest.mark.parametrize(
    ("head", "shares", "wanted"),
    [
        (SOFTMAX, [[1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]], [0, 1, 1 / np.log2(3)]),
        (SOFTMAX, [[0.2, 0.8]], [0.7219280948873623]),
        (SIGMOID, [[1.0], [0], [0.5], [0.2]], [0, 0, 1, 0.7219280948873623]),
        (SIGMOID, [[0.1, 0.8]], [0.7219280948873623]),  # of the most probable class
        (Head("softmax", activated=True), [[0.4001, 0.6], [1.0001, -0.0001], [0.45, 0.45]], [0.97105, 0, 1]),  # rounded
    ],
)
def test_uncertainty_is_the_entropy(head: Head, shares: list[list[float]], wanted: list[float]) -> None:
    given = torch.tensor(shares).T[None, :, None]
    before = given.clone()
    assert uncertainty_of(given, head)[0, 0].tolist() == pytest.approx(wanted, abs=2e-4)
    assert torch.equal(given, before)


def test_core_is_the_middle(network: UNet) -> None:
    receptive = network.receptive
    side = 16 + receptive.margin
    logits = network(torch.rand(1, 3, side, side))
    core = core_of(logits, receptive)
    assert core.shape == (1, 3, 16, 16)
    crop = receptive.crop
    assert torch.equal(core, logits[..., crop : crop + 16, crop : crop + 16])
