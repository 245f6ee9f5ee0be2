"""Steps of a training: the loss, the learning rate, and the weights that are kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.soak import in_soak
from tests.training.discs import QUICK, changed, made_setup
from wsipipe import load_model
from wsipipe.errors import MemoryLimitError, TrainingError
from wsipipe.evaluation.metrics import LOWER_IS_BETTER, METRICS, OF_LABELS
from wsipipe.evaluation.tally import Tally
from wsipipe.events import StepDone, TrainingEvent, Validated
from wsipipe.model.unet import UNet
from wsipipe.training import trainer as trainer_module
from wsipipe.training.config import OptimizerConfig
from wsipipe.training.optimizer import learning_rate, make_optimizer, shares_under_adam, weighted_loss
from wsipipe.training.patches import Patch, PatchMaker
from wsipipe.training.scoring import better, score
from wsipipe.training.trainer import Trainer, without_places


def by_hand(logits: Any, target: Any, weight: Any) -> Any:
    """Mean of w(x) * -log p of the true class, in float64; one channel is the logit of class 1 against 0."""
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    true = np.take_along_axis(p, target[:, None], axis=1)[:, 0]
    return (-np.log(true) * weight).mean()


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_loss_is_the_weighted_cross_entropy(channels: int) -> None:
    rng = np.random.default_rng(channels)
    logits, weight = rng.normal(0, 3, (2, channels, 5, 7)), rng.uniform(0, 9, (2, 5, 7))
    target = rng.integers(0, max(channels, 2), (2, 5, 7))
    planes = torch.tensor(logits), torch.tensor(target), torch.tensor(weight)
    assert weighted_loss(*planes).item() == pytest.approx(by_hand(logits, target, weight), rel=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_of_weight_0_give_no_gradient(channels: int) -> None:
    logits = torch.randn(2, channels, 6, 6, requires_grad=True)
    weight = (torch.rand(2, 6, 6) > 0.5).float()
    weighted_loss(logits, torch.randint(0, max(channels, 2), (2, 6, 6)), weight).backward()
    assert logits.grad is not None
    moved = logits.grad.abs().sum(1)
    assert torch.equal(moved > 0, weight > 0)


def test_learning_rate_warms_up_and_comes_down_by_a_cosine() -> None:
    wish = OptimizerConfig(learning_rate=0.2, warm_up=4)
    rates = [learning_rate(wish, step, step / 8) for step in range(8)]
    cosine = [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    np.testing.assert_allclose(
        rates, [0.2 * w * c for w, c in zip([0.25, 0.5, 0.75, 1, 1, 1, 1, 1], cosine, strict=True)]
    )
    assert learning_rate(wish, 100, 0.5) == pytest.approx(0.1)
    assert learning_rate(wish, 100, 1.0) == pytest.approx(0.0)
    assert learning_rate(OptimizerConfig(learning_rate=0.2, warm_up=0), 0, 0.0) == 0.2


def test_learning_rate_of_sgd_stays() -> None:
    wish = OptimizerConfig("sgd", learning_rate=0.2, warm_up=2)
    assert [learning_rate(wish, step, step / 4) for step in range(4)] == [0.1, 0.2, 0.2, 0.2]


def test_adam_moves_no_output_farther_than_144_weights_do() -> None:
    """A step of Adam has one length for every weight; with equal inputs, an output moves by that times its weights."""
    network = UNet(3, 2, base_channels=16, depth=2)
    wish = OptimizerConfig(learning_rate=0.5)
    shares = {id(p): group["share"] for group in make_optimizer(network, wish).param_groups for p in group["params"]}
    assert set(shares) == {id(p) for p in network.parameters()}
    moves = {}
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert shares[id(parameter)] == 1
        else:  # (out, in, 3, 3) of a convolution, (in, out, 2, 2) of a transposed one
            connections = parameter.shape[0] if name.startswith("up") else parameter[0].numel()
            moves[name] = shares[id(parameter)] * connections
    few = {"down.0.0.weight": 27, "head.weight": 16, "up.0.weight": 32, "up.1.weight": 64}
    assert {name: moves.pop(name) for name in few} == few
    assert len(moves) == 9
    assert set(moves.values()) == {144}
    sgd = make_optimizer(network, OptimizerConfig("sgd", learning_rate=0.5))
    assert [group["share"] for group in sgd.param_groups] == [1]


def test_parameters_of_one_share_are_one_group_and_move_as_if_each_were_alone() -> None:
    networks, optimizers = [], []
    for alone in (True, False):
        torch.manual_seed(0)
        network = UNet(3, 2, base_channels=16, depth=2)
        optimizer = make_optimizer(network, OptimizerConfig(learning_rate=0.01))
        if alone:
            groups = [{"params": [p], "share": share} for p, share in shares_under_adam(network)]
            optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=OptimizerConfig().weight_decay)
        for step in range(3):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * group["share"]
            torch.manual_seed(step)
            optimizer.zero_grad()
            network(torch.randn(1, 3, 60, 60)).square().mean().backward()
            optimizer.step()
        networks.append(network)
        optimizers.append(optimizer)
    assert [len(optimizer.param_groups) for optimizer in optimizers] == [26, 3]
    assert all(map(torch.equal, networks[0].parameters(), networks[1].parameters()))


@pytest.mark.parametrize("sigmoid", [True, *in_soak(False)])
@pytest.mark.parametrize(
    "optimizer",
    [{"name": "adamw"}, *in_soak({"name": "sgd", "learning_rate": 0.02, "momentum": 0.9})],
)
def test_discs_are_learnt(folder: Path, tmp_path: Path, sigmoid: bool, optimizer: dict[str, Any]) -> None:
    changes = {"validate_every": 100, "checkpoint_every": 100, "steps": 80}
    config = changed(QUICK, network={"sigmoid": sigmoid}, optimizer=optimizer, loop=changes)
    setup = made_setup(folder, config, tmp_path)
    trainer = Trainer(setup, "cpu")
    before = score(trainer.network, setup.spec, setup.validation, ("dice",))[0]["dice"]
    trainer.network.train()
    events: list[TrainingEvent] = []
    trainer.run(events.append)
    steps = [event for event in events if isinstance(event, StepDone)]
    (validated,) = (event for event in events if isinstance(event, Validated))
    assert before < 0.6
    assert validated.scores["dice"] > 0.8
    assert np.mean([s.loss for s in steps[-10:]]) < 0.5 * np.mean([s.loss for s in steps[:5]])
    assert [s.step for s in steps] == list(range(1, 81))
    rates = [learning_rate(config.optimizer, step, step / 80) for step in range(80)]
    assert [s.learning_rate for s in steps] == rates
    assert [s.share for s in steps] == [step / 80 for step in range(80)]


def test_every_lower_is_better_metric_is_known_and_is_turned() -> None:
    """A perfect prediction is better than a poor one, whatever weights are chosen by."""
    truth = np.zeros((40, 40), np.uint8)
    truth[2:18, 2:18] = truth[22:38, 2:18] = truth[22:38, 22:38] = 1
    poor = truth.copy()
    poor[:, 8:12] = poor[18:22, 2:18] = 1  # joins two
    poor[22:38, 28:32] = 0  # splits one
    assert set(LOWER_IS_BETTER) < set(METRICS)
    for metric in OF_LABELS:
        values = []
        for found in (truth, poor):
            tally = Tally(["disc"], (metric,))
            tally.add(found, truth, mpp=0.5)
            values.append(better(tally.scores(), metric))
        assert values[0] > values[1], metric


def test_no_number_is_worst() -> None:
    assert better({"dice": math.nan}, "dice") == better({"pixel_error": math.nan}, "pixel_error") == -math.inf


def kept_steps(
    folder: Path, monkeypatch: pytest.MonkeyPatch, select: str, scores: list[float], into: Path
) -> tuple[list[int], Trainer, dict[int, dict[str, torch.Tensor]]]:
    """The best step after each step, if the steps have these ``scores``; the trainer; and the weights of each step."""
    config = changed(QUICK, loop={"steps": len(scores), "validate_every": 1, "checkpoint_every": 99, "select": select})
    trainer = Trainer(made_setup(folder, config, into), "cpu")
    given = iter(scores)
    monkeypatch.setattr(trainer_module, "score", lambda *_: ({select: next(given)}, []))
    monkeypatch.setattr(trainer_module, "write_sheet", lambda *_: None)
    best, weights = [], {}

    def listener(event: TrainingEvent) -> None:
        if isinstance(event, Validated):
            best.append(event.best_step)
            weights[event.step] = {k: v.clone() for k, v in trainer.network.state_dict().items()}

    trainer.run(listener)
    return best, trainer, weights


@pytest.mark.parametrize(
    ("select", "scores", "best"),
    [
        ("dice", [0.2, 0.5, 0.4, 0.5, 0.6], [1, 2, 2, 2, 5]),
        ("pixel_error", [0.2, 0.5, 0.1, 0.1, 0.4], [1, 1, 3, 3, 3]),
        ("merged_per_100", [30, 0, 90], [1, 2, 2]),
        ("dice", [0.0, math.nan, 0.1, math.nan], [1, 1, 3, 3]),
        ("pixel_error", [math.nan, math.nan, 0.9, math.nan, 0.8], [1, 2, 3, 3, 5]),
        ("adapted_rand_error", [math.nan] * 3, [1, 2, 3]),
    ],
)
def test_best_weights_are_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, select: str, scores: list[float], best: list[int]
) -> None:
    found, trainer, weights = kept_steps(folder, monkeypatch, select, scores, tmp_path)
    assert found == best
    wanted = weights[best[-1]]
    assert all(torch.equal(trainer.best[name], tensor) for name, tensor in wanted.items())
    monkeypatch.setattr(trainer_module, "score", lambda *_: ({select: math.nan}, []))
    trainer.finish(lambda _: None)
    written = load_model(trainer.setup.out).network.state_dict()
    assert all(torch.equal(written[name], tensor) for name, tensor in wanted.items())


def test_without_validation_images_the_last_weights_are_kept(folder: Path, tmp_path: Path) -> None:
    config = changed(QUICK, data={"validation": 0.0}, loop={"steps": 5, "validate_every": 2})
    trainer = Trainer(made_setup(folder, config, tmp_path), "cpu")
    events: list[TrainingEvent] = []
    trainer.run(events.append)
    found = [(e.step, e.scores, e.best_step) for e in events if isinstance(e, Validated)]
    assert found == [(2, {}, 2), (4, {}, 4), (5, {}, 5)]
    assert all(torch.equal(trainer.best[name], t) for name, t in trainer.network.state_dict().items())
    assert not (trainer.setup.folder / "validation.png").exists()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_weights_that_are_kept_are_an_average_over_steps(folder: Path, tmp_path: Path, share: float) -> None:
    trainer = Trainer(made_setup(folder, changed(QUICK, optimizer={"average": share}), tmp_path), "cpu")
    wanted: list[torch.Tensor] = []

    def listener(event: TrainingEvent) -> None:
        if isinstance(event, StepDone):
            now = trainer.network.head.weight.detach().clone()
            wanted.append(share * wanted[-1] + (1 - share) * now if wanted else now)

    trainer.run(listener)
    torch.testing.assert_close(trainer.judged.head.weight.detach(), wanted[-1])
    assert share or torch.equal(trainer.judged.head.weight, trainer.network.head.weight), "0 is to the last bit"


def test_validation_changes_nothing_about_the_training(folder: Path, tmp_path: Path) -> None:
    """Dropout is on again after it, and no random number was drawn."""
    weights = []
    for every in (1, 99):
        trainer = Trainer(made_setup(folder, changed(QUICK, loop={"validate_every": every}), tmp_path), "cpu")
        trainer.run()
        weights.append(trainer.network.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def poisoned(monkeypatch: pytest.MonkeyPatch, number: int, value: float) -> list[Patch]:
    """Set one pixel of patch ``number`` to ``value``; returns a list that will hold that patch."""
    made, patch = [], PatchMaker.patch

    def poison(self: PatchMaker, k: int) -> Patch:
        made_here = patch(self, k)
        if k == number:
            made_here.image[0, 30, 30] = value
            made.append(made_here)
        return made_here

    monkeypatch.setattr(PatchMaker, "patch", poison)
    return made


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_loss_that_is_no_number_stops_the_training_and_its_batch_is_saved(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    setup = made_setup(
        folder, changed(QUICK, optimizer={"batch": 2}, loop={"steps": 9, "checkpoint_every": 99}), tmp_path
    )
    made = poisoned(monkeypatch, 7, value)
    trainer = Trainer(setup, "cpu")
    events: list[TrainingEvent] = []
    with pytest.raises(TrainingError, match=r"the loss of step 4 is (nan|inf); its batch is in .*step-4.safetensors"):
        trainer.run(events.append)
    assert [e.step for e in events if isinstance(e, StepDone)] == [1, 2, 3]
    planes = load_file(setup.folder / "batch-of-step-4.safetensors")
    assert {name: (plane.dtype, tuple(plane.shape)) for name, plane in planes.items()} == {
        "image": (torch.float32, (2, 3, 54, 54)),
        "target": (torch.int64, (2, 32, 32)),
        "weight": (torch.float32, (2, 32, 32)),
    }
    for name, plane in zip(Patch._fields, made[0], strict=True):
        np.testing.assert_array_equal(planes[name][1].numpy(), plane)
    assert all(tensor.isfinite().all() for tensor in trainer.network.state_dict().values())


def test_float16_leaves_out_a_step_whose_loss_is_no_number_and_many_of_them_end_the_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = made_setup(folder, changed(QUICK, loop={"steps": 9, "checkpoint_every": 99}), tmp_path)
    made = poisoned(monkeypatch, 3, math.inf)
    trainer = Trainer(setup, "cpu")
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    losses, heads = [], [trainer.network.head.weight.detach().clone()]

    def listener(event: TrainingEvent) -> None:
        if isinstance(event, StepDone):
            losses.append(event.loss)
            heads.append(trainer.network.head.weight.detach().clone())

    trainer.run(listener)
    assert made
    assert [math.isfinite(loss) for loss in losses] == [step != 3 for step in range(9)]
    assert [torch.equal(*pair) for pair in itertools.pairwise(heads)] == [step == 3 for step in range(9)]
    assert (trainer.scaler.get_scale(), trainer.left_out) == (512.0, 0)
    monkeypatch.setattr(trainer_module, "weighted_loss", lambda logits, *_: (logits * math.nan).mean())
    monkeypatch.setattr(trainer_module, "MOST_LEFT_OUT", 4)
    trainer = Trainer(setup, "cpu")
    trainer.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(TrainingError, match="the loss of step 5 is nan"):
        trainer.run()


def test_bfloat16_on_a_cpu_trains_weights_of_float32_and_twice_the_same(folder: Path, tmp_path: Path) -> None:
    weights = {}
    for name, precision in (("once", "bfloat16"), ("again", "bfloat16"), ("float32", "float32")):
        loop = {"steps": 3, "validate_every": 99, "precision": precision, "threads": 1}
        trainer = Trainer(made_setup(folder, changed(QUICK, loop=loop), tmp_path / name), "cpu")
        trainer.run()
        weights[name] = torch.cat([parameter.detach().flatten() for parameter in trainer.network.parameters()])
    assert weights["once"].dtype == torch.float32
    assert torch.equal(weights["once"], weights["again"])
    assert 0 < (weights["once"] - weights["float32"]).abs().max() < 0.1


def test_learning_rate_that_is_far_too_large_stops_the_training(folder: Path, tmp_path: Path) -> None:
    huge = {"name": "sgd", "learning_rate": 1e30, "clip": 1e30, "warm_up": 0}
    setup = made_setup(folder, changed(QUICK, optimizer=huge, loop={"steps": 50, "validate_every": 99}), tmp_path)
    with pytest.raises(TrainingError, match=r"lower \[optimizer\] learning_rate or clip"):
        Trainer(setup, "cpu").run()
    assert len(list(setup.folder.glob("batch-of-step-*.safetensors"))) == 1


def test_gradient_that_is_no_number_stops_before_it_moves_the_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The root of 0 is 0, and its slope infinite."""
    rooted = weighted_loss
    monkeypatch.setattr(
        trainer_module, "weighted_loss", lambda *planes: rooted(*planes) + (planes[0] * 0).sum().abs().sqrt()
    )
    trainer = Trainer(made_setup(folder, QUICK, tmp_path), "cpu")
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    with pytest.raises(TrainingError, match="the gradient's length of step 1 is nan"):
        trainer.run()
    assert all(torch.equal(before[name], t) for name, t in trainer.network.state_dict().items())


