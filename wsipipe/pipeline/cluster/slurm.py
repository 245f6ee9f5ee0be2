"""Workers that are jobs of Slurm, through dask-jobqueue."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import dask
from dask_jobqueue import SLURMCluster
from distributed.core import Status

DEFAULTS = {"processes": 1, "scheduler_options": {"dashboard_address": ":0"}}
"""Where neither the user nor dask's configuration says. By itself jobqueue starts several processes, each with the
network on the same GPU, and takes port 8787, which on a login node somebody else has."""


class SlurmWorkers(SLURMCluster):  # type: ignore[misc]
    """A SLURMCluster that knows what sbatch refused, and asks again; its base logs that, and waits for ever."""

    refusal = ""
    """What sbatch said last, if that was a refusal."""

    async def _correct_state_internal(self) -> None:
        try:
            await super()._correct_state_internal()
            self.refusal = ""
        except (OSError, RuntimeError) as err:  # RuntimeError: what jobqueue makes of sbatch's exit code
            self.refusal = str(err).strip().splitlines()[-1]
            for name, job in list(self.workers.items()):
                if job.job_id is None:
                    job.status = Status.failed
                    del self.workers[name]


def slurm_cluster(options: Mapping[str, Any]) -> AbstractContextManager[Any]:
    """A cluster that has no workers yet."""
    said = {name for name in DEFAULTS if dask.config.get(f"jobqueue.slurm.{name.replace('_', '-')}", None)}
    defaults = {name: value for name, value in DEFAULTS.items() if name not in said}
    cluster: AbstractContextManager[Any] = SlurmWorkers(**{**defaults, **options})
    return cluster
