"""Workers in other processes, here or elsewhere: finding them, and finding out whether they can do the work.

A worker needs no start of its own: a plain ``dask worker`` in an environment with wsipipe will do.
"""

from __future__ import annotations

import logging
import os
import platform
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster, Worker
from distributed.diagnostics.plugin import WorkerPlugin

from wsipipe.errors import BundleError, MachineError, OutputError, UsageError, WsipipeError
from wsipipe.files import locate
from wsipipe.inference.devices import is_cpu, resolve_devices
from wsipipe.inference.pool import PoolSpec, load_pool, release_pool, sent_bundles
from wsipipe.model.bundle import BundleInfo, read_bundle_info
from wsipipe.pipeline.cluster.in_process import QUIET
from wsipipe.pipeline.config import (
    DEFAULT_BUNDLE,
    KUBERNETES,
    LOCAL,
    SLURM,
    RunConfig,
    Site,
    check_cluster,
    parse_cluster,
    this_process,
)
from wsipipe.pipeline.machine import RESERVE, default_threads

SAME = ("wsipipe", "zarr")
"""Packages of which a worker has to have the version that is here: it reads and writes the same stores."""
PATIENCE_SECONDS = 60
"""How long a scheduler that is there may be without a worker."""
LOOK_SECONDS = 5.0
"""How often it is looked whether workers came."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
DEATHS = 2
"""How many workers a block may survive: with the third it is set aside."""
OWN = {**QUIET, "distributed.scheduler.work-stealing": True, "distributed.scheduler.allowed-failures": DEATHS}
"""Settings of a scheduler that this process starts; without stealing 64 workers took 1.5 times as long."""


@dataclass(frozen=True)
class WorkerFacts:
    """What one worker has and sees."""

    host: str
    threads: int
    site: Site
    own_limit: bool
    """Whether the memory is its own, and not shared with the other workers on its host."""
    sees_bundle: bool


@contextmanager
def connect(config: RunConfig) -> Iterator[Client]:
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


class LocalWorkers(SpecCluster):
    """Worker processes on this machine, each of which sees no GPUs but its own.

    Parameters
    ----------
    number
        How many begin.
    threads
        Of each.
    gpus
        What each of them sees, as CUDA_VISIBLE_DEVICES says it; the next one takes what the fewest have. Empty where
        there are none.
    """

    def __init__(self, number: int, threads: int, gpus: Sequence[str]) -> None:
        quiet = {"silence_logs": logging.CRITICAL}
        self._gpus = gpus
        self._options = {"nthreads": threads, "memory_limit": 0, **quiet}
        scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}}
        workers: dict[int, Any] = {}
        for i in range(number):
            workers[i] = self._beside(workers)
        super().__init__(workers, scheduler, worker=workers[0], **quiet)  # type: ignore[no-untyped-call]

    def _beside(self, others: Mapping[int, Any]) -> dict[str, Any]:
        """A worker that shares as little as possible with ``others``."""
        env = {}
        if self._gpus:
            taken = Counter(other["options"]["env"][VISIBLE] for other in others.values())
            env = {VISIBLE: min(self._gpus, key=lambda gpus: taken[gpus])}
        return {"cls": Nanny, "options": {**self._options, "env": env}}

    def new_worker_spec(self) -> dict[Any, Any]:
        """Name and description of a worker that comes later."""
        (name,) = super().new_worker_spec()  # type: ignore[no-untyped-call]
        return {name: self._beside(self.worker_spec)}


def local_cluster(count: int | None, config: RunConfig) -> LocalWorkers:
    """``count`` worker processes on this machine, which share its GPUs out among them; by default one a GPU, or one."""
    devices = resolve_devices(config.device)
    cuda = [int(device.partition(":")[2] or 0) for device in devices if device.startswith("cuda")]
    names = dict(enumerate(filter(None, os.environ.get(VISIBLE, "").split(","))))
    gpus = [names.get(i, str(i)) for i in dict.fromkeys(cuda)]
    number = count or len(cuda) or 1
    most = max(number, *(config.adapt or (0,)))
    shares = [",".join(gpus[i::most]) for i in range(min(most, len(gpus)))]
    threads = config.threads or default_threads(devices[: -(-len(gpus) // most) or 1], most)
    return LocalWorkers(number, threads, shares)


def seen_by_workers(config: RunConfig) -> RunConfig:
    """``config`` as workers here take it: the GPUs that one sees are its own, and their numbers begin anew."""
    if config.cluster is None or parse_cluster(config.cluster)[0] != LOCAL:
        return config
    cuda = all(device.startswith("cuda") for device in resolve_devices(config.device))
    return replace(config, device="cuda") if cuda else config


def _client(where: Any) -> Client:
    try:
        return Client(where, timeout=PATIENCE_SECONDS / 2)
    except (OSError, ValueError) as err:  # dask's own timeouts among them
        raise MachineError(f"no scheduler answers at {where}: {err}; see that it runs and can be reached") from err


def _wait(client: Client, count: int, way_out: str) -> None:
    try:
        client.wait_for_workers(count, timeout=PATIENCE_SECONDS)
    except TimeoutError as err:
        raise MachineError(f"no worker came within {PATIENCE_SECONDS} s; {way_out}") from err


def _wait_in_queue(client: Client, cluster: Any) -> None:
    """Wait for the first worker for as long as it takes, unless the queue refused its job."""
    while True:
        try:
            return client.wait_for_workers(1, timeout=1)
        except TimeoutError as err:
            if refusal := getattr(cluster, "refusal", ""):
                raise MachineError(f"the job of a worker was refused: {refusal}; see --cluster-config") from err


class Workers:
    """The workers of a run, looked at before they are given work: those that came later as well.

    Parameters
    ----------
    client
        Of their scheduler.
    config
        What they are to do.
    """

    def __init__(self, client: Client, config: RunConfig) -> None:
        self.client, self._config = client, config
        self.address: str = client.scheduler_info(n_workers=0)["address"]
        self.dashboard: str = client.dashboard_link
        self._bundle: BundleInfo = read_bundle_info(config.bundle or DEFAULT_BUNDLE)
        self._facts: dict[str, WorkerFacts] = {}
        self._looked = float("-inf")
        self._sent = False
        self._seen: list[str] = []  # by all workers, and by those that come later

    def site(self) -> Site:
        """What every worker has: the least memory of all, and devices of the kind that takes most of it.

        Raises
        ------
        MachineError
            If one can not do the work; the message names it and says why.
        """
        self._look(self._addresses())
        facts = list(self._facts.values())
        if not facts:
            raise MachineError(f"all workers of {self.address} went as they were asked; see their logs")
        hosts = Counter(fact.host for fact in facts)
        first = next((fact for fact in facts if is_cpu(fact.site.devices)), facts[0]).site
        engines = {fact.site.engine for fact in facts}
        return Site(
            devices=first.devices,
            engine=first.engine if len(engines) == 1 else "torch",
            limit_bytes=min(f.site.limit_bytes // (1 if f.own_limit else hosts[f.host]) for f in facts),
            processes=len(facts),
            per_machine=max(hosts.values()),
        )

    @property
    def threads(self) -> int:
        """Blocks in flight in one of them, the most."""
        return max(fact.threads for fact in self._facts.values())

    def check_paths(self, slides: Sequence[str], out: str) -> None:
        """Raise a MachineError unless every worker sees ``slides`` and the folder ``out``."""
        token = locate(out) / f".seen-{secrets.token_hex(4)}"
        try:
            token.write_bytes(b"")
            self._refuse_blind([*slides, str(token)], list(self._facts))
            self._seen = [*slides[:1], out]
        except OSError as err:
            raise OutputError(f"-o {out} can not be written: {err.strerror}; give another -o") from err
        finally:
            with suppress(OSError):
                token.unlink()

    def count_threads(self) -> int:
        """Threads of all workers now; those that came since are looked at, and sent away if they can not do it."""
        if time.monotonic() > self._looked + LOOK_SECONDS:
            addresses = self._addresses()
            for new in [address for address in addresses if address not in self._facts]:
                try:
                    self._look([new])
                    self._refuse_blind(self._seen, [new])
                except MachineError as err:
                    logging.getLogger(__name__).warning("%s; it is sent away", err)
                    self.client.retire_workers([new])
            self._facts = {address: fact for address, fact in self._facts.items() if address in addresses}
        return sum(fact.threads for fact in self._facts.values())

    def load(self, spec: PoolSpec) -> None:
        """Have every worker load the network."""
        loading = [
            self.client.submit(load_pool, spec, workers=[w], allow_other_workers=True, pure=False)  # it may have gone
            for w in self._facts
        ]
        self.client.gather(loading)

    def release(self, spec: PoolSpec) -> None:
        """Have every worker let go of the network."""
        self.client.run(release_pool, spec, on_error="ignore")

    def ask(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The result of ``function``, called in one of the workers."""
        return self.client.submit(function, *args, **options, pure=False).result()

    def _addresses(self) -> list[str]:
        self._looked = time.monotonic()
        return sorted(self.client.scheduler_info(n_workers=-1)["workers"])

    def _run(self, function: Callable[..., Any], *args: Any, workers: Sequence[str]) -> Mapping[str, Any]:
        """What ``function`` gives in each of ``workers`` that is still there."""
        found: Mapping[str, Any] = self.client.run(function, *args, workers=list(workers), on_error="return")
        return {address: result for address, result in found.items() if not isinstance(result, OSError)}

    def _look(self, addresses: Sequence[str]) -> None:
        """Find out what the workers at ``addresses`` have; send the bundle to those that do not see it."""
        here = versions()()
        for address, there in self._run(versions(), workers=addresses).items():
            if there != here:
                raise MachineError(f"worker {address} {_difference(there, here)}; install the same there")
        for address, fact in self._run(look_around, self._config, self._bundle, workers=addresses).items():
            if isinstance(fact, WsipipeError):
                raise MachineError(f"worker {address}: {fact}") from fact
            if isinstance(fact, BaseException):
                raise fact
            self._facts[address] = fact
            if not fact.sees_bundle and not self._sent:
                blob = Path(self._bundle.path).read_bytes()
                self.client.register_plugin(SentBundle(self._bundle.sha256, blob))
                self._sent = True

    def _refuse_blind(self, paths: Sequence[str], workers: Sequence[str]) -> None:
        for address, unseen in self._run(paths_not_seen, list(paths), workers=workers).items():
            if isinstance(unseen, BaseException):
                raise unseen
            if unseen:
                more = f", and {len(unseen) - 1} more" if len(unseen) > 1 else ""
                raise MachineError(
                    f"worker {address} on {self._facts[address].host} does not see {unseen[0]}{more}; "
                    "slides and results have to be in a folder that all workers share, or in a bucket"
                )


