"""A client of the cluster that a run computes on; what was started for it ends with it.

A worker needs no start of its own: a plain ``dask worker`` in an environment with wsipipe will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import dask
from distributed import Client

from wsipipe.errors import MachineError, UsageError
from wsipipe.pipeline.cluster.in_process import QUIET
from wsipipe.pipeline.cluster.local import local_cluster
from wsipipe.pipeline.config import KUBERNETES, LOCAL, SLURM, RunConfig, check_cluster, parse_cluster

WORKER_PATIENCE_SECONDS = 60
"""How long a scheduler that is there may be without a worker."""
DEATHS = 2
"""How many workers a block may survive: with the third it is set aside."""
OWN = {**QUIET, "distributed.scheduler.work-stealing": True, "distributed.scheduler.allowed-failures": DEATHS}
"""Settings of a scheduler that this process starts; without stealing 64 workers took 1.5 times as long."""


@contextmanager
def connect_cluster(config: RunConfig) -> Iterator[Client]:
    """A client of the cluster that ``config`` names, once it has a worker; what was started ends with the context.

    Raises
    ------
    UsageError
        If there is no such kind of cluster, or its options make no sense.
    MachineError
        If it is not there, or has no workers.
    """
    check_cluster(config)
    if config.scheduler is not None:
        with _client(config.scheduler) as client:
            _wait(client, 1, f"start one there: dask worker {config.scheduler}")
            yield client
        return
    assert config.cluster is not None
    kind, count = parse_cluster(config.cluster)
    with dask.config.set(OWN), _start(kind, count, config) as cluster, _client(cluster) as client:
        least, most = config.adapt or (count or 1, count or 1)
        if kind == SLURM or config.adapt is not None:
            # At least one: of none, the run would wait for a worker, and the cluster for work. Slurm by `adapt` in any
            # case, for `scale` does not replace a job that reached its walltime or was preempted.
            cluster.adapt(minimum=max(1, least), maximum=most)
        elif kind == KUBERNETES:
            cluster.scale(most)
        if kind == LOCAL:
            _wait(client, 1, "look into their logs")
        else:
            _wait_in_queue(client, cluster)
        yield client


def _start(kind: str, count: int | None, config: RunConfig) -> AbstractContextManager[Any]:
    options = dict(config.cluster_options)
    try:
        if kind == LOCAL:
            return local_cluster(count, config)
        if kind == SLURM:
            from wsipipe.pipeline.cluster.slurm import slurm_cluster

            return slurm_cluster(options)
        from dask_kubernetes.operator import KubeCluster

        return KubeCluster(**options)  # type: ignore[no-any-return]
    except ImportError as err:
        raise MachineError(f"--cluster {kind} is not installed ({err.name}); pip install 'wsipipe[{kind}]'") from err
    except (TypeError, ValueError) as err:
        raise UsageError(f"--cluster {kind} can not be started with {options}: {err}") from err
    except (OSError, RuntimeError) as err:
        raise MachineError(f"--cluster {kind} can not be started: {err}") from err


def _client(where: Any) -> Client:
    try:
        return Client(where, timeout=WORKER_PATIENCE_SECONDS / 2)
    except (OSError, ValueError) as err:  # dask's own timeouts among them
        raise MachineError(f"no scheduler answers at {where}: {err}; see that it runs and can be reached") from err


def _wait(client: Client, count: int, way_out: str) -> None:
    try:
        client.wait_for_workers(count, timeout=WORKER_PATIENCE_SECONDS)
    except TimeoutError as err:
        raise MachineError(f"no worker came within {WORKER_PATIENCE_SECONDS} s; {way_out}") from err


def _wait_in_queue(client: Client, cluster: Any) -> None:
    """Wait for the first worker for as long as it takes, unless the queue refused its job."""
    while True:
        try:
            return client.wait_for_workers(1, timeout=1)
        except TimeoutError as err:
            if refusal := getattr(cluster, "refusal", ""):
                raise MachineError(f"the job of a worker was refused: {refusal}; see --cluster-config") from err
