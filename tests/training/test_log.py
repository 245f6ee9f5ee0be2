"""The log of a training: a line per step, once each, whatever happened."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.faults import files_up_to
from wsipipe.errors import OutputError
from wsipipe.events import StepDone, TrainingDone, TrainingStarted, TrainingWarned, Validated
from wsipipe.training.log import Log, read_log


def write_steps(path: Path, steps: range, *, resume: bool) -> None:
    with Log(path, steps.start - 1, resume=resume) as log:
        log(TrainingStarted(4, 1, 0, steps.start - 1, ("cpu",)))
        for step in steps:
            log(StepDone(step, 1 / step, 0.1, step * 0.5, step / 10))


def steps_in(path: Path) -> list[int]:
    return [line["step"] for line in read_log(path) if line["kind"] == "step"]


def test_every_event_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with Log(path, 0, resume=False) as log:
        log(TrainingStarted(4, 1, 0, 0, ("cpu",)))
        log(TrainingWarned("a"))
        log(StepDone(1, math.nan, 0.1, 0.5, 0.0))
        assert len(path.read_text().splitlines()) == 3, "written at once"
        log(Validated(1, {"dice": 0.5, "f1": math.nan}, 1, 0.6))
        log(TrainingDone("b.safetensors", 1, 1, "test", {"dice": math.inf}))
    lines = [json.loads(text, parse_constant=pytest.fail) for text in path.read_text().splitlines()]
    assert [line.pop("kind") for line in lines] == ["start", "warning", "step", "validation", "done"]
    assert lines == [
        {"train": 4, "validation": 1, "test": 0, "first_step": 0, "devices": ["cpu"], "pretrained": None},
        {"message": "a"},
        {"step": 1, "loss": None, "learning_rate": 0.1, "seconds": 0.5, "share": 0.0, "steps": None},
        {"step": 1, "scores": {"dice": 0.5, "f1": None}, "best_step": 1, "seconds": 0.6},
        {"model": "b.safetensors", "steps": 1, "best_step": 1, "split": "test", "scores": {"dice": None}},
    ]
    assert (tmp_path / "curves.png").exists()


def test_steps_after_the_checkpoint_are_taken_out_on_resuming(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write_steps(path, range(1, 9), resume=False)
    write_steps(path, range(6, 12), resume=True)
    assert steps_in(path) == list(range(1, 12))
    assert [line["first_step"] for line in read_log(path) if line["kind"] == "start"] == [0, 5]


def test_new_training_begins_a_new_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write_steps(path, range(1, 5), resume=False)
    write_steps(path, range(1, 3), resume=False)
    assert [line["kind"] for line in read_log(path)] == ["start", "step", "step"]


@pytest.mark.parametrize("torn", [b'{"kind": "step", "st', b"\xff\xfe{", b"\0\0\0\0"], ids=["half", "bytes", "nulls"])
def test_torn_last_line_is_left_out(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "log.jsonl"
    write_steps(path, range(1, 4), resume=False)
    with path.open("ab") as file:
        file.write(torn)
    assert steps_in(path) == [1, 2, 3]
    write_steps(path, range(4, 6), resume=True)
    assert steps_in(path) == [1, 2, 3, 4, 5]
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_log_of_nothing_is_empty(tmp_path: Path) -> None:
    assert read_log(tmp_path / "none.jsonl") == []


def test_full_disk_is_an_output_error(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with files_up_to(300), pytest.raises(OutputError, match=r"log.jsonl cannot be written: .*--resume continues"):
        write_steps(path, range(1, 9), resume=False)
    assert 0 < len(steps_in(path)) < 8


def test_full_disk_leaves_the_log_before(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write_steps(path, range(1, 9), resume=False)
    with files_up_to(300), pytest.raises(OutputError):
        write_steps(path, range(9, 12), resume=True)
    assert steps_in(path) == list(range(1, 9))


def test_folder_that_is_gone_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_steps(tmp_path / "gone" / "log.jsonl", range(1, 2), resume=False)
