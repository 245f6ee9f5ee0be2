"""A client of the cluster that a run computes on.

A worker needs no start of its own: a plain ``dask worker`` in an environment with wsipipe will do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from distributed import Client

from wsipipe.errors import MachineError, UsageError, WsipipeError
from wsipipe.extras import install
from wsipipe.pipeline.cluster.local import local_cluster
from wsipipe.pipeline.cluster.patience import QUEUE_SECONDS
from wsipipe.pipeline.cluster.private import check_client_certificates
from wsipipe.pipeline.cluster.settings import ONE_MACHINE, OTHER_PROCESSES, QUIET, inherited, own_settings
from wsipipe.pipeline.config import KUBERNETES, LOCAL, SLURM, ClusterConfig, ComputeRequest, check_cluster

WORKER_PATIENCE_SECONDS = 60
"""Time for which a running scheduler may be without a worker."""


@contextmanager
def connect_cluster(
    cluster: ClusterConfig, request: ComputeRequest, threads: int | None
) -> Iterator[tuple[Client, ComputeRequest]]:
    """A client of ``cluster``, once it has a worker, and what is asked of each worker.

    What was started for it ends with the context.

    Parameters
    ----------
    cluster
        The scheduler to connect to, or the cluster to start.
    request
        What is asked of the processes together.
    threads
        Threads of each worker that is started on this machine; None: the default.

    Raises
    ------
    UsageError
        If there is no such kind of cluster, its options cannot be used, or there are no certificates for a scheduler.
    MachineError
        If the cluster cannot be reached or started, or has no workers.
    """
    check_cluster(cluster)
    if cluster.scheduler is not None:
        check_client_certificates(cluster.scheduler)
        with _client(cluster.scheduler) as client:
            _wait(client, 1, f"start one: dask worker {cluster.scheduler}")
            yield client, request
        return
    settings = (ONE_MACHINE if cluster.kind == LOCAL else QUIET) | OTHER_PROCESSES
    with own_settings(settings), _started(cluster, request, threads) as (started, request), _client(started) as client:
        least, most = cluster.adapt or (cluster.workers or 1, cluster.workers or 1)
        if cluster.kind == SLURM or cluster.adapt is not None:
            # At least one: with none, the run would wait for a worker, and the cluster for work. Slurm by `adapt` in
            # any case, for `scale` does not replace a job that reached its walltime or was preempted.
            started.adapt(minimum=max(1, least), maximum=most)
        elif cluster.kind == KUBERNETES:
            started.scale(most)
        if cluster.kind == LOCAL:
            _wait(client, 1, "check the worker logs")
        else:
            _wait_in_queue(client, started)
        yield client, request


@contextmanager
def _started(
    cluster: ClusterConfig, request: ComputeRequest, threads: int | None
) -> Iterator[tuple[Any, ComputeRequest]]:
    """The cluster of dask that ``cluster`` asks for, and what is asked of each of its workers."""
    options = dict(cluster.options)
    started: AbstractContextManager[Any]
    try:
        if cluster.kind == LOCAL:
            started, request = local_cluster(cluster, request, threads)
        elif cluster.kind == SLURM:
            from wsipipe.pipeline.cluster.slurm import slurm_cluster

            started = slurm_cluster(options)
        else:
            from dask_kubernetes.operator import KubeCluster

            started = KubeCluster(**{"env": inherited(), **options})
    except WsipipeError:
        raise
    except ImportError as err:
        raise MachineError(
            f"--cluster {cluster.kind} is not installed ({err.name}); {install(str(cluster.kind))}"
        ) from err
    except (TypeError, ValueError) as err:
        raise UsageError(f"--cluster {cluster.kind} cannot be started with {options}: {err}") from err
    except (OSError, RuntimeError) as err:
        raise MachineError(f"--cluster {cluster.kind} cannot be started: {err}") from err
    with started:
        yield started, request


def _client(where: Any) -> Client:
    try:
        return Client(where, timeout=WORKER_PATIENCE_SECONDS / 2)
    except (OSError, ValueError) as err:  # dask's own timeouts among them
        raise MachineError(
            f"no scheduler answers at {where}: {err}; check that it is running and can be reached"
        ) from err


def _wait(client: Client, count: int, way_out: str) -> None:
    try:
        client.wait_for_workers(count, timeout=WORKER_PATIENCE_SECONDS)
    except TimeoutError as err:
        raise MachineError(f"no worker connected within {WORKER_PATIENCE_SECONDS} s; {way_out}") from err


def _wait_in_queue(client: Client, cluster: Any) -> None:
    """Wait for the first worker for as long as a queue may take, unless it refused the worker's job."""
    over = time.monotonic() + QUEUE_SECONDS
    while True:
        try:
            return client.wait_for_workers(1, timeout=1)
        except TimeoutError as err:
            if refusal := getattr(cluster, "refusal", ""):
                raise MachineError(f"a worker's job was refused: {refusal}; see --cluster-config") from err
            if time.monotonic() > over:
                raise MachineError(
                    f"no worker connected within {QUEUE_SECONDS / 3600:.0f} h; look at the queue, then run this again"
                ) from err
