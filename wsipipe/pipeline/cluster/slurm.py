"""Workers that are jobs of Slurm, through dask-jobqueue."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import dask
from dask_jobqueue import SLURMCluster
from distributed.core import Status

from wsipipe.pipeline.cluster.settings import inherited

DEFAULTS = {"processes": 1, "scheduler_options": {"dashboard_address": ":0"}}
"""Options that neither the user nor dask's configuration sets. By default jobqueue starts several processes, each with
the network on the same GPU, and uses port 8787, which on a login node is somebody else's."""


class SlurmWorkers(SLURMCluster):  # type: ignore[misc]
    """A SLURMCluster that knows why sbatch refused a job, and asks again; its base class logs it and waits for ever."""

    refusal = ""
    """The last message of sbatch, if it refused a job."""

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
    """A cluster without workers, started with ``options`` as SLURMCluster takes them."""
    said = {name for name in DEFAULTS if dask.config.get(f"jobqueue.slurm.{name.replace('_', '-')}", None)}
    defaults = {name: value for name, value in DEFAULTS.items() if name not in said}
    before = options.get("job_script_prologue") or dask.config.get("jobqueue.slurm.job-script-prologue", None) or []
    settings = [f"export {name}={value}" for name, value in inherited().items()]
    prologue = {"job_script_prologue": [*before, *settings]}
    cluster: AbstractContextManager[Any] = SlurmWorkers(**{**defaults, **options, **prologue})
    return cluster
