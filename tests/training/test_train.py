"""Trainings from start to end: the same bytes whatever happens, on one device or several."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.faults import files_up_to
from tests.training.discs import TINY, StopError, changed, made_setup, stopping_at, write_discs, write_image
from wsipipe import RunConfig, load_model, run
from wsipipe.errors import MachineError, OutputError, TrainingError, UsageError
from wsipipe.events import StepDone, TrainingDone, TrainingEvent, TrainingStarted, Validated
from wsipipe.training import log, replicas
from wsipipe.training import train as train_module
from wsipipe.training.augment import NO_AUGMENTATION
from wsipipe.training.log import read_log
from wsipipe.training.patches import Patch, PatchMaker
from wsipipe.training.setup import TrainingSetup
from wsipipe.training.train import train
from wsipipe.training.trainer import Trainer

QUICK = changed(augmentation=NO_AUGMENTATION)
DRAW = log.write_curves
SGD = {"name": "sgd", "learning_rate": 0.02, "momentum": 0.9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_discs(tmp_path_factory.mktemp("discs"))


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than all else here."""
    monkeypatch.setattr(log, "write_curves", lambda *_: None)


def trained(folder: Path, out: Path, config: Any = QUICK, **options: Any) -> bytes:
    """The model that a training on the CPU writes."""
    train(config, out, **{"roots": [folder], "device": "cpu"} | options)
    return out.read_bytes()


def logged(out: Path, kind: str) -> list[int]:
    """The steps of the log's lines of one kind."""
    return [
        line["step"] for line in read_log(out.with_name(out.name + ".training") / "log.jsonl") if line["kind"] == kind
    ]


def test_training_tells_what_it_does_and_leaves_a_model_a_log_and_pictures(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "write_curves", DRAW)
    events: list[TrainingEvent] = []
    out = tmp_path / "new" / "b.safetensors"
    trained(folder, out, changed(QUICK, loop={"validate_every": 3}), listener=events.append)
    kinds = [type(event).__name__ for event in events]
    steps = ["StepDone"] * 3 + ["Validated"]
    assert kinds == ["TrainingStarted", *steps, *steps, "TrainingDone"]
    assert events[0] == TrainingStarted(3, 1, 0, 0, ("cpu",))
    done = events[-1]
    assert isinstance(done, TrainingDone)
    assert (done.model, done.steps, done.split) == (str(out), 6, "validation")
    best = max((e for e in events if isinstance(e, Validated)), key=lambda e: e.scores["dice"])
    assert done.best_step == best.step
    assert {name: done.scores[name] for name in best.scores} == pytest.approx(best.scores, nan_ok=True)
    names = sorted(path.name for path in (out.parent / "b.safetensors.training").iterdir())
    assert names == ["curves.png", "log.jsonl", "validation.png"]
    assert [path.name for path in out.parent.iterdir() if path.is_file()] == ["b.safetensors"]
    lines = read_log(out.parent / "b.safetensors.training" / "log.jsonl")
    assert [line["loss"] for line in lines if line["kind"] == "step"] == [
        e.loss for e in events if isinstance(e, StepDone)
    ]


