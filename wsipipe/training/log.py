"""The log of a training: one line of JSON per step and per validation, and a picture of the curves."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wsipipe.errors import OutputError
from wsipipe.events import StepDone, TrainingDone, TrainingEvent, TrainingStarted, TrainingWarned, Validated
from wsipipe.files import write_whole
from wsipipe.training.pictures import write_curves

CURVES_EVERY = 100
"""Steps after which the curves are drawn anew, beside those of a validation: half a second, of a minute or more."""
EVENT_KINDS = {
    TrainingStarted: "start",
    TrainingWarned: "warning",
    StepDone: "step",
    Validated: "validation",
    TrainingDone: "done",
}


class Log:
    """Writes the events of a training to ``path``, and its curves beside it.

    Parameters
    ----------
    path
        The file; lines of steps after ``first_step`` are removed, because a crash undid those steps.
    first_step
        The step that the training continues from.
    resume
        Whether it continues one; otherwise the file's lines are those of another training, and are dropped.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """

    def __init__(self, path: Path, first_step: int, *, resume: bool) -> None:
        self.path = path
        self.lines = [line for line in read_log(path) if line.get("step", 0) <= first_step] if resume else []
        write_whole(path, "".join(json.dumps(line) + "\n" for line in self.lines).encode())
        try:
            self.file = path.open("ab", buffering=0)  # what a full disk did not take is not tried again at the end
        except OSError as err:
            raise OutputError(f"{path} cannot be written: {err.strerror or err}") from err

    def __call__(self, event: TrainingEvent) -> None:
        """Write ``event`` at once."""
        line = {"kind": EVENT_KINDS[type(event)], **_plain(asdict(event))}
        self.lines.append(line)
        try:
            self.file.write((json.dumps(line) + "\n").encode())
        except OSError as err:
            raise OutputError(f"{self.path} cannot be written: {err.strerror or err}; --resume continues") from err
        if isinstance(event, Validated) or (isinstance(event, StepDone) and event.step % CURVES_EVERY == 0):
            write_curves(self.path.with_name("curves.png"), self.lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, without any that a crash tore."""
    lines = []
    for text in path.read_bytes().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def _plain(value: Any) -> Any:
    """``value`` in JSON types: a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
