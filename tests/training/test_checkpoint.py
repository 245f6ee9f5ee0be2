"""A checkpoint restores everything, or says what is wrong with it; it never restores half."""

from __future__ import annotations

import math
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.faults import files_up_to
from tests.soak import in_soak, rounds
from tests.training.discs import SGD, changed, made_setup, write_discs
from wsipipe.errors import OutputError, TrainingError
from wsipipe.files import write_whole
from wsipipe.model.unet import UNet
from wsipipe.training.augment import NO_AUGMENTATION
from wsipipe.training.checkpoint import Progress, check_space, read_checkpoint, write_checkpoint
from wsipipe.training.config import OptimizerConfig
from wsipipe.training.optimizer import make_optimizer
from wsipipe.training.trainer import Trainer

SIZES = {"in_channels": 1, "classes": 2, "base_channels": 1, "depth": 1, "convs_per_level": 1}
PROGRESS = Progress(step=7, seconds=1.5, best_step=4, best_score=-math.inf)


def trained(seed: int, name: str = "adamw") -> tuple[UNet, torch.optim.Optimizer]:
    """A tiny network and its optimizer after two steps on noise."""
    torch.manual_seed(seed)
    network = UNet(**SIZES).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer: torch.optim.Optimizer
    if name == "sgd":
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    for _ in range(2):
        network(torch.randn(1, 1, 22, 22)).square().mean().backward()
        optimizer.step()
    return network, optimizer


def everything(network: UNet, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """All tensors of both."""
    state = optimizer.state_dict()["state"]
    moments = {f"{i}.{name}": tensor for i, values in state.items() for name, tensor in values.items()}
    return dict(network.state_dict()) | moments


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether both hold the same bits, laid out alike."""
    return one.keys() == other.keys() and all(
        torch.equal(tensor, other[name]) and tensor.stride() == other[name].stride() for name, tensor in one.items()
    )


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A checkpoint of a few kilobytes."""
    network, optimizer = trained(0)
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, "abc", PROGRESS, network, network.state_dict(), optimizer, None)
    return path


def test_the_optimizer_is_kept_by_the_numbers_of_parameters_whatever_its_groups(tmp_path: Path) -> None:
    path, optimizers = tmp_path / "checkpoint.safetensors", []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = UNet(3, 2, base_channels=16, depth=1)
        optimizer = make_optimizer(network, OptimizerConfig())
        network(torch.randn(1, 3, 46, 46)).square().mean().backward()
        optimizer.step()
        optimizers.append((network, optimizer))
    (network, optimizer), (other, others) = optimizers
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert list(map(id, grouped)) != list(map(id, network.parameters())), "else this test shows nothing"
    write_checkpoint(
        path, "abc", PROGRESS, nn.ModuleDict({"trained": network, "average": network}), {}, optimizer, None
    )
    written = load_file(path)
    read_checkpoint(path, "abc", nn.ModuleDict({"trained": other, "average": other}), others)
    for number, (one, same_one) in enumerate(zip(network.parameters(), other.parameters(), strict=True)):
        for name, tensor in optimizer.state[one].items():
            assert torch.equal(tensor, written[f"optimizer.{number}.{name}"])
            assert torch.equal(tensor, others.state[same_one][name])


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("scale", [None, 1024.0])
def test_checkpoint_brings_everything_back(tmp_path: Path, name: str, scale: float | None) -> None:
    path = tmp_path / "checkpoint.safetensors"
    network, optimizer = trained(0, name)
    best = deepcopy(trained(1)[0].state_dict())
    write_checkpoint(path, "abc", PROGRESS, network, best, optimizer, scale)
    other, others = trained(2, name)
    assert not same(everything(network, optimizer), everything(other, others))
    assert read_checkpoint(path, "abc", other, others)[0::2] == (PROGRESS, scale)
    assert same(everything(network, optimizer), everything(other, others))
    again = read_checkpoint(path, "abc", other, others)[1]
    assert again.keys() == best.keys()
    assert all(torch.equal(again[key], best[key]) for key in best)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors"]