class SentBundle(WorkerPlugin):
    """A bundle that workers do not see, sent once to each of them, and to those that come later."""

    idempotent = True

    def __init__(self, sha256: str, blob: bytes) -> None:
        self.name = f"wsipipe-bundle-{sha256}"
        self._sha256, self._blob = sha256, blob

    def setup(self, worker: Worker) -> None:
        """Put it into the worker's folder, which goes with the worker."""
        path = Path(worker.local_directory) / f"{self._sha256}.safetensors"
        path.write_bytes(self._blob)
        sent_bundles[self._sha256] = str(path)


def versions() -> Callable[[], dict[str, str | None]]:
    """A function that gives the versions of `SAME`; it travels by value, so that it needs no wsipipe to be called."""
    names = SAME

    def installed() -> dict[str, str | None]:
        from importlib.metadata import PackageNotFoundError, version

        found: dict[str, str | None] = {}
        for name in names:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = None
        return found

    return installed


def _difference(there: Any, here: Mapping[str, str | None]) -> str:
    if isinstance(there, BaseException):
        return f"can not say what it has ({type(there).__name__}: {there})"
    words = [f"{name} {there[name]} (here {here[name]})" for name in SAME if there[name] != here[name] and there[name]]
    words += [f"no {name} (here {here[name]})" for name in SAME if there[name] is None]
    return "has " + " and ".join(words)


def look_around(config: RunConfig, bundle: BundleInfo, dask_worker: Worker) -> WorkerFacts:
    """What the worker that calls it has."""
    site, limit = this_process(config), dask_worker.memory_manager.memory_limit
    if config.max_memory_bytes is None and limit:
        pauses = dask_worker.memory_manager.memory_pause_fraction or 1.0  # beyond that it takes no more tasks
        site = replace(site, limit_bytes=int(limit * min(pauses, 1 - RESERVE)))
    try:
        sees_bundle = read_bundle_info(bundle.path).sha256 == bundle.sha256
    except BundleError:
        sees_bundle = False
    own = config.max_memory_bytes is not None or bool(limit)
    return WorkerFacts(platform.node(), dask_worker.state.nthreads, site, own, sees_bundle)


def paths_not_seen(paths: Sequence[str]) -> list[str]:
    """Which of ``paths`` are not there for the worker that calls it."""
    return [path for path in paths if not _sees(path)]


def _sees(path: str) -> bool:
    try:
        return locate(path).exists()
    except (OSError, ValueError):  # it may not look, or a path that is none
        return False
