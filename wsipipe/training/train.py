"""Train a network, from a configuration to a bundle."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from dask.system import CPU_COUNT  # knows affinity and cgroups
from torch import distributed

from wsipipe.errors import MachineError, UsageError, WsipipeError
from wsipipe.evaluation.metrics import check_metrics
from wsipipe.events import TrainingEvent, TrainingListener, TrainingStarted, ignore
from wsipipe.inference.devices import is_cpu, resolve_devices
from wsipipe.training.checkpoint import check_space
from wsipipe.training.config import TrainConfig
from wsipipe.training.log import Log
from wsipipe.training.loop import Trainer
from wsipipe.training.setup import Setup, check_place, prepare

CHECKPOINT_COPIES = 8
"""How many times the weights two checkpoints hold, the new one and the one that it replaces: the weights, the best
ones, and the optimizer's two moments, twice."""


def train(
    config: TrainConfig,
    out: str | os.PathLike[str],
    *,
    roots: Sequence[str | os.PathLike[str]] = (".",),
    device: str = "auto",
    resume: bool = False,
    listener: TrainingListener = ignore,
) -> None:
    """Train a network and write it to ``out``, a bundle that `run` takes.

    Beside it the folder ``<out>.training`` holds the checkpoint, a log of JSON lines, the curves and a sheet of
    validation images. On a CPU, the same configuration, data and number of threads give the same bytes.

    Parameters
    ----------
    config
        What is wanted.
    out
        The bundle to write; nothing may be there.
    roots
        Folders in which relative paths of the configuration are looked for, one after the other.
    device
        As for `run`; with several, each takes its part of every batch.
    resume
        Go on with a training that was interrupted.
    listener
        Is told what happens, from this thread.

    Raises
    ------
    UsageError, SlideError
        If settings or data can not be used; before the first step, as far as can be known then.
    MachineError
        If there is no such device, or no space.
    TrainingError
        If the loss is no number any more, or the checkpoint is of another training.
    """
    out = Path(out)
    devices = resolve_devices(device)
    if config.optimizer.batch % len(devices):
        raise UsageError(
            f"[optimizer] batch {config.optimizer.batch} can not be shared by {len(devices)} devices; "
            f"nearest: {max(config.optimizer.batch // len(devices), 1) * len(devices)}"
        )
    check_metrics((config.loop.select,))
    setup = prepare(config, out, [Path(root) for root in roots])
    begun = check_place(setup, resume=resume)
    if is_cpu(devices):
        torch.set_num_threads(config.loop.threads or CPU_COUNT)
    workers = config.loop.workers if config.loop.workers is not None else spare_processes(devices)
    with other_replicas(setup, devices, workers) as world:
        trainer = Trainer(setup, devices[0], world=world, workers=workers)
        if begun:
            trainer.read_checkpoint()
        else:
            size = sum(p.numel() * 4 for p in trainer.network.parameters())
            check_space(setup.folder, CHECKPOINT_COPIES * size)
            trainer.write_checkpoint()
        sizes = len(setup.maker.fields), len(setup.validation), len(setup.test)
        with Log(setup.log, trainer.progress.step, resume=begun) as log:

            def tell(event: TrainingEvent) -> None:
                log(event)
                listener(event)

            tell(TrainingStarted(*sizes, trainer.progress.step, devices))
            trainer.run(tell)
            trainer.finish(tell)
    setup.checkpoint.unlink()


@contextmanager
def other_replicas(setup: Setup, devices: tuple[str, ...], workers: int) -> Iterator[int]:
    """Processes for all but the first of ``devices``, joined to this one for as long as it lasts; how many in all."""
    if len(devices) == 1:
        yield 1
        return
    context = multiprocessing.get_context("spawn")
    with TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        others = [
            context.Process(target=replica, args=(setup, devices, rank, workers, meeting))
            for rank in range(1, len(devices))
        ]
        for process in others:
            process.start()
        try:
            join(devices, 0, meeting)
            yield len(devices)
            for process in others:
                process.join()
        except RuntimeError as err:  # what torch raises when another process is gone
            if isinstance(err, WsipipeError) or all(p.is_alive() or not p.exitcode for p in others):
                raise
            raise MachineError(f"a replica on one of {', '.join(devices)} died ({err}); --resume goes on") from err
        finally:
            for process in others:
                process.terminate()
                process.join()
            if distributed.is_initialized():
                distributed.destroy_process_group()


def join(devices: tuple[str, ...], rank: int, meeting: str) -> None:
    """Make this process number ``rank`` of the group that meets at a file, with its share of the processor."""
    if is_cpu(devices):
        torch.set_num_threads(max(torch.get_num_threads() // len(devices), 1))
    backend = "nccl" if all(d.startswith("cuda") for d in devices) else "gloo"
    distributed.init_process_group(backend, init_method=meeting, rank=rank, world_size=len(devices))


def replica(setup: Setup, devices: tuple[str, ...], rank: int, workers: int, meeting: str) -> None:
    """What every process but the first does: the same steps, on its own patches."""
    join(devices, rank, meeting)
    trainer = Trainer(setup, devices[rank], rank=rank, world=len(devices), workers=workers)
    if setup.checkpoint.exists():
        trainer.read_checkpoint()
    trainer.run()
    distributed.destroy_process_group()


def spare_processes(devices: tuple[str, ...]) -> int:
    """How many processes make patches for each of ``devices``; on a CPU one, for the cores are for training."""
    return 1 if is_cpu(devices) else max(1, min(8, CPU_COUNT // len(devices)))
