"""Where the tasks run: `dask.distributed`, by default a cluster inside this process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import dask
from distributed import Client, LocalCluster

from wsipipe.errors import MachineError

QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "5s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.scheduler.work-stealing": False,
}
"""What distributed does on the side for a cluster of many, and for nobody here: 7 % of a core while a slide is read."""


@contextmanager
def local_client(threads: int) -> Iterator[Client]:
    """A scheduler and one worker of ``threads`` threads within this process.

    Tasks and results stay in its memory; the two HTTP servers that distributed starts in any case listen on
    loopback only. Memory is bounded by what is in flight, so distributed is kept from spilling and pausing.

    Raises
    ------
    MachineError
        If it does not start.
    """
    loopback = "127.0.0.1:0"
    with dask.config.set(QUIET):
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
