"""Trainings on several devices: the same weights as on one, and no process that outlives them."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.discs import QUICK, SGD, StopError, changed, made_setup, stopping_at, trained
from tests.training.processes import begun_since
from wsipipe.errors import MachineError, TrainingError, UsageError
from wsipipe.events import StepDone, TrainingEvent
from wsipipe.training import log, replicas
from wsipipe.training import train as train_module
from wsipipe.training.log import read_log
from wsipipe.training.patches import Patch, PatchMaker
from wsipipe.training.trainer import Trainer


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves take longer than all else here."""
    monkeypatch.setattr(log, "write_curves", lambda *_: None)


def replica_that_tells(*given: Any) -> None:
    """Runs in a spawned process in place of `replica`; also writes its weights at the end."""
    torch.set_num_threads(1)
    trained_to_the_end = Trainer.run

    def run_and_tell(self: Trainer) -> None:
        trained_to_the_end(self)
        weights = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        save_file(weights, self.setup.out.with_name("other.safetensors"))

    Trainer.run = run_and_tell  # type: ignore[method-assign, assignment]
    replicas.replica(*given)


def replica_that_dies(*given: Any) -> None:
    """A replica that is killed in its third step."""
    step = Trainer._step

    def die(self: Trainer, *batch: Any) -> None:
        if self.progress.step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        step(self, *batch)

    Trainer._step = die  # type: ignore[method-assign]
    replicas.replica(*given)


def replica_that_never_begins(*_given: Any) -> None:
    os._exit(3)


def replica_with_a_bad_image(*given: Any) -> None:
    patch = PatchMaker.patch

    def poisoned(self: PatchMaker, k: int) -> Patch:
        made = patch(self, k)
        if k == 5:
            made.image[:] = math.nan
        return made

    PatchMaker.patch = poisoned  # type: ignore[method-assign]
    replicas.replica(*given)


@pytest.fixture
def two(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., None]], Path]:
    """Train on two devices, the second of which runs the function that is passed; no process may stay."""
    real = replicas.replica

    def start(second: Callable[..., None], **changes: Any) -> Path:
        monkeypatch.setattr(replicas, "replica", second)
        out = tmp_path / "two.safetensors"
        config = changed(QUICK, optimizer={"batch": 2} | SGD, data={"validation": 0.0}, **changes)
        before = set(psutil.Process().children(recursive=True))
        try:
            trained(folder, out, config, device="cpu,cpu")
        finally:
            monkeypatch.setattr(replicas, "replica", real)
            assert begun_since(before) == [], "no process stays"
        return out

    return start


@pytest.mark.slow
def test_two_devices_compute_what_one_computes(folder: Path, tmp_path: Path, two: Callable[..., Path]) -> None:
    """Without dropout, which each process draws for itself."""
    without = {"dropout": 0.0}
    both = load_file(two(replica_that_tells, network=without))
    config = changed(QUICK, optimizer={"batch": 2} | SGD, data={"validation": 0.0}, network=without)
    trained(folder, tmp_path / "one.safetensors", config)
    one, untrained = load_file(tmp_path / "one.safetensors"), Trainer(made_setup(folder, config, tmp_path / "x"), "cpu")
    moved = {name: (one[name] - tensor).abs().max().item() for name, tensor in untrained.network.state_dict().items()}
    assert min(moved.values()) > 1e-4, "six steps do something"
    for name, tensor in one.items():
        torch.testing.assert_close(both[name], tensor, rtol=1e-5, atol=1e-5 * moved[name] + 1e-6)
    losses = [
        [line["loss"] for line in read_log(tmp_path / f"{name}.safetensors.training" / "log.jsonl") if "loss" in line]
        for name in ("one", "two")
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def impatient_join(devices: tuple[str, ...], rank: int, meeting: str) -> None:
    """Like `replicas.join`, but collective operations time out soon, as those of NCCL do after ten minutes."""
    replicas.distributed.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=len(devices), timeout=timedelta(seconds=10)
    )


def impatient_replica(*given: Any) -> None:
    replicas.join = impatient_join
    replicas.replica(*given)


@pytest.mark.slow
@pytest.mark.soak  # it waits for seconds
def test_others_wait_for_as_long_as_a_validation_takes(
    two: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    validate, lasted = Trainer._validate, []

    def slow(self: Trainer, listener: Any) -> None:
        if not lasted:
            lasted.append(time.sleep(13))
        validate(self, listener)

    monkeypatch.setattr(Trainer, "_validate", slow)
    monkeypatch.setattr(replicas, "join", impatient_join)
    assert two(impatient_replica, loop={"validate_every": 3}).exists()
    assert lasted


@pytest.mark.slow
@pytest.mark.soak  # it matters to GPUs
def test_the_first_process_leaves_the_group_before_it_waits_for_the_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPUs leave together: a process that first waited for the others to end would wait for ever."""
    finish, in_group = Trainer.finish, []

    def finishing(self: Trainer, listener: Any) -> None:
        in_group.append(replicas.distributed.is_initialized())
        finish(self, listener)

    monkeypatch.setattr(Trainer, "finish", finishing)
    trained(folder, tmp_path / "b.safetensors", changed(QUICK, optimizer={"batch": 2}), device="cpu,cpu")
    assert in_group == [False]


def test_a_gpu_that_is_named_twice_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_module, "resolve_devices", lambda wish: tuple(wish.split(",")))
    with pytest.raises(UsageError, match="cuda:0,cuda:0 names a GPU twice"):
        trained(folder, tmp_path / "b", changed(QUICK, optimizer={"batch": 2}), device="cuda:0,cuda:0")


@pytest.mark.slow
@pytest.mark.soak  # two devices compute what one computes
def test_replicas_end_with_the_same_weights(two: Callable[..., Path]) -> None:
    out = two(replica_that_tells)
    first, second = load_file(out), load_file(out.with_name("other.safetensors"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("second", [replica_that_dies, replica_that_never_begins], ids=["in step 3", "at the start"])
def test_replica_that_dies_is_an_error_not_a_hang(two: Callable[..., Path], second: Callable[..., None]) -> None:
    with pytest.raises(MachineError, match="a process on one of cpu, cpu died"):
        two(second)


@pytest.mark.slow
def test_loss_of_another_replica_that_is_no_number_stops_all(tmp_path: Path, two: Callable[..., Path]) -> None:
    with pytest.raises(TrainingError, match="the loss of step 3 is nan"):
        two(replica_with_a_bad_image)
    batches = [
        load_file(tmp_path / "two.safetensors.training" / f"batch-of-step-3-replica-{i}.safetensors") for i in (0, 1)
    ]
    assert batches[0]["image"].isfinite().all()
    assert batches[1]["image"].isnan().all()


@pytest.mark.soak  # tests/cli/test_train.py shows it of a training that is killed, by one replica
def test_breaking_off_ends_all_processes(folder: Path, tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    out, config = tmp_path / "b.safetensors", changed(QUICK, optimizer={"batch": 2}, loop={"checkpoint_every": 1})
    with pytest.raises(StopError):
        trained(folder, out, config, device="cpu,cpu", listener=stopping_at(3))
    assert begun_since(before) == []
    told: list[TrainingEvent] = []
    trained(folder, out, config, device="cpu,cpu", resume=True, listener=told.append)
    assert [e.step for e in told if isinstance(e, StepDone)] == [3, 4, 5, 6]
