"""Labels of tissue that moves: the measure against images that were moved, the loss against its definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.discs import QUICK, changed, discs, made_setup, network_of, trained, write_discs
from wsipipe.errors import UsageError
from wsipipe.events import StepDone, TrainingEvent
from wsipipe.geometry.grid import Box
from wsipipe.model.forward import core_of, predict_box
from wsipipe.model.model_file import read_model_info
from wsipipe.model.spec import ModelSpec, default_classes
from wsipipe.model.unet import UNet
from wsipipe.training.optimizer import weighted_loss
from wsipipe.training.patches import stacked
from wsipipe.training.steadiness import Shift, both_crops, disagreement, draw_shift, steadiness
from wsipipe.training.trainer import Trainer

STRIDE = 4
SPEC = ModelSpec(default_classes(2), mean=(0.5,), std=(0.25,))


def network(depth: int = 2) -> UNet:
    torch.manual_seed(3)
    return UNet(3, 2, base_channels=4, depth=depth, convs_per_level=1).eval()


def test_crops_overlap_where_the_shift_says() -> None:
    plane = torch.arange(2 * 20 * 20).view(2, 1, 20, 20)
    for _ in range(20):
        shift = draw_shift(STRIDE)
        assert shift != (0, 0)
        assert max(shift) < STRIDE
        crops = both_crops(plane, 17, shift)
        assert crops.shape == (4, 1, 17, 17)
        assert torch.equal(
            crops[:2, :, shift.down :, shift.right :], crops[2:, :, : 17 - shift.down, : 17 - shift.right]
        )
    assert len({draw_shift(STRIDE) for _ in range(300)}) == STRIDE**2 - 1


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_disagreement_is_the_symmetric_divergence_of_the_overlap(channels: int) -> None:
    logits = torch.randn(4, channels, 6, 7, dtype=torch.float64)
    wide = torch.cat([torch.zeros_like(logits), logits], 1) if channels == 1 else logits
    shares = wide.softmax(1).numpy()
    p, q = shares[:2, :, 1:, 2:], shares[2:, :, :-1, :-2]
    expected = 0.5 * (p * np.log(p / q) + q * np.log(q / p)).sum(1).mean()
    assert disagreement(logits, Shift(1, 2)).item() == pytest.approx(expected)
    same = torch.randn(2, channels, 8, 8)
    assert disagreement(both_crops(same, 5, Shift(1, 2)), Shift(1, 2)).item() == 0


def test_disagreement_can_be_trained_down() -> None:
    net, image = network().train(), torch.randn(1, 3, 60, 60)
    optimizer, values = torch.optim.SGD(net.parameters(), lr=0.05), []
    for step in range(30):
        shift = Shift(1 + step % 3, 1)
        value = disagreement(core_of(net(both_crops(image, 54, shift)), net.receptive), shift)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert np.mean(values[-3:]) < np.mean(values[:3]) / 2


def test_steadiness_is_that_of_an_image_that_was_moved() -> None:
    image, _ = discs((160, 176))
    net, box = network(), Box(64, 104, 60, 108)
    found = steadiness(net, SPEC, [(lambda rows, cols: image[rows[:, None], cols], box, image.shape[:2])])
    for px in (1, 2, 4, 8):
        moved = np.roll(image, (px, px), (0, 1))
        now, before = (
            predict_box(net, SPEC, lambda rows, cols, one=one: one[rows[:, None], cols], box, shape=(160, 176))
            for one in (moved, image)
        )
        now, before = now[px:, px:], before[:-px, :-px]
        assert found[str(px)]["differs"] == round(float((now != before).mean()), 4)
        dice = 2 * (now & before).sum() / (now.sum() + before.sum())
        assert found[str(px)]["dice"] == pytest.approx(dice, abs=6e-5)
    assert found["1"]["differs"] > 0
    assert found["4"] == found["8"] == {"differs": 0, "dice": 1}, "by a whole stride nothing changes"


def test_labels_of_a_network_without_poolings_move_with_the_tissue() -> None:
    image, _ = discs((40, 40))
    places = [(lambda rows, cols: image[rows[:, None], cols], Box(0, 40, 0, 40), (40, 40))]
    assert set(map(str, steadiness(network(0), SPEC, places).values())) == {str({"differs": 0.0, "dice": 1.0})}


def test_loss_of_a_step_is_that_of_both_crops_and_their_disagreement(tmp_path: Path) -> None:
    config = changed(QUICK, loss={"steadiness": 3.0}, network={"dropout": 0.0}, loop={"steps": 1})
    setup = made_setup(write_discs(tmp_path / "data"), config, tmp_path)
    trainer, events = Trainer(setup, "cpu"), list[TrainingEvent]()
    weights = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    trainer.run(events.append)
    (loss,) = [event.loss for event in events if isinstance(event, StepDone)]
    net = network_of(setup)
    net.eval().load_state_dict(weights)
    torch.manual_seed(np.random.SeedSequence([config.loop.seed, 0, 0]).generate_state(1)[0])
    shift, core = draw_shift(STRIDE), config.patches.core
    image, target, weight = map(torch.from_numpy, stacked([setup.maker.patch(0)]))
    tiles = trainer.normalise(both_crops(image, core + config.receptive.margin, shift))
    logits = core_of(net(tiles), net.receptive)
    crops = (both_crops(plane, core, shift) for plane in (target, weight))
    assert loss == pytest.approx((weighted_loss(logits, *crops) + 3 * disagreement(logits, shift)).item(), rel=1e-5)


def test_header_of_a_model_says_how_steady_it_is(tmp_path: Path) -> None:
    config = changed(QUICK, loop={"steps": 2}, loss={"steadiness": 0.1})
    trained(write_discs(tmp_path / "data"), tmp_path / "m.safetensors", config)
    found = read_model_info(tmp_path / "m.safetensors").spec.training["steadiness"]
    assert list(found) == ["1", "2", "4", "8"]
    assert found["4"]["differs"] == 0


def test_steadiness_without_poolings_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\[loss\] steadiness needs poolings"):
        changed(QUICK, network={"depth": 0}, loss={"steadiness": 0.1})
