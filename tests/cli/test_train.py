"""``wsipipe train``: killed at any moment, it resumes to the same bytes; any error is one line and an exit code."""

from __future__ import annotations

import json
import math
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
from click.testing import CliRunner, Result
from safetensors import safe_open

from tests.conftest import Call
from tests.faults import PATIENCE_SECONDS, Process, files_up_to, finish, start, wait_until
from tests.soak import rounds
from tests.training.discs import TINY, changed, write_discs, write_toml
from wsipipe import load_model
from wsipipe.cli import cli, train
from wsipipe.cli.train import STEPS_PER_LINE, configured, show_training
from wsipipe.errors import OutputError, ResolutionError, TrainingError, UsageError
from wsipipe.events import StepDone, TrainingDone, TrainingStarted, TrainingWarned, Validated
from wsipipe.model.model_file import save_untrained
from wsipipe.training import log
from wsipipe.training.augment import NO_AUGMENTATION
from wsipipe.training.checkpoint import CHECKPOINT_KEY
from wsipipe.training.config import ClassConfig, TrainConfig
from wsipipe.training.data_config import DataConfig
from wsipipe.training.log import read_log

STEPS = 60
LONG = changed(
    TINY,
    augmentation=NO_AUGMENTATION,
    network={"base_channels": 2},
    loop={"steps": STEPS, "checkpoint_every": 7, "validate_every": 30},
)


class Case(NamedTuple):
    """A configuration, and the model of an undisturbed training."""

    config: Path
    model: bytes

    def command(self, out: Path, *options: object) -> list[object]:
        """The arguments of `wsipipe` that repeat it."""
        return ["train", self.config, "-o", out, "--device", "cpu", *options]


def called(*words: object) -> Result:
    """Run ``wsipipe ...`` in this process; its exception, if any, is raised."""
    result = CliRunner().invoke(cli, list(map(str, words)))
    if isinstance(result.exception, Exception):
        raise result.exception
    return result


def made(folder: Path, **optimizer: Any) -> Case:
    """A training of `STEPS` steps, undisturbed."""
    case = Case(write_toml(write_discs(folder, 3) / "discs.toml", changed(LONG, optimizer=optimizer)), b"")
    out = folder / "out" / "discs.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "write_curves", lambda *_: None)  # they take as long as all else
        assert called(*case.command(out)).exit_code == 0
    return case._replace(model=out.read_bytes())


