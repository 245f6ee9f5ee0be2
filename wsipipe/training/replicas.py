"""The processes of a training on several devices: begun, joined, ended."""

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
"""How long a process that lost another one waits to hear why."""


def threads_of(config: TrainConfig, devices: tuple[str, ...]) -> int:
    """How many threads each of ``devices`` gets of those that the configuration, or the machine, has."""
    return max((config.loop.threads or CPU_COUNT) // len(devices), 1) if is_cpu(devices) else torch.get_num_threads()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with ``count`` threads for as long as it lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def other_replicas(setup: TrainingSetup, devices: tuple[str, ...], workers: int) -> Iterator[int]:
    """Processes for all but the first of ``devices``, joined to this one for as long as it lasts; how many in all."""
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


@dataclass(frozen=True)
class Other:
    """Another process of a training, as the first one knows it."""

    process: SpawnProcess
    news: Connection
    """Brings None when it begins, then the WsipipeError that ended it, if one did."""


def _blame(others: list[Other], devices: tuple[str, ...], err: Exception) -> None:
    """Raise what ended another process, if that is why there was ``err`` in this one."""
    for other in others:
        other.process.join(GRACE_SECONDS)
        with suppress(EOFError):
            if other.news.poll():
                raise other.news.recv() from err
    if any(other.process.exitcode for other in others):
        why = str(err).partition("\n")[0] or "at its start"
        raise MachineError(
            f"a replica on one of {', '.join(devices)} died ({why}), perhaps for want of memory; --resume goes on from "
            "the last checkpoint"
        ) from err


def join(devices: tuple[str, ...], rank: int, meeting: str) -> None:
    """Make this process number ``rank`` of the group that meets at a file."""
    backend = "nccl" if all(d.startswith("cuda") for d in devices) else "gloo"
    if devices[rank].startswith("cuda"):
        torch.cuda.set_device(devices[rank])  # else what has no device of its own, as a barrier, takes the first
    distributed.init_process_group(backend, init_method=meeting, rank=rank, world_size=len(devices))


def leave(*, broken: bool = False) -> None:
    """Have this process leave its group, if it is in one.

    GPUs leave together: each waits for all others, so none may wait for the end of another process before. Of a
    ``broken`` group some never come.
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
    """What every process but the first does: the same steps, on its own patches."""
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


def spare_processes(devices: tuple[str, ...]) -> int:
    """How many processes make patches for each of ``devices``; on a CPU one, for the cores are for training."""
    return 1 if is_cpu(devices) else max(1, min(8, CPU_COUNT // len(devices)))
