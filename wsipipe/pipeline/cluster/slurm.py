"""Workers that are jobs of Slurm, through dask-jobqueue."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dask
from dask_jobqueue import SLURMCluster
from distributed.core import Status
from platformdirs import user_cache_path

from wsipipe.pipeline.cluster.private import HTTP_ADDRESS, TLS, handed_over
from wsipipe.pipeline.cluster.settings import inherited

DEFAULTS = {
    "processes": 1,  # jobqueue's are several, each with the network on the same GPU
    "scheduler_options": {},
    "worker_extra_args": [],
    "job_script_prologue": [],
    "shared_temp_directory": None,
}
"""Options, where neither the user nor dask's configuration sets them."""


class SlurmWorkers(SLURMCluster):  # type: ignore[misc]
    """A SLURMCluster that knows why sbatch refused a job, and asks again; its base class logs it and waits for ever."""

    refusal = ""
    """The last message of sbatch, if it refused a job."""
    certificates: TemporaryDirectory[str] | None = None
    """The folder of the certificates that the jobs read; removed with the cluster."""

    async def _correct_state_internal(self) -> None:
        try:
            await super()._correct_state_internal()
            self.refusal = ""
        except (OSError, RuntimeError) as err:  # RuntimeError: jobqueue's answer to an exit code of sbatch
            self.refusal = str(err).strip().splitlines()[-1]
            for name, job in list(self.workers.items()):
                if job.job_id is None:
                    job.status = Status.failed
                    del self.workers[name]


def slurm_cluster(options: Mapping[str, Any]) -> AbstractContextManager[Any]:
    """A cluster without workers, started with ``options`` as SLURMCluster takes them; it speaks TLS.

    Jobs read their certificates from a folder that only the user can read, in the option ``shared_temp_directory`` or
    the user's cache folder, which the nodes must share; it is removed with the cluster. The HTTP servers of scheduler
    and workers listen on loopback, unless ``options`` say otherwise.

    Raises
    ------
    OSError
        If the folder cannot be made.
    """
    configured = {name: dask.config.get(f"jobqueue.slurm.{name.replace('_', '-')}", None) for name in DEFAULTS}
    said = {name: value or DEFAULTS[name] for name, value in configured.items()}
    given = {**said, **options}
    parent = Path(os.path.expandvars(given.pop("shared_temp_directory") or user_cache_path("wsipipe"))).expanduser()
    parent.mkdir(parents=True, exist_ok=True)
    folder = TemporaryDirectory(dir=parent, prefix="certificates-", ignore_cleanup_errors=True)
    given["scheduler_options"] = {"dashboard_address": HTTP_ADDRESS, **given["scheduler_options"]}
    given["worker_extra_args"] = ["--no-dashboard", "--dashboard-address", HTTP_ADDRESS, *given["worker_extra_args"]]
    settings = [f"export {name}={value}" for name, value in inherited().items()]
    given["job_script_prologue"] = [*given["job_script_prologue"], *settings]
    cluster = SlurmWorkers(**given, protocol=TLS, security=handed_over(Path(folder.name)))
    cluster.certificates = folder
    started: AbstractContextManager[Any] = cluster
    return started
