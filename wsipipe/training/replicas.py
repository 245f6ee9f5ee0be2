"""The processes of a training on several devices: how they start, join, and end."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from tempfile import TemporaryDirectory

import torch
from dask.system import CPU_COUNT  # knows affinity and cgroups
from torch import distributed
from torch.distributed import distributed_c10d

from wsipipe.errors import MachineError, WsipipeError
from wsipipe.inference.devices import is_cpu
from wsipipe.training.config import TrainConfig
from wsipipe.training.setup import TrainingSetup
from wsipipe.training.trainer import Trainer

GRACE_SECONDS = 5.0
"""Time for which a process whose peer is gone waits to hear why."""


def threads_of(config: TrainConfig, devices: tuple[str, ...]) -> int:
    """The number of threads for each of ``devices``: its share of the configuration's, or of the machine's cores."""
    return max((config.loop.threads or CPU_COUNT) // len(devices), 1) if is_cpu(devices) else torch.get_num_threads()


def spare_processes(devices: tuple[str, ...]) -> int:
    """The number of processes that make patches for each of ``devices``; 1 on a CPU, whose cores are for training."""
    return 1 if is_cpu(devices) else max(1, min(8, CPU_COUNT // len(devices)))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with ``count`` threads inside the ``with`` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Other:
    """Another process of a training, as the first one knows it."""

    process: SpawnProcess
    news: Connection
    """Receives None when it starts, then the WsipipeError that ended it, if one did."""


@contextmanager
def other_replicas(setup: TrainingSetup, devices: tuple[str, ...], workers: int) -> Iterator[int]:
    """Processes for all but the first of ``devices``, joined to this one inside the ``with`` block.

    Yields the number of processes, this one included.
    """
    if len(devices) == 1:
        yield 1
        return
    context = multiprocessing.get_context("spawn")
    others: list[Other] = []
    with TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        try:
            for rank in range(1, len(devices)):
                news, theirs = context.Pipe(duplex=False)
                process = context.Process(target=replica, args=(setup, devices, rank, workers, meeting, theirs))
                process.start()
                theirs.close()
                others.append(Other(process, news))
            for other in others:
                other.news.recv()
            join(devices, 0, meeting)
            yield len(devices)
            for other in others:
                other.process.join()
        except (RuntimeError, EOFError) as err:  # what torch, or the pipe, raises when another process is gone
            if not isinstance(err, WsipipeError):
                _blame(others, devices, err)
            raise
        finally:
            for other in others:
                other.process.terminate()
                other.process.join()
                other.news.close()
            leave(broken=True)  # else it left before


def _blame(others: list[Other], devices: tuple[str, ...], err: Exception) -> None:
    """Raise the error that ended another process, if that is the cause of ``err`` in this one."""
    for other in others:
        other.process.join(GRACE_SECONDS)
        with suppress(EOFError):
            if other.news.poll():
                raise other.news.recv() from err
    if any(other.process.exitcode for other in others):
        why = str(err).partition("\n")[0] or "at its start"
        raise MachineError(
            f"a process on one of {', '.join(devices)} died ({why}), possibly out of memory; --resume continues from "
            "the last checkpoint"
        ) from err


def join(devices: tuple[str, ...], rank: int, meeting: str) -> None:
    """Join this process, as number ``rank``, to the group that meets at the file ``meeting``."""
    backend = "nccl" if all(d.startswith("cuda") for d in devices) else "gloo"
    if devices[rank].startswith("cuda"):
        torch.cuda.set_device(devices[rank])  # else calls without a device, such as a barrier, use the first
    distributed.init_process_group(backend, init_method=meeting, rank=rank, world_size=len(devices))


def leave(*, broken: bool = False) -> None:
    """Have this process leave its group, if it is in one.

    GPUs leave together: each waits for all others, so no process may wait for another one to end before it leaves.
    From a ``broken`` group they leave alone, because some processes never come.
    """
    if not distributed.is_initialized():
        return
    if broken and distributed.get_backend() == "nccl":
        distributed_c10d._abort_process_group()
    else:
        distributed.destroy_process_group()


def replica(
    setup: TrainingSetup, devices: tuple[str, ...], rank: int, workers: int, meeting: str, news: Connection
) -> None:
    """The main function of every process but the first: the same steps, on its own patches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all of them; the first ends the others
    news.send(None)
    try:
        with torch_threads(threads_of(setup.config, devices)):
            join(devices, rank, meeting)
            trainer = Trainer(setup, devices[rank], rank=rank, world=len(devices), workers=workers)
            if setup.checkpoint.exists():
                trainer.read_checkpoint()
            trainer.run()
        leave()
    except WsipipeError as err:
        news.send(err)
