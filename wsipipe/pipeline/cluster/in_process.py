"""A cluster of `dask.distributed` inside this process, where tasks run by default."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client, LocalCluster

from wsipipe.errors import MachineError
from wsipipe.pipeline.cluster.private import HTTP_ADDRESS
from wsipipe.pipeline.cluster.settings import ONE_MACHINE, own_settings


@contextmanager
def local_client(threads: int) -> Iterator[Client]:
    """A client of a scheduler and one worker of ``threads`` threads, all within this process.

    Tasks and results stay in its memory; the two HTTP servers that distributed always starts listen on loopback only,
    and have nothing to say.
    The blocks in flight bound the memory, so distributed must neither spill nor pause.

    Raises
    ------
    MachineError
        If the scheduler does not start.
    """
    with own_settings(ONE_MACHINE):
        try:
            cluster = LocalCluster(
                n_workers=1,
                threads_per_worker=threads,
                processes=False,
                memory_limit=0,
                dashboard_address=HTTP_ADDRESS,
                worker_dashboard_address=HTTP_ADDRESS,
                scheduler_kwargs={"dashboard": False},
                silence_logs=logging.CRITICAL,
            )
        except (OSError, RuntimeError) as err:
            raise MachineError(f"no scheduler could be started on {HTTP_ADDRESS}: {err}") from err
        with cluster, Client(cluster) as client:
            yield client
