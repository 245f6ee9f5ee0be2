"""Train a network, from a configuration to a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from wsipipe.errors import OutputError, UsageError
from wsipipe.evaluation.metrics import OF_LABELS, check_metrics
from wsipipe.events import TrainingEvent, TrainingListener, TrainingStarted, TrainingWarned, ignore
from wsipipe.extras import require
from wsipipe.inference.devices import resolve_devices
from wsipipe.training.checkpoint import check_space
from wsipipe.training.config import TrainConfig
from wsipipe.training.log import Log
from wsipipe.training.replicas import leave, other_replicas, spare_processes, threads_of, torch_threads
from wsipipe.training.setup import check_place, prepare_training
from wsipipe.training.trainer import Trainer

CHECKPOINT_COPIES = 10
"""Size of two checkpoints, the new one and the one that it replaces, in sizes of the weights: weights, their average,
the best ones, and the optimizer's two moments, twice."""


def train(
    config: TrainConfig,
    out: str | os.PathLike[str],
    *,
    roots: Sequence[str | os.PathLike[str]] = (".",),
    device: str = "auto",
    resume: bool = False,
    listener: TrainingListener = ignore,
) -> None:
    """Train a network and write it to ``out``, a model that `run` takes.

    Beside it the folder ``<out>.training`` holds the checkpoint, a log of JSON lines, the curves and a sheet of
    validation images. On a CPU, the same configuration, data and number of threads give the same bytes.

    Parameters
    ----------
    config
        The configuration.
    out
        The model to write; nothing may be there.
    roots
        Folders in which relative paths of the configuration are looked for, one after the other.
    device
        As for `run`; with several, each takes its part of every batch.
    resume
        Continue a training that was interrupted.
    listener
        Receives the events, on this thread.

    Raises
    ------
    UsageError, ModelError, SlideError
        If settings, data or the model to start from cannot be used; before the first step, as far as can be known then.
    MachineError
        If there is no such device, not enough space, or no library that draws the curves.
    TrainingError
        If the loss is not finite any more, or the checkpoint is of another training.
    """
    require("matplotlib", "train", what="training")  # it draws the curves
    out = Path(out)
    devices = _devices_of(config, device)
    check_metrics((config.loop.select,), OF_LABELS)
    setup = prepare_training(config, out, [Path(root) for root in roots])
    begun = check_place(setup, resume=resume)
    workers = config.loop.workers if config.loop.workers is not None else spare_processes(devices)
    with torch_threads(threads_of(config, devices)), other_replicas(setup, devices, workers) as world:
        trainer = Trainer(setup, devices[0], world=world, workers=workers)
        if begun:
            trainer.read_checkpoint()
        else:
            _first_checkpoint(trainer)
        sizes = len(setup.maker.fields), len(setup.validation), len(setup.test)
        with Log(setup.log, trainer.progress.step, resume=begun) as log:
            tell = _both(log, listener)
            name = setup.pretrained.name if setup.pretrained else None
            tell(TrainingStarted(*sizes, trainer.progress.step, devices, name))
            if setup.pretrained and not begun:
                for message in setup.pretrained.warnings(setup.spec):
                    tell(TrainingWarned(message))
            trainer.run(tell)
            leave()
            trainer.finish(tell)
    setup.checkpoint.unlink()


def _both(first: TrainingListener, second: TrainingListener) -> TrainingListener:
    """A listener that passes each event to ``first``, then to ``second``."""

    def tell(event: TrainingEvent) -> None:
        first(event)
        second(event)

    return tell


def _devices_of(config: TrainConfig, device: str) -> tuple[str, ...]:
    """The devices that ``device`` means. Raise a UsageError unless they can share the batches of ``config``."""
    devices = resolve_devices(device)
    batch = config.optimizer.batch
    if batch % len(devices):
        raise UsageError(
            f"[optimizer] batch {batch} cannot be shared equally by {len(devices)} devices; "
            f"nearest: {max(batch // len(devices), 1) * len(devices)}"
        )
    gpus = [name for name in devices if name.startswith("cuda")]
    if len(set(gpus)) < len(gpus):
        raise UsageError(f"--device {device} names a GPU twice; name each once")
    return devices


def _first_checkpoint(trainer: Trainer) -> None:
    """Write the checkpoint of step 0, if there is room for those of the whole training."""
    folder = trainer.setup.folder
    try:
        check_space(folder, CHECKPOINT_COPIES * sum(p.numel() * 4 for p in trainer.network.parameters()))
    except OutputError:
        with suppress(OSError):  # it holds something already
            folder.rmdir()
        raise
    trainer.write_checkpoint()
