"""Worker processes on this machine."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from distributed import Nanny, Scheduler, SpecCluster

from wsipipe.inference.devices import resolve_devices
from wsipipe.pipeline.cluster.main_script import check_main_script
from wsipipe.pipeline.cluster.private import HTTP_ADDRESS, LOOPBACK, TLS, run_certificates
from wsipipe.pipeline.config import ClusterConfig, ComputeRequest
from wsipipe.pipeline.machine import default_threads

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The environment variable that says which GPUs a process sees."""


class LocalWorkers(SpecCluster):
    """Worker processes on this machine, each of which sees no GPUs but its own; only this process can speak to them.

    Parameters
    ----------
    number
        Workers at the start.
    threads
        Threads of each worker.
    gpus
        The GPUs that each worker sees, as CUDA_VISIBLE_DEVICES says it; the next worker gets those that the fewest
        have. Empty on a machine without GPUs.
    """

    def __init__(self, number: int, threads: int, gpus: Sequence[str]) -> None:
        quiet = {"silence_logs": logging.CRITICAL}
        security = run_certificates()
        private: dict[str, Any] = {
            "host": LOOPBACK,
            "protocol": TLS,
            "security": security,
            "dashboard_address": HTTP_ADDRESS,
        }
        self._gpus = gpus
        self._options = {"nthreads": threads, "memory_limit": 0, "dashboard": False, **private, **quiet}
        scheduler = {"cls": Scheduler, "options": {"port": 0, **private}}
        workers: dict[int, Any] = {}
        for i in range(number):
            workers[i] = self._beside(workers)
        super().__init__(  # type: ignore[no-untyped-call]
            workers, scheduler, worker=workers[0], security=security, **quiet
        )

    def _beside(self, others: Mapping[int, Any]) -> dict[str, Any]:
        """A worker that shares as little as possible with ``others``."""
        env = {}
        if self._gpus:
            taken = Counter(other["options"]["env"][VISIBLE] for other in others.values())
            env = {VISIBLE: min(self._gpus, key=lambda gpus: taken[gpus])}
        return {"cls": Nanny, "options": {**self._options, "env": env}}

    def new_worker_spec(self) -> dict[Any, Any]:
        """The name and description of a worker that is added later."""
        (name,) = super().new_worker_spec()  # type: ignore[no-untyped-call]
        return {name: self._beside(self.worker_spec)}


def local_cluster(
    cluster: ClusterConfig, request: ComputeRequest, threads: int | None
) -> tuple[LocalWorkers, ComputeRequest]:
    """Worker processes on this machine, which share its GPUs, and what is asked of each of them.

    By default there is one for each GPU, or one. A worker that has GPUs sees no others, and numbers its own from 0;
    devices that are not GPUs are for each worker.

    Raises
    ------
    UsageError, MachineError
        If there is no such device here, or the script that this process runs cannot be imported by workers.
    """
    check_main_script()
    devices = resolve_devices(request.device)
    cuda = [int(device.partition(":")[2]) for device in devices if device.startswith("cuda")]
    others = [device for device in devices if not device.startswith("cuda")]
    names = dict(enumerate(filter(None, os.environ.get(VISIBLE, "").split(","))))
    gpus = [names.get(i, str(i)) for i in dict.fromkeys(cuda)]
    number = cluster.workers or len(cuda) or 1
    most = max(number, *(cluster.adapt or (0,)))
    shares = [",".join(gpus[i::most]) for i in range(min(most, len(gpus)))]
    of_each = ["cuda"] * -(-len(gpus) // most) + others
    workers = LocalWorkers(number, threads or default_threads(tuple(of_each), most), shares)
    return workers, replace(request, device=",".join(["cuda", *others])) if cuda else request