@pytest.fixture(scope="module")
def adamw(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return made(tmp_path_factory.mktemp("adamw"))


@pytest.fixture(scope="module")
def sgd(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return made(tmp_path_factory.mktemp("sgd"), name="sgd", learning_rate=0.02, momentum=0.9)


def steps_done(out: Path) -> list[int]:
    """The steps in the log."""
    lines = read_log(out.with_name(out.name + ".training") / "log.jsonl")
    return [line["step"] for line in lines if line["kind"] == "step"]


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint holds."""
    with safe_open(checkpoint, "pt") as file:
        return int(json.loads(file.metadata()[CHECKPOINT_KEY])["progress"]["step"])


def past(step: int, out: Path) -> Callable[[], bool]:
    """Whether the log has reached ``step``."""
    return lambda: max(steps_done(out), default=0) >= step


@pytest.mark.soak  # the next ones show that a training that was ended goes on
@pytest.mark.parametrize("kills", [1, 10])
def test_killed_again_and_again_ends_in_the_same_bytes(adamw: Case, tmp_path: Path, kills: int) -> None:
    rng = np.random.default_rng()  # any moment will do
    out, said = tmp_path / "discs.safetensors", tmp_path / "said"
    resume: list[str] = []
    for step in sorted(rng.choice(np.arange(1, STEPS - 30), kills, replace=False)):
        process = start(*adamw.command(out, *resume), log=said)
        came = wait_until(past(step, out), process, lambda: rng.uniform(0.01, 0.05))
        process.kill()
        finish(process)
        assert came, said.read_text()
        assert process.returncode == -signal.SIGKILL
        assert not out.exists()
        resume = ["--resume"]
    begun = out.with_name(out.name + ".training") / "checkpoint.safetensors"
    step = step_of(begun) if begun.exists() else 0  # one may die before its first checkpoint, or with that of step 0
    result = called(*adamw.command(out, "--resume"))
    assert result.exit_code == 0
    assert (f"from step {step}" if step else "from the beginning") in result.stderr
    assert steps_done(out) == list(range(1, STEPS + 1))
    assert out.read_bytes() == adamw.model


@pytest.mark.slow
def test_signals_end_a_training_with_130_and_resume_goes_on(sgd: Case, tmp_path: Path) -> None:
    out, said = tmp_path / "discs.safetensors", tmp_path / "said"
    # A shell that starts pytest in the background has SIGINT ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for number, step, resume in ((signal.SIGTERM, 10, []), (signal.SIGINT, 20, ["--resume"])):
            process = start(*sgd.command(out, *resume), log=said)
            assert wait_until(past(step, out), process, lambda: 0.02), said.read_text()
            process.send_signal(number)
            finish(process)
            assert process.returncode == 130, said.read_text()
            assert said.read_text().endswith(
                "wsipipe: interrupted; the same command with --resume continues from the last checkpoint\n"
            )
            assert "Traceback" not in said.read_text()
    finally:
        signal.signal(signal.SIGINT, before)
    assert called(*sgd.command(out, "--resume")).exit_code == 0
    assert out.read_bytes() == sgd.model
    assert steps_done(out) == list(range(1, STEPS + 1))


def children_of(process: Process) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "number"),
    rounds(("cpu", signal.SIGKILL), ("cpu", signal.SIGTERM), ("cpu,cpu", signal.SIGKILL), ("cpu,cpu", signal.SIGTERM)),
)
def test_no_process_outlives_a_training(tmp_path: Path, device: str, number: signal.Signals) -> None:
    config = changed(LONG, optimizer={"batch": 2}, loop={"workers": 1, "steps": 9999})
    source = write_toml(write_discs(tmp_path, 3) / "discs.toml", config)
    out, said = tmp_path / "b.safetensors", tmp_path / "said"
    process = start("train", source, "-o", out, "--device", device, log=said)
    assert wait_until(past(2, out), process, lambda: 0.05), said.read_text()
    children = children_of(process)
    assert len([p for p in children if "spawn_main" in " ".join(p.cmdline())]) == (3 if device == "cpu,cpu" else 1)
    process.send_signal(number)
    process.wait(PATIENCE_SECONDS)  # not for the end of its output: an orphan would keep that open
    assert process.returncode == (130 if number == signal.SIGTERM else -number)
    _, left = psutil.wait_procs(children, timeout=15)
    for orphan in left:
        orphan.kill()
    finish(process)
    assert not left
    assert number == signal.SIGKILL or "Traceback" not in said.read_text()


# --- exit codes -----------------------------------------------------------------------------------------------


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """The configuration of a training of four steps, beside its images."""
    config = changed(LONG, loop={"steps": 4, "checkpoint_every": 2})
    return write_toml(write_discs(tmp_path / "data", 2) / "short.toml", config)


def test_exit_codes(short: Path, tmp_path: Path, call: Call) -> None:
    def last(*words: object) -> tuple[int, str]:
        ended = call(*words)
        return ended.code, ended.err.splitlines()[-1]

    out = tmp_path / "b.safetensors"
    huge = changed(LONG, optimizer={"name": "sgd", "learning_rate": 1e30, "clip": 1e30, "warm_up": 0})
    code, said = last("train", write_toml(short.with_name("h.toml"), huge), "-o", tmp_path / "h")
    assert (code, said[:13]) == (1, "wsipipe: the ")
    found = re.search(r"its batch is in (\S+) ", said)
    assert found is not None
    assert Path(found[1]).exists()
    code, said = last("train", short, "-o", out, "--resume")
    assert code == 2
    assert "run without --resume" in said
    with files_up_to(2000):  # room for its own output
        code, said = last("train", short, "-o", out)
    assert code == 3
    assert "make room" in said
    code, said = last("train", short, "-o", out)
    assert (code, said.partition(":")[0]) == (0, str(out))


def test_training_prints_what_it_does(short: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    result = called("train", short, "-o", out, "--seed", 3)
    lines = result.stderr.splitlines()
    assert result.stdout == ""
    assert lines[0] == "1 images to train on, 1 views to validate, 0 to test; on cpu, from the beginning"
    assert lines[1].startswith("step 4: validation pixel_error 0.")
    assert lines[1].endswith("best so far: step 4")
    assert lines[2].startswith(f"{out}: weights of step 4 of 4; validation pixel_error 0.")
    assert len(lines) == 3
    assert load_model(out).spec.training["settings"]["loop"]["seed"] == 3


def test_paths_are_searched_in_the_given_folder_and_beside_the_configuration(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr("wsipipe.training.train.train", lambda *_, roots, **__: given.append(roots))
    called("train", short, "-o", "b")
    called("train", short, "-o", "b", "--data", "elsewhere")
    called("train", short.parent, "-o", "b")
    assert given == [[short.parent], [Path("elsewhere"), short.parent], [short.parent]]


def test_minutes_end_a_training(short: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    result = called("train", short, "-o", out, "--minutes", 0.01)
    assert result.exit_code == 0
    training = load_model(out).spec.training
    assert training["steps"] >= 1
    assert training["settings"]["loop"]["minutes"] == 0.01


@pytest.mark.parametrize("error", [TrainingError("a"), OutputError("b"), UsageError("c")], ids=repr)
def test_errors_are_passed_on(short: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("wsipipe.training.train.train", fail)
    with pytest.raises(type(error), match=str(error)):
        called("train", short, "-o", "x")


# --- options and words ----------------------------------------------------------------------------------------


def configure(source: Path, **options: Any) -> TrainConfig:
    given = dict.fromkeys(("pretrained", "labels_are", "steps", "minutes", "seed")) | options
    return configured(source, "models/mine.safetensors", [source.parent], **given)


def test_options_override_the_configuration(short: Path) -> None:
    config = configure(short, steps=9, seed=5, labels_are="components")
    assert config == changed(
        LONG, data={"labels_are": "components"}, loop={"steps": 9, "seed": 5, "checkpoint_every": 2}
    )
    assert configure(short) == changed(LONG, loop={"steps": 4, "checkpoint_every": 2})


def test_steps_override_minutes_and_minutes_override_steps(short: Path) -> None:
    timed = write_toml(short.with_name("timed.toml"), changed(LONG, loop={"minutes": 5.0}))
    assert configure(timed).loop.minutes == 5.0
    asked = configure(timed, steps=9).loop
    assert (asked.steps, asked.minutes) == (9, None)
    assert configure(short, minutes=2.0).loop.minutes == 2.0
    with pytest.raises(UsageError, match="exclude each other"):
        configure(short, steps=9, minutes=2.0)


def test_folder_has_the_default_configuration(tmp_path: Path) -> None:
    assert configure(tmp_path) == TrainConfig(DataConfig("."), name="mine")


def test_model_to_start_from_is_that_of_the_command_line(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its path is as the shell sees it; the configuration states sizes that it must have."""
    monkeypatch.chdir(tmp_path)
    for name, channels in (("base.safetensors", 2), ("large.safetensors", 4)):
        sizes = {"base_channels": channels, "depth": 2, "convs_per_level": 1}
        save_untrained(name, sizes, seed=0, mpp=None)
    said = called("train", short, "-o", "new.safetensors", "--from", "base.safetensors").stderr.splitlines()
    assert said[0].endswith("on cpu, from the weights of base.safetensors")
    assert said[1] == (
        "warning: the head starts anew: base.safetensors has 2 classes (background, class 1), this training 2 classes "
        "(background, disc); name them as the model does to keep it"
    )
    assert load_model("new.safetensors").spec.training["from"]["name"] == "base"
    with pytest.raises(UsageError, match=r"^large.safetensors has base_channels 4, this training base_channels 2; rem"):
        called("train", short, "-o", "other.safetensors", "--from", "large.safetensors")
    with pytest.raises(ResolutionError, match="has no micrometres per pixel"):  # which that model asks for
        called("train", short, "-o", "other.safetensors", "--from", "nuclei")


def test_folder_is_trained_on_with_the_sizes_of_the_model(tmp_path: Path) -> None:
    model = tmp_path / "base.safetensors"
    save_untrained(model, {"base_channels": 2, "depth": 3, "convs_per_level": 2}, seed=0, mpp=0.5)
    config = configure(tmp_path, pretrained=str(model))
    assert (config.network.base_channels, config.network.depth, config.mpp) == (2, 3, 0.5)
    assert (config.name, config.classes, config.data) == ("mine", (ClassConfig("class 1"),), DataConfig("."))


def test_unusable_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        configure(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="labels-are"):
        configure(tmp_path, labels_are="blobs")
    with pytest.raises(UsageError, match="steps"):
        configure(tmp_path, steps=0)


EVENTS = {
    "3 images to train on, 2 views to validate, 1 to test; on cpu, cpu, from step 7": TrainingStarted(
        3, 2, 1, 7, ("cpu", "cpu")
    ),
    "1 images to train on, 1 views to validate, 0 to test; on cpu, from the weights of a.safetensors": TrainingStarted(
        1, 1, 0, 0, ("cpu",), "a.safetensors"
    ),
    "warning: the head starts anew": TrainingWarned("the head starts anew"),
    "step 50 of 2000: loss 0.1235, 12.3 s, 2% done, 8 min 0 s left": StepDone(50, 0.12345, 1e-3, 12.3, 0.0245, 2000),
    "step 25: loss 0.1235, 12.3 s, 0% done": StepDone(25, 0.12345, 1e-3, 12.3, 0.0),
    "step 50: loss 0.1235, 12.3 s, 25% done, 36.9 s left": StepDone(50, 0.12345, 1e-3, 12.3, 0.25),
    "step 60: validation dice 0.5, f1 0.25; best so far: step 20": Validated(
        60, {"dice": 0.5, "dice.disc": 0.5, "f1": 0.25, "pq": math.nan}, 20, 1.0
    ),
    "step 60: validation without scores; best so far: step 60": Validated(60, {}, 60, 1.0),
    "b: weights of step 20 of 60; test dice 0.5": TrainingDone("b", 60, 20, "test", {"dice": 0.5}),
}


@pytest.mark.parametrize(("said", "event"), EVENTS.items())
def test_an_event_is_a_line(capsys: pytest.CaptureFixture[str], said: str, event: Any) -> None:
    with show_training() as listener:
        listener(event)
    assert capsys.readouterr().err == f"{said}\n"


def test_one_step_in_some_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with show_training() as listener:
        for step in range(1, 2 * STEPS_PER_LINE + 2):
            listener(StepDone(step, 1.0, 1e-3, 1.0, 0.5))
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"step {STEPS_PER_LINE}",
        f"step {2 * STEPS_PER_LINE}",
    ]


def test_terminal_has_a_bar_and_the_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with show_training() as listener:
        for event in EVENTS.values():
            listener(event)
    said = capsys.readouterr().err
    assert "weights of step 20 of 60; test dice 0.5" in said
    assert re.search(r"step 50 .*loss 0\.1235", said)
    assert "step 50: loss" not in said


def test_help_names_every_option() -> None:
    said = called("train", "--help").stdout
    for option in train.params:
        assert all(word in said for word in option.opts if word.startswith("-"))
    assert json.dumps(said).count("--resume") >= 2