@pytest.mark.parametrize("optimizer", [SGD, {"name": "adamw", "average": 0.9}], ids=["sgd", "adamw"])
def test_trainer_goes_on_from_a_checkpoint_with_the_same_bits(tmp_path: Path, optimizer: dict[str, Any]) -> None:
    data = write_discs(tmp_path / "data", 2)
    config = changed(augmentation=NO_AUGMENTATION, optimizer=optimizer, loop={"steps": 6, "checkpoint_every": 3})
    whole = Trainer(made_setup(data, config, tmp_path / "whole"), "cpu")
    whole.run()
    stopped = Trainer(made_setup(data, config, tmp_path / "parts"), "cpu")
    stopped.config = changed(config, loop={"validate_every": 99})
    numbers = stopped._numbers()
    made = stopped.setup.maker
    for _ in range(3):
        (k,) = next(numbers)
        patch = made.patch(k)
        stopped._step(type(patch)(*(plane[None] for plane in patch)), k / 6, 0.0, lambda _: None)
        if k == 1:
            stopped._validate(lambda _: None)
    stopped.write_checkpoint()
    resumed = Trainer(stopped.setup, "cpu")
    resumed.read_checkpoint()
    assert resumed.progress.step == 3
    assert resumed.progress.best_step == 2
    resumed.run()
    assert same(everything(whole.network, whole.optimizer), everything(resumed.network, resumed.optimizer))
    assert same(whole.judged.state_dict(), resumed.judged.state_dict())
    assert same(whole.best, resumed.best)
    assert whole.progress.best_step == resumed.progress.best_step


def test_checkpoint_of_other_data_or_settings_is_refused(written: Path) -> None:
    with pytest.raises(
        TrainingError, match=f"{re.escape(str(written))} was written with other data or settings.*another -o"
    ):
        read_checkpoint(written, "abd", *trained(0))


def refused(path: Path) -> bool:
    """Whether a checkpoint is refused with a message, before anything was restored; otherwise it must be whole."""
    network, optimizer = trained(3)
    before = deepcopy(everything(network, optimizer))
    try:
        progress, best, scale = read_checkpoint(path, "abc", network, optimizer)
    except TrainingError as err:
        said = str(err)
    else:
        said = ""
    if said:
        assert f"checkpoint {path} " in said
        assert f"remove {path.parent} to start over" in said
        assert same(everything(network, optimizer), before)
        return True
    assert (progress, scale) == (PROGRESS, None)
    assert same(everything(network, optimizer), everything(*trained(0)))
    assert best.keys() == network.state_dict().keys()
    return False


@pytest.mark.parametrize(("in_header", "behind_it"), rounds((50, 20), (100, 80)))
def test_checkpoint_with_a_flipped_bit_is_refused(written: Path, in_header: int, behind_it: int) -> None:
    blob = written.read_bytes()
    assert not refused(written)
    header = 8 + int.from_bytes(blob[:8], "little")
    rng = np.random.default_rng(0)
    places = [*range(8), *rng.integers(8, header, in_header), *rng.integers(header, len(blob), behind_it)]
    let_by = []
    for place in places:
        damaged = bytearray(blob)
        damaged[place] ^= 1 << int(rng.integers(8))
        written.write_bytes(damaged)
        if not refused(written):
            let_by.append(place)
    # The name of the checksum, blanks, and the case of letters in numbers: changes that leave all values as they were.
    assert len(let_by) < len(places) * 10 / 188
    assert all(place < header for place in let_by)


@pytest.mark.parametrize("step", [970, *in_soak(97)])
def test_truncated_checkpoint_is_refused(written: Path, step: int) -> None:
    blob = written.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, *range(200, len(blob), step), len(blob) - 1]:
        written.write_bytes(blob[:length])
        assert refused(written), length


def test_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    assert refused(path), "there is nothing"
    save_file({"a": torch.zeros(2)}, path)
    assert refused(path)
    path.write_text("hello")
    assert refused(path)


def test_full_disk_leaves_the_checkpoint_before(written: Path) -> None:
    before, (network, optimizer) = written.read_bytes(), trained(5)
    with files_up_to(2000), pytest.raises(OutputError, match=r"checkpoint.safetensors cannot be written: .*make room"):
        write_checkpoint(written, "abc", PROGRESS, network, {}, optimizer, None)
    assert written.read_bytes() == before
    assert [p.name for p in written.parent.iterdir()] == [written.name], "no half of a file stays"
    assert not refused(written)


def test_write_whole_replaces_what_a_kill_left(tmp_path: Path) -> None:
    (tmp_path / "a.partial").write_bytes(b"torn by a kill, and longer than what comes")
    write_whole(tmp_path / "a", b"new")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"new"}


def test_space_is_checked(tmp_path: Path) -> None:
    check_space(tmp_path, 1)
    with pytest.raises(OutputError, match=f"{re.escape(str(tmp_path))} has .* MB left, checkpoints need .* MB"):
        check_space(tmp_path, 2**62)
