"""``wsipipe train``: a model from images and labels."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsipipe.cli.command import PATH, Command, in_section
from wsipipe.cli.slide_options import DEVICES, with_options
from wsipipe.cli.verbosity import VERBOSITY_OPTIONS, verbosity
from wsipipe.events import (
    StepDone,
    TrainingDone,
    TrainingEvent,
    TrainingListener,
    TrainingStarted,
    TrainingWarned,
    Validated,
)
from wsipipe.report.words import duration

if TYPE_CHECKING:
    from wsipipe.report.progress import Row
    from wsipipe.report.run_line import Verbosity
    from wsipipe.training.config import TrainConfig

STEPS_PER_LINE = 25
"""Steps between two lines, if there is no bar."""


_files, _loop, _data = in_section("Input and output"), in_section("Training"), in_section("Data")


@click.command(
    cls=Command,
    examples=(
        ("wsipipe train pairs/ -o my.safetensors", "a folder of images and labels"),
        ("wsipipe train my.toml -o my.safetensors", "with settings of your own"),
        ("wsipipe train my.toml -o a.safetensors --resume", "go on after an interruption"),
        ("wsipipe train pairs/ -o a.safetensors --from nuclei", "begin with the nuclei model"),
    ),
)
@click.argument("source", type=PATH, metavar="CONFIG.toml|FOLDER")
@_files("-o", "--out", required=True, type=PATH, metavar="MODEL", help="The model to write, .safetensors.")
@_files(
    "--from",
    "pretrained",
    type=PATH,
    metavar="MODEL",
    help="Start from the weights of MODEL, one of wsipipe's own U-Nets.",
)
@_files("--resume", is_flag=True, help="Continue an interrupted training.")
@_data("--data", type=PATH, metavar="DIR", help="Folder of the data that CONFIG.toml names.  [default: next to it]")
@_data("--labels-are", metavar="instances|components|classes", help="Meaning of the labels' values.")
@_loop("--steps", type=int, metavar="N", help="Batches to train for; overrides the configuration.")
@_loop("--minutes", type=float, metavar="M", help="Minutes to train for, instead of steps.")
@_loop("--device", default="auto", show_default=True, metavar=DEVICES, help="Devices that compute.")
@_loop("--seed", type=int, metavar="N", help="Seed of weights, patches and dropout.")
@with_options(VERBOSITY_OPTIONS)
def train(
    source: str,
    out: str,
    data: str | None,
    pretrained: str | None,
    labels_are: str | None,
    steps: int | None,
    minutes: float | None,
    device: str,
    seed: int | None,
    resume: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Train a U-Net on the images and labels that CONFIG.toml names, or on a FOLDER of pairs.

    A FOLDER holds NAME_image.* with NAME_label.*, or image/NAME.* with label/NAME.*; its settings are the defaults.
    MODEL.training/ holds the checkpoint, a log, the curves and a sheet of validation images.
    Exit code: 0 done, 1 unusable data or a loss that is not a number, 2 usage, 3 the environment,
    130 interrupted: --resume continues.
    """
    from wsipipe.model.built_in import model_path
    from wsipipe.training.train import train as train_network

    path = Path(source)
    roots = [path] if path.is_dir() else [*([Path(data)] if data is not None else []), path.parent]
    start = None if pretrained is None else str(model_path(pretrained).absolute())  # `roots` are for those of the file
    config = configured(
        path, out, roots, pretrained=start, labels_are=labels_are, steps=steps, minutes=minutes, seed=seed
    )
    with show_training(verbosity(verbose, quiet)) as listener:
        train_network(config, out, roots=roots, device=device, resume=resume, listener=listener)