def test_patches_are_numbered_step_by_step_whatever_the_batch(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    patch = PatchMaker.patch
    setup = made_setup(folder, changed(QUICK, optimizer={"batch": 3}, loop={"steps": 2}), tmp_path)
    monkeypatch.setattr(PatchMaker, "patch", lambda self, k: (drawn.append(k), patch(self, k))[1])
    Trainer(setup, "cpu").run()
    assert drawn == [0, 1, 2, 3, 4, 5]
    shares: list[list[int]] = []
    for rank in (0, 1):
        both = made_setup(folder, changed(QUICK, optimizer={"batch": 4}), tmp_path)
        trainer = Trainer(both, "cpu", rank=rank)
        trainer.world = 2
        numbers: Iterator[list[int]] = trainer._numbers()
        shares += [next(numbers), next(numbers)]
    assert shares == [[0, 1], [4, 5], [2, 3], [6, 7]]


def test_header_keeps_names_of_absolute_paths_only() -> None:
    record = {
        "settings": {"data": {"folder": "/home/me/discs", "slides": [{"image": "/a/b.svs", "mpp": 0.5}]}},
        "n": [1],
    }
    cleaned = {"settings": {"data": {"folder": "discs", "slides": [{"image": "b.svs", "mpp": 0.5}]}}, "n": [1]}
    assert without_places(record) == cleaned
    relative = {"folder": "data/discs", "name": "a/b"}
    assert without_places(relative) == relative


@pytest.mark.parametrize(("sigmoid", "sign"), [(False, 1), (True, -1)])
def test_calibration_moves_background_by_what_scores_best(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sigmoid: bool, sign: int
) -> None:
    config = changed(QUICK, network={"sigmoid": sigmoid}, loop={"calibrate": True})
    trainer = Trainer(made_setup(folder, config, tmp_path), "cpu")
    bias = trainer.network.head.bias
    assert bias is not None
    before = bias.detach().clone()

    def scored(*_: object) -> tuple[dict[str, float], list[Any]]:
        moved = sign * float(bias.detach()[0] - before[0])
        return {"dice": 1 - min(abs(moved - 1.25), 3.0) / 4}, []

    monkeypatch.setattr(trainer_module, "score", scored)
    assert trainer.calibrate() == 1.25
    assert float(bias.detach()[0]) == pytest.approx(float(before[0]) + sign * 1.25)
    assert torch.equal(bias.detach()[1:], before[1:])


def test_calibration_leaves_alone_what_nothing_betters(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(made_setup(folder, changed(QUICK, loop={"calibrate": True}), tmp_path), "cpu")
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    monkeypatch.setattr(trainer_module, "score", lambda *_: ({"dice": 0.5}, []))
    assert trainer.calibrate() == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.network.state_dict().items())


def test_device_without_memory_is_said_with_what_takes_less(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(trainer_module, "weighted_loss", full)
    with pytest.raises(MemoryLimitError, match=r"no memory for 1 patches of 54 px .*smaller \[optimizer\] batch"):
        Trainer(made_setup(folder, QUICK, tmp_path), "cpu").run()