# --- the same bytes -------------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_bytes_and_another_does_not(folder: Path, tmp_path: Path) -> None:
    first = trained(folder, tmp_path / "1.safetensors", TINY)
    torch.manual_seed(99)
    assert trained(folder, tmp_path / "2.safetensors", TINY) == first
    other = trained(folder, tmp_path / "3.safetensors", changed(TINY, loop={"seed": 1}))
    weights = [load_model(tmp_path / f"{i}.safetensors").network.state_dict() for i in (1, 3)]
    assert other != first
    assert not torch.equal(weights[0]["head.weight"], weights[1]["head.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_number_of_workers_changes_nothing(folder: Path, tmp_path: Path, workers: int) -> None:
    config = changed(TINY, optimizer={"batch": 2})
    first = trained(folder, tmp_path / "a.safetensors", config)
    before = set(psutil.Process().children(recursive=True))
    assert trained(folder, tmp_path / "b.safetensors", changed(config, loop={"workers": workers})) == first
    assert begun_since(before) == []


@pytest.mark.parametrize("optimizer", [SGD | {"average": 0.9}, {"name": "adamw"}], ids=["sgd", "adamw"])
def test_training_that_breaks_is_resumed_to_the_same_bytes(
    folder: Path, tmp_path: Path, optimizer: dict[str, Any]
) -> None:
    config = changed(TINY, optimizer=optimizer, loop={"steps": 8, "validate_every": 3, "checkpoint_every": 3})
    whole = trained(folder, tmp_path / "whole.safetensors", config)
    out, resume = tmp_path / "parts.safetensors", False
    for step in (2, 4, 7, 8):
        with pytest.raises(StopError, match=f"step {step}"):
            trained(folder, out, config, resume=resume, listener=stopping_at(step))
        assert not out.exists()
        resume = True
    begun: list[TrainingEvent] = []
    assert trained(folder, out, config, resume=True, listener=begun.append) == whole
    assert isinstance(begun[0], TrainingStarted)
    assert begun[0].first_step == 6
    assert logged(out, "step") == list(range(1, 9))
    assert logged(out, "validation") == [3, 6, 8]
    losses = [
        [line["loss"] for line in read_log(tmp_path / f"{name}.safetensors.training" / "log.jsonl") if "loss" in line]
        for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1]


def test_training_that_breaks_while_the_model_is_written_is_resumed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(folder, tmp_path / "whole.safetensors")
    out = tmp_path / "parts.safetensors"

    def stop(*_: object) -> None:
        raise StopError

    with monkeypatch.context() as broken:
        broken.setattr(Trainer, "finish", stop)
        with pytest.raises(StopError):
            trained(folder, out)
    told: list[TrainingEvent] = []
    assert trained(folder, out, resume=True, listener=told.append) == whole
    assert [type(event).__name__ for event in told] == ["TrainingStarted", "TrainingDone"], "no step is done again"


def stopped(folder: Path, out: Path) -> Path:
    """The checkpoint of a training that broke at step 5."""
    with pytest.raises(StopError):
        trained(folder, out, listener=stopping_at(5))
    return out.with_name(out.name + ".training") / "checkpoint.safetensors"


@pytest.mark.parametrize(
    "changes",
    [{"loop": {"seed": 1}}, {"loop": {"steps": 7}}, {"optimizer": {"clip": 0.5}}, {"network": {"base_channels": 2}}],
    ids=str,
)
def test_resuming_with_other_settings_is_refused(folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    out = tmp_path / "b.safetensors"
    before = (checkpoint := stopped(folder, out)).read_bytes()
    with pytest.raises(TrainingError, match=f"{re.escape(str(checkpoint))} is of other data or settings.*another -o"):
        trained(folder, out, changed(QUICK, **changes), resume=True)
    assert checkpoint.read_bytes() == before
    trained(folder, out, changed(QUICK, loop={"workers": 0, "checkpoint_every": 1}), resume=True)


def test_resuming_with_other_data_is_refused(folder: Path, tmp_path: Path) -> None:
    data = shutil.copytree(folder, tmp_path / "data", ignore=shutil.ignore_patterns("out"))
    stopped(data, tmp_path / "b.safetensors")
    image = np.full((72, 72, 3), 9, np.uint8)
    write_image(data / "disc-3_image.tif", image)
    with pytest.raises(TrainingError, match="is of other data or settings"):
        trained(data, tmp_path / "b.safetensors", resume=True)


def test_resuming_from_a_damaged_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    blob = (checkpoint := stopped(folder, out)).read_bytes()
    for damaged in (blob[:-1], blob[: len(blob) // 2], b"", blob[:-9] + bytes([blob[-9] ^ 4]) + blob[-8:]):
        checkpoint.write_bytes(damaged)
        with pytest.raises(TrainingError, match=f"{re.escape(str(checkpoint))} can not be read.*remove .* another -o"):
            trained(folder, out, resume=True)
        assert checkpoint.read_bytes() == damaged
        assert not out.exists()


def test_begun_training_is_not_overwritten_and_nothing_is_not_resumed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    with pytest.raises(UsageError, match=r"nothing to resume at .*leave --resume away"):
        trained(folder, out, resume=True)
    stopped(folder, out)
    with pytest.raises(UsageError, match="--resume goes on with it"):
        trained(folder, out)
    trained(folder, out, resume=True)
    for resume in (False, True):
        with pytest.raises(UsageError, match="is there already"):
            trained(folder, out, resume=resume)


def test_log_of_an_earlier_training_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    trained(folder, out)
    out.unlink()
    trained(folder, out)
    kinds = [line["kind"] for line in read_log(tmp_path / "b.safetensors.training" / "log.jsonl")]
    assert (kinds.count("start"), kinds.count("done"), kinds.count("step")) == (1, 1, 6)


# --- faults ---------------------------------------------------------------------------------------------------


def test_full_disk_leaves_a_training_that_can_be_resumed(folder: Path, tmp_path: Path) -> None:
    """The first checkpoint has no moments and no best weights, so it is the smallest."""
    whole = trained(folder, tmp_path / "whole.safetensors")
    out = tmp_path / "parts.safetensors"
    checkpoint = tmp_path / "parts.safetensors.training" / "checkpoint.safetensors"
    events: list[TrainingEvent] = []
    small = (tmp_path / "whole.safetensors").stat().st_size
    with files_up_to(2 * small), pytest.raises(OutputError, match=r"checkpoint.safetensors cannot be written"):
        trained(folder, out, listener=events.append)
    assert [e.step for e in events if isinstance(e, StepDone)] == [1, 2]
    assert sorted(p.name for p in checkpoint.parent.iterdir() if "partial" in p.name) == []
    assert trained(folder, out, resume=True) == whole


def test_training_stops_at_a_loss_that_is_no_number_and_can_be_resumed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(folder, tmp_path / "whole.safetensors")
    out, patch = tmp_path / "b.safetensors", PatchMaker.patch

    def poisoned(self: PatchMaker, k: int) -> Patch:
        made = patch(self, k)
        if k == 4:
            made.image[:] = math.nan
        return made

    with monkeypatch.context() as bad:
        bad.setattr(train_module, "prepare", once_prepared(folder, out))
        bad.setattr(PatchMaker, "patch", poisoned)
        with pytest.raises(TrainingError, match="the loss of step 5 is nan"):
            trained(folder, out)
    assert (tmp_path / "b.safetensors.training" / "batch-of-step-5.safetensors").exists()
    assert trained(folder, out, resume=True) == whole


def once_prepared(folder: Path, out: Path) -> Callable[..., TrainingSetup]:
    """`prepare` that was called before the images were poisoned."""
    setup = made_setup(folder, QUICK, out.parent)
    return lambda *_: TrainingSetup(**{**vars(setup), "out": out})


def test_model_file_says_how_it_was_made_and_nothing_of_the_machine(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    trained(folder, out, changed(QUICK, data={"folder": str(folder), "test": ("disc-1*",)}), roots=["."])
    training = load_model(out).spec.training
    assert training["settings"]["optimizer"]["learning_rate"] == 1e-2
    assert training["settings"]["data"]["folder"] == folder.name
    assert {"workers", "checkpoint_every"}.isdisjoint(training["settings"]["loop"])
    splits = {name: one["split"] for name, one in training["data"].items()}
    assert splits == {"disc-0": "validation", "disc-1": "test", "disc-2": "train", "disc-3": "train"}
    assert all(re.fullmatch("[0-9a-f]{64}", one["sha256"]) for one in training["data"].values())
    assert len({one["sha256"] for one in training["data"].values()}) == 4
    assert training["versions"].keys() == {"wsipipe", "torch"}
    assert (training["steps"], training["best_step"]) == (6, training["best_step"])
    assert training["scores"]["on"] == "test"
    assert 0 <= training["scores"]["dice"] <= 1
    assert len(training["pixels"]) == 2
    blob = out.read_bytes()
    header = blob[8 : 8 + int.from_bytes(blob[:8], "little")].decode()
    for private in (str(folder), str(tmp_path), str(Path.home()), os.uname().nodename, "seconds"):
        assert private not in header
    json.loads(header, parse_constant=pytest.fail)


def test_trained_model_segments_what_it_learnt(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    events: list[TrainingEvent] = []
    trained(folder, out, changed(QUICK, loop={"steps": 60, "validate_every": 60}), listener=events.append)
    (slide,) = run(
        [str(folder / "disc-0_image.tif")], RunConfig(out=str(tmp_path / "run"), model=str(out), device="cpu")
    ).slides
    assert slide.status == "done", slide.message
    assert slide.labels[1] > 100


def test_minutes_end_a_training(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    events: list[TrainingEvent] = []
    trained(folder, out, changed(QUICK, loop={"minutes": 0.01, "validate_every": 999}), listener=events.append)
    steps = [event for event in events if isinstance(event, StepDone)]
    assert len(steps) >= 1
    assert all(0 <= a.share <= b.share < 1 for a, b in pairwise(steps))
    assert load_model(out).spec.training["steps"] == len(steps)


def test_batch_that_devices_can_not_share_is_refused(folder: Path, tmp_path: Path) -> None:
    for batch, nearest in ((1, 2), (3, 2), (5, 4)):
        with pytest.raises(UsageError, match=f"batch {batch} can not be shared by 2 devices; nearest: {nearest}"):
            trained(folder, tmp_path / "b", changed(QUICK, optimizer={"batch": batch}), device="cpu,cpu")


def begun_since(before: set[psutil.Process]) -> list[psutil.Process]:
    """The processes of this one that are not of ``before`` and do not end, but for what Python keeps to clean up."""

    def tracks(process: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):  # or it has ended, and nobody has asked how yet
            return "tracker" in "".join(process.cmdline())
        return False

    since = set(psutil.Process().children(recursive=True)) - before
    return psutil.wait_procs([process for process in since if not tracks(process)], timeout=30)[1]


# --- several devices ------------------------------------------------------------------------------------------


Replica = tuple[TrainingSetup, tuple[str, ...], int, int, str, Connection]


def replica_that_tells(*given: Any) -> None:
    """What a spawned process does in place of `replica`; it also writes down its weights at the end."""
    torch.set_num_threads(1)
    trained_to_the_end = Trainer.run

    def run_and_tell(self: Trainer) -> None:
        trained_to_the_end(self)
        weights = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        save_file(weights, self.setup.out.with_name("other.safetensors"))

    Trainer.run = run_and_tell  # type: ignore[method-assign, assignment]
    replicas.replica(*given)


def replica_that_dies(*given: Any) -> None:
    """It is killed in its third step."""
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
    """Train on two devices, the second process doing as it is told; no process may stay."""
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
    """Without dropout, of which each process draws its own."""
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
    """As `replicas.join`, but what computes together gives up soon, as NCCL does after ten minutes."""
    replicas.distributed.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=len(devices), timeout=timedelta(seconds=10)
    )


def impatient_replica(*given: Any) -> None:
    replicas.join = impatient_join
    replicas.replica(*given)


@pytest.mark.slow
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
def test_the_first_process_leaves_the_group_before_it_waits_for_the_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPUs leave together: one that waited for the others' end before would wait for ever."""
    finish, in_group = Trainer.finish, []

    def finishing(self: Trainer, listener: Any) -> None:
        in_group.append(replicas.distributed.is_initialized())
        finish(self, listener)

    monkeypatch.setattr(Trainer, "finish", finishing)
    trained(folder, tmp_path / "b.safetensors", changed(QUICK, optimizer={"batch": 2}), device="cpu,cpu")
    assert in_group == [False]


def test_a_gpu_that_is_named_twice_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "resolve_devices", lambda wish: tuple(wish.split(",")))
    with pytest.raises(UsageError, match="cuda:0,cuda:0 names a GPU twice"):
        trained(folder, tmp_path / "b", changed(QUICK, optimizer={"batch": 2}), device="cuda:0,cuda:0")


@pytest.mark.slow
def test_replicas_end_with_the_same_weights(two: Callable[..., Path]) -> None:
    out = two(replica_that_tells)
    first, second = load_file(out), load_file(out.with_name("other.safetensors"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("second", [replica_that_dies, replica_that_never_begins], ids=["in step 3", "at the start"])
def test_replica_that_dies_is_an_error_not_a_hang(two: Callable[..., Path], second: Callable[..., None]) -> None:
    with pytest.raises(MachineError, match="a replica on one of cpu, cpu died"):
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


@pytest.mark.slow
def test_breaking_off_ends_all_processes(folder: Path, tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    out, config = tmp_path / "b.safetensors", changed(QUICK, optimizer={"batch": 2}, loop={"checkpoint_every": 1})
    with pytest.raises(StopError):
        trained(folder, out, config, device="cpu,cpu", listener=stopping_at(3))
    assert begun_since(before) == []
    told: list[TrainingEvent] = []
    trained(folder, out, config, device="cpu,cpu", resume=True, listener=told.append)
    assert [e.step for e in told if isinstance(e, StepDone)] == [3, 4, 5, 6]