def configured(
    source: Path,
    out: str,
    roots: Sequence[Path],
    *,
    pretrained: str | None,
    labels_are: str | None,
    steps: int | None,
    minutes: float | None,
    seed: int | None,
) -> TrainConfig:
    """The configuration file ``source``, or the defaults for a folder, with the options overriding it.

    The model that it starts from, if it does, is looked for in ``roots``.

    Raises
    ------
    UsageError
        If both ``steps`` and ``minutes`` are given, or the file or an option is wrong.
    ModelError
        If the model cannot be read.
    """
    from wsipipe.errors import UsageError
    from wsipipe.training.config import config_of, load_config, parse_labels_are
    from wsipipe.training.pretrained import with_pretrained

    if steps is not None and minutes is not None:
        raise UsageError("--steps and --minutes exclude each other; give one of them")
    name = Path(out).name.removesuffix(".safetensors")
    are = None if labels_are is None else parse_labels_are(labels_are)
    if source.is_dir():
        document: dict[str, Any] = {"name": name, "data": {"folder": ".", "labels_are": are or "instances"}}
        if are == "classes":
            document["weights"] = {"w0": 0.0}  # they have no borders to learn
        config = config_of(with_pretrained(document, roots, pretrained))
    else:
        config = load_config(source, roots, pretrained=pretrained)
        if are and isinstance(config.data, tuple):
            raise UsageError("--labels-are is for one data set; give each [[data]] its own labels_are")
        if are and not isinstance(config.data, tuple):
            config = replace(config, data=replace(config.data, labels_are=are))
    given = {"steps": steps, "minutes": minutes, "seed": seed}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if steps is not None:
        options["minutes"] = None  # those of the configuration would take precedence over steps
    return replace(config, loop=replace(config.loop, **options))


def show_training(level: Verbosity | None = None) -> AbstractContextManager[TrainingListener]:
    """A listener that shows a training on stderr within the context: a row, or a line every `STEPS_PER_LINE` steps."""
    from wsipipe.cli.progress import show_events
    from wsipipe.report.run_line import Verbosity

    def line(event: TrainingEvent) -> str | None:
        return training_line(event) if level != Verbosity.QUIET or isinstance(event, TrainingWarned) else None

    verbosity = Verbosity.NORMAL if level is None else level
    return show_events(line, milestone=step_line, view=TrainingProgress(), verbosity=verbosity)


def training_line(event: TrainingEvent) -> str | None:
    """The line of ``event``; None for a step, which only moves the bar."""
    match event:
        case TrainingStarted():
            begin = f"from the weights of {event.pretrained}" if event.pretrained else "from the beginning"
            begin = f"from step {event.first_step}" if event.first_step else begin
            return (
                f"{event.train} images to train on, {event.validation} views to validate, {event.test} to test; "
                f"on {', '.join(event.devices)}, {begin}"
            )
        case TrainingWarned():
            return f"warning: {event.message}"
        case Validated():
            return f"step {event.step}: validation {scores_in_line(event.scores)}; best so far: step {event.best_step}"
        case TrainingDone():
            weights = f"weights of step {event.best_step} of {event.steps}"
            return f"{event.model}: {weights}; {event.split} {scores_in_line(event.scores)}"
    return None


def step_line(event: TrainingEvent) -> str | None:
    """The line of every `STEPS_PER_LINE`-th step, where there is no bar; None for any other event."""
    if not isinstance(event, StepDone) or event.step % STEPS_PER_LINE:
        return None
    left = "" if event.seconds_left is None else f", {duration(event.seconds_left)} left"
    return f"{step_of(event)}: loss {event.loss:.4f}, {duration(event.seconds)}, {event.share:.0%} done{left}"


def step_of(event: StepDone) -> str:
    """Number of a step, and of all steps if that is known, such as ``step 50 of 200``."""
    return f"step {event.step}" + (f" of {event.steps}" if event.steps else "")


class TrainingProgress:
    """The row of a training."""

    def __init__(self) -> None:
        self._last: StepDone | None = None
        self._heard = 0.0

    def hear(self, event: TrainingEvent) -> None:
        """Take the step of ``event`` into account."""
        if isinstance(event, StepDone):
            self._last, self._heard = event, time.monotonic()

    def rows(self) -> Sequence[Row]:
        """One row, once there is a step."""
        from wsipipe.report.progress import Row

        step = self._last
        if step is None:
            return [Row("", note="preparing")]
        since = time.monotonic() - self._heard
        left = None if step.seconds_left is None else max(0.0, step.seconds_left - since)
        return [Row(step_of(step), step.share, f"loss {step.loss:.4f}", left)]


def scores_in_line(scores: dict[str, float]) -> str:
    """The scores in one line, without those of single classes and those that are not a number."""
    return (
        ", ".join(f"{k} {v:.4g}" for k, v in scores.items() if "." not in k and not math.isnan(v)) or "without scores"
    )
