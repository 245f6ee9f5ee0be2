"""A cluster of `dask.distributed` inside this process, where tasks run by default."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client, LocalCluster

from wsipipe.errors import MachineError
from wsipipe.pipeline.cluster.settings import ONE_MACHINE, own_settings


@contextmanager
def local_client(threads: int) -> Iterator[Client]:
    """A client of a scheduler and one worker of ``threads`` threads, all within this process.

    Tasks and results stay in its memory; the two HTTP servers that distributed always starts listen on loopback only.
    The blocks in flight bound the memory, so distributed must neither spill nor pause.

    Raises
    ------
    MachineError
        If the scheduler does not start.
    """
    loopback = "127.0.0.1:0"
    with own_settings(ONE_MACHINE):
        try:
            cluster = LocalCluster(
                n_workers=1,
                threads_per_worker=threads,
                processes=False,
                memory_limit=0,
                dashboard_address=loopback,
                worker_dashboard_address=loopback,
                silence_logs=logging.CRITICAL,
            )
        except (OSError, RuntimeError) as err:
            raise MachineError(f"no scheduler could be started on {loopback}: {err}") from err
        with cluster, Client(cluster) as client:
            yield client
