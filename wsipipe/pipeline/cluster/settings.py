"""The settings of dask for all that wsipipe starts: dask's defaults and wsipipe's own, whatever the site has set.

A site's files and environment variables are made for other programs: with a lifetime of workers, or with encryption
that is required, a run would wait for workers that never come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dask
import distributed  # noqa: F401 - adds its defaults to those of dask

from wsipipe.homeless import load_bokeh
from wsipipe.pipeline.cluster.private import http_routes

QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "5s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.scheduler.work-stealing": False,
}
"""Services of distributed that only larger clusters need; they take 7 % of a core while a slide is read."""
ONE_MACHINE = {**QUIET, "distributed.scheduler.worker-ttl": None}
"""Where scheduler and workers are suspended together, nobody may be dismissed for the silence when they wake."""
DEATHS = 2
"""Workers that a block may outlive: when it has killed a third, it is set aside."""
OTHER_PROCESSES = {"distributed.scheduler.work-stealing": True, "distributed.scheduler.allowed-failures": DEATHS}
"""Settings where workers are other processes; without work stealing, 64 workers took 1.5 times as long."""
OF_THE_SITE = {"jobqueue", "kubernetes", "temporary-directory"}
"""Sections that stay as the site has them: how it starts jobs, and where its scratch disks are."""


@contextmanager
def own_settings(changes: Mapping[str, Any]) -> Iterator[None]:
    """Within the context dask has its defaults, private HTTP servers and ``changes``, but for `OF_THE_SITE`."""
    load_bokeh()
    defaults = dask.config.merge(*dask.config.defaults)
    with (
        dask.config.set({name: section for name, section in defaults.items() if name not in OF_THE_SITE}),
        dask.config.set({**http_routes(), **changes}),
    ):
        yield


def inherited() -> dict[str, str]:
    """The environment variable that hands the settings of distributed to a process on another machine."""
    return {"DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize({"distributed": dask.config.get("distributed")})}
