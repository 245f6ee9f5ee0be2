"""Trainings from start to end: the same bytes whatever happens."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from tests.faults import files_up_to
from tests.training.discs import QUICK, SGD, TINY, StopError, changed, made_setup, stopping_at, trained, write_image
from tests.training.processes import begun_since
from wsipipe import RunConfig, load_model, run
from wsipipe.errors import OutputError, TrainingError, UsageError
from wsipipe.events import StepDone, TrainingDone, TrainingEvent, TrainingStarted, Validated
from wsipipe.training import log
from wsipipe.training import train as train_module
from wsipipe.training.log import read_log
from wsipipe.training.patches import Patch, PatchMaker
from wsipipe.training.setup import TrainingSetup
from wsipipe.training.trainer import Trainer

DRAW = log.write_curves


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves take longer than all else here."""
    monkeypatch.setattr(log, "write_curves", lambda *_: None)


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
    with pytest.raises(
        TrainingError, match=f"{re.escape(str(checkpoint))} was written with other data or settings.*another -o"
    ):
        trained(folder, out, changed(QUICK, **changes), resume=True)
    assert checkpoint.read_bytes() == before
    trained(folder, out, changed(QUICK, loop={"workers": 0, "checkpoint_every": 1}), resume=True)


def test_resuming_with_other_data_is_refused(folder: Path, tmp_path: Path) -> None:
    data = shutil.copytree(folder, tmp_path / "data", ignore=shutil.ignore_patterns("out"))
    stopped(data, tmp_path / "b.safetensors")
    image = np.full((72, 72, 3), 9, np.uint8)
    write_image(data / "disc-3_image.tif", image)
    with pytest.raises(TrainingError, match="was written with other data or settings"):
        trained(data, tmp_path / "b.safetensors", resume=True)


def test_resuming_from_a_damaged_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    blob = (checkpoint := stopped(folder, out)).read_bytes()
    for damaged in (blob[:-1], blob[: len(blob) // 2], b"", blob[:-9] + bytes([blob[-9] ^ 4]) + blob[-8:]):
        checkpoint.write_bytes(damaged)
        with pytest.raises(TrainingError, match=f"{re.escape(str(checkpoint))} cannot be read.*remove .* another -o"):
            trained(folder, out, resume=True)
        assert checkpoint.read_bytes() == damaged
        assert not out.exists()


def test_training_is_not_overwritten_and_without_a_checkpoint_not_resumed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    with pytest.raises(UsageError, match=r"no checkpoint at .*run without --resume"):
        trained(folder, out, resume=True)
    stopped(folder, out)
    with pytest.raises(UsageError, match="already contains a training run; continue it with --resume"):
        trained(folder, out)
    trained(folder, out, resume=True)
    for resume in (False, True):
        with pytest.raises(UsageError, match="already exists"):
            trained(folder, out, resume=resume)


def test_log_of_an_earlier_training_is_not_continued(folder: Path, tmp_path: Path) -> None:
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
        bad.setattr(train_module, "prepare_training", once_prepared(folder, out))
        bad.setattr(PatchMaker, "patch", poisoned)
        with pytest.raises(TrainingError, match="the loss of step 5 is nan"):
            trained(folder, out)
    assert (tmp_path / "b.safetensors.training" / "batch-of-step-5.safetensors").exists()
    assert trained(folder, out, resume=True) == whole


def once_prepared(folder: Path, out: Path) -> Callable[..., TrainingSetup]:
    """`prepare_training`, called before the images were poisoned."""
    setup = made_setup(folder, QUICK, out.parent)
    return lambda *_: TrainingSetup(**{**vars(setup), "out": out})


def test_model_says_how_it_was_made_and_nothing_about_the_machine(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    asked = changed(QUICK, data={"folder": str(folder), "test": ("disc-1*",)}, min_area_um2=3.5)
    trained(folder, out, asked, roots=["."])
    spec = load_model(out).spec
    training = spec.training
    assert spec.min_area_um2 == 3.5
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
    last = [event for event in events if isinstance(event, StepDone | Validated)][-1]
    assert isinstance(last, Validated), "it ends with a validation"
    assert last.step == len(steps)
    assert "dice" in last.scores


def test_batch_that_devices_cannot_share_is_refused(folder: Path, tmp_path: Path) -> None:
    for batch, nearest in ((1, 2), (3, 2), (5, 4)):
        with pytest.raises(
            UsageError, match=f"batch {batch} cannot be shared equally by 2 devices; nearest: {nearest}"
        ):
            trained(folder, tmp_path / "b", changed(QUICK, optimizer={"batch": batch}), device="cpu,cpu")
